//! How the figures are shown: one flat JSON object for programs, a table for people.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::audit::{self, Audit};
use crate::lifetimes::{Run, Withdrawal};
use crate::load::{Crowd, Flood};
use crate::opens::{First, Warm};
use crate::private::Private;
use crate::record::VerifyRate;
use crate::redaction::Flow;
use crate::vault::Scale;

/// Everything that was measured.
#[derive(Default)]
pub(crate) struct Report {
    /// How the broker identified processes where nothing was forced.
    pub(crate) identity: String,
    /// open + read + close on tmpfs.
    pub(crate) tmpfs_ns: Option<u64>,
    /// Warm opens.
    pub(crate) opens: Vec<Warm>,
    /// Warm opens, each reader on the core of its server.
    pub(crate) opens_on_one_core: Vec<Warm>,
    /// First opens.
    pub(crate) first: Vec<First>,
    /// Warm opens of a floor that checks.
    pub(crate) check: Vec<Warm>,
    /// The same on one core.
    pub(crate) check_on_one_core: Vec<Warm>,
    /// Many grants; `None` where they have no room.
    pub(crate) crowd: Option<Crowd>,
    /// Many denials.
    pub(crate) flood: Flood,
    /// The wrapper.
    pub(crate) run: Run,
    /// Private mounts.
    pub(crate) private: Private,
    /// Withdrawal.
    pub(crate) withdrawal: Withdrawal,
    /// A redacted output.
    pub(crate) flow: Flow,
    /// The record.
    pub(crate) verify: VerifyRate,
    /// A long record.
    pub(crate) audit: Audit,
    /// A large vault.
    pub(crate) scale: Scale,
    /// The broker's memory.
    pub(crate) idle_rss_mib: f64,
    /// Warm opens, with the /proc fallback forced.
    pub(crate) opens_fallback: Vec<Warm>,
    /// First opens, with the /proc fallback forced.
    pub(crate) first_fallback: Vec<First>,
}

impl Report {
    /// One flat object. Opens are ratios to the floor; units are in the names.
    pub(crate) fn json(&self) -> Value {
        let mut figures = Map::new();
        let mut put = |key: String, value: f64| figures.insert(key, json!((value * 1000.0).round() / 1000.0));
        for (opens, start, suffix) in [
            (&self.opens, "open", ""),
            (&self.opens_on_one_core, "open", "_one_core"),
            (&self.check, "check", ""),
            (&self.check_on_one_core, "check", "_one_core"),
            (&self.opens_fallback, "open", "_fallback"),
        ] {
            for warm in opens {
                let clients =
                    if warm.clients == 1 { String::new() } else { format!("_{}clients", warm.clients) };
                put(format!("{start}_d{}{clients}{suffix}", warm.depth), warm.ratio());
            }
        }
        for first in &self.first {
            put(format!("fresh_d{}_us", first.depth), us(first.open_ns));
        }
        put("run_added_ms".into(), ms(self.run.added_ns));
        put("private_mib".into(), self.private.mib);
        put("private_run_ratio".into(), ratio(self.private.run_ns, self.private.plain_ns));
        put("withdraw_p99_ms".into(), ms(self.withdrawal.p99_ns));
        put("redact_mb_s".into(), Flow::mb_s(self.flow.redacted_ns));
        put("redact_ratio".into(), ratio(self.flow.redacted_ns, self.flow.floor_ns));
        put("redact_rss_mib".into(), self.flow.rss_mib);
        put("audit_verify_per_s".into(), self.verify.per_s);
        put("audit_append_us".into(), us(self.audit.append_ns));
        put("audit_write_us".into(), us(self.audit.write_ns));
        put("audit_query_1m_ms".into(), ms(self.audit.slower_ns()));
        put("audit_read_1m_ms".into(), ms(self.audit.read_ns));
        put("unlock_10k_ms".into(), ms(self.scale.derive_ns + self.scale.open_ns));
        put("derive_ms".into(), ms(self.scale.derive_ns));
        put("set_10k_ms".into(), ms(self.scale.set_ns));
        put("idle_rss_mib".into(), self.idle_rss_mib);
        put("flood_p99_ratio".into(), ratio(self.flood.during_ns, self.flood.quiet_ns));
        if let Some(crowd) = &self.crowd {
            put("grants10k_ratio".into(), ratio(crowd.full_ns, crowd.one_ns));
            put("grant_kib".into(), crowd.grant_kib);
        }
        Value::Object(figures)
    }

