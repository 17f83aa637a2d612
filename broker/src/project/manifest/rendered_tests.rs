//! What `[files]` may say, what each format is made of, and that nothing else is taken.

use std::collections::BTreeMap;

use kin_policy::FileName;
use tempfile::TempDir;

use super::super::*;
use crate::Plaintext;

const HEAD: &str = "schema = 1\nproject.name = \"api\"\n[bindings]\nDB = \"db/url\"\nKEY = \"api/key\"\n\
    \"tls.key\" = \"tls/key\"\n";

fn read(files: &str) -> Result<Manifest> {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join(FILE), format!("{HEAD}{files}\n")).unwrap();
    Manifest::read(dir.path())
}

fn refused(files: &str) -> Error {
    let error = read(files).expect_err(files);
    assert_eq!(error.class, Class::Unsafe);
    assert!(!error.message.contains(|c: char| c.is_control()) && error.message.len() < 400, "{error:?}");
    error
}

/// The one file, with these values.
fn made(files: &str, values: &[(&str, &str)]) -> String {
    let manifest = read(files).unwrap_or_else(|error| panic!("{files}: {error:?}"));
    let (_, file) = manifest.files.first_key_value().unwrap();
    let values: BTreeMap<_, _> = values
        .iter()
        .map(|(name, value)| (FileName::new(*name).unwrap(), Plaintext::copy_of(value.as_bytes())))
        .collect();
    let whole = file.recipe.render(&values).unwrap_or_else(|why| panic!("{files}: {why:?}"));
    String::from_utf8(whole.bytes().to_vec()).unwrap()
}

const TWO: [(&str, &str); 2] = [("DB", "it's a \"db\""), ("KEY", "k3y")];

#[test]
fn a_file_is_a_template_or_a_format() {
    let manifest =
        read("[files.\".env\"]\ntemplate = \"\"\"\nDB={{ DB }}\n\"\"\"\npath = \".env\"\nenv_path = \"ENV\"")
            .unwrap();
    let file = &manifest.files[".env"];
    assert_eq!((file.format.as_str(), file.env_path.as_deref()), ("template", Some("ENV")));
    assert_eq!(file.path.as_ref().map(|path| path.as_str()), Some(".env"));
    assert_eq!(file.recipe.uses().iter().map(FileName::as_str).collect::<Vec<_>>(), ["DB"]);
    for bad in [
        "[files.x]",
        "[files]\nx = \"{{ DB }}\"",
        "[files.x]\ntemplate = \"{{ DB }}\"\nformat = \"json\"",
        "[files.x]\nformat = \"json\"",
        "[files.x]\nselect = [\"DB\"]",
        "[files.x]\nformat = \"xml\"\nselect = [\"DB\"]",
        "[files.x]\nformat = \"json\"\nselect = \"DB\"",
        "[files.x]\nformat = \"json\"\nselect = { a = 1 }",
        "[files.x]\ntemplate = \"nothing\"",
        "[files.x]\nformat = \"json\"\nselect = { a = \"nothing\" }",
    ] {
        assert_eq!(refused(bad).code, "manifest_invalid", "{bad}");
    }
    assert_eq!(refused("[files.x]\ntemplate = \"{{ DB }}\"\nmode = 1").code, "unknown_key");
}

#[test]
fn names_variables_and_places_are_taken_once() {
    for bad in ["[files.DB]", "[files.db]", "[files.\"../x\"]", "[files.\"TLS.key\"]"] {
        assert_eq!(refused(&format!("{bad}\ntemplate = \"{{{{ KEY }}}}\"")).code, "bad_name", "{bad}");
    }
    let two = |one: &str, other: &str| {
        format!(
            "[files.x]\ntemplate = \"{{{{ DB }}}}\"\n{one}\n[files.y]\ntemplate = \"{{{{ DB }}}}\"\n{other}"
        )
    };
    assert_eq!(refused(&two("path = \".env\"", "path = \".env\"")).code, "manifest_invalid");
    assert_eq!(refused(&two("env_path = \"A\"", "env_path = \"A\"")).code, "manifest_invalid");
    assert!(read(&two("env_path = \"A\"", "env_path = \"B\"")).is_ok());
}

