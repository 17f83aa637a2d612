use std::time::Duration;

use kin_policy::Reach;
use nix::time::ClockId;
use tempfile::TempDir;

use super::*;

const GOOD: &str = r#"schema = 1

[project]
name = "api"

[bindings]
DATABASE_URL = "db/url"
"tls.key" = { ref = "tls/key", env_path = "TLS_KEY_FILE" }
"#;

fn project(text: impl AsRef<[u8]>) -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join(FILE), text).unwrap();
    dir
}

fn refused(text: impl AsRef<[u8]>) -> Error {
    refused_in(project(text).path())
}

/// The refusal of what is in `directory`, within a second of this thread's own time.
fn refused_in(directory: &Path) -> Error {
    let clock = || Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap());
    let started = clock();
    let error = Manifest::read(directory).expect_err("it was accepted");
    assert!(clock() - started < Duration::from_secs(1), "{error:?}");
    assert_eq!(error.class, Class::Unsafe);
    assert!(!error.message.contains(|c: char| c.is_control()) && error.message.len() < 400, "{error:?}");
    error
}

/// A good manifest with one binding more.
fn with(binding: &str) -> String {
    format!("{GOOD}{binding}\n")
}

#[test]
fn a_manifest_says_its_project_and_bindings() {
    let dir = project(GOOD);
    let manifest = Manifest::read(dir.path()).unwrap();
    assert_eq!(manifest.project.as_str(), "api");
    assert_eq!(manifest.directory, std::fs::canonicalize(dir.path()).unwrap());
    assert_eq!(manifest.hash, format!("{:x}", Sha256::digest(GOOD)));
    assert_eq!(manifest.text, GOOD);
    assert_eq!(manifest.bindings.len(), 2);
    assert_eq!(manifest.bindings["DATABASE_URL"].reference.as_str(), "db/url");
    assert_eq!(manifest.bindings["DATABASE_URL"].env_path, None);
    assert_eq!(manifest.bindings["tls.key"].env_path.as_deref(), Some("TLS_KEY_FILE"));
    let bare = project("schema = 1\nproject.name = \"x\"\n");
    assert!(Manifest::read(bare.path()).unwrap().bindings.is_empty());
}

#[test]
fn a_binding_says_its_edges() {
    let text = with("a = { ref = \"a\", max_opens = 3, for_first = \"1m30s\", descend = 2 }");
    let a = &Manifest::read(project(text).path()).unwrap().bindings["a"];
    let limits = Limits { max_opens: Some(3), for_first: Some(Duration::from_secs(90)) };
    assert_eq!((a.limits, a.descend), (limits, Descend::Levels(2.try_into().unwrap())));
    for (word, descend) in [("all", Descend::All), ("child", Descend::CHILD)] {
        let text = with(&format!("a = {{ ref = \"a\", descend = \"{word}\" }}"));
        let a = &Manifest::read(project(text).path()).unwrap().bindings["a"];
        assert_eq!((a.limits, a.descend), (Limits::default(), descend));
    }
}

#[test]
fn edges_that_are_none_are_refused_by_line() {
    for (key, bad) in [
        ("max_opens", &["0", "-1", "nan", "18446744073709551616", "0x10", "1.0", "\"1\"", "true"][..]),
        ("for_first", &["\"0s\"", "\"-1\"", "\"1ns\"", "\"10m5\"", "\"NaN\"", "\"31d\"", "\"\"", "30"]),
        ("descend", &["0", "-1", "4294967296", "\"none\"", "\"\"", "\"2\"", "1.0", "true", "[]"]),
    ] {
        for value in bad {
            let error = refused(with(&format!("a = {{ ref = \"a\", {key} = {value} }}")));
            assert_eq!(error.code, "manifest_invalid", "{key} = {value}");
            assert!(error.message.starts_with("kin.toml line 9: "), "{error:?}");
        }
    }
}

