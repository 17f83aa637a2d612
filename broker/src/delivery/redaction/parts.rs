//! Which parts of a value are secrets by themselves? In a document the values of its fields; in a URL its password.

use serde_json::Value;

use super::forms::SHORTEST;

/// Parts of a value, at most.
const MOST: usize = 1024;
/// How deep a document within a document is looked at.
const DEEPEST: u32 = 3;
/// Fields that say where and who, and how: the last word of their name.
const PUBLIC: [&str; 29] = [
    "host",
    "hostname",
    "port",
    "user",
    "username",
    "email",
    "name",
    "type",
    "kind",
    "version",
    "region",
    "scheme",
    "database",
    "dbname",
    "db",
    "project",
    "context",
    "cluster",
    "namespace",
    "path",
    "file",
    "dir",
    "env",
    "mode",
    "level",
    "algorithm",
    "alg",
    "issuer",
    "machine",
];

/// The parts of it, each once; none where it is no document.
pub(super) fn parts(value: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    if let Ok(text) = std::str::from_utf8(value) {
        look(text.trim(), DEEPEST, &mut found);
    }
    found.retain(|part| part.len() >= SHORTEST && part.as_bytes() != value.trim_ascii());
    found.sort_unstable();
    found.dedup();
    found.truncate(MOST);
    found.into_iter().map(String::into_bytes).collect()
}

fn look(text: &str, deep: u32, found: &mut Vec<String>) {
    if text.starts_with(['{', '['])
        && let Ok(json) = serde_json::from_str::<Value>(text)
    {
        return of_json("", &json, deep, found);
    }
    if url(text, found) {
        return;
    }
    if text.starts_with("-----BEGIN ") {
        return;
    }
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    if words.first().is_some_and(|word| ["machine", "default"].contains(word)) {
        return netrc(&words, found);
    }
    text.lines().for_each(|line| of_line(line.trim(), deep, found));
}

/// A field with this name has this value.
fn field(name: &str, value: &str, deep: u32, found: &mut Vec<String>) {
    if value.len() < SHORTEST || (is_public(name) && !value.contains("://")) {
        return;
    }
    if url(value, found) || value.parse::<f64>().is_ok() {
        return;
    }
    found.push(value.to_owned());
    if deep > 0 && value.contains(['{', '=', '\n']) {
        look(value.trim(), deep - 1, found);
    }
}

fn is_public(name: &str) -> bool {
    let last = name.rsplit(['_', '-', '.', ' ']).next().unwrap_or(name);
    PUBLIC.iter().any(|public| last.eq_ignore_ascii_case(public))
}

fn of_json(name: &str, json: &Value, deep: u32, found: &mut Vec<String>) {
    match json {
        Value::String(value) => {
            field(name, value, deep, found);
            // A key in it stands in lines of its own where it is written out.
            if value.contains('\n') {
                found.extend(value.lines().map(|line| line.trim().to_owned()));
            }
        }
        Value::Array(all) => all.iter().for_each(|one| of_json(name, one, deep, found)),
        Value::Object(all) => all.iter().for_each(|(name, one)| of_json(name, one, deep, found)),
        _ => {}
    }
}

/// Whether it is a URL; then its password is a part, as it stands there and decoded, and what its query calls a key.
fn url(text: &str, found: &mut Vec<String>) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let named = |c: char| c.is_ascii_alphanumeric() || "+-.:".contains(c);
    if scheme.is_empty() || !scheme.chars().all(named) || rest.contains(char::is_whitespace) {
        return false;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    // A password with a '/' that nobody encoded ends at the last '@' all the same.
    let before = authority.rsplit_once('@').or_else(|| rest.rsplit_once('@'));
    let userinfo = before.map_or("", |(userinfo, _)| userinfo);
    match userinfo.split_once(':') {
        Some((_, password)) => secret(password, found),
        None => secret(userinfo, found),
    }
    for pair in rest.split_once('?').map_or("", |(_, query)| query).split(['&', ';', '#']) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let lower = name.to_ascii_lowercase();
        if ["key", "token", "secret", "password", "sig", "pwd"].iter().any(|word| lower.contains(word)) {
            secret(value, found);
        }
    }
    // The address of a webhook is its secret, in its last segments.
    let path = rest.split(['?', '#']).next().unwrap_or(rest);
    let segments = path.split('/').skip(1).filter(|part| part.len() >= 16 && is_mixed(part));
    found.extend(segments.map(str::to_owned));
    true
}

fn is_mixed(text: &str) -> bool {
    let has = |what: fn(&u8) -> bool| text.as_bytes().iter().any(what);
    has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic) && !text.contains('.')
}

fn secret(text: &str, found: &mut Vec<String>) {
    found.push(text.to_owned());
    found.extend(decoded(text));
}

fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, after @ ..] = rest {
        let code = after.get(..2).filter(|_| *first == b'%').and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

fn netrc(words: &[&str], found: &mut Vec<String>) {
    for pair in words.windows(2) {
        if ["password", "account"].contains(&pair[0]) {
            found.push(pair[1].to_owned());
        }
    }
}

/// A line of a .env, an INI, a TOML, a YAML file, or of a pgpass.
fn of_line(line: &str, deep: u32, found: &mut Vec<String>) {
    if line.starts_with(['#', ';', '[']) {
        return;
    }
    let line = line.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])).unwrap_or(line);
    let line = line.trim_start().trim_start_matches("- ");
    if let Some((name, value)) = named(line) {
        for value in unquoted(value) {
            field(name, &value, deep, found);
        }
    } else if let Some(password) = of_pgpass(line) {
        found.push(password.replace("\\:", ":").replace("\\\\", "\\"));
    }
}

