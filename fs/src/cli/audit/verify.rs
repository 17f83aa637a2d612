//! `kin audit verify`: is the record whole, and is it the one that the vault knows?

use clap::Args;
use kin_broker::Result;
use kin_broker::audit::{self, Head};
use kin_broker::control::protocol::Remembered;
use kin_broker::sys::paths::Directories;

use super::{Format, shown_time};
use crate::cli::output;

#[derive(Args)]
#[command(after_help = "Examples:
  kin audit verify
  kin audit verify --head \"$(cat /mnt/elsewhere/head)\"")]
pub(super) struct Arguments {
    /// A head that was printed before, and kept where this user cannot write: the record must still have it
    #[arg(long, value_name = "SEQ:MAC")]
    head: Vec<String>,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(
    directories: &Directories,
    arguments: &Arguments,
    known: Option<Remembered>,
) -> Result<()> {
    let mut heads = arguments.head.iter().map(|text| text.parse()).collect::<Result<Vec<Head>>>()?;
    heads.extend(known.as_ref().map(|known| Head { seq: known.seq, mac: known.mac }));
    let root = known.as_ref().map(|known| &known.root);
    let verified = audit::verify_against(&directories.state, root, &heads)?;
    let head = verified.head().to_string();
    if arguments.format.json {
        return output::json(&serde_json::json!({
            "records": verified.records,
            "first_seq": verified.first_seq,
            "last_seq": verified.last_seq,
            "last_time": verified.last_time.map(|time| time.to_string()),
            "sealed_seq": verified.sealed_seq,
            "seals": verified.seals,
            "segments": verified.segments,
            "head": head,
            "vault": known.is_some(),
        }));
    }
    let last =
        verified.last_time.map_or_else(String::new, |time| format!(", the last of {}", shown_time(time)));
    let vault = match known {
        Some(_) => "the vault knows it",
        None => "not compared with the vault, which no broker has open",
    };
    output::print(&format!(
        "{} records, the chain is whole{last}\nsealed up to {}, {vault}\nhead {head}\n",
        verified.records, verified.sealed_seq
    ))
}
