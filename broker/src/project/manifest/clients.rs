//! What do the files of well-known programs look like, and what does `select` say of each?

use toml::de::DeValue;

use super::formats::{Field, Node, Select, text};
use super::{Reader, Table, Value, excerpt};
use crate::project::render::{Escape, Piece};
use crate::sys::error::Result;

impl Reader<'_> {
    pub(super) fn aws_credentials(&self, select: Select<'_>) -> Result<Vec<Piece>> {
        const FIELDS: [(&str, bool); 4] = [
            ("aws_access_key_id", true),
            ("aws_secret_access_key", true),
            ("aws_session_token", false),
            ("region", false),
        ];
        let mut pieces = Vec::new();
        for (profile, value) in self.table(select.value, "select")?.iter() {
            let name = profile.get_ref();
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@+".contains(c)) {
                let why = format!("\"{}\" is no profile's name", excerpt(name));
                return Err(self.at("bad_name", Some(profile.span()), &why));
            }
            pieces.push(text(format!("[{name}]\n")));
            for (key, field) in self.fields(Select { value, ..select }, &FIELDS)? {
                let written = self.write(Escape::Ini, field, value)?;
                pieces.extend([text(format!("{key} = ")), written, text("\n")]);
            }
        }
        Ok(pieces)
    }

    pub(super) fn netrc(&self, select: Select<'_>) -> Result<Vec<Piece>> {
        const FIELDS: [(&str, bool); 4] =
            [("machine", true), ("login", true), ("password", true), ("account", false)];
        let mut pieces = Vec::new();
        for value in self.list(select.value)? {
            let fields = self.fields(Select { value, ..select }, &FIELDS)?;
            for (index, (key, field)) in fields.into_iter().enumerate() {
                let begin = if index == 0 { "" } else { "  " };
                let written = self.write(Escape::Netrc, field, value)?;
                pieces.extend([text(format!("{begin}{key} ")), written, text("\n")]);
            }
        }
        Ok(pieces)
    }

    pub(super) fn pgpass(&self, select: Select<'_>) -> Result<Vec<Piece>> {
        const FIELDS: [(&str, bool); 5] =
            [("host", false), ("port", false), ("database", false), ("user", true), ("password", true)];
        let mut pieces = Vec::new();
        for value in self.list(select.value)? {
            let mut fields = self.fields(Select { value, ..select }, &FIELDS)?;
            for (index, (name, _)) in FIELDS.iter().enumerate() {
                let at = fields.iter().position(|(key, _)| key == name);
                // An asterisk is any (libpq, "The Password File").
                let field = at.map_or_else(|| vec![text("*")], |at| fields.swap_remove(at).1);
                pieces.push(self.write(Escape::Pgpass, field, value)?);
                pieces.push(text(if index + 1 < FIELDS.len() { ":" } else { "\n" }));
            }
        }
        Ok(pieces)
    }

    pub(super) fn npmrc(&self, select: Select<'_>) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        for (registry, field) in self.flat(select)? {
            let registry = self.registry(&registry, select.value)?;
            let written = self.write(Escape::Token, field, select.value)?;
            pieces.extend([text(format!("//{registry}/:_authToken=")), written, text("\n")]);
        }
        Ok(pieces)
    }

    pub(super) fn docker_config(&self, select: Select<'_>) -> Result<Vec<Piece>> {
        const FIELDS: [(&str, bool); 2] = [("username", true), ("password", true)];
        let mut registries = Vec::new();
        for (registry, value) in self.table(select.value, "select")?.iter() {
            self.registry(registry.get_ref(), value)?;
            let mut fields = self.fields(Select { value, ..select }, &FIELDS)?.into_iter().map(|(_, of)| of);
            let user = self.write(Escape::User, fields.next().unwrap_or_default(), value)?;
            let pair = [user, text(":")].into_iter().chain(fields.next().unwrap_or_default());
            let auth = vec![self.write(Escape::Base64, pair.collect(), value)?];
            let entry = Node::Table(vec![("auth".to_owned(), Node::Field(auth))]);
            registries.push((registry.get_ref().to_string(), entry));
        }
        let mut pieces = Vec::new();
        let whole = Node::Table(vec![("auths".to_owned(), Node::Table(registries))]);
        self.json(&whole, 0, select.value, &mut pieces)?;
        pieces.push(text("\n"));
        Ok(pieces)
    }

    /// One cluster, one user and one context, which is the current one.
    pub(super) fn kubeconfig(&self, select: Select<'_>) -> Result<Vec<Piece>> {
        const FIELDS: [(&str, bool); 7] = [
            ("server", true),
            ("name", false),
            ("namespace", false),
            ("certificate_authority", false),
            ("token", false),
            ("client_certificate", false),
            ("client_key", false),
        ];
        let mut fields = self.fields(select, &FIELDS)?;
        let mut take =
            |name: &str| fields.iter().position(|(key, _)| *key == name).map(|at| fields.swap_remove(at).1);
        let name = Some(take("name").unwrap_or_else(|| vec![text("kin")]));
        let credentials = [
            ("    token: ", take("token"), false),
            ("    client-certificate-data: ", take("client_certificate"), true),
            ("    client-key-data: ", take("client_key"), true),
        ];
        if credentials.iter().all(|(_, field, _)| field.is_none()) {
            let why = "a kubeconfig needs a token or a client_key";
            return Err(self.invalid(Some(select.value.span()), why));
        }
        let cluster = [
            ("clusters:\n- name: ", name.clone(), false),
            ("  cluster:\n    server: ", take("server"), false),
            ("    certificate-authority-data: ", take("certificate_authority"), true),
            ("users:\n- name: ", name.clone(), false),
        ];
        let context = [
            ("contexts:\n- name: ", name.clone(), false),
            ("  context:\n    cluster: ", name.clone(), false),
            ("    user: ", name.clone(), false),
            ("    namespace: ", take("namespace"), false),
            ("current-context: ", name, false),
        ];
        let mut pieces = vec![text("apiVersion: v1\nkind: Config\n")];
        self.yaml_lines(cluster, select.value, &mut pieces)?;
        pieces.push(text("  user:\n"));
        self.yaml_lines(credentials, select.value, &mut pieces)?;
        self.yaml_lines(context, select.value, &mut pieces)?;
        Ok(pieces)
    }

    /// A line for each field that is there: what it begins with, and whether it is in Base64.
    fn yaml_lines<'n>(
        &self,
        lines: impl IntoIterator<Item = (&'n str, Option<Field>, bool)>,
        value: &Value<'_>,
        out: &mut Vec<Piece>,
    ) -> Result<()> {
        for (begin, field, in_base64) in lines {
            let Some(mut field) = field else { continue };
            if in_base64 {
                field = vec![self.write(Escape::Base64, field, value)?];
            }
            out.extend([text(begin), self.write(Escape::Yaml, field, value)?, text("\n")]);
        }
        Ok(())
    }

    /// The fields of a table, in the order of `wanted`, which says which of them have to be there.
    fn fields<'n>(&self, select: Select<'_>, wanted: &[(&'n str, bool)]) -> Result<Vec<(&'n str, Field)>> {
        let table: &Table<'_> = self.table(select.value, "an entry of select")?;
        self.closed(table, &wanted.iter().map(|(name, _)| *name).collect::<Vec<_>>())?;
        let mut fields = Vec::new();
        for (name, needed) in wanted {
            match table.get(*name) {
                Some(value) => fields.push((*name, self.field(Select { value, ..select })?)),
                None if *needed => {
                    return Err(self.invalid(Some(select.value.span()), &format!("{name} is missing")));
                }
                None => {}
            }
        }
        Ok(fields)
    }

    fn list<'v>(&self, value: &'v Value<'v>) -> Result<Vec<&'v Value<'v>>> {
        match value.get_ref() {
            DeValue::Array(list) => Ok(list.iter().collect()),
            _ => Err(self.wrong_type(value, "select", "a list of tables")),
        }
    }

    /// A host, with a port and a path where it has them.
    fn registry<'r>(&self, name: &'r str, value: &Value<'_>) -> Result<&'r str> {
        let registry = name.trim_end_matches('/');
        let plain = registry.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:/".contains(c));
        if plain && !registry.is_empty() && !registry.starts_with('/') {
            return Ok(registry);
        }
        let why = format!("\"{}\" is no registry: write its host, without https://", excerpt(name));
        Err(self.at("bad_name", Some(value.span()), &why))
    }
}
