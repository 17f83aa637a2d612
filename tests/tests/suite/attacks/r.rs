//! Is a value to be seen in the output of a redacted run? Redaction.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use kin_tests::process::{self, Process};
use kin_tests::{Actor, Output, Role, World, as_nobody, binary, eventually, record};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{API, DATABASE, REFUSED, database};

const MARK: &str = "[REDACTED:DATABASE_URL]";

/// A redacted run of `sh -c script`.
fn shell(world: &World, script: &str) -> Output {
    world.kin(["run", "--redact", "--", "sh", "-c", script]).run()
}

/// A redacted run of a Python program.
fn python(world: &World, program: &str) -> Output {
    let program = format!(
        "import os, sys\nvalue = open(os.environ['KIN_DIR'] + '/{DATABASE}', 'rb').read()\n{program}"
    );
    world.kin(["run", "--redact", "--", "python3", "-IS", "-c", &program]).run()
}

/// A redacted run with pipes for what it reads and writes.
fn piped(world: &World, command: &[&str]) -> Child {
    let mut run = world.program(binary());
    run.args(["run", "--redact", "--"]).args(command);
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("kin run")
}

/// The broker's redactors, of which each has a grant. The zygote is their parent.
fn redactors(world: &World) -> Vec<Process> {
    let named = |process: &Process| {
        std::fs::read_to_string(format!("/proc/{}/comm", process.pid))
            .is_ok_and(|comm| comm == "kin-redactor\n")
    };
    let all: Vec<Process> = process::tree(world.broker().pid).into_iter().filter(named).collect();
    let zygote = all.iter().find(|process| process.parent() == Some(world.broker().pid)).expect("a zygote");
    all.iter().filter(|process| process.parent() == Some(zygote.pid)).copied().collect()
}

#[test]
fn r01_a_value_in_pieces_is_masked() {
    let world = World::ready();
    let program = "
for cut in range(len(value) + 1):
    os.write(1, value[:cut]); os.write(1, value[cut:] + b'\\n')
for byte in value + b'\\n':
    os.write(1, bytes([byte]))
for large in b'x' * (1 << 20) + value + b'y' * (1 << 20) + b'\\n',:
    while large:
        large = large[os.write(1, large):]
";
    let text = python(&world, program).exits(0).text();
    let (lines, value) = (text.lines().collect::<Vec<_>>(), String::from_utf8(database(&world)).unwrap());
    assert_eq!(lines.len(), value.len() + 3);
    // Where the writer was held up between two writes the first 3 characters may have been shown by then.
    for line in &lines[..value.len() + 2] {
        let before = line.strip_suffix(MARK).unwrap_or_else(|| panic!("{line}"));
        assert!(before.len() < 4 && value.starts_with(before), "{line}");
    }
    let large = format!("{}{MARK}{}", "x".repeat(1 << 20), "y".repeat(1 << 20));
    assert!(lines[value.len() + 2] == large, "the large write");
}

