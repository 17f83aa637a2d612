//! What does a record of the audit log say? The one place that knows its field names.

use serde_json::Value;

/// A field of a record, `""` where it is absent.
pub fn text<'r>(record: &'r Value, field: &str) -> &'r str {
    record[field].as_str().unwrap_or_default()
}

/// The event: `open.allow`.
pub fn event(record: &Value) -> &str {
    text(record, "event")
}

/// Why: `revoked`, `foreign_reader`, `tree_exit`.
pub fn reason(record: &Value) -> &str {
    text(record, "reason")
}

/// Its number in the chain.
///
/// # Panics
/// Where it has none.
pub fn seq(record: &Value) -> u64 {
    record["seq"].as_u64().unwrap_or_else(|| panic!("a record without seq: {record}"))
}

/// The reader's process.
pub fn tgid(record: &Value) -> Option<u64> {
    record["tgid"].as_u64()
}

/// The pids of the reader's ancestors, the parent first.
pub fn chain(record: &Value) -> Vec<u64> {
    record["chain"].as_array().into_iter().flatten().filter_map(|link| link[0].as_u64()).collect()
}

/// How many denials the record stands for: a summary says `count`.
pub fn denials(record: &Value) -> u64 {
    record["count"].as_u64().unwrap_or(1)
}

/// Whether something was refused to a reader.
pub fn is_denial(record: &Value) -> bool {
    matches!(event(record), "open.deny" | "read.deny" | "write.deny")
}

/// The records of one event.
pub fn of<'r>(records: &'r [Value], name: &str) -> Vec<&'r Value> {
    records.iter().filter(|record| event(record) == name).collect()
}

/// The records of one reader.
pub fn by(records: &[Value], tgid: u64) -> Vec<&Value> {
    records.iter().filter(|record| self::tgid(record) == Some(tgid)).collect()
}
