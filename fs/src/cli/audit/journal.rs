//! `kin audit export --format journald`: the Journal Export Format, which `systemd-journal-remote` reads.

use kin_broker::audit::Record;
use serde_json::{Map, Value};

use super::table::{what, who, why};

/// The longest name of a field that a journal takes.
const LONGEST_NAME: usize = 64;

/// One entry with the empty line that ends it. Each member of the record is a field `KIN_…`; a file that is made of
/// several secrets has a `KIN_REFERENCE` for each.
pub(super) fn entry(record: &Record<'_>, priority: u8, host: &str) -> Vec<u8> {
    let mut entry = Vec::with_capacity(1024);
    let mut put = |name: &str, value: &str| field(&mut entry, name, value);
    put("__REALTIME_TIMESTAMP", &record.time().as_microsecond().to_string());
    put("_HOSTNAME", host);
    put("SYSLOG_IDENTIFIER", "kin");
    put("SYSLOG_FACILITY", "13");
    put("PRIORITY", &priority.to_string());
    put("MESSAGE", &message(record));
    for (name, value) in serde_json::from_str::<Map<String, Value>>(record.json()).unwrap_or_default() {
        let name = field_name(&name);
        match value {
            Value::Null => {}
            _ if matches!(name.as_str(), "KIN_V" | "KIN_TIME" | "KIN_REFERENCE") => {}
            Value::String(text) => put(&name, &text),
            value => put(&name, &value.to_string()),
        }
    }
    for (reference, _) in record.delivered() {
        put("KIN_REFERENCE", &reference);
    }
    entry.push(b'\n');
    entry
}

/// As the table has it: `open.allow api/DATABASE_URL (db/url@3) cat [203]`.
fn message(record: &Record<'_>) -> String {
    let parts = [record.event().to_owned(), what(record), who(record), why(record)];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Letters, digits and underscores, which is all that a field's name may have.
fn field_name(member: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    "KIN_".chars().chain(member.chars().map(plain)).take(LONGEST_NAME).collect()
}

/// A value of one line stands behind its name; any other behind its length, so that no value can begin a field.
fn field(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.bytes().all(|byte| byte == b'\t' || byte >= b' ') {
        entry.push(b'=');
    } else {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use kin_broker::audit;

    use super::*;

    /// Reads one entry as the format's description says.
    fn fields(mut entry: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        while entry != b"\n" {
            let end = entry.iter().position(|byte| *byte == b'\n').unwrap();
            let (line, rest) = (&entry[..end], &entry[end + 1..]);
            match line.iter().position(|byte| *byte == b'=') {
                Some(at) => {
                    fields.push((text(&line[..at]), text(&line[at + 1..])));
                    entry = rest;
                }
                None => {
                    let (length, rest) = rest.split_first_chunk::<8>().unwrap();
                    let (value, rest) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
                    fields.push((text(line), text(value)));
                    entry = rest.strip_prefix(b"\n").unwrap();
                }
            }
        }
        fields
    }

    fn read(line: &str) -> Vec<(String, String)> {
        let mut bytes = Vec::new();
        assert!(audit::parsed(line, |record| bytes = entry(record, 4, "host")), "{line}");
        fields(&bytes)
    }

    fn values<'f>(fields: &'f [(String, String)], name: &str) -> Vec<&'f str> {
        fields.iter().filter(|field| field.0 == name).map(|field| field.1.as_str()).collect()
    }

    #[test]
    fn a_record_is_an_entry_whose_values_begin_no_field() {
        let found = read(
            "{\"v\":1,\"seq\":7,\"time\":\"2026-11-23T05:46:48.123456Z\",\"event\":\"open.deny\",\"op\":\"open\",\
             \"project\":\"api\",\"file\":\"a=b\",\"reference\":null,\"reason\":\"no_grant\",\"tgid\":9,\"start\":3,\
             \"comm\":\"x\\nMESSAGE=forged\\n\\nPRIORITY=0\",\"chain\":[[1,2]],\"prev\":\"00\",\"mac\":\"11\"}",
        );
        let one = |name: &str, value: &str| assert_eq!(values(&found, name), [value], "{name}");
        one("__REALTIME_TIMESTAMP", "1795412808123456");
        one("SYSLOG_IDENTIFIER", "kin");
        one("PRIORITY", "4");
        one("_HOSTNAME", "host");
        one("MESSAGE", "open.deny api/a=b x\\nMESSAGE=forged\\n\\nPRIORITY=0 [9] no_grant");
        one("KIN_COMM", "x\nMESSAGE=forged\n\nPRIORITY=0");
        one("KIN_SEQ", "7");
        one("KIN_EVENT", "open.deny");
        one("KIN_CHAIN", "[[1,2]]");
        one("KIN_MAC", "11");
        assert!(values(&found, "KIN_REFERENCE").is_empty());
        let plain = |byte: u8| byte == b'_' || byte.is_ascii_uppercase() || byte.is_ascii_digit();
        assert!(found.iter().all(|(name, _)| name.bytes().all(plain)), "{found:?}");
    }

    #[test]
    fn every_secret_of_a_file_is_a_reference_of_the_entry() {
        let found = read(
            "{\"seq\":7,\"time\":\"2026-11-23T05:46:48.123456Z\",\"event\":\"open.allow\",\
             \"references\":[\"api/key@3\",\"db/url@12\"]}",
        );
        assert_eq!(values(&found, "KIN_REFERENCE"), ["api/key", "db/url"]);
        assert_eq!(values(&found, "KIN_REFERENCES"), ["[\"api/key@3\",\"db/url@12\"]"]);
        let found = read(
            "{\"seq\":8,\"time\":\"2026-11-23T05:46:48.123456Z\",\"event\":\"open.allow\",\
             \"reference\":\"db/url\",\"version\":12}",
        );
        assert_eq!(
            (values(&found, "KIN_REFERENCE"), values(&found, "KIN_VERSION")),
            (vec!["db/url"], vec!["12"])
        );
    }
}
