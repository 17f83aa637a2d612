//! What is left in freed memory? Nothing: also the buffers of libraries that know no secrets are wiped.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise, munlock};

/// From here on memory is given back to the kernel page by page, in bytes: what nobody has touched is not touched now.
const LARGE: usize = 1 << 20;
const PAGE: usize = 4096;

/// The system's allocator, which gets back nothing but zeroes. A process that holds keys and values makes it
/// its global one.
pub struct Wiping;

// SAFETY: every request goes to the system's allocator as it is, and memory that is given back is written to
// only while it is still ours, within its layout.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`, which is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    // `realloc` is the trait's own: new memory, a copy, and the old memory given back through `dealloc`.
    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: `start` is a live allocation of this layout, so all of it may be written. That something
        // might read it keeps the compiler from leaving the writes out.
        unsafe {
            wipe(start, layout.size());
            System.dealloc(start, layout);
        }
    }
}

/// Zeroes `size` bytes.
///
/// # Safety
/// All of them are memory of the system's allocator, which is private and anonymous, and the caller's alone.
unsafe fn wipe(start: *mut u8, size: usize) {
    let (before, after) = if size < LARGE { (size, size) } else { pages(start as usize, size) };
    let inner = NonNull::new(start.wrapping_add(before)).filter(|_| before < after);
    let dropped = inner.is_none_or(|inner| {
        // SAFETY: these are whole pages of the caller's. They read as zeroes once the kernel has them back
        // (madvise(2)), which it does not take while they are locked.
        unsafe {
            let _ = munlock(inner.cast(), after - before);
            madvise(inner.cast(), after - before, MmapAdvise::MADV_DONTNEED).is_ok()
        }
    });
    let (before, after) = if dropped { (before, after) } else { (size, size) };
    // SAFETY: both parts lie within the `size` bytes. That something might read them keeps the compiler from leaving
    // the writes out.
    unsafe {
        std::ptr::write_bytes(start, 0, before);
        std::ptr::write_bytes(start.add(after), 0, size - after);
    }
    std::hint::black_box(start);
}

/// Where the first whole page of these bytes begins, and the last one ends, counted from their start.
fn pages(start: usize, size: usize) -> (usize, usize) {
    let first = start.next_multiple_of(PAGE) - start;
    let last = (start + size) / PAGE * PAGE;
    (first, last.saturating_sub(start).max(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_large_is_wiped_to_its_edges_and_given_back() {
        for offset in [0, 1, 4095] {
            let mut bytes = vec![0xa5_u8; LARGE + 3 * PAGE];
            let all = &mut bytes[offset..];
            // SAFETY: the bytes are a vector's, which is of the system's allocator or one above it, and ours alone.
            unsafe { wipe(all.as_mut_ptr(), all.len()) };
            assert!(std::hint::black_box(all).iter().all(|byte| *byte == 0), "{offset}");
            assert!(bytes[..offset].iter().all(|byte| *byte == 0xa5));
        }
    }

    #[test]
    fn freed_memory_holds_nothing() {
        // The system's allocator hands the same small block out again, with at most its own two words in it.
        let layout = Layout::from_size_align(512, 16).unwrap();
        // SAFETY: each block is written and read within its layout, and given back once.
        let left = unsafe {
            // What others have given back is taken first: the block is the only one of its size then.
            let others: Vec<_> = (0..64).map(|_| System.alloc(layout)).collect();
            let first = Wiping.alloc(layout);
            std::ptr::write_bytes(first, 0xa5, 512);
            Wiping.dealloc(first, layout);
            let second = System.alloc(layout);
            assert_eq!(first, second, "another block says nothing");
            let left = std::slice::from_raw_parts(second, 512).iter().filter(|byte| **byte == 0xa5).count();
            System.dealloc(second, layout);
            others.into_iter().for_each(|other| System.dealloc(other, layout));
            left
        };
        assert!(left <= 16, "{left} bytes are left");
    }
}
