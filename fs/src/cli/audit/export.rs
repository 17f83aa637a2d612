//! `kin audit export`: the record in the words of those who collect logs.

use std::fmt::Write as _;

use clap::{Args, ValueEnum};
use kin_broker::audit::{self, Filter, Record};
use kin_broker::sys::paths::Directories;
use kin_broker::{Class, Error, Result};
use serde_json::{Map, Value, json};

use super::{Filters, journal, note_skipped};
use crate::cli::output;

/// Records in one OTLP document.
const BATCH: usize = 256;

#[derive(Args)]
#[command(after_help = "Examples:
  kin audit export --format syslog --since 10m | nc collector 601
  kin audit export --format otlp > records.jsonl
  kin audit export --format journald --after 4711 | systemd-journal-remote -o kin.journal -")]
pub(super) struct Arguments {
    /// How
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "jsonl")]
    format: As,
    /// Only records of a higher number than this: the last one that a collector has
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    #[command(flatten)]
    filter: Filters,
}

#[derive(Clone, Copy, ValueEnum)]
enum As {
    /// The lines of the record as they are
    Jsonl,
    /// Messages of RFC 5424, one a line
    Syslog,
    /// Export requests of the OpenTelemetry protocol as JSON, one a line
    Otlp,
    /// Entries of the Journal Export Format, for systemd-journal-remote
    Journald,
}

pub(super) fn answer(directories: &Directories, arguments: &Arguments) -> Result<()> {
    let filter = Filter { after: arguments.after, ..arguments.filter.parse()? };
    if let Some(after) = arguments.after.filter(|after| *after > 0) {
        is_of_this_record(directories, after)?;
    }
    let host =
        nix::unistd::gethostname().map_err(|errno| Error::internal("ask for the host's name", errno))?;
    let host = host.to_string_lossy().into_owned();
    let (mut batch, mut printed) = (Vec::new(), Ok(()));
    let queried = audit::query(&directories.state, &filter, |record| {
        if printed.is_err() {
            return;
        }
        printed = match arguments.format {
            As::Jsonl => output::line(record.json()),
            As::Syslog => output::line(&syslog(record, &host)),
            As::Journald => output::write(&journal::entry(record, severity(record).0, &host)),
            As::Otlp => {
                batch.push(otlp(record));
                if batch.len() < BATCH { Ok(()) } else { print_batch(&mut batch, &host) }
            }
        };
    })?;
    printed?;
    note_skipped(queried);
    print_batch(&mut batch, &host)
}

/// A number that the record does not reach is one of another record: what a collector has is not what stands here.
fn is_of_this_record(directories: &Directories, seq: u64) -> Result<()> {
    let from = Filter { after: Some(seq - 1), ..Filter::default() };
    match audit::query_lines(&directories.state, &from, |_| ())?.matched {
        0 => Err(Error::new(Class::Integrity, "audit_behind", format!("the record has no number {seq}"))
            .hint("it was begun anew or cut: see `kin audit verify`; without --after all of it is exported")),
        _ => Ok(()),
    }
}

/// Severities of RFC 5424 and of OpenTelemetry's logs data model.
fn severity(record: &Record<'_>) -> (u8, u8, &'static str) {
    match record.event() {
        "audit.fault" | "audit.lost" | "audit.reject" => (3, 17, "ERROR"),
        "mount.lost" | "audit.recover" | "vault.reject" | "policy.reject" | "policy.notice"
        | "change.fail" => (4, 13, "WARN"),
        _ if record.is_denial() => (4, 13, "WARN"),
        _ => (6, 9, "INFO"),
    }
}

