//! Is a redacted command's terminal as that of script(1), which gives a command a terminal and nothing else? The same
//! keys for a bare command, for one under `kin run --redact` and for one under `script -qec`: the same screens.

use std::time::Duration;

use kin_tests::{PROMPT, Terminal, World};

/// One way to run a program, and what its screen shows.
struct Way<'w> {
    line: String,
    terminal: &'w Terminal,
}

impl Way<'_> {
    /// Runs it; what ends it is for the test to do.
    fn start(&self) {
        self.terminal.types(&format!("{}\n", self.line));
    }

    /// Waits for the prompt; its code is on the screen then.
    fn ended(&self) {
        self.terminal.sees(PROMPT);
        self.terminal.types("echo code=$?\n");
        self.terminal.sees("code=");
        self.terminal.sees(PROMPT);
    }
}

/// The screens of the three ways, with the program's name for each command line: bare, under kin, under script.
fn screens(world: &World, program: &str, act: impl Fn(&Way<'_>)) -> [String; 3] {
    // script starts a shell, which is not to be there besides.
    let lines =
        [program.to_owned(), format!("$W {program}"), format!("script -qec 'exec {program}' /dev/null")];
    lines.map(|line| {
        let terminal = Terminal::shell(world, "--redact");
        act(&Way { line: line.clone(), terminal: &terminal });
        terminal.types("echo the $((1 + 1))nd prompt\n");
        terminal.sees("the 2nd prompt\r\n");
        terminal.sees(PROMPT);
        terminal.shown().replace(&line, program)
    })
}

/// One screen, which all three must be.
fn same(world: &World, program: &str, act: impl Fn(&Way<'_>)) -> String {
    let [bare, redacted, script] = screens(world, program, act);
    assert_eq!(redacted, bare, "under kin, and bare");
    assert_eq!(redacted, script, "under kin, and under script");
    redacted
}

fn program(world: &World, name: &str, text: &str) {
    std::fs::write(world.project().join(name), text).expect("a program");
}

/// Says its size, each change of it and each interrupt, and ends with 7 at a line.
const ATTENTIVE: &str = "
import fcntl, os, signal, sys
asked = [signal.SIGINT, signal.SIGWINCH, signal.SIGIO]
say = lambda text: os.write(1, (text + '\\n').encode())
size = lambda: 'size %dx%d' % tuple(os.get_terminal_size())
signal.pthread_sigmask(signal.SIG_BLOCK, asked)
fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
flags = fcntl.fcntl(0, fcntl.F_GETFL)
fcntl.fcntl(0, fcntl.F_SETFL, flags | os.O_ASYNC)
say('up, ' + size())
while (got := signal.sigwait(asked)) != signal.SIGIO:
    say('interrupt' if got == signal.SIGINT else size())
fcntl.fcntl(0, fcntl.F_SETFL, flags)
sys.exit(7 if os.read(0, 64) == b'end\\n' else 1)
";

#[test]
fn r16_changes_of_size_are_as_under_script() {
    let world = World::ready();
    program(&world, "attentive.py", ATTENTIVE);
    let shown = same(&world, "python3 attentive.py", |way| {
        way.start();
        way.terminal.sees("up, size 80x24\r\n");
        for (rows, columns) in [(30, 100), (10, 20), (24, 80)] {
            way.terminal.resize(rows, columns);
            way.terminal.sees(&format!("size {columns}x{rows}\r\n"));
        }
        way.terminal.types("end\n");
        way.ended();
    });
    assert_eq!((shown.matches("size ").count(), shown.matches("code=7").count()), (4, 1), "{shown}");
}

#[test]
fn r16_interrupts_are_as_under_script() {
    let world = World::ready();
    program(&world, "attentive.py", ATTENTIVE);
    program(&world, "mortal.sh", "ulimit -c 0; echo up; exec sleep 60");
    let shown = same(&world, "python3 attentive.py", |way| {
        way.start();
        way.terminal.sees("up, size 80x24\r\n");
        for _ in 0..3 {
            way.terminal.types("\x03");
            way.terminal.sees("^Cinterrupt\r\n");
            // A second one would be shown by then.
            std::thread::sleep(Duration::from_millis(100));
        }
        way.terminal.types("end\n");
        way.ended();
    });
    assert_eq!(shown.matches("interrupt").count(), 3, "{shown}");
    for (key, echo, said, code) in [("\x03", "^C", "\r\n", 130), ("\x1c", "^\\", "Quit\r\n", 131)] {
        let [bare, redacted, script] = screens(&world, "sh mortal.sh", |way| {
            way.start();
            way.terminal.sees("up\r\n");
            way.terminal.types(key);
            way.ended();
        });
        assert_eq!(redacted, bare);
        // script exits with 128 + N, where kin dies by the signal: of that bash says something.
        assert_eq!(redacted, script.replace(echo, &format!("{echo}{said}")));
        assert!(redacted.contains(&format!("code={code}\r\n")), "{redacted}");
    }
}

/// Reads four keys of a raw terminal, and puts its modes back.
const RAW: &str = "
import os, tty, termios
modes = tty.tcgetattr(0)
tty.setraw(0)
os.write(1, b'raw\\n')
keys = [os.read(0, 1) for _ in range(4)]
tty.tcsetattr(0, termios.TCSANOW, modes)
print(keys)
";

#[test]
fn r16_raw_mode_is_as_under_script() {
    let world = World::ready();
    program(&world, "raw.py", RAW);
    let shown = same(&world, "python3 raw.py", |way| {
        way.start();
        // No carriage return: the line feed is as it was written.
        way.terminal.sees("raw\n");
        way.terminal.is_raw();
        for key in ["\x03", "\x1a", "\x04", "\x1b"] {
            way.terminal.types(key);
        }
        way.terminal.sees("[b'\\x03', b'\\x1a', b'\\x04', b'\\x1b']\r\n");
        way.ended();
        way.terminal.types("stty -a\n");
        way.terminal.sees("echoke");
        way.terminal.sees(PROMPT);
    });
    assert!(shown.contains("code=0"), "{shown}");
}

#[test]
fn r16_stops_are_as_those_of_a_bare_command_and_script_has_none() {
    let world = World::ready();
    program(&world, "copy.sh", "echo up; exec cat");
    let stop = |way: &Way<'_>| {
        way.start();
        way.terminal.sees("up\r\n");
        way.terminal.types("one\n");
        way.terminal.sees("one\r\none\r\n");
        way.terminal.types("\x1a");
    };
    let [bare, redacted, script] = screens(&world, "sh copy.sh", |way| {
        stop(way);
        if way.line.starts_with("script") {
            // The command's group is orphaned there: its parent is script, in another session, and the kernel stops
            // nobody whom nobody could continue (setpgid(2)). Under kin the keeper leads the command's session,
            // so that ^Z does what it does without.
            way.terminal.types("two\n");
            way.terminal.sees("two\r\ntwo\r\n");
        } else {
            way.terminal.sees("Stopped");
            way.ended();
            way.terminal.types("fg\n");
            way.terminal.sees("copy.sh\r\n");
            // Nothing on the screen tells when the shell has handed the terminal over.
            std::thread::sleep(Duration::from_millis(300));
            way.terminal.types("two\n");
            way.terminal.sees("two\r\ntwo\r\n");
        }
        way.terminal.types("\x04");
        way.ended();
    });
    assert_eq!(redacted, bare);
    assert!(redacted.contains("code=148") && !script.contains("Stopped"), "{redacted} {script}");
    assert!([redacted, script].iter().all(|screen| screen.contains("code=0")));
    // A shell inside has its jobs in all of them.
    let shown = same(&world, "bash --norc --noprofile -i", |way| {
        way.start();
        way.terminal.sees(PROMPT);
        way.terminal.types("sh copy.sh\n");
        way.terminal.sees("up\r\n");
        way.terminal.types("\x1a");
        way.terminal.sees("Stopped");
        way.terminal.sees(PROMPT);
        way.terminal.types("fg\n");
        way.terminal.sees("sh copy.sh\r\n");
        std::thread::sleep(Duration::from_millis(300));
        way.terminal.types("again\n");
        way.terminal.sees("again\r\nagain\r\n");
        way.terminal.types("\x04");
        way.terminal.sees(PROMPT);
        way.terminal.types("exit 6\n");
        way.ended();
    });
    assert!(shown.contains("code=6"), "{shown}");
}

#[test]
fn r16_colours_are_as_under_script() {
    let world = World::ready();
    program(
        &world,
        "colours.sh",
        "export TERM=xterm; ls --color=auto -d / /no-such-place; echo one | grep --color=auto n; \
            printf '\\033[1;32mgreen\\033[0m\\n'; for fd in 0 1 2; do test -t $fd; echo $fd $?; done",
    );
    let shown = same(&world, "sh colours.sh", |way| {
        way.start();
        way.terminal.sees("2 0\r\n");
        way.ended();
    });
    for coloured in ["\x1b[01;34m/", "\x1b[01;31m", "\x1b[1;32mgreen\x1b[0m"] {
        assert!(shown.contains(coloured), "{coloured:?} {shown:?}");
    }
}

#[test]
fn r16_exit_codes_are_as_under_script() {
    let world = World::ready();
    for (text, code) in
        [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -9 $$", 137)]
    {
        program(&world, "ends.sh", text);
        let [bare, redacted, script] = screens(&world, "sh ends.sh", |way| {
            way.start();
            way.ended();
        });
        assert_eq!(redacted, bare);
        assert!([&redacted, &script].iter().all(|screen| screen.contains(&format!("code={code}\r\n"))));
    }
    // Who waits for it sees what script does not tell: that a signal ended the command.
    program(&world, "ends.sh", "kill -TERM $$");
    program(
        &world,
        "waits.py",
        "import os, sys; print('status', os.waitstatus_to_exitcode(os.system(sys.argv[1])))",
    );
    for (line, status) in [
        ("exec sh ends.sh", -15),
        ("exec $W sh ends.sh", -15),
        ("exec script -qec \"sh ends.sh\" /dev/null", 143),
    ] {
        let terminal = Terminal::shell(&world, "--redact");
        terminal.types(&format!("python3 waits.py '{line}'\n"));
        terminal.sees(&format!("status {status}\r\n"));
    }
}