#[test]
fn it_is_found_from_below() {
    let dir = project(GOOD);
    let below = dir.path().join("a/b");
    std::fs::create_dir_all(&below).unwrap();
    let root = std::fs::canonicalize(dir.path()).unwrap();
    assert_eq!(find_upwards(&below).unwrap(), root);
    assert_eq!(find_upwards(dir.path()).unwrap(), root);
    std::fs::write(dir.path().join("a").join(FILE), GOOD).unwrap();
    assert_eq!(find_upwards(&below).unwrap(), root.join("a"));
    assert_eq!(find_upwards(Path::new("/")), None);
    assert_eq!(find_upwards(&dir.path().join("absent")), None);
}

#[test]
fn a_missing_manifest_is_said_to_be() {
    let dir = TempDir::new().unwrap();
    for directory in [dir.path().to_owned(), dir.path().join("absent")] {
        let error = Manifest::read(&directory).unwrap_err();
        assert_eq!((error.class, &*error.code), (Class::Unsafe, "manifest_missing"));
        assert!(error.hint.is_some());
    }
}

#[test]
fn k05_the_canonical_path_is_the_identity() {
    let dir = project(GOOD);
    let other = TempDir::new().unwrap();
    let link = other.path().join("link");
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    let real = Manifest::read(dir.path()).unwrap();
    assert_eq!(Manifest::read(&link).unwrap().directory, real.directory);

    let copy = other.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    std::fs::write(copy.join(FILE), GOOD).unwrap();
    assert_ne!(Manifest::read(&copy).unwrap().directory, real.directory);
    std::fs::remove_file(copy.join(FILE)).unwrap();
    std::os::unix::fs::symlink(dir.path().join(FILE), copy.join(FILE)).unwrap();
    assert_eq!(Manifest::read(&copy).unwrap_err().code, "unsafe_file");
}

#[test]
fn k07_a_manifest_that_everybody_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = project(GOOD);
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(Manifest::read(dir.path()).unwrap_err().code, "unsafe_owner");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(dir.path().join(FILE), std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(Manifest::read(dir.path()).unwrap_err().code, "unsafe_owner");
}

#[test]
fn k08_monstrous_manifests_are_refused_at_once() {
    let many: String = (0..150_000).map(|n| format!("a{n}=\"a\"\n")).collect();
    let deep =
        |open: &str, close: &str| format!("schema = 1\nx = {}{}", open.repeat(10_000), close.repeat(10_000));
    let dotted = format!("{}a = 1", "a.".repeat(400_000));
    for text in [
        many.clone().into_bytes(),
        with(&many[..900_000]).into_bytes(),
        deep("[", "]").into_bytes(),
        deep("{a=", "}").into_bytes(),
        dotted.clone().into_bytes(),
        format!("[{}a]", &dotted[..500_000]).into_bytes(),
        "[a]\n[a.b]\n".repeat(50_000).into_bytes(),
        with("a = \"\0\"").into_bytes(),
        format!("\u{feff}{GOOD}").into_bytes(),
        GOOD.replace('\n', "\r\n").into_bytes(),
        with("a = \"\u{1b}[31m\"").into_bytes(),
        [GOOD.as_bytes(), b"# \xff\xfe"].concat(),
        b"\"".to_vec(),
        Vec::new(),
    ] {
        let code = refused(text).code;
        assert!(
            ["manifest_invalid", "manifest_unreadable", "unsafe_file", "unknown_key"].contains(&&*code),
            "{code}"
        );
    }

    let large = project(GOOD);
    std::fs::File::options().write(true).open(large.path().join(FILE)).unwrap().set_len(100 << 20).unwrap();
    assert_eq!(refused_in(large.path()).code, "unsafe_file");
}

#[test]
fn k08_no_cut_of_a_manifest_panics() {
    const FILES: &str = "[files.x]\ntemplate = \"\"\"\n{# é #}{{ DATABASE_URL | json }}{% for n in [\"tls.key\"] %}\
        {{ bindings[n] | trim }}{% endfor %}\n\"\"\"\n[files.y]\nformat = \"netrc\"\nselect = [{ machine = \"m\", \
        login = \"l\", password = \"{{ DATABASE_URL }}\" }]\n";
    let good = format!("{GOOD}{FILES}");
    assert!(Reader::of(&good).read().is_ok());
    for len in (0..good.len()).filter(|len| good.is_char_boundary(*len)) {
        let _ = Reader::of(&good[..len]).read();
        for bad in ["]", "\"", "=", "{", "}", "{{", "%}", "|", "\u{202e}", "é", "'''"] {
            let _ = Reader::of(&format!("{}{bad}{}", &good[..len], &good[len..])).read();
        }
    }
}

