//! What does a template say? It is done once, with a mark in the place of each value: the marks are found again
//! in what came out, and everything around them is text.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use kin_policy::FileName;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{DynObject, Object, ObjectRepr, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior};
use parking_lot::Mutex;

use super::escape::{Escape, FILTERS};
use super::{LIMIT, Piece};

/// Steps that a template may take: it is done where a manifest is read.
const FUEL: u64 = 20_000;
/// Bytes of a template, at most: the engine counts the columns of a line in 16 bits.
const LONGEST: usize = 32 << 10;
/// Bytes of one `{{ }}` or `{% %}`, and statements of a template, at most. The engine goes down as deep as an
/// expression or a chain of branches is long, on the stack of the thread that reads the manifest.
const LONGEST_TAG: usize = 1024;
const MOST_STATEMENTS: usize = 256;
/// What stands around the number of a value: noncharacters (Unicode 23.7), which no text has.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';
/// How a template reaches a binding whose name is no variable's: `bindings["tls.key"]`.
const BINDINGS: &str = "bindings";

/// What is wrong with a template.
#[derive(Debug)]
pub(crate) struct Problem {
    /// In which of its lines, from 1, where that is known.
    pub(crate) line: Option<usize>,
    /// What.
    pub(crate) why: String,
}

impl Problem {
    fn new(why: impl Into<String>) -> Self {
        Self { line: None, why: why.into() }
    }
}

/// The parts of `template`, which may name the bindings that are `known`.
///
/// # Errors
/// `Problem`.
pub(crate) fn pieces(template: &str, known: &Arc<BTreeSet<FileName>>) -> Result<Vec<Piece>, Problem> {
    if template.len() > LONGEST {
        return Err(Problem::new("it has more than 32 KiB"));
    }
    if template.contains([OPEN, CLOSE]) {
        return Err(Problem::new("it has a noncharacter of Unicode"));
    }
    check_tags(template)?;
    let sheet = Arc::new(Sheet::default());
    let names = Value::from_object(Names { sheet: sheet.clone(), known: known.clone(), whole: true });
    let done = environment().and_then(|environment| environment.render_str(template, names));
    let Notes { symbols, unknown, looked_into } = std::mem::take(&mut *sheet.0.lock());
    let output = done.map_err(|error| {
        let why = unknown.as_deref().map_or_else(|| said(&error), no_binding);
        Problem { line: error.line(), why }
    })?;
    if let Some(unknown) = unknown {
        return Err(Problem::new(no_binding(&unknown)));
    }
    if looked_into || symbols.iter().any(|symbol| !symbol.written) {
        return Err(Problem::new("a value can be written, and nothing else: it is not known here"));
    }
    if output.len() > LIMIT {
        return Err(Problem::new("it makes more than 4 MiB"));
    }
    parts(&output, &symbols).ok_or_else(|| Problem::new("it takes a value apart"))
}

/// Refuses tags that are too long and statements that are too many. It finds the ends of tags and comments as the
/// engine does: outside of strings, and with every bracket closed. So that it does, there is no `raw`.
fn check_tags(template: &str) -> Result<(), Problem> {
    let line = |rest: &str| Some(template[..template.len() - rest.len()].matches('\n').count() + 1);
    let refuse = |rest: &str, why: &str| Problem { line: line(rest), why: why.to_owned() };
    let (mut rest, mut statements) = (template, 0);
    while let Some(at) = rest.find('{') {
        rest = &rest[at..];
        match rest.as_bytes().get(1) {
            Some(b'#') => rest = rest[2..].split_once("#}").map_or("", |(_, after)| after),
            Some(kind @ (b'{' | b'%')) => {
                let end = if *kind == b'{' { b"}}" } else { b"%}" };
                let tag = tag(&rest.as_bytes()[2..], end)
                    .ok_or_else(|| refuse(rest, "a tag has no end, or more than 1 KiB"))?;
                let inner = rest.get(2..2 + tag).unwrap_or_default();
                statements += usize::from(*kind == b'%');
                if *kind == b'%' && inner.trim_matches(['-', '+', ' ', '\t', '\n']).starts_with("raw") {
                    return Err(refuse(rest, "there is no raw: write {{ \"{{\" }}"));
                }
                if statements > MOST_STATEMENTS {
                    return Err(refuse(rest, "it has more than 256 statements"));
                }
                rest = rest.get(4 + tag..).unwrap_or_default();
            }
            _ => rest = &rest[1..],
        }
    }
    Ok(())
}

/// Bytes before the `end` of a tag; `None` where there is none in time.
fn tag(text: &[u8], end: &[u8]) -> Option<usize> {
    let (mut open, mut string, mut at) = (0_u32, None, 0);
    while at < text.len().min(LONGEST_TAG) {
        let byte = text[at];
        match (string, byte) {
            (Some(_), b'\\') => at += 1,
            (Some(quote), byte) if byte == quote => string = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => string = Some(byte),
            (None, _) if open == 0 && text[at..].starts_with(end) => return Some(at),
            (None, b'(' | b'[' | b'{') => open += 1,
            (None, b')' | b']' | b'}') => open = open.checked_sub(1)?,
            (None, _) => {}
        }
        at += 1;
    }
    None
}

fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::empty();
    environment.set_syntax(SyntaxConfig::builder().keep_trailing_newline(true).build()?);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_formatter(write_out);
    for (name, escape) in FILTERS {
        environment.add_filter(name, move |value: &Value| filtered(escape, value));
    }
    Ok(environment)
}