#[test]
fn r02_encodings_are_masked() {
    let world = World::ready();
    let value = format!("p&ss w'rd\"<{}>/\\+é", world.canary());
    world.set("db/url", value.as_bytes());
    let program = "
sys.path[:0] = [os.path.dirname(os.__file__)]
import base64, html, json, shlex, urllib.parse
text = value.decode()
def show(form):
    os.write(1, (form if isinstance(form, bytes) else form.encode()) + b'\\n')
for before in range(3):
    show(base64.b64encode(b'x' * before + value + b'y')); show(base64.urlsafe_b64encode(b'x' * before + value + b'y'))
    show(base64.b64encode(b'x' * before + value).rstrip(b'='))
show(base64.b32encode(value)); show(value.hex()); show(value.hex().upper())
for quote in urllib.parse.quote, urllib.parse.quote_plus, lambda t: urllib.parse.quote(t, safe=''):
    show(quote(text)); show(quote(quote(text)))
show(''.join('%%%02x' % byte for byte in value)); show(''.join('%%25%02X' % byte for byte in value))
show(json.dumps(text)); show(json.dumps(text, ensure_ascii=False)); show(''.join('\\\\u%04x' % ord(c) for c in text))
show(shlex.quote(text)); show(html.escape(text)); show(''.join('&#%d;' % ord(c) for c in text))
show(''.join('&#x%X;' % ord(c) for c in text))
";
    let text = python(&world, program).exits(0).text();
    assert_eq!(text.lines().count(), 27, "{text}");
    for line in text.lines() {
        let (before, after) = line.split_once(MARK).unwrap_or_else(|| panic!("{line}"));
        assert!(before.len() < 5 && after.len() < 5, "{line}");
    }
    // The shell's own: printf %q, and base64(1), which breaks its lines.
    let text = world
        .kin([
            "run",
            "--redact",
            "--",
            "bash",
            "-c",
            "printf '%q\\n' \"$(cat $KIN_DIR/DATABASE_URL)\"; base64 $KIN_DIR/DATABASE_URL",
        ])
        .run()
        .exits(0)
        .text();
    assert!(text.lines().all(|line| line.starts_with(MARK) && line.len() < MARK.len() + 4), "{text}");
}

#[test]
fn r02_whatever_bash_quotes_is_masked() {
    let world = World::ready();
    let every: String = (' '..='~').collect();
    for value in [",aB3x,Qz9pLmN", "p@ss#1 word~x", "#begin ~with", "a=~b:~c{d}", &every] {
        world.set("db/url", value.as_bytes());
        let script =
            "printf '%q\\n' \"$(cat $KIN_DIR/DATABASE_URL)\"; set -x; : \"$(cat $KIN_DIR/DATABASE_URL)\"";
        let output = world.kin(["run", "--redact", "--", "bash", "-c", script]).run().exits(0);
        let text = output.text();
        let text = text.trim_end();
        assert!(text.ends_with(MARK) && text.len() <= MARK.len() + 1, "{value}: {text}");
        assert!(output.stderr.contains(MARK), "{value}: {}", output.stderr);
    }
}

#[test]
fn r03_each_line_of_a_key_is_masked() {
    let world = World::ready();
    let lines = [world.canary(), world.canary(), world.canary()];
    let key = format!("-----BEGIN KEY-----\n{}\n-----END KEY-----\n", lines.join("\n"));
    world.set("db/url", key.as_bytes());
    let script = "cd $KIN_DIR; cat DATABASE_URL; sed 's/$/\\r/' DATABASE_URL; sed 's/^/    /' DATABASE_URL; \
        tr '\\n' ' ' <DATABASE_URL; echo; sed -n 3p DATABASE_URL; sed 's/^/+ /; s/$/ |/' DATABASE_URL";
    let text = shell(&world, script).exits(0).text();
    for line in lines.iter().map(String::as_str).chain(["-----BEGIN KEY-----", "-----END KEY-----"]) {
        assert!(!text.contains(line), "{text}");
    }
    assert_eq!(text.lines().count(), 18, "{text}");
    assert_eq!(text.matches(MARK).count(), 1 + 5 + 5 + 5 + 1 + 5, "{text}");
}

#[test]
fn r04_short_values_are_warned_of_and_left_alone() {
    let world = World::ready();
    for value in ["{", "true", "1234567"] {
        world.set("db/url", value.as_bytes());
        let output = shell(&world, "echo '{ true 1234567 }'; cat $KIN_DIR/API_KEY").exits(0);
        assert_eq!(output.text(), "{ true 1234567 }\n[REDACTED:API_KEY]");
        let warnings: Vec<&str> = output.stderr.lines().collect();
        assert_eq!(warnings, ["warning: DATABASE_URL is not masked: what has less than 8 bytes never is"]);
    }
    world.set("db/url", b"12345678");
    assert_eq!(shell(&world, "echo 12345678").exits(0).stderr, "");
}

