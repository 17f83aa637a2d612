//! Does a redacted command behave on a terminal as a bare one? The same keys, and the same screen.

use std::time::Duration;

use kin_tests::{PROMPT, Terminal, World, eventually, process};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::r_rotation::attentive;

/// What a person does, once with the command bare and once with `$W` before it: the screens must be the same.
fn both(world: &World, act: impl Fn(&Terminal, &str)) {
    let screen = |before: &str| {
        let terminal = Terminal::shell(world, "--redact");
        act(&terminal, before);
        terminal.types("echo the $((1 + 1))nd prompt\n");
        terminal.sees("the 2nd prompt");
        terminal.sees(PROMPT);
        terminal.shown().replace("$W ", "")
    };
    assert_eq!(screen("$W "), screen(""));
}

fn runs(terminal: &Terminal, line: &str) {
    terminal.types(&format!("{line}; echo code=$?\n"));
    terminal.sees("code=$?");
}

fn ended(terminal: &Terminal, code: &str) {
    terminal.sees(&format!("code={code}\r\n"));
    terminal.sees(PROMPT);
}

#[test]
fn r16_modes_size_colour_and_exit_code_are_the_same() {
    let world = World::ready();
    both(&world, |terminal, w| {
        runs(terminal, &format!("{w}stty -a"));
        ended(terminal, "0");
        runs(terminal, &format!("{w}ls --color=auto -d / no-such-thing"));
        ended(terminal, "2");
        runs(terminal, &format!("{w}sh -c 'test -t 0 && test -t 1 && test -t 2 && stty size && exit 7'"));
        ended(terminal, "7");
        runs(terminal, &format!("{w}seq 1 3000"));
        ended(terminal, "0");
    });
}

#[test]
fn r16_a_value_is_masked_on_a_terminal_too() {
    let world = World::ready();
    let terminal = Terminal::shell(&world, "--redact");
    runs(
        &terminal,
        "$W sh -c 'cat $KIN_DIR/DATABASE_URL; cat $KIN_DIR/API_KEY >&2; cat $KIN_DIR/API_KEY >/dev/tty'",
    );
    terminal.sees("[REDACTED:DATABASE_URL][REDACTED:API_KEY][REDACTED:API_KEY]");
    ended(&terminal, "0");
    for reference in ["db/url", "api/key"] {
        assert!(!terminal.shown().contains(&*String::from_utf8_lossy(&world.value(reference))));
    }
}

#[test]
fn r16_streams_that_are_no_terminal_stay_apart() {
    let world = World::ready();
    both(&world, |terminal, w| {
        let which = "for fd in 0 1 2; do test -t $fd; echo $fd $?; done; echo error >&2";
        runs(terminal, &format!("{w}sh -c '{which}' 2>errors; cat errors; rm errors"));
        ended(terminal, "0");
        runs(terminal, &format!("{w}sh -c '({which}) >&2' >outs; cat outs; rm outs"));
        ended(terminal, "0");
        runs(terminal, &format!("echo piped | {w}sh -c 'cat; {which}; stty size </dev/tty'"));
        ended(terminal, "0");
        runs(terminal, &format!("{w}sh -c '{which}' 2>&1 | cat"));
        ended(terminal, "0");
    });
}

#[test]
fn r16_keys_are_the_commands_in_every_mode() {
    let world = World::ready();
    both(&world, |terminal, w| {
        runs(terminal, &format!("{w}sh -c 'echo ready; read line; echo \"<$line>\"'"));
        terminal.sees("ready\r\n");
        terminal.types("hello\x7f\x7fp\n");
        terminal.sees("<help>");
        ended(terminal, "0");
        // No echo, then no line discipline at all: ^C is a key.
        runs(terminal, &format!("{w}sh -c 'stty -echo; echo ready; read line; stty echo; echo \"<$line>\"'"));
        terminal.sees("ready\r\n");
        terminal.types("unseen\n");
        terminal.sees("<unseen>");
        ended(terminal, "0");
        let raw = "import os, sys, tty; old = tty.tcgetattr(0); tty.setraw(0); os.write(1, b\"ready\"); key = os.read(0, 1); \
            tty.tcsetattr(0, tty.TCSANOW, old); print(key)";
        runs(terminal, &format!("{w}python3 -c '{raw}'"));
        terminal.sees("ready");
        terminal.types("\x03");
        terminal.sees("b'\\x03'");
        ended(terminal, "0");
        // End of file.
        runs(terminal, &format!("{w}sh -c 'echo ready; exec cat'"));
        terminal.sees("ready\r\n");
        terminal.types("line\n\x04");
        terminal.sees("line\r\nline\r\n");
        ended(terminal, "0");
        // What the command does to the terminal stays done.
        runs(terminal, &format!("{w}stty -echo"));
        ended(terminal, "0");
        terminal.types("stty echo\n");
        terminal.sees(PROMPT);
    });
}

