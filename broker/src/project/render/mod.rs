//! Which bytes is a file that is made of several values?
//!
//! A recipe is made when a manifest is read: text, and places for values with the way each is written there.
//! What a template does is done then, before any value is known, so no template engine ever has one: to render
//! is to put values in their places, in locked memory.

mod escape;
mod template;

use std::collections::{BTreeMap, BTreeSet};

use kin_policy::FileName;

use crate::Plaintext;

pub use escape::Escape;
pub(crate) use template::pieces;

/// Bytes of a rendered file, at most.
const LIMIT: usize = 4 << 20;

/// What a file is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    pieces: Vec<Piece>,
}

/// The filters of templates, for messages.
pub(crate) fn filters() -> String {
    escape::FILTERS.map(|(name, _)| name).join(", ")
}

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// These bytes.
    Text(String),
    /// The value of this binding, as it is.
    Value(FileName),
    /// All of these, written in this way.
    Written(Escape, Vec<Piece>),
}

/// Why a file cannot be made of the values that there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unwritable {
    /// Whose value it is.
    pub(crate) binding: Option<FileName>,
    /// Why.
    pub(crate) why: &'static str,
}

impl Recipe {
    /// Of these parts, in this order.
    pub(crate) fn of(pieces: Vec<Piece>) -> Self {
        Self { pieces }
    }

    /// The bindings that it takes values of.
    pub fn uses(&self) -> BTreeSet<FileName> {
        let mut uses = BTreeSet::new();
        self.pieces.iter().for_each(|piece| piece.note(&mut uses));
        uses
    }

    /// The file, of these values.
    ///
    /// # Errors
    /// `Unwritable`.
    pub(crate) fn render(&self, values: &BTreeMap<FileName, Plaintext>) -> Result<Plaintext, Unwritable> {
        joined(&self.pieces, values)
    }
}

impl Piece {
    /// All of `of`, written in this way; text alone is written at once.
    ///
    /// # Errors
    /// Why the text cannot be.
    pub(crate) fn written(how: Escape, of: Vec<Self>) -> Result<Self, &'static str> {
        let mut text = String::new();
        for piece in &of {
            match piece {
                Self::Text(part) => text.push_str(part),
                _ => return Ok(Self::Written(how, of)),
            }
        }
        Ok(Self::Text(String::from_utf8_lossy(how.apply(text.as_bytes())?.bytes()).into_owned()))
    }

    fn note(&self, uses: &mut BTreeSet<FileName>) {
        match self {
            Self::Text(_) => {}
            Self::Value(binding) => drop(uses.insert(binding.clone())),
            Self::Written(_, of) => of.iter().for_each(|piece| piece.note(uses)),
        }
    }
}

/// One part, where it is already.
enum Part<'p> {
    There(&'p [u8]),
    Made(Plaintext),
}

impl Part<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::There(bytes) => bytes,
            Self::Made(made) => made.bytes(),
        }
    }
}

fn joined(pieces: &[Piece], values: &BTreeMap<FileName, Plaintext>) -> Result<Plaintext, Unwritable> {
    let parts = pieces.iter().map(|piece| part(piece, values)).collect::<Result<Vec<_>, _>>()?;
    let len = parts.iter().map(|part| part.bytes().len()).sum();
    if len > LIMIT {
        return Err(Unwritable { binding: None, why: "it would be larger than 4 MiB" });
    }
    let (mut whole, mut at) = (Plaintext::zeroed(len), 0);
    for part in &parts {
        let bytes = part.bytes();
        whole.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    }
    Ok(whole)
}

fn part<'p>(piece: &'p Piece, values: &'p BTreeMap<FileName, Plaintext>) -> Result<Part<'p>, Unwritable> {
    match piece {
        Piece::Text(text) => Ok(Part::There(text.as_bytes())),
        Piece::Value(binding) => {
            let missing = || Unwritable { binding: Some(binding.clone()), why: "it is not there" };
            values.get(binding).map(|value| Part::There(value.bytes())).ok_or_else(missing)
        }
        Piece::Written(how, of) => {
            let inner = joined(of, values)?;
            how.apply(inner.bytes()).map(Part::Made).map_err(|why| {
                let mut uses = BTreeSet::new();
                of.iter().for_each(|piece| piece.note(&mut uses));
                Unwritable { binding: uses.pop_first(), why }
            })
        }
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