#[test]
fn r08_of_a_binary_stream_only_values_change() {
    let world = World::ready();
    let value = [&[255, 10, 13, 27][..], world.canary().as_bytes(), &[1, 128]].concat();
    world.set("db/url", &value);
    let noise: Vec<u8> = (0..1_u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let file = world.project().join("noise");
    std::fs::write(&file, [&noise[..], &value, &noise].concat()).unwrap();
    let output = shell(&world, "cat noise $KIN_DIR/DATABASE_URL noise").exits(0);
    let once = [&noise[..], MARK.as_bytes(), &noise].concat();
    assert!(output.stdout == [&once[..], MARK.as_bytes(), &once].concat());
    std::fs::remove_file(file).unwrap();
}

#[test]
fn r09_of_values_in_values_nothing_stays() {
    let world = World::ready();
    let value = String::from_utf8(database(&world)).unwrap();
    world.set("api/key", format!("{value}-and-{}", world.canary()).as_bytes());
    let text =
        shell(&world, "cd $KIN_DIR; cat API_KEY; echo; cat DATABASE_URL; echo; cat DATABASE_URL API_KEY")
            .exits(0)
            .text();
    assert_eq!(text, format!("[REDACTED:API_KEY]\n{MARK}\n{MARK}[REDACTED:API_KEY]"));
    let base64 =
        python(&world, "import base64; print(base64.b64encode(value).decode(), end='')").exits(0).text();
    assert_eq!(base64, MARK);
}

#[test]
fn r11_a_prompt_is_shown_and_what_was_cut_off_is_not() {
    let world = World::ready();
    // Both end with what values begin with, as anything does.
    for prompt in ["name? ", "45%"] {
        let script = format!(
            "printf %s '{prompt}'; read name; printf \"<$name>\"; head -c 20 $KIN_DIR/DATABASE_URL; kill -9 $$"
        );
        let mut run = piped(&world, &["sh", "-c", &script]);
        let mut shown = vec![0; prompt.len()];
        let mut stdout = run.stdout.take().expect("a pipe");
        stdout.read_exact(&mut shown).expect("the prompt, while the command waits");
        assert_eq!(shown, prompt.as_bytes());
        run.stdin.take().expect("a pipe").write_all(b"me\n").unwrap();
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "<me>[REDACTED:partial]");
        assert_eq!(run.wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
    }
    assert_eq!(shell(&world, "head -c 7 $KIN_DIR/DATABASE_URL").exits(0).stdout, database(&world)[..7]);
}

#[test]
fn r14_a_stream_without_a_line_flows_in_bounded_memory() {
    const SECRETS: usize = 100;
    let mebibytes = kin_tests::soak::amount("KIN_SOAK", 128);
    let world = World::ready();
    let bindings: String = (0..SECRETS).map(|n| format!("S{n} = \"many/s{n}\"\n")).collect();
    let values: Vec<String> = (0..SECRETS).map(|n| world.secret(&format!("many/s{n}"))).collect();
    world.manifest(&format!("schema = 1\n[project]\nname = \"api\"\n[bindings]\n{bindings}"));
    world.trust();
    let script = format!("head -c {mebibytes}M /dev/zero; cat $KIN_DIR/S42; read end");
    let mut run = piped(&world, &["sh", "-c", &script]);
    let mut stdout = run.stdout.take().expect("a pipe");
    let (mut got, mut piece) = (0, vec![0; 1 << 20]);
    while got < mebibytes << 20 {
        let read = stdout.read(&mut piece).expect("the stream");
        assert!(
            read > 0 && piece[..read].iter().all(|byte| *byte == 0 || got + read as u64 > mebibytes << 20)
        );
        got += read as u64;
    }
    let [redactor] = redactors(&world)[..] else { panic!("not one redactor") };
    let peak = kin_tests::process::most_resident(redactor.pid);
    assert!(peak.is_some_and(|kib| kib <= 64 << 10), "{peak:?} KiB");
    run.stdin.take().expect("a pipe").write_all(b"\n").unwrap();
    stdout.read_to_end(&mut piece).unwrap();
    assert!(!piece.windows(8).any(|part| values[42].as_bytes().starts_with(part)));
    run.wait().unwrap();
}

#[test]
fn r15_values_old_and_new_are_masked() {
    let world = World::ready();
    let script = "cat $KIN_DIR/DATABASE_URL; echo; cp $KIN_DIR/DATABASE_URL old; echo; read go; \
        cat $KIN_DIR/DATABASE_URL; echo; cat old; echo";
    let mut run = piped(&world, &["sh", "-c", script]);
    let mut stdout = run.stdout.take().expect("a pipe");
    let mut first = vec![0; MARK.len() + 2];
    stdout.read_exact(&mut first).unwrap();
    let old = database(&world);
    let new = world.secret("db/url");
    run.stdin.take().expect("a pipe").write_all(b"\n").unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    run.wait().unwrap();
    assert_eq!(
        (String::from_utf8_lossy(&first).as_ref(), &rest[..]),
        (&format!("{MARK}\n\n")[..], &format!("{MARK}\n{MARK}\n")[..])
    );
    assert!(old != new.as_bytes() && std::fs::read(world.project().join("old")).unwrap() == old);
    std::fs::remove_file(world.project().join("old")).unwrap();
    // Handed over before anybody could be delivered it, and on the record.
    let records = world.audit();
    let of = |event: &str, version: u64| {
        let mut found = record::of(&records, event)
            .into_iter()
            .filter(|line| line["version"] == version && line["file"] == DATABASE);
        let seq = found.next().map(record::seq);
        seq.unwrap_or_else(|| panic!("{event} {version}: {records:#?}"))
    };
    assert!(of("redact.allow", 1) < of("open.allow", 1) && of("redact.allow", 2) < of("open.allow", 2));
    assert_eq!(record::of(&records, "redact.allow").len(), 3);
}

#[test]
fn g01_nobody_of_the_same_user_looks_into_a_redactor() {
    let name = "attacks::r::g01_nobody_of_the_same_user_looks_into_a_redactor";
    if as_nobody(name) == Role::Done {
        return;
    }
    let world = World::ready();
    let member = world.member(&["--redact"]);
    let outsider = world.outsider();
    let [redactor] = redactors(&world)[..] else { panic!("not one redactor") };
    let zygote = redactor.parent().expect("a zygote");
    for pid in [redactor.pid, zygote] {
        for how in ["mem", "environ", "maps", "fd", "attach", "seize", "process_vm_readv", "pidfd_getfd"] {
            for attacker in [&outsider, &member] {
                let answer = attacker.ask("attack", json!({ "pid": pid, "how": how }));
                assert!(matches!(answer, Err(Errno::EPERM | Errno::EACCES)), "{how}: {answer:?}");
            }
        }
    }
    assert_eq!(outsider.cat(&world.file(DATABASE)), Err(REFUSED));
}

#[test]
fn a_redactor_that_is_gone_shows_nothing() {
    let world = World::ready();
    let script = "read go; while cat $KIN_DIR/DATABASE_URL; do :; done; exit 9";
    let mut run = piped(&world, &["sh", "-c", script]);
    eventually("a redactor", Duration::from_secs(5), || redactors(&world).len() == 1);
    redactors(&world)[0].kill();
    run.stdin.take().expect("a pipe").write_all(b"\n").unwrap();
    let mut shown = Vec::new();
    run.stdout.take().expect("a pipe").read_to_end(&mut shown).unwrap();
    assert_eq!(shown, b"");
    assert_eq!(run.wait().unwrap().code(), Some(9));
    // One that does not answer costs its grant before there is a new version to read.
    let mut run = piped(&world, &["sh", "-c", "read go; cat $KIN_DIR/DATABASE_URL 2>&1"]);
    eventually("a redactor", Duration::from_secs(5), || redactors(&world).len() == 1);
    let redactor = redactors(&world)[0];
    process::signal(redactor.pid, Signal::SIGSTOP);
    world.secret("db/url");
    assert!(world.grants().is_empty());
    let records = world.audit();
    assert_eq!(
        record::reason(record::of(&records, "grant.expire").last().expect("an end")),
        "redactor_failed"
    );
    process::signal(redactor.pid, Signal::SIGCONT);
    run.stdin.take().expect("a pipe").write_all(b"\n").unwrap();
    let mut shown = String::new();
    run.stdout.take().expect("a pipe").read_to_string(&mut shown).unwrap();
    assert!(shown.ends_with("Permission denied\n"), "{shown}");
    run.wait().unwrap();
}

#[test]
fn a_redactor_outlives_its_broker_and_masks_on() {
    let world = World::ready();
    let script = "value=$(cat $KIN_DIR/DATABASE_URL); echo up; read go; echo $value";
    let mut run = piped(&world, &["sh", "-c", script]);
    let mut stdout = run.stdout.take().expect("a pipe");
    stdout.read_exact(&mut [0; 3]).unwrap();
    let [redactor] = redactors(&world)[..] else { panic!("not one redactor") };
    world.crash();
    run.stdin.take().expect("a pipe").write_all(b"\n").unwrap();
    let mut shown = String::new();
    stdout.read_to_string(&mut shown).unwrap();
    assert_eq!(shown, format!("{MARK}\n"));
    assert_eq!(run.wait().unwrap().code(), Some(0));
    eventually("the redactor's end", Duration::from_secs(5), || !redactor.is_alive());
}

#[test]
fn what_a_command_leaves_behind_is_masked_and_holds_up_nobody() {
    let world = World::ready();
    let script = "echo begun; (trap '' TERM HUP; while ! [ -e go ]; do sleep 0.05; done; cat value; rm value go) & \
        cp $KIN_DIR/DATABASE_URL value; cat value; exit 4";
    let mut run = piped(&world, &["sh", "-c", script]);
    assert_eq!(run.wait().unwrap().code(), Some(4), "the front does not wait for what is left");
    let mut stdout = run.stdout.take().expect("a pipe");
    let mut shown = vec![0; "begun\n".len() + MARK.len()];
    stdout.read_exact(&mut shown).unwrap();
    assert_eq!(String::from_utf8_lossy(&shown), format!("begun\n{MARK}"));
    std::fs::write(world.project().join("go"), "").unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, MARK);
    eventually("no grant is left", Duration::from_secs(5), || world.grants().is_empty());
}