#[test]
fn r16_a_change_of_size_reaches_the_command() {
    let world = World::ready();
    let terminal = Terminal::shell(&world, "--redact");
    attentive(&world);
    terminal.types("$W python3 attentive.py\n");
    terminal.sees("up 1, size 80x24, ");
    terminal.sees("\r\n");
    terminal.resize(30, 100);
    terminal.sees("size 100x30\r\n");
    terminal.resize(30, 90);
    terminal.sees("size 90x30\r\n");
    // Changed while it is stopped.
    terminal.types("\x1a");
    terminal.sees("Stopped");
    terminal.sees(PROMPT);
    terminal.resize(30, 70);
    terminal.types("fg\n");
    terminal.sees("size 70x30\r\n");
    terminal.types("end\n");
    terminal.sees(PROMPT);
}

#[test]
fn r16_an_interrupt_and_a_quit_end_a_redacted_command() {
    let world = World::ready();
    both(&world, |terminal, w| {
        for (key, code) in [("\x03", "130"), ("\x1c", "131")] {
            terminal.types(&format!("{w}sh -c 'ulimit -c 0; echo up; exec sleep 60'\n"));
            terminal.sees("up\r\n");
            terminal.types(key);
            terminal.sees(PROMPT);
            runs(terminal, "(exit $?)");
            ended(terminal, code);
        }
    });
}

#[test]
fn r16_a_redacted_command_stops_and_goes_on() {
    let world = World::ready();
    both(&world, |terminal, w| {
        terminal.types(&format!("{w}sh -c 'echo up; exec cat'\n"));
        terminal.sees("up\r\n");
        for word in ["one", "two", "three"] {
            terminal.types(&format!("{word}\n"));
            terminal.sees(&format!("{word}\r\n{word}\r\n"));
            terminal.types("\x1a");
            terminal.sees("Stopped");
            terminal.sees(PROMPT);
            terminal.types("echo code=$?\n");
            ended(terminal, "148");
            terminal.types("fg >/dev/null\n");
            terminal.sees("fg >/dev/null\r\n");
            // Nothing on the screen tells when the shell has handed the terminal over.
            std::thread::sleep(Duration::from_millis(300));
        }
        terminal.types("\x04");
        terminal.sees(PROMPT);
        terminal.types("echo code=$?\n");
        ended(terminal, "0");
    });
    // The shell has its modes while the command is stopped, and after it.
    let terminal = Terminal::shell(&world, "--redact");
    terminal.types("$W sh -c 'echo $((1 + 1))up; exec cat'\n");
    terminal.sees("2up\r\n");
    terminal.types("\x1a");
    terminal.sees("Stopped");
    let keeper = process::Process::of(world.keeper(0)).expect("a keeper");
    terminal.types("kill -9 %1; cat\n");
    terminal.is_cooked();
    eventually("the stopped command hangs up", Duration::from_secs(5), || !keeper.is_alive());
}

