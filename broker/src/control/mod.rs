//! control carries questions from the command line to the broker and answers back, over a Unix socket.

mod behalf;
mod client;
mod frame;
mod peer;
mod proof;
pub mod protocol;
mod room;
mod server;
pub mod transfer;

pub(crate) use behalf::{Behalf, with_asker};
pub use client::Client;
pub use frame::{MAX_VALUE, read_frame, write_frame};
pub(crate) use peer::{Peer, peer_gone};
pub use server::serve;
pub(crate) use server::{Document, Enclosed, Reply};

#[cfg(test)]
pub(crate) use server::send;
#[cfg(any(test, fuzzing))]
pub(crate) use server::understands;

/// An answer as the document that travels.
pub(crate) fn document(answer: &impl serde::Serialize) -> crate::Result<Document> {
    let json = serde_json::to_vec(answer).map_err(|error| crate::Error::internal("write the answer", error));
    json.map(Document::Whole)
}