#[test]
fn problems_of_a_template_are_told_by_their_line_in_the_manifest() {
    for (files, line) in [
        ("[files.x]\ntemplate = \"\"\"\na\n{{ NONE }}\n\"\"\"", 10),
        ("[files.x]\ntemplate = \"\"\"{{ DB }}\n{{ NONE }}\"\"\"", 9),
        ("[files.x]\ntemplate = \"{{ NONE }}\"", 8),
        ("[files.x]\nformat = \"json\"\n[files.x.select]\na = \"{{ NONE }}\"", 10),
    ] {
        let error = refused(files);
        assert_eq!(error.code, "bad_template", "{error:?}");
        let begin = format!("kin.toml line {line}: there is no binding");
        assert!(error.message.starts_with(&begin), "{error:?}");
    }
    for bad in ["{{ DB | nope }}", "{{ DB ", "{% if DB %}x{% endif %}{{ DB }}", "{% include \"x\" %}"] {
        assert_eq!(
            refused(&format!("[files.x]\ntemplate = \"\"\"{bad}\"\"\"")).code,
            "bad_template",
            "{bad}"
        );
    }
    let error = refused("[files.x]\nformat = \"json\"\nselect = [\"DB\", \"NONE\"]");
    assert!(error.code == "bad_template" && error.message.contains("line 9"), "{error:?}");
}

#[test]
fn trees_are_read_back_by_their_own_readers() {
    let select =
        "select = { url = \"{{ DB }}\", \"a key\" = { token = \"Bearer {{ KEY }}\", fixed = \"x\" } }";
    let file = |format: &str| format!("[files.x]\nformat = \"{format}\"\n{select}");
    let expected = serde_json::json!({
        "url": "it's a \"db\"", "a key": { "token": "Bearer k3y", "fixed": "x" }
    });
    let json: serde_json::Value = serde_json::from_str(&made(&file("json"), &TWO)).unwrap();
    assert_eq!(json, expected);
    let toml: BTreeMap<String, toml::Value> = toml::from_str(&made(&file("toml"), &TWO)).unwrap();
    assert_eq!(serde_json::to_value(toml).unwrap(), expected);
    assert_eq!(by_yaml(&made(&file("yaml"), &TWO)), expected);
    let json: serde_json::Value =
        serde_json::from_str(&made("[files.x]\nformat = \"json\"\nselect = [\"KEY\", \"DB\"]", &TWO))
            .unwrap();
    assert_eq!(json, serde_json::json!({ "DB": "it's a \"db\"", "KEY": "k3y" }));
}

fn by_yaml(text: &str) -> serde_json::Value {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("x"), text).unwrap();
    let program = "import sys, yaml, json; print(json.dumps(yaml.safe_load(open(sys.argv[1], 'rb').read())))";
    let mut python = std::process::Command::new("/usr/bin/python3");
    let said = python.args(["-c", program]).arg(dir.path().join("x")).output().unwrap();
    assert!(said.status.success(), "{text}\n{}", String::from_utf8_lossy(&said.stderr));
    serde_json::from_slice(&said.stdout).unwrap()
}

#[test]
fn ready_formats_have_exact_text() {
    for (files, expected) in [
        ("format = \"dotenv\"\nselect = [\"KEY\", \"DB\"]", "KEY='k3y'\nDB='it'\\''s a \"db\"'\n"),
        ("format = \"dotenv\"\nselect = { TOKEN = \"t {{ KEY }}\" }", "TOKEN='t k3y'\n"),
        (
            "format = \"aws-credentials\"\nselect.default = { aws_access_key_id = \"AKIA\", \
             aws_secret_access_key = \"{{ KEY }}\", region = \"eu-west-1\" }",
            "[default]\naws_access_key_id = AKIA\naws_secret_access_key = k3y\nregion = eu-west-1\n",
        ),
        (
            "format = \"netrc\"\nselect = [{ machine = \"example.com\", login = \"me\", password = \"{{ DB }}\" }]",
            "machine example.com\n  login me\n  password \"it's a \\\"db\\\"\"\n",
        ),
        (
            "format = \"pgpass\"\nselect = [{ host = \"db:1\", user = \"app\", password = \"{{ KEY }}\" }]",
            "db\\:1:*:*:app:k3y\n",
        ),
        (
            "format = \"npmrc\"\nselect = { \"registry.npmjs.org/\" = \"{{ KEY }}\" }",
            "//registry.npmjs.org/:_authToken=k3y\n",
        ),
        (
            "format = \"docker-config\"\nselect.\"ghcr.io\" = { username = \"me\", password = \"{{ KEY }}\" }",
            "{\n  \"auths\": {\n    \"ghcr.io\": {\n      \"auth\": \"bWU6azN5\"\n    }\n  }\n}\n",
        ),
    ] {
        assert_eq!(made(&format!("[files.x]\n{files}"), &TWO), expected);
    }
}