#[test]
fn a_redacted_run_ends_as_a_bare_one() {
    let world = World::ready();
    let cases = [
        ("exit 0", 0),
        ("exit 77", 77),
        ("kill -TERM $$", 143),
        ("kill -9 $$", 137),
        ("exec no-such-program", 127),
        ("yes | head -1", 0),
        ("echo one; echo two >&2; echo three; exit 5", 5),
        ("for n in 1 2 3 4 5 6; do echo out$n; echo err$n >&2; done", 0),
        ("exec >&- 2>&-; exit 3", 3),
        ("seq 1 100000", 0),
    ];
    for (script, code) in cases {
        let bare = world.other("sh", ["-c", script]).run();
        let redacted = shell(&world, script);
        assert_eq!((bare.code(), redacted.code()), (code, code), "{script}");
        assert_eq!((bare.text(), &bare.stderr), (redacted.text(), &redacted.stderr), "{script}");
    }
    // One file for both keeps its order; a reader that goes is a broken pipe.
    let both = format!(
        "{} run --redact -- sh -c 'for n in 1 2 3; do echo $n; echo -$n >&2; done' 2>&1 | cat",
        binary().display()
    );
    assert_eq!(world.other("sh", ["-c", &both]).run().exits(0).text(), "1\n-1\n2\n-2\n3\n-3\n");
    let head = format!("{} run --redact -- yes | head -1; echo ${{PIPESTATUS[0]}}", binary().display());
    assert_eq!(world.other("bash", ["-c", &head]).run().exits(0).text(), "y\n141\n");
    assert_eq!(world.kin(["run", "--redact", "--", "no-such-program"]).run().code(), 127);
    assert_eq!(world.kin(["run", "--redact", "--", "/"]).run().code(), 126);
}

