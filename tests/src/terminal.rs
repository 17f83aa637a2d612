//! How does something look on a terminal? A shell with job control, and a person at it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use kin_broker::sys::terminal::{Size, resize};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{LocalFlags, tcgetattr};

use crate::world::{World, binary, eventually};

/// What the shell says when it waits.
pub const PROMPT: &str = "READY> ";

/// A terminal with a shell that leads its session.
pub struct Terminal {
    leader: Child,
    keys: Option<File>,
    screen: Arc<Mutex<Screen>>,
    over: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Screen {
    shown: Vec<u8>,
    /// What was waited for already.
    seen: usize,
}

impl Terminal {
    /// 24 rows, 80 columns; `W` in the shell's environment is `kin run` with these options.
    ///
    /// # Panics
    /// Where there is no terminal to be had.
    pub fn shell(world: &World, options: &str) -> Self {
        let (master, slave) = terminal();
        resize(&master, &Size { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).expect("a size");
        let side = || slave.try_clone().expect("a descriptor");
        let mut command = world.program("setsid");
        command.args(["--ctty", "bash", "--norc", "--noprofile", "-i"]);
        command.env("W", format!("{} run {options} --", binary().display()));
        command.env("PS1", PROMPT).env("HISTFILE", "").env("TERM", "dumb");
        let leader =
            command.stdin(side()).stdout(side()).stderr(side()).spawn().expect("setsid of util-linux");
        world.shared().track(leader.id());
        drop((command, slave));
        let output = master.try_clone().expect("a descriptor");
        let (screen, over) = (Arc::<Mutex<Screen>>::default(), Arc::new(AtomicBool::new(false)));
        let (shown, stop) = (screen.clone(), over.clone());
        let reader = std::thread::spawn(move || read_screen(output, &shown, &stop));
        let terminal = Self { leader, keys: Some(master), screen, over, reader: Some(reader) };
        terminal.sees(PROMPT);
        terminal
    }

    /// Types.
    ///
    /// # Panics
    /// Where the terminal is hung up.
    pub fn types(&self, keys: &str) {
        let mut terminal = self.keys.as_ref().expect("it is not hung up");
        terminal.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Waits until `text` is shown after what was waited for before.
    ///
    /// # Panics
    /// Where it does not come.
    #[track_caller]
    pub fn sees(&self, text: &str) {
        let found = || {
            let mut screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
            let place =
                screen.shown[screen.seen..].windows(text.len()).position(|part| part == text.as_bytes());
            screen.seen += place.map_or(0, |place| place + text.len());
            place.is_some()
        };
        let end = std::time::Instant::now() + Duration::from_secs(15);
        while !found() {
            assert!(std::time::Instant::now() < end, "{text:?} is not on the screen: {:?}", self.shown());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Everything that was shown.
    pub fn shown(&self) -> String {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&screen.shown).into_owned()
    }

    /// Makes it as large.
    ///
    /// # Panics
    /// Where the terminal is hung up.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Size { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        resize(self.keys.as_ref().expect("it is not hung up"), &size).expect("a size");
    }

    /// Waits until whoever reads the keys gets each of them at once.
    ///
    /// # Panics
    /// Where that does not come about.
    pub fn is_raw(&self) {
        self.has_modes("raw", |local| !local.contains(LocalFlags::ICANON));
    }

    /// Waits until lines are edited and shown, as for a program that is no editor.
    ///
    /// # Panics
    /// Where that does not come about.
    pub fn is_cooked(&self) {
        self.has_modes("cooked", |local| local.contains(LocalFlags::ICANON | LocalFlags::ECHO));
    }

    fn has_modes(&self, what: &str, is: impl Fn(LocalFlags) -> bool) {
        let keys = self.keys.as_ref().expect("it is not hung up");
        eventually(what, Duration::from_secs(10), || {
            tcgetattr(keys).is_ok_and(|modes| is(modes.local_flags))
        });
    }

    /// Hangs it up: nobody holds its other side any more.
    pub fn hang_up(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.keys = None;
    }
}

/// Both sides of a terminal; openpty(3) would leak them into the children of other tests.
fn terminal() -> (File, File) {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags).expect("a terminal");
    grantpt(&master).expect("grantpt");
    unlockpt(&master).expect("unlockpt");
    let name = ptsname_r(&master).expect("a name");
    let slave =
        nix::fcntl::open(name.as_str(), flags, nix::sys::stat::Mode::empty()).expect("its other side");
    (File::from(OwnedFd::from(master)), File::from(slave))
}

fn read_screen(mut output: File, screen: &Mutex<Screen>, over: &AtomicBool) {
    let mut bytes = [0; 4096];
    while !over.load(Ordering::Relaxed) {
        let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, 20u8) == Ok(0) {
            continue;
        }
        match output.read(&mut bytes) {
            Ok(got @ 1..) => {
                screen.lock().unwrap_or_else(PoisonError::into_inner).shown.extend_from_slice(&bytes[..got]);
            }
            _ => return,
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.hang_up();
        let _ = self.leader.kill();
        let _ = self.leader.wait();
    }
}