#[test]
fn r16_in_the_background_a_redacted_command_writes_and_stops_where_it_reads() {
    let world = World::ready();
    let terminal = Terminal::shell(&world, "--redact");
    terminal.types("$W sh -c 'echo $((40 + 2)); read line; echo \"<$line>\"; exit 5' & \n");
    terminal.sees("42\r\n");
    std::thread::sleep(Duration::from_millis(200));
    terminal.types("\n");
    terminal.sees("Stopped");
    terminal.types("fg >/dev/null; echo code=$?\n");
    std::thread::sleep(Duration::from_millis(300));
    terminal.types("mine\n");
    terminal.sees("<mine>");
    terminal.sees("code=5\r\n");
    // In a pipeline it has to ask for the keys.
    runs(&terminal, "echo piped | $W sh -c 'cat; read line </dev/tty; echo \"<$line>\"'");
    terminal.sees("piped\r\n");
    terminal.is_raw();
    terminal.types("key\n");
    terminal.sees("<key>");
    ended(&terminal, "0");
}

#[test]
fn r16_a_shell_in_a_redacted_run_has_jobs_of_its_own() {
    let world = World::ready();
    both(&world, |terminal, w| {
        terminal.types(&format!("{w}bash --norc --noprofile -i\n"));
        terminal.sees(PROMPT);
        terminal.types("sleep 60\n");
        terminal.sees("sleep 60\r\n");
        std::thread::sleep(Duration::from_millis(300));
        terminal.types("\x1a");
        terminal.sees("Stopped");
        terminal.sees(PROMPT);
        terminal.types("fg\n");
        terminal.sees("sleep 60\r\n");
        std::thread::sleep(Duration::from_millis(300));
        terminal.types("\x03");
        terminal.sees(PROMPT);
        terminal.types("exit 6\n");
        terminal.sees(PROMPT);
        terminal.types("echo code=$?\n");
        ended(terminal, "6");
    });
}

/// Says each signal that it gets, and ends with 3 at SIGUSR2.
const NOTING: &str = "
import os, signal, sys
asked = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH, signal.SIGUSR2]
signal.pthread_sigmask(signal.SIG_BLOCK, asked)
os.write(1, b'up\\n')
while (got := signal.sigwait(asked)) != signal.SIGUSR2:
    os.write(1, b'got %s\\n' % got.name.encode())
sys.exit(3)
";

#[test]
fn r16_a_signal_to_the_group_of_a_redacted_job_reaches_its_command_once() {
    let world = World::ready();
    std::fs::write(world.project().join("noting.py"), NOTING).expect("a program");
    for (options, background) in [("--redact", ""), ("--redact", "&"), ("--redact --private", "")] {
        let terminal = Terminal::shell(&world, options);
        terminal.types(&format!("$W python3 noting.py {background}\n"));
        terminal.sees("up\r\n");
        let keeper = process::Process::of(world.keeper(0)).expect("a keeper");
        // The job's leader, and all of its group that there is: the command has a session of its own.
        let front = keeper.parent().and_then(|front| i32::try_from(front).ok()).expect("a front");
        let send = |signal| killpg(Pid::from_raw(front), signal).expect("a group");
        let signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGTERM];
        for signal in signals {
            send(signal);
            terminal.sees(&format!("got {signal}\r\n"));
            // A second one would be shown by then.
            std::thread::sleep(Duration::from_millis(100));
        }
        send(Signal::SIGUSR2);
        if background.is_empty() {
            terminal.sees(PROMPT);
            runs(&terminal, "(exit $?)");
            ended(&terminal, "3");
        }
        eventually("the grant is over", Duration::from_secs(5), || world.grants().is_empty());
        assert_eq!(terminal.shown().matches("got SIG").count(), signals.len(), "{:?}", terminal.shown());
    }
}

#[test]
fn r16_a_hangup_ends_a_redacted_command() {
    let world = World::ready();
    let mut terminal = Terminal::shell(&world, "--redact");
    terminal.types(
        "$W sh -c 'trap \"echo HUP >got; exit 0\" HUP; echo $((1 + 1))up; while :; do sleep 0.05; done'\n",
    );
    terminal.sees("2up\r\n");
    terminal.hang_up();
    kin_tests::eventually("the command hears of it", Duration::from_secs(5), || {
        std::fs::read_to_string(world.project().join("got")).is_ok_and(|text| text == "HUP\n")
    });
    std::fs::remove_file(world.project().join("got")).unwrap();
    kin_tests::eventually("the grant is over", Duration::from_secs(5), || world.grants().is_empty());
}