#[test]
fn a_redacted_output_that_cannot_be_written_is_told_of_and_is_no_success() {
    let world = World::ready();
    let line = "error: what the command wrote could not be written: no space left on device\n";
    for (script, to, code, told) in [
        ("echo hi", ">/dev/full", 125, line),
        ("echo hi; exit 7", ">/dev/full", 7, line),
        ("seq 100000", ">/dev/full", 141, line),
        ("echo hi >&2", "2>/dev/full", 125, ""),
        ("exit 0", ">/dev/full", 0, ""),
        ("echo hi", "| cat >/dev/null; exit ${PIPESTATUS[0]}", 0, ""),
        ("yes", "| head -1 >/dev/null; exit ${PIPESTATUS[0]}", 141, ""),
    ] {
        let run = format!("{} run --redact -- sh -c '{script}' {to}", binary().display());
        let output = world.other("bash", ["-c", &run]).run();
        assert_eq!((output.code(), output.stderr.as_str()), (code, told), "{run}");
    }
}

#[test]
fn redaction_is_asked_for_and_the_last_word_counts() {
    let world = World::ready();
    let cat = ["--", "sh", "-c", "cat $KIN_DIR/DATABASE_URL"];
    let said = |options: &[&str]| world.kin([&["run"], options, &cat].concat()).run().exits(0).stdout;
    assert_eq!(said(&[]), database(&world));
    assert_eq!(said(&["--redact"]), MARK.as_bytes());
    assert_eq!(said(&["--redact", "--no-redact"]), database(&world));
    assert_eq!(said(&["--no-redact", "--redact"]), MARK.as_bytes());
    // What is not granted is not masked; what the outer run grants is, whatever an inner one says.
    let inner =
        format!("{} run --no-redact --only API_KEY -- sh -c 'cat $KIN_DIR/API_KEY'", binary().display());
    assert_eq!(shell(&world, &inner).exits(0).text(), "[REDACTED:API_KEY]");
    let output =
        world.kin(["run", "--redact", "--only", API, "--", "sh", "-c", "cat $KIN_DIR/API_KEY; printf $SAID"]);
    let output = output.env("SAID", "not-a-value-at-all").run().exits(0);
    assert_eq!(output.text(), "[REDACTED:API_KEY]not-a-value-at-all");
}

