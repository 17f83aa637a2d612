//! Memory for values: locked where the limit allows, out of core dumps, wiped in forks and on drop.
//!
//! Small values share one pool of page-sized slots, so that delivering one costs no system call;
//! larger ones get a mapping of their own.

use std::io::IoSlice;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use nix::sys::uio::{RemoteIoVec, process_vm_writev};
use nix::unistd::Pid;
use parking_lot::Mutex;
use zeroize::Zeroize;

/// One slot, in bytes. A page: values of a page or less are the rule.
const SLOT: usize = 4096;
/// Slots in the pool: 1 MiB of the 8 MiB that `RLIMIT_MEMLOCK` commonly allows.
const SLOTS: usize = 256;

/// To wipe with.
static ZEROES: [u8; 1 << 16] = [0; 1 << 16];

/// Bytes mapped for values beside the pool.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// Bytes of a secret. Not `Debug`, `Display`, `Clone` or `Serialize`: it cannot slip into a message.
///
/// ```compile_fail
/// let value = kin_broker::Plaintext::copy_of(b"s3cret");
/// println!("{value:?}");
/// ```
pub struct Plaintext {
    start: NonNull<u8>,
    len: usize,
    place: Place,
}

enum Place {
    Slot(usize),
    Own { mapped: usize },
}

// SAFETY: a `Plaintext` is the only owner of its bytes, and shared references only read them.
unsafe impl Send for Plaintext {}
// SAFETY: as above.
unsafe impl Sync for Plaintext {}

impl Plaintext {
    /// Zeroes of length `len`.
    ///
    /// # Panics
    /// Where the kernel has no memory left, like any allocation.
    pub fn zeroed(len: usize) -> Self {
        if len <= SLOT
            && let Some((index, start)) = pool().take()
        {
            return Self { start, len, place: Place::Slot(index) };
        }
        let mapped = len.max(1).next_multiple_of(SLOT);
        let (start, _) = map_private(mapped);
        MAPPED.fetch_add(mapped, Ordering::Relaxed);
        Self { start, len, place: Place::Own { mapped } }
    }

    /// A copy; the caller wipes its own.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut copy = Self::zeroed(bytes.len());
        copy.bytes_mut().copy_from_slice(bytes);
        copy
    }

    /// Moves the bytes out of a vector, which is wiped.
    pub fn take(mut bytes: Vec<u8>) -> Self {
        let moved = Self::copy_of(&bytes);
        bytes.zeroize();
        moved
    }

    /// Moves the payload of a request out of the buffer that the kernel read it into, which is a library's, ordinary
    /// memory, and stays as it is until the next request. It is wiped as the next request would overwrite it: by the
    /// kernel. The buffer's pages are locked from then on, where the limit allows.
    ///
    /// # Errors
    /// Those of process_vm_writev(2): the payload is not to be used then.
    pub fn taken_from_request(payload: &[u8]) -> Result<Self, Errno> {
        if let Some(start) = NonNull::new(payload.as_ptr().cast_mut()).filter(|_| !payload.is_empty()) {
            // SAFETY: locking pages changes nothing that they hold, whoever owns them.
            let _ = unsafe { mlock(start.cast(), payload.len()) };
        }
        let copy = Self::copy_of(payload);
        let (mut base, mut left) = (payload.as_ptr() as usize, payload.len());
        while left > 0 {
            let zeroes = &ZEROES[..left.min(ZEROES.len())];
            let remote = RemoteIoVec { base, len: zeroes.len() };
            match process_vm_writev(Pid::this(), &[IoSlice::new(zeroes)], &[remote]) {
                Ok(0) => return Err(Errno::EFAULT),
                Ok(wiped) => (base, left) = (base + wiped, left - wiped),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(copy)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `start` points at `len` initialised bytes that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, to fill them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes the access the only one.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Makes it shorter; what is cut off is wiped.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.bytes_mut()[len..].zeroize();
            self.len = len;
        }
    }

    /// Makes it longer, by zeroes: where it is as far as there is room, or else in a larger place.
    ///
    /// # Panics
    /// As [`Self::zeroed`].
    pub fn extend(&mut self, len: usize) {
        let room = match self.place {
            Place::Slot(_) => SLOT,
            Place::Own { mapped } => mapped,
        };
        if len > room {
            let mut larger = Self::zeroed(len.max(2 * room));
            larger.bytes_mut()[..self.len].copy_from_slice(self.bytes());
            larger.len = len;
            *self = larger;
        }
        // What lies behind the end is zero: it was never used, or wiped when it was cut off.
        self.len = self.len.max(len);
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Plaintext {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        match self.place {
            Place::Slot(index) => pool().give_back(index),
            Place::Own { mapped } => {
                // SAFETY: the mapping was made by `zeroed` with this length, and nothing refers to it now.
                let _ = unsafe { munmap(self.start.cast(), mapped) };
                MAPPED.fetch_sub(mapped, Ordering::Relaxed);
            }
        }
    }
}

/// How much memory values take beside the pool, in bytes.
pub fn mapped() -> usize {
    MAPPED.load(Ordering::Relaxed)
}

/// Whether the pool's pages are locked, which `RLIMIT_MEMLOCK` may forbid: `kin doctor` says so.
pub fn is_locked() -> bool {
    pool().locked
}

struct Pool {
    base: NonNull<u8>,
    free: Mutex<Vec<usize>>,
    locked: bool,
}

// SAFETY: `base` is never written through; slots are handed out to one owner at a time under `free`.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    fn take(&self) -> Option<(usize, NonNull<u8>)> {
        let index = self.free.lock().pop()?;
        // SAFETY: `index` is below SLOTS, so the slot lies within the mapping.
        Some((index, unsafe { self.base.add(index * SLOT) }))
    }

    fn give_back(&self, index: usize) {
        self.free.lock().push(index);
    }
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let (base, locked) = map_private(SLOT * SLOTS);
        Pool { base, free: Mutex::new((0..SLOTS).rev().collect()), locked }
    })
}

