//! How does a question come in, who asks, and who answers it? Over a Unix socket, and outside of every grant's tree more
//! than inside.

mod client;
pub(crate) mod dispatch;
mod proof;
pub mod protocol;
mod room;
mod server;
mod status;
mod verbs;

pub use crate::sys::frame::{MAX_VALUE, read_frame, write_frame};
pub use client::Client;
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