#[test]
fn a_project_may_want_its_commands_redacted_and_who_starts_one_has_the_last_word() {
    let world = World::ready();
    let manifest = |said: &str| {
        world.manifest(&format!(
            "schema = 1\n[project]\nname = \"api\"\n{said}[bindings]\nDATABASE_URL = \"db/url\"\nAPI_KEY = \"api/key\"\n"
        ));
    };
    let cat = ["--", "sh", "-c", "cat $KIN_DIR/DATABASE_URL; echo $KIN_DIR >&2"];
    let run = |options: &[&str]| world.kin([&["run"], options, &cat].concat()).run();
    manifest("redact = true\n");
    // It is the project's word once it is trusted, and shown before.
    run(&[]).refuses(3, &["trust"]);
    assert!(world.kin(["check"]).run().text().contains("redact = true"));
    world.trust();
    for (options, masked) in [
        (&[][..], true),
        (&["--private"], true),
        (&["--on-rotate", "restart"], true),
        (&["--redact"], true),
        (&["--no-redact"], false),
        (&["--redact", "--no-redact"], false),
        (&["--no-redact", "--redact"], true),
    ] {
        let output = run(options).exits(0);
        assert_eq!(output.stdout, if masked { MARK.into() } else { database(&world) }, "{options:?}");
        assert_eq!(output.stderr.lines().count(), 1, "{output}");
    }
    // One grant each, and none that was asked for before it was known.
    let records = world.audit();
    assert_eq!(record::of(&records, "grant.create").len(), 7, "{records:#?}");
    assert!(!records.iter().any(record::is_denial), "{records:#?}");
    // Inside, an inner run's streams are the outer one's.
    let inner = format!("{} run --no-redact -- cat $KIN_DIR/DATABASE_URL", binary().display());
    let output = world.kin(["run", "--", "sh", "-c", &inner]).run().exits(0);
    assert_eq!(output.stdout, MARK.as_bytes());
    let inner = format!("{} run -- cat $KIN_DIR/DATABASE_URL", binary().display());
    for outer in ["--redact", "--no-redact"] {
        let output = world.kin(["run", outer, "--", "sh", "-c", &inner]).run().exits(0);
        assert_eq!(output.stdout, MARK.as_bytes());
    }
    for (said, options, masked) in
        [("redact = false\n", &[][..], false), ("", &[], false), ("", &["--redact"], true)]
    {
        manifest(said);
        world.trust();
        assert_eq!(run(options).exits(0).stdout, if masked { MARK.into() } else { database(&world) });
    }
    manifest("redact = \"yes\"\n");
    let output = run(&[]).exits(3);
    assert!(output.stderr.contains("redact must be true or false"), "{output}");
}

