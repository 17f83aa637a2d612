//! What is left in freed memory? Nothing: also the buffers of libraries that know no secrets are wiped.

use std::alloc::{GlobalAlloc, Layout, System};
use std::num::NonZeroUsize;
use std::ptr::{NonNull, null_mut};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munlock, munmap};

/// From here on, in bytes, a block is a mapping of its own: the kernel makes its pages as they are touched, and takes
/// them all when it is freed. The system's allocator does not keep to that: once it has freed a large mapping, it
/// takes the next one of that size from its heap, and zeroes it by hand (`M_MMAP_THRESHOLD`, mallopt(3)). A session
/// of a FUSE mount has two buffers of 16 MiB, and touches a few pages. Blocks that are filled are smaller, and quicker
/// from the heap, whose pages are there.
const MAPPED: usize = 8 << 20;
/// From here on, in bytes, the whole pages of a block are wiped by the kernel, which takes them.
const LARGE: usize = 1 << 20;
const PAGE: usize = 4096;

/// The system's allocator, which gets back nothing but zeroes. A process that holds keys and values makes it
/// its global one.
pub struct Wiping;

// SAFETY: every request goes to the kernel or to the system's allocator as it is, which of them depends on the layout
// alone, and memory that is given back is written to only while it is still ours, within its layout.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match is_mapped(layout) {
            true => map(layout.size()),
            // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`, which is the system allocator's.
            false => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match is_mapped(layout) {
            true => map(layout.size()),
            // SAFETY: as in `alloc`.
            false => unsafe { System.alloc_zeroed(layout) },
        }
    }

    // `realloc` is the trait's own: new memory, a copy, and the old memory given back through `dealloc`.
    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: `start` is a live allocation of this layout, so it is a mapping where `alloc` made one, and all of it
        // may be written.
        unsafe {
            match is_mapped(layout) {
                true => unmap(start, layout.size()),
                false => {
                    wipe(start, layout.size());
                    System.dealloc(start, layout);
                }
            }
        }
    }
}

/// Whether such a block is a mapping of its own.
fn is_mapped(layout: Layout) -> bool {
    layout.size() >= MAPPED && layout.align() <= PAGE
}

/// New pages, which read as zeroes; null where there are none.
fn map(size: usize) -> *mut u8 {
    let (protection, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE);
    let Some(size) = NonZeroUsize::new(size) else { return null_mut() };
    // SAFETY: the kernel chooses where, so no mapping that is there already is touched.
    let start = unsafe { mmap_anonymous(None, size, protection, flags) };
    start.map_or(null_mut(), |start| start.as_ptr().cast())
}

/// Gives pages of [`map`] back to the kernel, which hands none of them on with anything in it.
///
/// # Safety
/// They are all of one such block, and the caller's alone.
unsafe fn unmap(start: *mut u8, size: usize) {
    let Some(pages) = NonNull::new(start) else { return };
    // SAFETY: as this function's own. Where the kernel cannot (ENOMEM: it would split a mapping, and there are too many)
    // they stay mapped, without their bytes.
    unsafe {
        if munmap(pages.cast(), size).is_err() {
            wipe(start, size);
        }
    }
}

/// Keeps little of what is freed: few arenas, as each keeps what its bursts took, and no more than this at the end of
/// one. Without the call the second grows with the largest block that was ever freed (`M_TRIM_THRESHOLD`,
/// `M_ARENA_MAX`, mallopt(3)). To be called before there are threads.
pub fn keep_little() {
    /// Bytes at the end of an arena.
    #[cfg(target_env = "gnu")]
    const KEPT: i32 = 256 << 10;
    /// As many as work at the same time.
    #[cfg(target_env = "gnu")]
    const ARENAS: i32 = 4;
    // SAFETY: it sets two numbers of the allocator's.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

/// Bytes of the arenas that nothing uses (`fordblks`, mallinfo(3)). It counts modulo 2^32; 0 with another C library.
pub fn unused() -> u64 {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks, and returns numbers.
    let unused = unsafe { libc::mallinfo() }.fordblks.cast_unsigned();
    #[cfg(not(target_env = "gnu"))]
    let unused = 0_u32;
    unused.into()
}

/// Gives the kernel the memory that nothing uses any more: the allocator keeps it otherwise, in each of its arenas
/// (malloc_trim(3)). It takes milliseconds and the locks of the arenas.
pub fn give_back() {
    // SAFETY: it touches what is free alone, and takes the allocator's own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Zeroes `size` bytes.
///
/// # Safety
/// All of them are private and anonymous memory, and the caller's alone.
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

    /// Pages of these bytes that are in memory: bit 63 of /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst).
    fn resident(start: *const u8, size: usize) -> usize {
        use std::os::unix::fs::FileExt;
        let pagemap = std::fs::File::open("/proc/self/pagemap").expect("pagemap");
        let mut entries = vec![0; size / PAGE * 8];
        pagemap.read_exact_at(&mut entries, (start as usize / PAGE * 8) as u64).expect("entries");
        entries.chunks_exact(8).filter(|entry| entry[7] & 0x80 != 0).count()
    }

    #[test]
    fn a_large_block_takes_what_is_touched_of_it_also_after_others_were_freed() {
        let size = 16 << 20;
        let layout = Layout::from_size_align(size, 1).unwrap();
        for _ in 0..4 {
            // SAFETY: the block is written and read within its layout, and given back once.
            unsafe {
                let block = Wiping.alloc_zeroed(layout);
                assert!(!block.is_null());
                assert_eq!(resident(block, size), 0);
                block.add(size / 2).write_volatile(0xa5);
                // One page, or one large page where the machine makes them (transhuge.rst).
                assert!((1..=512).contains(&resident(block, size)));
                assert_eq!(block.read_volatile(), 0);
                Wiping.dealloc(block, layout);
            }
        }
    }

    #[test]
    fn a_large_block_grows_and_shrinks_with_its_bytes() {
        let wanted = |size: usize| (0..size).map(|at| (at % 251) as u8).collect::<Vec<_>>();
        // SAFETY: each block is used within its layout, which says what it is at the moment.
        unsafe {
            let mut layout = Layout::from_size_align(MAPPED / 2, 8).unwrap();
            let mut block = Wiping.alloc(layout);
            std::slice::from_raw_parts_mut(block, MAPPED / 2).copy_from_slice(&wanted(MAPPED / 2));
            for size in [MAPPED - 1, MAPPED, 3 * MAPPED + 5, MAPPED, MAPPED / 2] {
                block = Wiping.realloc(block, layout, size);
                layout = Layout::from_size_align(size, 8).unwrap();
                assert_eq!(std::slice::from_raw_parts(block, MAPPED / 2), wanted(MAPPED / 2));
                block.add(size - 1).write_volatile(1);
            }
            Wiping.dealloc(block, layout);
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