#[test]
fn k09_bad_names_are_refused() {
    let long = "x".repeat(256);
    for name in ["../x", "/x", ".", "..", "", "a/b", "-x", r"a\nb", r"a\u0000b", r"a\u202eb", &long] {
        assert_eq!(refused(with(&format!("\"{name}\" = \"a\""))).code, "bad_name", "{name}");
    }
    assert_eq!(refused(with("database_url = \"a\"")).code, "bad_name");
    assert_eq!(refused(with("\"Ключ\" = \"a\"\n\"кЛЮЧ\" = \"a\"")).code, "bad_name");
    for reference in ["", "/", "../x", "a//b", "a b", "-a", r"a\n"] {
        assert_eq!(refused(with(&format!("a = \"{reference}\""))).code, "bad_name", "{reference}");
    }
    for project in ["", "../x", "a/b", ".git", "-a", "a b", &long] {
        let text = GOOD.replace("\"api\"", &format!("\"{project}\""));
        assert_eq!(refused(text).code, "bad_name", "{project}");
    }
    for variable in ["", "PATH", "LD_PRELOAD", "KIN_DIR", "1A", "A-B", "A=B", r"A\u0000", "É"] {
        let binding = format!("a = {{ ref = \"a\", env_path = \"{variable}\" }}");
        assert_eq!(refused(with(&binding)).code, "bad_name", "{variable}");
    }
}

#[test]
fn k11_unknown_keys_are_refused_by_name_and_line() {
    let refusals = [
        (with("[binding]"), "kin.toml line 9: unknown key \"binding\""),
        (format!("policy = 1\n{GOOD}"), "kin.toml line 1: unknown key \"policy\""),
        (GOOD.replace("name =", "title = 1\nname ="), "kin.toml line 4: unknown key \"title\""),
        (GOOD.replace("env_path", "env"), "kin.toml line 8: unknown key \"env\""),
        (with("[trust]\nthis = true"), "kin.toml line 9: unknown key \"trust\""),
    ];
    for (text, message) in refusals {
        let error = refused(text);
        assert_eq!((&*error.code, &*error.message), ("unknown_key", message));
        assert!(error.hint.unwrap().starts_with("known here: "));
    }
}

#[test]
fn what_is_not_a_manifest_is_refused_in_one_line() {
    let refusals = [
        (GOOD.replace("schema = 1\n", ""), "kin.toml does not say its schema"),
        (GOOD.replace("schema = 1", "schema = 2"), "kin.toml line 1: this kin reads schema 1 only"),
        (GOOD.replace("schema = 1", "schema = \"1\""), "kin.toml line 1: this kin reads schema 1 only"),
        (GOOD.replace("name = \"api\"", ""), "kin.toml does not name its project"),
        (GOOD.replace("\"api\"", "1"), "kin.toml line 4: name must be a string"),
        (GOOD.replace("[project]", "[[project]]"), "kin.toml line 3: project must be a table"),
        (with("a = 1"), "kin.toml line 9: a binding must be a string"),
        (with("a = {}"), "kin.toml line 9: a binding needs `ref = \"…\"`"),
        (
            with("a = { ref = \"a\", env_path = \"TLS_KEY_FILE\" }"),
            "kin.toml line 8: TLS_KEY_FILE is used twice",
        ),
    ];
    for (text, message) in refusals {
        let error = refused(text);
        assert_eq!((&*error.code, &*error.message), ("manifest_invalid", message));
    }
    for broken in [with("a = "), with("= 1"), with("[bindings]"), with("DATABASE_URL = \"x\"")] {
        let error = refused(broken);
        assert_eq!(error.code, "manifest_invalid");
        assert!(error.message.starts_with("kin.toml line 9: "), "{}", error.message);
    }
}