#[test]
fn a_kubeconfig_is_one_context_that_is_current() {
    let files = "[files.kube]\nformat = \"kubeconfig\"\nselect = { server = \"https://k:6443\", token = \"{{ DB }}\", \
        certificate_authority = \"{{ KEY }}\", namespace = \"dev\" }";
    assert_eq!(
        by_yaml(&made(files, &TWO)),
        serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "kin",
            "clusters": [{ "name": "kin", "cluster":
                { "server": "https://k:6443", "certificate-authority-data": "azN5" } }],
            "users": [{ "name": "kin", "user": { "token": "it's a \"db\"" } }],
            "contexts": [{ "name": "kin", "context": { "cluster": "kin", "user": "kin", "namespace": "dev" } }],
        })
    );
    assert_eq!(
        refused("[files.kube]\nformat = \"kubeconfig\"\nselect = { server = \"{{ DB }}\" }").code,
        "manifest_invalid"
    );
}

#[test]
fn fields_that_are_missing_unknown_or_unwritable_are_refused() {
    for (files, code) in [
        ("format = \"netrc\"\nselect = [{ machine = \"m\", login = \"{{ DB }}\" }]", "manifest_invalid"),
        (
            "format = \"netrc\"\nselect = [{ machine = \"m\", login = \"l\", password = \"{{ DB }}\", x = \"\" }]",
            "unknown_key",
        ),
        (
            "format = \"netrc\"\nselect = [{ machine = \"m\\n\", login = \"l\", password = \"{{ DB }}\" }]",
            "bad_template",
        ),
        ("format = \"netrc\"\nselect = [\"DB\"]", "manifest_invalid"),
        ("format = \"pgpass\"\nselect = { user = \"{{ DB }}\" }", "manifest_invalid"),
        ("format = \"dotenv\"\nselect = [\"tls.key\"]", "bad_name"),
        ("format = \"dotenv\"\nselect = { A = { B = \"{{ DB }}\" } }", "manifest_invalid"),
        ("format = \"npmrc\"\nselect = { \"https://x y\" = \"{{ DB }}\" }", "bad_name"),
        (
            "format = \"aws-credentials\"\nselect.\"a]b\" = { aws_access_key_id = \"\", aws_secret_access_key = \"{{ DB }}\" }",
            "bad_name",
        ),
        ("format = \"aws-credentials\"\nselect.a = { access_key_id = \"{{ DB }}\" }", "unknown_key"),
        (
            "format = \"docker-config\"\nselect.x = { username = \"a:b\", password = \"{{ DB }}\" }",
            "bad_template",
        ),
    ] {
        assert_eq!(refused(&format!("[files.x]\n{files}")).code, code, "{files}");
    }
    let deep = "a.".repeat(9) + "a = \"{{ DB }}\"";
    assert_eq!(
        refused(&format!("[files.x]\nformat = \"json\"\n[files.x.select]\n{deep}")).code,
        "manifest_invalid"
    );
}

#[test]
fn k08_monstrous_files_are_refused_at_once() {
    let clock = || Duration::from(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap());
    let loops = "{% for a in [1,2,3,4,5,6,7,8,9,0] %}".repeat(9) + &"{% endfor %}".repeat(9);
    // Each just below what it may take, and as many as there may be.
    let burning = "{% for a in [1,2,3,4,5,6,7,8,9,0] %}".repeat(3) + "{{ 1 }}" + &"{% endfor %}".repeat(3);
    let many = |body: &str| {
        let file = |n: usize| format!("[files.f{n}]\ntemplate = \"\"\"{{{{ DB }}}}{body}\"\"\"\n");
        (0..256).map(file).collect::<String>()
    };
    let fields: String = (0..50_000).map(|n| format!("k{n} = \"{{{{ DB }}}}\"\n")).collect();
    let fields = format!("[files.x]\nformat = \"json\"\n[files.x.select]\n{fields}");
    for files in [many(&loops), many(&burning), many(&"{{ DB }}".repeat(400)), fields] {
        let started = clock();
        let _ = read(&files);
        let took = clock() - started;
        assert!(took < Duration::from_secs(1), "{took:?}: {:.80}", files);
    }
}

