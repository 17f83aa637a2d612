//! How does a record name the ancestors of a reader? As text, rendered once.

use kin_policy::Process;

/// Ancestors that a record keeps; of the others it gives the number.
const ANCESTORS: usize = 64;

/// Ancestors, rendered once for all records of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestry(Box<str>);

impl Ancestry {
    /// Of the ancestors as [`kin_policy::Lineage`] has them, nearest first.
    pub fn of(ancestors: &[Process]) -> Self {
        let mut json = String::from(",\"chain\":[");
        for (index, process) in ancestors.iter().take(ANCESTORS).enumerate() {
            let comma = if index == 0 { "" } else { "," };
            json.push_str(&format!("{comma}[{},{}]", process.pid, process.start));
        }
        json.push(']');
        if ancestors.len() > ANCESTORS {
            json.push_str(&format!(",\"elided\":{}", ancestors.len() - ANCESTORS));
        }
        Self(json.into())
    }

    /// The members of a record, each behind its comma.
    pub(crate) fn as_json(&self) -> &str {
        &self.0
    }
}

impl Default for Ancestry {
    fn default() -> Self {
        Self::of(&[])
    }
}