#[test]
fn escapes_do_not_reach_the_terminal() {
    assert_eq!(printable("a\tb\n\"c\" d\\e é"), "a\tb\n\"c\" d\\e é");
    let shown = printable("\u{1b}[31m\u{202e}\r\u{7}\u{9b}\u{2066}");
    assert!(shown.is_ascii() && !shown.contains(|c: char| c.is_control()), "{shown}");
}

const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn k14_a_pin_is_an_absolute_path_and_a_digest() {
    let pin = format!("{{ path = \"/usr/bin/git\", sha256 = \"{DIGEST}\" }}");
    for (written, count) in [(pin.clone(), 1), (format!("[{pin}]"), 1), (format!("[{pin}, {pin}]"), 2)] {
        let dir = project(with(&format!("x = {{ ref = \"a\", exe = {written} }}")));
        let pins = &Manifest::read(dir.path()).unwrap().bindings["x"].exe;
        assert_eq!(pins.len(), count);
        assert_eq!((pins[0].path.as_str(), pins[0].sha256.to_string().as_str()), ("/usr/bin/git", DIGEST));
    }
    let seventeen = vec![pin.clone(); 17].join(", ");
    for (bad, code) in [
        (format!("{{ path = \"git\", sha256 = \"{DIGEST}\" }}"), "bad_pin"),
        (format!("{{ path = \"./git\", sha256 = \"{DIGEST}\" }}"), "bad_pin"),
        (format!("{{ path = \"/a\\u202Eb\", sha256 = \"{DIGEST}\" }}"), "bad_pin"),
        ("{ path = \"/usr/bin/git\", sha256 = \"0123\" }".into(), "bad_pin"),
        ("{ path = \"/nonexistent/git\" }".into(), "bad_pin"),
        ("\"/nonexistent/git\"".into(), "bad_pin"),
        (format!("{{ sha256 = \"{DIGEST}\" }}"), "bad_pin"),
        ("[]".into(), "bad_pin"),
        (format!("[{seventeen}]"), "bad_pin"),
        (format!("{{ path = \"/usr/bin/git\", sha256 = \"{DIGEST}\", md5 = \"x\" }}"), "unknown_key"),
        ("1".into(), "manifest_invalid"),
        ("{ path = 1 }".into(), "manifest_invalid"),
    ] {
        let error = refused(with(&format!("x = {{ ref = \"a\", exe = {bad} }}")));
        assert_eq!(error.code, code, "{bad}: {error:?}");
    }
}

#[test]
fn c04_a_pin_without_a_digest_is_told_which_to_write() {
    let digest = format!("{:x}", Sha256::digest(std::fs::read("/bin/cat").unwrap()));
    for written in ["\"/bin/cat\"", "{ path = \"/bin/cat\" }"] {
        // Other tests of this process may have files hashed, and there are only so many at a time.
        let told = (0..100).any(|try_| {
            std::thread::sleep(std::time::Duration::from_millis(20 * u64::from(try_ > 0)));
            let error = refused(with(&format!("x = {{ ref = \"a\", exe = {written} }}")));
            assert_eq!(error.code, "bad_pin");
            error.hint.is_some_and(|hint| hint.contains(&digest))
        });
        assert!(told, "{written}");
    }
}

#[test]
fn c01_any_namespace_is_opted_in_to_and_never_with_a_pin() {
    let reach = |written: &str| {
        let dir = project(with(&format!("x = {{ ref = \"a\", namespaces = {written} }}")));
        Manifest::read(dir.path()).unwrap().bindings["x"].namespaces
    };
    assert_eq!((reach("\"any\""), reach("\"same\"")), (Reach::Any, Reach::Same));
    for bad in ["\"all\"", "true", "[\"any\"]"] {
        let error = refused(with(&format!("x = {{ ref = \"a\", namespaces = {bad} }}")));
        assert_eq!(error.code, "manifest_invalid", "{bad}");
    }
    let pin = format!("{{ path = \"/usr/bin/git\", sha256 = \"{DIGEST}\" }}");
    let error = refused(with(&format!("x = {{ ref = \"a\", namespaces = \"any\", exe = {pin} }}")));
    assert_eq!(error.code, "bad_pin");
    let same = format!("x = {{ ref = \"a\", namespaces = \"same\", exe = {pin} }}");
    assert!(Manifest::read(project(with(&same)).path()).is_ok());
}