#[test]
fn a_signal_to_the_front_reaches_a_redacted_command_and_ends_it_in_time() {
    let world = World::ready();
    let script =
        "trap 'echo got; exit 3' TERM; (trap '' TERM; exec sleep 30) & echo up; while :; do sleep 0.05; done";
    let mut run = piped(&world, &["sh", "-c", script]);
    let mut stdout = run.stdout.take().expect("a pipe");
    stdout.read_exact(&mut [0; 3]).unwrap();
    process::signal(run.id(), Signal::SIGTERM);
    // A container's init has 10 s; what was left behind goes on for 30.
    eventually("the end of the front", Duration::from_secs(10), || run.try_wait().unwrap().is_some());
    assert_eq!(run.wait().unwrap().code(), Some(3));
    stdout.read_exact(&mut [0; 4]).unwrap();
    world.kin(["revoke", "--all"]).run().exits(0);
    for left in process::all() {
        if std::fs::read(format!("/proc/{}/cmdline", left.pid)).is_ok_and(|line| line == b"sleep\x0030\x00") {
            left.kill();
        }
    }
}

#[test]
fn r17_the_parts_of_a_value_are_masked_and_what_is_plain_is_not() {
    let world = World::ready();
    let (password, key) = (world.canary(), world.canary());
    let dotenv = format!(
        "DATABASE_URL=postgres://app:{password}@db.example.com/prod\nSTRIPE_KEY=\"{key}\"\nPORT=15432\n"
    );
    world.set("db/url", dotenv.as_bytes());
    world.set("api/mode", b"development");
    world.set("api/port", b"5432");
    world.manifest(
        "schema = 1\n[project]\nname = \"api\"\n[bindings]\nDATABASE_URL = \"db/url\"\n\
         MODE = { ref = \"api/mode\", plain = true }\nPORT = { ref = \"api/port\", plain = true }\n",
    );
    world.trust();
    let script = ". $KIN_DIR/DATABASE_URL; echo \"$DATABASE_URL\"; echo \"key $STRIPE_KEY\"; echo $PORT; \
        cat $KIN_DIR/MODE; echo; base64 -w 64 $KIN_DIR/DATABASE_URL";
    let output = shell(&world, script).exits(0);
    let text = output.text();
    let expected =
        format!("postgres://app:{MARK}@db.example.com/prod\nkey {MARK}\n15432\ndevelopment\n{MARK}");
    assert!(text.starts_with(&expected), "{text}");
    assert!(!output.stderr.contains("not masked"), "{}", output.stderr);
}