fn no_binding(name: &str) -> String {
    format!("there is no binding \"{name}\"")
}

/// One short line of what the engine says.
fn said(error: &Error) -> String {
    let kind = error.kind().to_string();
    let why = error.detail().map_or_else(|| kind.clone(), |detail| format!("{kind}: {detail}"));
    why.chars().take(160).collect::<String>().to_lowercase()
}

/// What has become of the values while a template is done.
#[derive(Debug, Default)]
struct Sheet(Mutex<Notes>);

#[derive(Debug, Default)]
struct Notes {
    symbols: Vec<Noted>,
    /// A name that was asked for and is no binding's.
    unknown: Option<String>,
    /// Something wanted to know what a value is.
    looked_into: bool,
}

/// A value each time that it is named, and each time that a filter is put on it.
#[derive(Debug)]
struct Noted {
    binding: FileName,
    filters: Vec<Escape>,
    /// Of which symbol a filter made it.
    of: Option<usize>,
    written: bool,
}

impl Sheet {
    fn note(self: &Arc<Self>, binding: FileName, filters: Vec<Escape>, of: Option<usize>) -> Value {
        let symbols = &mut self.0.lock().symbols;
        symbols.push(Noted { binding, filters, of, written: false });
        Value::from_object(Symbol { sheet: self.clone(), number: symbols.len() - 1 })
    }
}

/// What a template has instead of a value.
#[derive(Debug)]
struct Symbol {
    sheet: Arc<Sheet>,
    number: usize,
}

impl Symbol {
    fn mark(&self) -> String {
        let symbols = &mut self.sheet.0.lock().symbols;
        let mut at = Some(self.number);
        while let Some(noted) = at.and_then(|at| symbols.get_mut(at)) {
            noted.written = true;
            at = noted.of;
        }
        format!("{OPEN}{}{CLOSE}", self.number)
    }

    fn filtered(&self, escape: Escape) -> Value {
        let (binding, filters) = {
            let symbols = &self.sheet.0.lock().symbols;
            let own = &symbols[self.number];
            (own.binding.clone(), own.filters.iter().copied().chain([escape]).collect())
        };
        self.sheet.note(binding, filters, Some(self.number))
    }
}

impl Object for Symbol {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.sheet.0.lock().looked_into = true;
        true
    }

    fn get_value(self: &Arc<Self>, _key: &Value) -> Option<Value> {
        self.sheet.0.lock().looked_into = true;
        None
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<std::cmp::Ordering> {
        self.sheet.0.lock().looked_into = true;
        other.downcast_ref::<Self>().map(|other| self.number.cmp(&other.number))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mark())
    }
}

/// The names that a template knows; `bindings` has the same once more.
#[derive(Debug)]
struct Names {
    sheet: Arc<Sheet>,
    known: Arc<BTreeSet<FileName>>,
    whole: bool,
}

impl Object for Names {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        if let Some(binding) = self.known.get(key) {
            return Some(self.sheet.note(binding.clone(), Vec::new(), None));
        }
        if self.whole && key == BINDINGS {
            let (sheet, known) = (self.sheet.clone(), self.known.clone());
            return Some(Value::from_object(Self { sheet, known, whole: false }));
        }
        let shown = key.chars().take(40).flat_map(char::escape_debug).collect();
        self.sheet.0.lock().unknown.get_or_insert(shown);
        None
    }
}

/// Writes what stands between `{{` and `}}`.
fn write_out(out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let refuse = |why: &'static str| Err(Error::new(ErrorKind::InvalidOperation, why));
    let written = match (value.downcast_object_ref::<Symbol>(), value.as_str(), value.kind()) {
        (Some(symbol), ..) => out.write_str(&symbol.mark()),
        (None, Some(text), _) => out.write_str(text),
        (None, None, ValueKind::Number) => out.write_fmt(format_args!("{value}")),
        _ => return refuse("only a value, a text or a number can be written"),
    };
    written.or_else(|_| refuse("it cannot be written"))
}

fn filtered(escape: Escape, value: &Value) -> Result<Value, Error> {
    let refuse = |why: &'static str| Error::new(ErrorKind::InvalidOperation, why);
    if let Some(symbol) = value.downcast_object_ref::<Symbol>() {
        return Ok(symbol.filtered(escape));
    }
    match value.as_str() {
        Some(text) if !text.contains([OPEN, CLOSE]) => {
            let written = escape.apply(text.as_bytes()).map_err(refuse)?;
            Ok(Value::from(String::from_utf8_lossy(written.bytes()).into_owned()))
        }
        _ => Err(refuse("a filter wants one value, or one text without values in it")),
    }
}

/// Text and values, as they stand in what came out; `None` where a mark is not whole any more.
fn parts(output: &str, symbols: &[Noted]) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    for (index, part) in output.split(OPEN).enumerate() {
        let text = if index == 0 {
            part
        } else {
            let (number, text) = part.split_once(CLOSE)?;
            let noted = symbols.get(number.parse::<usize>().ok()?)?;
            let value = Piece::Value(noted.binding.clone());
            pieces.push(noted.filters.iter().fold(value, |of, how| Piece::Written(*how, vec![of])));
            text
        };
        match text {
            "" => {}
            text if text.contains(CLOSE) => return None,
            text => pieces.push(Piece::Text(text.to_owned())),
        }
    }
    Some(pieces)
}
