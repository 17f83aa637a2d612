//! Which files does `format` make, and what does `select` say of each? A text in `select` is a template of its
//! own: what comes out of it is written as the format wants, so no filter has to be named there.

use std::collections::BTreeSet;
use std::sync::Arc;

use kin_policy::FileName;
use toml::de::DeValue;

use super::{Reader, Value, excerpt, is_variable};
use crate::project::render::{Escape, Piece};
use crate::sys::error::{Error, Result};

/// Tables inside tables, at most.
const DEPTH: usize = 8;

/// A format that is ready to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Dotenv,
    Json,
    Yaml,
    Toml,
    AwsCredentials,
    Netrc,
    Pgpass,
    Npmrc,
    DockerConfig,
    Kubeconfig,
}

const FORMATS: [Format; 10] = [
    Format::Dotenv,
    Format::Json,
    Format::Yaml,
    Format::Toml,
    Format::AwsCredentials,
    Format::Netrc,
    Format::Pgpass,
    Format::Npmrc,
    Format::DockerConfig,
    Format::Kubeconfig,
];

impl Format {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Dotenv => "dotenv",
            Self::Json => "json",
            Self::Yaml => "yaml",
            Self::Toml => "toml",
            Self::AwsCredentials => "aws-credentials",
            Self::Netrc => "netrc",
            Self::Pgpass => "pgpass",
            Self::Npmrc => "npmrc",
            Self::DockerConfig => "docker-config",
            Self::Kubeconfig => "kubeconfig",
        }
    }
}

/// One field: text and values.
pub(super) type Field = Vec<Piece>;

/// Keys and what they stand for.
pub(super) enum Node {
    Field(Field),
    Table(Vec<(String, Node)>),
}

/// What `select` is read with.
#[derive(Clone, Copy)]
pub(super) struct Select<'a> {
    pub(super) value: &'a Value<'a>,
    pub(super) known: &'a Arc<BTreeSet<FileName>>,
}