/// Facility 13 is "log audit"; 32473 is the number that RFC 5612 gives to examples.
fn syslog(record: &Record<'_>, host: &str) -> String {
    let priority = 13 * 8 + u16::from(severity(record).0);
    let host: String = host.chars().filter(char::is_ascii_graphic).take(255).collect();
    let host = if host.is_empty() { "-".to_owned() } else { host };
    let mut line = format!("<{priority}>1 {:.6} {host} kin - {} [kin@32473", record.time(), record.event());
    let pid = record.pid().map(|pid| pid.to_string());
    let several = record.delivered().into_iter().filter(|_| record.reference().is_none());
    let several: Vec<_> =
        several.map(|(name, version)| format!("{name}@{}", version.unwrap_or_default())).collect();
    let references = (!several.is_empty()).then(|| several.join(",").into());
    let seq = record.seq().to_string();
    for (name, value) in [
        ("seq", Some(seq.into())),
        ("grant", record.grant()),
        ("project", record.project()),
        ("file", record.file()),
        ("reference", record.reference()),
        ("references", references),
        ("pid", pid.map(Into::into)),
        ("comm", record.comm()),
        ("reason", record.reason()),
    ] {
        let Some(value) = value else { continue };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace(']', "\\]");
        let _ = write!(line, " {name}=\"{value}\"");
    }
    line + "] " + record.json()
}

fn otlp(record: &Record<'_>) -> Value {
    let (_, number, text) = severity(record);
    let fields: Map<String, Value> = serde_json::from_str(record.json()).unwrap_or_default();
    let hidden = ["v", "time", "event", "prev"];
    let attributes: Vec<_> = fields
        .into_iter()
        .filter(|(key, value)| !value.is_null() && !hidden.contains(&key.as_str()))
        .map(|(key, value)| json!({ "key": format!("kin.{key}"), "value": any_value(&value) }))
        .collect();
    json!({
        "timeUnixNano": record.time().as_nanosecond().to_string(),
        "severityNumber": number,
        "severityText": text,
        "eventName": record.event(),
        "body": { "stringValue": record.event() },
        "attributes": attributes,
    })
}

/// OTLP writes 64-bit integers as text.
fn any_value(value: &Value) -> Value {
    match value {
        Value::String(text) => json!({ "stringValue": text }),
        Value::Bool(flag) => json!({ "boolValue": flag }),
        Value::Number(number) => json!({ "intValue": number.to_string() }),
        other => json!({ "stringValue": other.to_string() }),
    }
}

fn print_batch(batch: &mut Vec<Value>, host: &str) -> Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    let attribute = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    output::json(&json!({ "resourceLogs": [{
        "resource": { "attributes": [attribute("service.name", "kin"), attribute("host.name", host)] },
        "scopeLogs": [{ "scope": { "name": "kin.audit" }, "logRecords": std::mem::take(batch) }],
    }] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "{\"v\":1,\"seq\":7,\"time\":\"2026-11-23T05:46:48.123456Z\",\"event\":\"open.deny\",\
        \"op\":\"open\",\"project\":\"api\",\"file\":\"a]\\\"b\\\\c\",\"reference\":null,\"reason\":\"no_grant\",\
        \"tgid\":9,\"start\":3,\"comm\":\"\\u000ax\",\"chain\":[[1,2]],\"count\":2,\"prev\":\"00\",\"mac\":\"11\"}";

    #[test]
    fn a_record_is_one_line_of_rfc_5424() {
        let mut said = String::new();
        assert!(audit::parsed(LINE, |record| said = syslog(record, "host")));
        let head = "<108>1 2026-11-23T05:46:48.123456Z host kin - open.deny [kin@32473 seq=\"7\" project=\"api\" \
            file=\"a\\]\\\"b\\\\c\" pid=\"9\" comm=\"\\\\nx\" reason=\"no_grant\"] {";
        assert!(said.starts_with(head), "{said}");
        assert!(said.ends_with(LINE) && said.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    }

    #[test]
    fn a_record_is_a_log_record_of_opentelemetry() {
        let mut said = Value::Null;
        assert!(audit::parsed(LINE, |record| said = otlp(record)));
        assert_eq!(said["timeUnixNano"], "1795412808123456000");
        assert_eq!((&said["severityNumber"], &said["eventName"]), (&13.into(), &"open.deny".into()));
        let attributes = said["attributes"].as_array().unwrap();
        let value = |key: &str| {
            attributes.iter().find(|entry| entry["key"] == key).map(|entry| entry["value"].clone())
        };
        assert_eq!(value("kin.file"), Some(json!({ "stringValue": "a]\"b\\c" })));
        assert_eq!(value("kin.tgid"), Some(json!({ "intValue": "9" })));
        assert_eq!(value("kin.chain"), Some(json!({ "stringValue": "[[1,2]]" })));
        assert_eq!((value("kin.reference"), value("kin.prev")), (None, None));
    }
}