fn named(line: &str) -> Option<(&str, &str)> {
    let colon = line.find(": ").or_else(|| line.find(":\t"));
    let at = match (line.find('='), colon) {
        (Some(equal), Some(colon)) => equal.min(colon),
        (Some(at), None) | (None, Some(at)) => at,
        (None, None) => return None,
    };
    let name = line[..at].trim().trim_matches(['"', '\'']);
    let is_name = |c: char| c.is_alphanumeric() || "_-./ ".contains(c);
    (!name.is_empty() && name.len() <= 128 && name.chars().all(is_name))
        .then(|| (name, line[at + 1..].trim()))
}

/// What it may stand for: between its quotes, with and without escapes; else up to a comment, and all of it.
fn unquoted(value: &str) -> Vec<String> {
    let quote = value.chars().next().filter(|quote| "\"'`".contains(*quote));
    let Some(quote) = quote else {
        let end = value.find(" #").unwrap_or(value.len());
        return vec![value[..end].trim_end().to_owned(), value.to_owned()];
    };
    let inner = &value[1..];
    let mut escaped = false;
    let end = inner.find(|c| {
        let ends = c == quote && (!escaped || quote == '\'');
        escaped = c == '\\' && !escaped;
        ends
    });
    let inner = &inner[..end.unwrap_or(inner.len())];
    let mut all = vec![inner.to_owned()];
    if inner.contains('\\') {
        all.push(unescaped(inner));
    }
    all
}

fn unescaped(text: &str) -> String {
    let (mut all, mut characters) = (String::with_capacity(text.len()), text.chars());
    while let Some(c) = characters.next() {
        match (c, c == '\\') {
            (_, true) => all.extend(characters.next().map(|c| match c {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                other => other,
            })),
            (other, false) => all.push(other),
        }
    }
    all
}

/// host:port:database:user:password
fn of_pgpass(line: &str) -> Option<&str> {
    let mut fields = line.splitn(5, ':');
    let (_, port) = (fields.next()?, fields.next()?);
    let is_port = port == "*" || port.parse::<u16>().is_ok();
    fields.nth(2).filter(|_| is_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &str) -> Vec<String> {
        parts(value.as_bytes()).into_iter().map(|part| String::from_utf8(part).unwrap_or_default()).collect()
    }

    #[test]
    fn r17_the_parts_of_a_document_are_those_that_are_secret_by_their_place() {
        let dotenv = "# comment=not-a-part\nDATABASE_URL=postgres://app:Tr0ub4dor-and-3@db.example.com/prod\n\
            export\tSTRIPE_KEY=\"sk_live_51H8xTQ\"\nPORT=12345678\nDEBUG=true\nDB_HOST=db.example.com\n\
            QUOTED='it is $5 and # more' # note\nPLAIN=s3cret-word # note\n";
        let found = of(dotenv);
        for part in ["Tr0ub4dor-and-3", "sk_live_51H8xTQ", "it is $5 and # more", "s3cret-word"] {
            assert!(found.iter().any(|known| known == part), "{part}: {found:?}");
        }
        for public in ["12345678", "db.example.com", "not-a-part", "true", "STRIPE_KEY"] {
            assert!(!found.iter().any(|known| known == public), "{public}: {found:?}");
        }
    }

    #[test]
    fn r17_each_format_has_its_parts() {
        for (document, secret) in [
            ("{\"user\":\"svc-account\",\"a\":[{\"password\":\"Tr0ub4dor-and-3\"}]}", "Tr0ub4dor-and-3"),
            (
                "{\"private_key\":\"-----BEGIN KEY-----\\nMIIEvgIBADAN\\n-----END KEY-----\\n\"}",
                "MIIEvgIBADAN",
            ),
            ("[default]\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG\n", "wJalrXUtnFEMI/K7MDENG"),
            ("users:\n- name: admin\n  user:\n    token: eyJhbGciOiJSUzI1\n", "eyJhbGciOiJSUzI1"),
            ("users:\n  - password: 'corr3ct-horse'\n", "corr3ct-horse"),
            ("[db]\npass = \"a\\\"b-c-d-e-f\"\n", "a\"b-c-d-e-f"),
            ("machine api.example.com login me password hunter2-hunter2\n", "hunter2-hunter2"),
            ("db.example.com:5432:*:app:p\\:ss-w0rd-x\n", "p:ss-w0rd-x"),
            ("postgres://app:p%40ss-w0rd@db/prod", "p@ss-w0rd"),
            ("redis://:hunter2-hunter2@cache:6379/0", "hunter2-hunter2"),
            ("https://hooks.example.com/services/T00/B0a1b2c3d4e5f6g7h8", "B0a1b2c3d4e5f6g7h8"),
            ("https://api.example.com/?api_key=a1b2c3d4e5", "a1b2c3d4e5"),
        ] {
            assert!(of(document).iter().any(|part| part == secret), "{document}: {:?}", of(document));
        }
    }

    #[test]
    fn r17_what_is_no_document_has_no_parts() {
        for value in
            ["correct-horse-battery", "sk_live_51H8xTQ", "", "\u{0}\u{1}binary", "-----BEGIN KEY-----\na=b\n"]
        {
            assert_eq!(of(value), Vec::<String>::new());
        }
    }
}
