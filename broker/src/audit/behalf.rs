//! On whose behalf does this thread act? What a person's request leads to is recorded with who asked.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::audit::ReaderFacts;
use crate::process::Known;

thread_local! {
    static ASKER: RefCell<Option<Arc<Known>>> = const { RefCell::new(None) };
}

/// While it stands, this thread acts for a process.
pub(crate) struct Behalf(PhantomData<*const ()>);

impl Behalf {
    /// Of the process at the other end of a connection, where it could be identified.
    pub(crate) fn of(asker: Option<Arc<Known>>) -> Self {
        ASKER.set(asker);
        Self(PhantomData)
    }
}

impl Drop for Behalf {
    fn drop(&mut self) {
        ASKER.set(None);
    }
}

/// What is known of the process that this thread acts for, at this moment; `None` where it acts for itself.
pub(crate) fn with_asker<T>(work: impl FnOnce(Option<ReaderFacts<'_>>) -> T) -> T {
    let asker = ASKER.with_borrow(Clone::clone);
    let Some(known) = asker else { return work(None) };
    // The socket serves one user (`foreign_user`).
    let (program, uid) = (known.program(), nix::unistd::geteuid().as_raw());
    work(Some(ReaderFacts::of(&known, &program, uid)))
}
