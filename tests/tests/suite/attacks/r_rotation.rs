//! Is a value to be seen in a redacted output when it changes meanwhile, and is a redacted command that is started
//! again what it was?

use std::io::Read;
use std::process::{Child, Stdio};
use std::time::Duration;

use kin_tests::{PROMPT, Terminal, World, binary, eventually, record};

use crate::database;

const LATE: Duration = Duration::from_secs(20);
const RESTART: [&[&str]; 2] = [&["--on-rotate", "restart"], &["--on-rotate", "restart", "--private"]];

/// A redacted run of `sh -c script`, with stdout and stderr in pipes of their own.
fn piped(world: &World, options: &[&str], script: &str) -> Child {
    let mut run = world.program(binary());
    run.args(["run", "--redact"]).args(options).args(["--", "sh", "-c", script]);
    run.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kin run")
}

/// Waits until a file in the project has so many lines.
fn has_lines(world: &World, file: &str, count: usize) {
    let text = || std::fs::read_to_string(world.project().join(file)).unwrap_or_default();
    eventually(&format!("{count} lines of {file}"), LATE, || text().lines().count() >= count);
}

fn both_streams(run: &mut Child) -> (String, String) {
    let (mut stdout, mut stderr) = (String::new(), String::new());
    run.stdout.take().expect("a pipe").read_to_string(&mut stdout).expect("text");
    run.stderr.take().expect("a pipe").read_to_string(&mut stderr).expect("text");
    (stdout, stderr)
}

#[test]
fn r15_a_command_that_is_started_again_is_masked_with_old_and_new() {
    for options in RESTART {
        let world = World::ready();
        let values = [database(&world), world.canary().into_bytes(), world.canary().into_bytes()];
        // Told to end, it shows what it read and what is there now; started again, all that there was.
        let script = "show() { for file in old* $KIN_DIR/DATABASE_URL; do [ ! -e $file ] || cat $file; echo; done; }; \
            trap 'echo told; show; exit 0' TERM; cat $KIN_DIR/DATABASE_URL >old$(ls | wc -l); \
            show; echo error >&2; show >&2; echo >>up; while ! [ -e over ]; do sleep 0.02; done; exit 7";
        let mut run = piped(&world, options, script);
        for (number, value) in values.iter().enumerate().skip(1) {
            has_lines(&world, "up", number);
            world.set("db/url", value);
        }
        has_lines(&world, "up", 3);
        std::fs::write(world.project().join("over"), "").expect("a file");
        let (stdout, stderr) = both_streams(&mut run);
        assert_eq!(run.wait().expect("its end").code(), Some(7));
        let marks = |count: usize| "[REDACTED:DATABASE_URL]\n".repeat(count);
        let told = |count| format!("told\n{}", marks(count));
        assert_eq!(stdout, [marks(2), told(2), marks(3), told(3), marks(4)].concat(), "{options:?}");
        assert_eq!(stderr, [2, 3, 4].map(|count| format!("error\n{}", marks(count))).concat(), "{options:?}");
        let records = world.audit();
        let redacted: Vec<_> = record::of(&records, "redact.allow")
            .iter()
            .filter(|line| line["file"] == "DATABASE_URL")
            .map(|line| record::seq(line))
            .collect();
        let restarts: Vec<_> = record::of(&records, "grant.restart").into_iter().map(record::seq).collect();
        assert_eq!((redacted.len(), restarts.len()), (3, 2));
        assert!(redacted[1] < restarts[0] && redacted[2] < restarts[1], "{redacted:?} {restarts:?}");
        assert_eq!(record::of(&records, "grant.create").len(), 1);
        for old in std::fs::read_dir(world.project()).expect("the project").flatten() {
            if old.file_name().to_string_lossy().starts_with("old") {
                std::fs::remove_file(old.path()).expect("a file of ours");
            }
        }
    }
}