    /// Tables and sentences.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let tmpfs = self.tmpfs_ns.map_or("no tmpfs here".into(), |ns| format!("{:.1} µs", us(ns)));
        line(&mut text, "open + read + close of 64 bytes, warm, in µs (tmpfs: ", &(tmpfs + ")"));
        line(&mut text, "", &format!("{:<28}{:>9}{:>9}{:>9}", "", "floor", "kin", "ratio"));
        let own = format!("identity: {}", self.identity);
        for (opens, what) in [
            (&self.opens, own.as_str()),
            (&self.opens_on_one_core, "the same, reader and server on one core"),
            (&self.opens_fallback, "identity: procfs, forced"),
            (&self.check, "the check alone, in the floor's server"),
            (&self.check_on_one_core, "the same, reader and server on one core"),
        ] {
            line(&mut text, what, "");
            opens.iter().for_each(|warm| line(&mut text, "  ", &warm_row(warm)));
        }
        line(&mut text, "\nfirst open of a new process, p50 in µs: ", "open alone, and with read and close");
        line(&mut text, "", &format!("{:<28}{:>9}{:>9}{:>9}{:>9}", "", "floor", "kin", "floor", "kin"));
        for (first, identity) in
            [(&self.first, self.identity.as_str()), (&self.first_fallback, "procfs, forced")]
        {
            line(&mut text, "identity: ", identity);
            first.iter().for_each(|first| line(&mut text, "  ", &first_row(first)));
        }
        text + &self.sentences() + &self.load() + &self.sizes()
    }

    fn load(&self) -> String {
        let crowd = self.crowd.as_ref().map_or_else(
            || "10,000 grants: more than the limit of descriptors (`ulimit -Hn`) allows for".to_owned(),
            |crowd| {
                let (full, one) = (us(crowd.full_ns), us(crowd.one_ns));
                format!(
                    "a member's open + read + close with 10,000 grants in the broker, and with one: \
                     {full:.1} µs, {one:.1} µs; each takes {:.1} KiB",
                    crowd.grant_kib
                )
            },
        );
        let (during, quiet) = (us(self.flood.during_ns), us(self.flood.quiet_ns));
        format!(
            "\n{crowd}\n\
             p99 of it while an outsider is denied 5,000 opens a second, and without: \
             {during:.1} µs, {quiet:.1} µs"
        )
    }

    fn sizes(&self) -> String {
        let (audit, scale) = (&self.audit, &self.scale);
        let [rare, common] = audit.query_ns.map(ms);
        format!(
            "\none record of {} bytes appended, and a bare write of as many: {:.2} µs, {:.2} µs; beyond it {:.2} µs \
             (limit {:.0})\n\
             kin audit --ref over {} records in {} files, of a secret in one of 1,000, and in the others: \
             {rare:.0} ms, {common:.0} ms (limit {:.0}); reading the files: {:.0} ms\n\
             a vault of 10,000 secrets, {} KiB: unlocked {:.1} ms after the {:.0} ms of the key's derivation (limit \
             {:.0}); one set {:.1} ms (limit {:.0})",
            audit.bytes,
            us(audit.append_ns),
            us(audit.write_ns),
            us(audit.append_ns) - us(audit.write_ns),
            Audit::APPEND_LIMIT_US,
            audit::RECORDS,
            audit.segments,
            Audit::QUERY_LIMIT_MS,
            ms(audit.read_ns),
            scale.bytes >> 10,
            ms(scale.open_ns),
            ms(scale.derive_ns),
            Scale::UNLOCK_LIMIT_MS,
            ms(scale.set_ns),
            Scale::SET_LIMIT_MS,
        )
    }

    fn sentences(&self) -> String {
        format!(
            "\nkin run -- true adds {:.2} ms to the {:.2} ms of true (p50, broker running)\n\
             kin run --private -- true takes {:.2} ms, {:.2}× kin run -- true (limit {:.0}); each that lives takes {:.2} \
             MiB of the broker's memory (limit {:.0})\n\
             end of a command to the first refused open of a child it left behind (--end-with-child): \
             p50 {:.2} ms, p99 {:.2} ms\n\
             an output through kin run --redact with 100 secrets: {:.0} MB/s, {:.2}× the time of one pipe; \
             {:.1} MiB resident\n\
             kin audit verify: {:.0} records/s beyond its start-up, on {} records\n\
             broker, idle after all that: {:.1} MiB resident",
            ms(self.run.added_ns),
            ms(self.run.bare_ns),
            ms(self.private.run_ns),
            ratio(self.private.run_ns, self.private.plain_ns),
            Private::RATIO_LIMIT,
            self.private.mib,
            Private::MIB_LIMIT,
            ms(self.withdrawal.p50_ns),
            ms(self.withdrawal.p99_ns),
            Flow::mb_s(self.flow.redacted_ns),
            ratio(self.flow.redacted_ns, self.flow.floor_ns),
            self.flow.rss_mib,
            self.verify.per_s,
            self.verify.records,
            self.idle_rss_mib,
        )
    }
}

fn warm_row(warm: &Warm) -> String {
    let clients = if warm.clients == 1 { "1 client" } else { "2 clients" };
    let label = format!("depth {}, {clients}", warm.depth);
    format!("{label:<26}{:>9.1}{:>9.1}{:>8.2}×", us(warm.floor_ns), us(warm.kin_ns), warm.ratio())
}

fn first_row(first: &First) -> String {
    let label = format!("depth {}", first.depth);
    let figures = [first.floor_open_ns, first.open_ns, first.floor_cycle_ns, first.cycle_ns].map(us);
    figures.iter().fold(format!("{label:<26}"), |row, figure| row + &format!("{figure:>9.1}"))
}

fn line(text: &mut String, start: &str, rest: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{start}{rest}");
}

fn ratio(of: u64, to: u64) -> f64 {
    of as f64 / to as f64
}

fn us(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

fn ms(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}