impl Reader<'_> {
    pub(super) fn format(&self, value: &Value<'_>) -> Result<Format> {
        let name = self.string(value, "format")?;
        FORMATS.into_iter().find(|format| format.name() == name).ok_or_else(|| {
            let known = FORMATS.map(Format::name).join(", ");
            self.invalid(Some(value.span()), &format!("there is no format \"{}\"", excerpt(name)))
                .hint(format!("formats are {known}"))
        })
    }

    /// The parts of a file of this format.
    pub(super) fn formatted(
        &self,
        format: Format,
        value: &Value<'_>,
        known: &Arc<BTreeSet<FileName>>,
    ) -> Result<Vec<Piece>> {
        let select = Select { value, known };
        match format {
            Format::Dotenv => self.dotenv(select),
            Format::Json => {
                let mut pieces = Vec::new();
                self.json(&self.node(select, DEPTH)?, 0, value, &mut pieces)?;
                pieces.push(text("\n"));
                Ok(pieces)
            }
            Format::Yaml => self.lines(select, |reader, node, out| reader.yaml(node, 0, value, out)),
            Format::Toml => self.lines(select, |reader, node, out| reader.toml(node, "", value, out)),
            Format::AwsCredentials => self.aws_credentials(select),
            Format::Netrc => self.netrc(select),
            Format::Pgpass => self.pgpass(select),
            Format::Npmrc => self.npmrc(select),
            Format::DockerConfig => self.docker_config(select),
            Format::Kubeconfig => self.kubeconfig(select),
        }
    }

    fn lines(
        &self,
        select: Select<'_>,
        write: impl Fn(&Self, &Node, &mut Vec<Piece>) -> Result<()>,
    ) -> Result<Vec<Piece>> {
        let (node, mut pieces) = (self.node(select, DEPTH)?, Vec::new());
        write(self, &node, &mut pieces)?;
        Ok(pieces)
    }

    pub(super) fn field(&self, select: Select<'_>) -> Result<Field> {
        self.template(select.value, select.known)
    }

    /// A list of bindings, each under its own name, or a table of templates.
    fn node(&self, select: Select<'_>, depth: usize) -> Result<Node> {
        let Select { value, known } = select;
        match value.get_ref() {
            DeValue::Array(list) if depth == DEPTH => {
                let named = list.iter().map(|value| {
                    let name = self.string(value, "a name in select")?;
                    let binding = known.get(name).ok_or_else(|| self.no_binding(value, name))?;
                    Ok((name.to_owned(), Node::Field(vec![Piece::Value(binding.clone())])))
                });
                named.collect::<Result<_>>().map(Node::Table)
            }
            DeValue::Table(table) if depth > 0 => {
                let entries = table.iter().map(|(key, value)| {
                    Ok((key.get_ref().to_string(), self.node(Select { value, known }, depth - 1)?))
                });
                entries.collect::<Result<_>>().map(Node::Table)
            }
            DeValue::String(_) if depth < DEPTH => self.field(select).map(Node::Field),
            _ if depth == DEPTH => Err(self.wrong_type(value, "select", "a list of bindings, or a table")),
            _ => Err(self.wrong_type(value, "a field in select", "a string")),
        }
    }

    fn no_binding(&self, value: &Value<'_>, name: &str) -> Error {
        self.at("bad_template", Some(value.span()), &format!("there is no binding \"{}\"", excerpt(name)))
            .hint("names are those of [bindings]")
    }

    pub(super) fn write(&self, how: Escape, field: Field, value: &Value<'_>) -> Result<Piece> {
        Piece::written(how, field).map_err(|why| {
            let why = format!("a text in select cannot be written here: {why}");
            self.at("bad_template", Some(value.span()), &why)
        })
    }

    fn key(&self, how: Escape, key: &str, value: &Value<'_>) -> Result<Piece> {
        self.write(how, vec![text(key)], value)
    }

    fn dotenv(&self, select: Select<'_>) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        for (key, field) in self.flat(select)? {
            if !is_variable(&key) {
                let why = format!("\"{}\" is no variable's name", excerpt(&key));
                return Err(self.at("bad_name", Some(select.value.span()), &why));
            }
            let written = self.write(Escape::Dotenv, field, select.value)?;
            pieces.extend([text(format!("{key}=")), written, text("\n")]);
        }
        Ok(pieces)
    }

    /// A table without tables inside.
    pub(super) fn flat(&self, select: Select<'_>) -> Result<Vec<(String, Field)>> {
        let Node::Table(entries) = self.node(select, DEPTH)? else { return Ok(Vec::new()) };
        let flat = entries.into_iter().map(|(key, node)| match node {
            Node::Field(field) => Ok((key, field)),
            Node::Table(_) => Err(self.wrong_type(select.value, "a field in select", "a string")),
        });
        flat.collect()
    }

    pub(super) fn json(
        &self,
        node: &Node,
        depth: usize,
        value: &Value<'_>,
        out: &mut Vec<Piece>,
    ) -> Result<()> {
        match node {
            Node::Field(field) => out.push(self.write(Escape::Json, field.clone(), value)?),
            Node::Table(entries) if entries.is_empty() => out.push(text("{}")),
            Node::Table(entries) => {
                for (index, (key, node)) in entries.iter().enumerate() {
                    let begin = if index == 0 { "{\n" } else { ",\n" };
                    out.push(text(format!("{begin}{}", "  ".repeat(depth + 1))));
                    out.extend([self.key(Escape::Json, key, value)?, text(": ")]);
                    self.json(node, depth + 1, value, out)?;
                }
                out.push(text(format!("\n{}}}", "  ".repeat(depth))));
            }
        }
        Ok(())
    }

    fn yaml(&self, node: &Node, depth: usize, value: &Value<'_>, out: &mut Vec<Piece>) -> Result<()> {
        let Node::Table(entries) = node else { return Ok(()) };
        for (key, node) in entries {
            out.extend([text("  ".repeat(depth)), self.key(Escape::Yaml, key, value)?]);
            match node {
                Node::Field(field) => {
                    let written = self.write(Escape::Yaml, field.clone(), value)?;
                    out.extend([text(": "), written, text("\n")]);
                }
                Node::Table(entries) if entries.is_empty() => out.push(text(": {}\n")),
                Node::Table(_) => {
                    out.push(text(":\n"));
                    self.yaml(node, depth + 1, value, out)?;
                }
            }
        }
        Ok(())
    }

    /// Fields before tables: what follows a table's head belongs to it.
    fn toml(&self, node: &Node, path: &str, value: &Value<'_>, out: &mut Vec<Piece>) -> Result<()> {
        let Node::Table(entries) = node else { return Ok(()) };
        for (key, node) in entries {
            if let Node::Field(field) = node {
                let written = self.write(Escape::Toml, field.clone(), value)?;
                out.extend([self.key(Escape::Toml, key, value)?, text(" = "), written, text("\n")]);
            }
        }
        for (key, node) in entries.iter().filter(|(_, node)| matches!(node, Node::Table(_))) {
            let key = match self.key(Escape::Toml, key, value)? {
                Piece::Text(key) if path.is_empty() => key,
                Piece::Text(key) => format!("{path}.{key}"),
                _ => continue,
            };
            out.push(text(format!("\n[{key}]\n")));
            self.toml(node, &key, value, out)?;
        }
        Ok(())
    }
}

pub(super) fn text(text: impl Into<String>) -> Piece {
    Piece::Text(text.into())
}
