//! `kin audit --tree`: who in the tree of a grant opened what.

use std::collections::{BTreeMap, BTreeSet};

use kin_broker::Result;
use kin_broker::audit::{self, Filter, Record};
use kin_broker::sys::paths::Directories;
use serde_json::{Value, json};

use super::{bad_usage, shown_time};
use crate::cli::output;

/// A process: its pid, and its start, because numbers are used again.
type Process = (u32, u64);

/// What one process of the tree did.
#[derive(Default)]
struct Node {
    name: Option<String>,
    program: Option<String>,
    program_proven: bool,
    children: BTreeSet<Process>,
    files: BTreeMap<String, Counts>,
}

/// How often a file was opened, written back and denied.
#[derive(Clone, Copy, Default)]
struct Counts {
    opens: u64,
    writes: u64,
    denials: u64,
}

#[derive(Default)]
struct Tree {
    grants: BTreeSet<String>,
    project: String,
    command: String,
    begun: String,
    ended: String,
    root: Option<Process>,
    nodes: BTreeMap<Process, Node>,
}

pub(super) fn answer(directories: &Directories, filter: Filter, json: bool) -> Result<()> {
    let mut tree = Tree::default();
    audit::query(&directories.state, &filter, |record| tree.note(record))?;
    let wanted = filter.grant.unwrap_or_default();
    let grant = match (tree.grants.first(), tree.grants.len()) {
        (Some(grant), 1) => grant.clone(),
        (None, _) => {
            let message = format!("no grant of the record begins with {wanted}");
            return Err(bad_usage("unknown_grant", message, "`kin audit` shows them"));
        }
        _ => {
            let message = format!("more than one grant begins with {wanted}");
            return Err(bad_usage("ambiguous_grant", message, "write more of its id"));
        }
    };
    let roots = tree.roots();
    if json {
        let processes: Vec<_> = roots.iter().map(|root| tree.json(*root)).collect();
        return output::json(&json!({
            "grant": grant, "project": tree.project, "command": tree.command, "begun": tree.begun,
            "ended": tree.ended, "processes": processes,
        }));
    }
    let mut text = format!("{}  {}  {}\n", &grant[..grant.len().min(8)], tree.project, tree.command);
    text += &format!("begun {}{}\n", tree.begun, tree.ended);
    roots.iter().for_each(|root| tree.draw(*root, "", "", &mut text));
    output::print(&text)
}

impl Tree {
    fn note(&mut self, record: &Record<'_>) {
        let text = |part: Option<std::borrow::Cow<'_, str>>| part.unwrap_or_default().into_owned();
        self.grants.insert(text(record.grant()));
        match record.event() {
            "grant.create" => {
                self.project = text(record.project());
                self.command = text(record.program());
                self.begun = shown_time(record.time());
                self.root = record.root();
                if let Some(root) = record.root() {
                    self.nodes.entry(root).or_default().name = Some("kin-keeper".to_owned());
                }
            }
            "grant.expire" | "grant.revoke" => {
                let why = record.reason().unwrap_or("revoked".into());
                self.ended = format!(", ended {} ({why})", shown_time(record.time()));
            }
            _ => self.note_access(record),
        }
    }

    fn note_access(&mut self, record: &Record<'_>) {
        let Some(process) = record.process() else { return };
        // From the reader up to the root: who is above it belongs to no grant.
        let mut child = process;
        for parent in record.chain().iter().copied() {
            if Some(child) == self.root {
                break;
            }
            self.nodes.entry(parent).or_default().children.insert(child);
            child = parent;
        }
        let node = self.nodes.entry(process).or_default();
        node.name = record.comm().map(|name| name.into_owned()).or(node.name.take());
        if let Some(exe) = record.exe() {
            (node.program, node.program_proven) = (Some(exe.into_owned()), record.is_exe_proven());
        }
        let file = record.file().map_or_else(|| "(the directory)".to_owned(), |file| file.into_owned());
        let counts = node.files.entry(file).or_default();
        match record.event() {
            _ if record.is_denial() => counts.denials += record.count(),
            "write.allow" => counts.writes += 1,
            _ => counts.opens += 1,
        }
    }

    /// The root; without the record of its making, whoever has no parent.
    fn roots(&self) -> Vec<Process> {
        if let Some(root) = self.root {
            return vec![root];
        }
        let children: BTreeSet<_> = self.nodes.values().flat_map(|node| &node.children).collect();
        self.nodes.keys().filter(|process| !children.contains(process)).copied().collect()
    }

    fn draw(&self, process: Process, first: &str, rest: &str, text: &mut String) {
        let Some(node) = self.nodes.get(&process) else { return };
        let files: Vec<_> = node.files.iter().map(|(file, counts)| file_text(file, *counts)).collect();
        let name = node.name.as_deref().unwrap_or("-");
        let line = format!("{first}{} {name}  {}", process.0, files.join(", "));
        text.push_str(line.trim_end());
        text.push('\n');
        let last = node.children.last().copied();
        for child in &node.children {
            let (branch, below) =
                if Some(*child) == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            self.draw(*child, &format!("{rest}{branch}"), &format!("{rest}{below}"), text);
        }
    }

    fn json(&self, process: Process) -> Value {
        let Some(node) = self.nodes.get(&process) else { return Value::Null };
        let files: Vec<_> = node
            .files
            .iter()
            .map(|(file, Counts { opens, writes, denials })| {
                json!({ "file": file, "opens": opens, "writes": writes, "denials": denials })
            })
            .collect();
        let children: Vec<_> = node.children.iter().map(|child| self.json(*child)).collect();
        json!({
            "pid": process.0, "start": process.1, "name": node.name, "program": node.program,
            "program_proven": node.program_proven, "files": files, "children": children,
        })
    }
}

/// `DATABASE_URL × 3, denied × 2`.
fn file_text(file: &str, Counts { opens, writes, denials }: Counts) -> String {
    let opened = if opens > 0 { format!(" × {opens}") } else { String::new() };
    let denied = if denials > 0 { format!(" denied × {denials}") } else { String::new() };
    let written = if writes > 0 { format!(" written × {writes}") } else { String::new() };
    format!("{file}{opened}{written}{denied}")
}