#[test]
fn r04_a_short_version_that_comes_later_is_warned_of_when_it_comes() {
    const WARNING: &str = "warning: DATABASE_URL is not masked: what has less than 8 bytes never is\n";
    let world = World::ready();
    let script = "echo >>up; read go; cat $KIN_DIR/DATABASE_URL; cat $KIN_DIR/API_KEY";
    let mut command = world.program(binary());
    command.args(["run", "--redact", "--", "sh", "-c", script]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut run = command.spawn().expect("kin run");
    has_lines(&world, "up", 1);
    // Said at each short version, and at no other.
    for value in ["1234567", "12345678", "true", "true", "again-a-long-one", "{"] {
        world.set("db/url", value.as_bytes());
        std::thread::sleep(Duration::from_millis(50));
    }
    world.secret("api/key");
    drop(run.stdin.take());
    let (stdout, stderr) = both_streams(&mut run);
    assert!(run.wait().expect("its end").success());
    assert_eq!((stdout.as_str(), stderr), ("{[REDACTED:API_KEY]", WARNING.repeat(4)));
}

/// Says its number, then what the terminal tells it: interrupts, sizes and lines; ends with 7 at `end`.
const ATTENTIVE: &str = "
import os, select, signal, sys
say = lambda text: os.write(1, (text + '\\n').encode())
size = lambda: 'size %dx%d' % tuple(os.get_terminal_size())
woken, wake = os.pipe()
os.set_blocking(wake, False)
signal.set_wakeup_fd(wake)
signal.signal(signal.SIGINT, lambda *_: say('interrupt'))
signal.signal(signal.SIGWINCH, lambda *_: say(size()))
with open('up', 'a') as up:
    up.write('up\\n')
value = open(os.environ['KIN_DIR'] + '/DATABASE_URL').read()
say('up %d, %s, %s' % (len(open('up').readlines()), size(), value))
assert all(map(os.isatty, range(3))) and os.tcgetpgrp(0) == os.getpgrp() == os.getpid()
while True:
    ready, _, _ = select.select([0, woken], [], [])
    if woken in ready:
        os.read(woken, 16)
    if 0 in ready:
        line = os.read(0, 64).decode().rstrip()
        sys.exit(7) if line == 'end' else say('<%s>' % line)
";

pub(super) fn attentive(world: &World) {
    std::fs::write(world.project().join("attentive.py"), ATTENTIVE).expect("a program");
}

#[test]
fn r16_a_redacted_command_that_is_started_again_has_the_terminal() {
    for options in ["--redact --on-rotate restart", "--redact --on-rotate restart --private"] {
        let world = World::ready();
        attentive(&world);
        let terminal = Terminal::shell(&world, options);
        terminal.types("$W python3 attentive.py\n");
        terminal.sees("up 1, size 80x24, [REDACTED:DATABASE_URL]\r\n");
        for (number, size) in [(2, (30, 100)), (3, (31, 101))] {
            world.secret("db/url");
            let (before_rows, before_columns) = [(24, 80), (35, 105)][number - 2];
            terminal.sees(&format!(
                "up {number}, size {before_columns}x{before_rows}, [REDACTED:DATABASE_URL]\r\n"
            ));
            terminal.types("\x03");
            terminal.sees("^Cinterrupt\r\n");
            terminal.types("hello\n");
            terminal.sees("hello\r\n<hello>\r\n");
            terminal.resize(size.0, size.1);
            terminal.sees(&format!("size {}x{}\r\n", size.1, size.0));
            terminal.types("\x1a");
            terminal.sees("Stopped");
            terminal.sees(PROMPT);
            terminal.types("echo code=$?\n");
            terminal.sees("code=148\r\n");
            terminal.resize(35, 105);
            terminal.types("fg\n");
            terminal.sees("size 105x35\r\n");
            terminal.types("again\n");
            terminal.sees("<again>\r\n");
        }
        terminal.types("end\n");
        terminal.sees(PROMPT);
        terminal.types("echo code=$?\n");
        terminal.sees("code=7\r\n");
        terminal.types("cat\n");
        terminal.is_cooked();
    }
}

#[test]
fn r16_a_redacted_command_that_is_stopped_is_started_again_when_it_goes_on() {
    let world = World::ready();
    attentive(&world);
    let terminal = Terminal::shell(&world, "--redact --on-rotate restart");
    terminal.types("$W python3 attentive.py\n");
    terminal.sees("up 1, size 80x24, [REDACTED:DATABASE_URL]\r\n");
    terminal.types("\x1a");
    terminal.sees("Stopped");
    terminal.sees(PROMPT);
    world.secret("db/url");
    // Longer than versions are waited for that come together.
    std::thread::sleep(Duration::from_millis(500));
    has_lines(&world, "up", 1);
    terminal.types("echo still=$((20 + 1))\n");
    terminal.sees("still=21\r\n");
    terminal.types("fg\n");
    terminal.sees("up 2, size 80x24, [REDACTED:DATABASE_URL]\r\n");
    terminal.types("\x03");
    terminal.sees("^Cinterrupt\r\n");
    terminal.types("end\n");
    terminal.sees(PROMPT);
    terminal.types("echo code=$?\n");
    terminal.sees("code=7\r\n");
}

#[test]
fn r16_a_redacted_command_that_is_started_again_dies_by_its_keys() {
    let world = World::ready();
    let terminal = Terminal::shell(&world, "--redact --on-rotate restart");
    for (key, code) in [("\x03", "130"), ("\x1c", "131")] {
        terminal.types("$W sh -c 'ulimit -c 0; echo $((1 + 1))up; exec sleep 60'\n");
        terminal.sees("2up\r\n");
        world.secret("db/url");
        terminal.sees("2up\r\n");
        terminal.types(key);
        terminal.sees(PROMPT);
        terminal.types("echo code=$?\n");
        terminal.sees(&format!("code={code}\r\n"));
        terminal.sees(PROMPT);
    }
}

#[test]
fn r16_a_redacted_command_that_is_started_again_stays_in_the_background() {
    let world = World::ready();
    let terminal = Terminal::shell(&world, "--redact --on-rotate restart");
    terminal.types("$W sh -c 'echo $((40 + 2)); while ! [ -e go ]; do sleep 0.05; done; read line; echo \"<$line>\"; exit 5' & \n");
    terminal.sees("42\r\n");
    world.secret("db/url");
    terminal.sees("42\r\n");
    // The keys are the shell's still.
    terminal.types("echo mine=$((20 + 1))\n");
    terminal.sees("mine=21\r\n");
    std::fs::write(world.project().join("go"), "").expect("a file");
    std::thread::sleep(Duration::from_millis(300));
    terminal.types("\n");
    terminal.sees("Stopped");
    terminal.types("fg >/dev/null; echo code=$?\n");
    std::thread::sleep(Duration::from_millis(300));
    terminal.types("key\n");
    terminal.sees("<key>");
    terminal.sees("code=5\r\n");
}
