//! What is left in freed memory? Nothing: also the buffers of libraries that know no secrets are wiped.

use std::alloc::{GlobalAlloc, Layout, System};

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
            std::ptr::write_bytes(start, 0, layout.size());
            std::hint::black_box(start);
            System.dealloc(start, layout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_memory_holds_nothing() {
        // The system's allocator hands the same small block out again, with at most its own two words in it.
        let layout = Layout::from_size_align(512, 16).unwrap();
        // SAFETY: each block is written and read within its layout, and given back once.
        let left = unsafe {
            let first = Wiping.alloc(layout);
            std::ptr::write_bytes(first, 0xa5, 512);
            Wiping.dealloc(first, layout);
            let second = System.alloc(layout);
            assert_eq!(first, second, "another block says nothing");
            let left = std::slice::from_raw_parts(second, 512).iter().filter(|byte| **byte == 0xa5).count();
            System.dealloc(second, layout);
            left
        };
        assert!(left <= 16, "{left} bytes are left");
    }
}