#[test]
fn a_file_has_no_more_secrets_than_a_record_can_name() {
    let names = |count: usize| {
        let bindings: String =
            (0..count).map(|n| format!("B{n} = \"some/where/the_secret_{n:03}\"\n")).collect();
        let select: Vec<_> = (0..count).map(|n| format!("\"B{n}\"")).collect();
        format!("{bindings}[files.x]\nformat = \"json\"\nselect = [{}]", select.join(", "))
    };
    assert!(read(&names(70)).is_ok());
    assert!(refused(&names(90)).message.contains("more secrets"));
}

#[test]
fn what_is_scrubbed_is_what_the_manifest_names() {
    let head = |project: &str, db: &str| {
        format!(
            "schema = 1\n[project]\nname = \"api\"\n{project}\n[bindings]\nDB = {{ ref = \"a\", env_path = \"DB_FILE\"{db} }}\n\
             KEY = {{ ref = \"b\", env_value = \"TOKEN\" }}\n\"tls.key\" = \"c\"\nPATH = \"d\"\n\
             [files.x]\ntemplate = \"{{{{ DB }}}}\"\nenv_path = \"X_FILE\"\n"
        )
    };
    let scrubbed = |text: &str| {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join(FILE), text).unwrap();
        Manifest::read(dir.path()).unwrap().scrub.into_iter().collect::<Vec<_>>()
    };
    assert!(scrubbed(&head("", "")).is_empty());
    assert_eq!(scrubbed(&head("", ", scrub = true")), ["DB", "DB_FILE"]);
    assert_eq!(scrubbed(&head("scrub = true", "")), ["DB", "DB_FILE", "KEY", "TOKEN", "X_FILE"]);
}

#[test]
fn a_value_for_the_environment_is_for_every_program_and_level() {
    let digest = "0".repeat(64);
    for edge in ["descend = 2".to_owned(), format!("exe = {{ path = \"/bin/sh\", sha256 = \"{digest}\" }}")] {
        let error = refused(&format!("X = {{ ref = \"x\", env_value = \"X\", {edge} }}"));
        assert_eq!(error.code, "manifest_invalid");
    }
    assert_eq!(refused("X = { ref = \"x\", env_value = \"A\", env_path = \"A\" }").code, "manifest_invalid");
    assert_eq!(refused("X = { ref = \"x\", env_value = \"LD_PRELOAD\" }").code, "bad_name");
    let manifest = read("X = { ref = \"x\", env_value = \"A\", env_path = \"B\", max_opens = 1 }").unwrap();
    assert_eq!(manifest.bindings["X"].env_value.as_deref(), Some("A"));
}

#[test]
fn mmap_goes_with_no_edge_that_is_asked_at_a_read() {
    let manifest = read("X = { ref = \"x\", mmap = true, path = \".x\" }").unwrap();
    assert!(manifest.bindings["X"].mmap);
    assert!(!read("X = { ref = \"x\", mmap = false, max_opens = 1 }").unwrap().bindings["X"].mmap);
    for edge in ["max_opens = 1", "for_first = \"5s\"", "descend = \"child\""] {
        let error = refused(&format!("X = {{ ref = \"x\", mmap = true, {edge} }}"));
        assert!(error.message.contains("mmap does not go with"), "{edge}: {error}");
    }
    assert_eq!(refused("X = { ref = \"x\", mmap = 1 }").code, "manifest_invalid");
}

#[test]
fn writable_is_for_what_one_secret_is_and_no_mapping_shows() {
    let manifest = read("X = { ref = \"x\", writable = true, path = \".x\", max_opens = 3 }").unwrap();
    assert!(manifest.bindings["X"].writable);
    assert!(!read("X = { ref = \"x\", writable = false, mmap = true }").unwrap().bindings["X"].writable);
    assert!(!read("X = \"x\"").unwrap().bindings["X"].writable);
    let mapped = refused("X = { ref = \"x\", writable = true, mmap = true }");
    assert!(mapped.message.contains("mmap does not go with writable"), "{mapped}");
    let rendered = refused("X = \"x\"\n[files.f]\ntemplate = \"{{X}}\"\nwritable = true");
    assert!(rendered.message.contains("writable is for a binding alone"), "{rendered}");
    assert_eq!(refused("X = { ref = \"x\", writable = \"yes\" }").code, "manifest_invalid");
    assert_eq!(refused("X = { ref = \"x@3\", writable = true }").code, "bad_name");
}