/// Zeroed pages out of core dumps and wiped in forks (madvise(2)); the flag says whether they are locked.
fn map_private(len: usize) -> (NonNull<u8>, bool) {
    let size = NonZeroUsize::new(len).unwrap_or(NonZeroUsize::MIN);
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice aliases nothing.
    let start = unsafe {
        mmap_anonymous(None, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE)
    }
    .expect("no memory for a secret");
    // SAFETY: the advice covers exactly the mapping just made.
    let locked = unsafe {
        let _ = madvise(start, len, MmapAdvise::MADV_DONTDUMP);
        let _ = madvise(start, len, MmapAdvise::MADV_WIPEONFORK);
        mlock(start, len).is_ok()
    };
    (start.cast(), locked)
}

/// The value, or that it was wiped. Its `Debug` shows neither.
pub(crate) struct Held(pub(crate) Option<Plaintext>);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "held" } else { "wiped" })
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::ForkResult;

    use super::*;

    #[test]
    fn values_of_every_size_keep_their_bytes() {
        for len in [0, 1, 64, SLOT, SLOT + 1, 1 << 20] {
            let bytes: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let value = Plaintext::copy_of(&bytes);
            assert_eq!(value.bytes(), bytes);
        }
    }

    #[test]
    fn what_is_taken_from_a_request_is_there_no_more() {
        for len in [0, 1, SLOT, 1 << 17] {
            let buffer = vec![7; len];
            let taken = Plaintext::taken_from_request(std::hint::black_box(&buffer)).unwrap();
            assert!(taken.len() == len && taken.bytes().iter().all(|byte| *byte == 7));
            // As the kernel sees it: the compiler need not know that the buffer is another.
            let mut seen = vec![1; len];
            let place = [RemoteIoVec { base: buffer.as_ptr() as usize, len }];
            let read = nix::sys::uio::process_vm_readv(
                Pid::this(),
                &mut [std::io::IoSliceMut::new(&mut seen)],
                &place,
            );
            assert_eq!(read, Ok(len));
            assert!(seen.iter().all(|byte| *byte == 0), "{len}");
        }
    }

    #[test]
    fn a_full_pool_falls_back_to_mappings() {
        let values: Vec<_> = (0..SLOTS + 8).map(|n| Plaintext::copy_of(&[n as u8; 8])).collect();
        assert!(mapped() >= 8 * SLOT, "{}", mapped());
        assert!(values.iter().enumerate().all(|(n, value)| value.bytes() == [n as u8; 8]));
    }

    #[test]
    fn g16_a_fork_inherits_no_value() {
        let values = [Plaintext::copy_of(&[7; 64]), Plaintext::copy_of(&[7; 3 * SLOT])];
        // Ordinary memory is there, so its absence means something.
        let ordinary = vec![7; 64];
        match crate::sys::process::fork_beside_an_idle_runner().unwrap() {
            ForkResult::Child => {
                let wiped = values.iter().all(|value| value.bytes().iter().all(|byte| *byte == 0));
                std::process::exit(i32::from(!wiped || ordinary != [7; 64]));
            }
            ForkResult::Parent { child } => {
                let status = nix::sys::wait::waitpid(child, None).unwrap();
                assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
            }
        }
        assert!(values.iter().all(|value| value.bytes().iter().all(|byte| *byte == 7)));
    }

    #[test]
    fn a_slot_comes_back_wiped() {
        for _ in 0..2 * SLOTS {
            let mut value = Plaintext::zeroed(16);
            assert_eq!(value.bytes(), [0; 16]);
            value.bytes_mut().fill(0xff);
        }
    }

    #[test]
    fn what_grows_keeps_its_bytes_and_ends_in_zeroes() {
        let mut value = Plaintext::copy_of(b"0123456789");
        value.truncate(4);
        for len in [4, 5, SLOT, SLOT + 1, 3 * SLOT, 1 << 20] {
            value.extend(len);
            assert_eq!(value.len(), len);
            assert!(value.bytes().starts_with(b"0123"));
            assert!(value.bytes()[4..].iter().all(|byte| *byte == 0), "{len}");
        }
        value.extend(3);
        assert_eq!(value.len(), 1 << 20);
    }

    #[test]
    fn what_is_cut_off_is_wiped() {
        let mut value = Plaintext::copy_of(b"0123456789");
        value.truncate(4);
        assert_eq!(value.bytes(), b"0123");
        value.len = 10;
        assert_eq!(value.bytes(), b"0123\0\0\0\0\0\0");
    }
}
