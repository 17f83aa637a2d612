//! How does a keeper reach the broker that made its grant, and see its end? Unless it is told of
//! rotations it holds no connection while its command runs: a grant is to cost the broker little.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use kin_broker::control::Client;
use kin_broker::control::protocol::Question;
use kin_broker::sys::paths::Directories;
use kin_broker::{Error, Result};
use kin_policy::Ending;

/// How long the end of a command waits for the broker to hear of it.
const DEADLINE: Duration = Duration::from_secs(1);
/// How soon a broker that serves as many connections as it can is asked again.
const AGAIN: Duration = Duration::from_millis(20);

/// The broker, by its process: another one that listens in its place later knows nothing of the grant.
pub(super) struct Broker<'a> {
    directories: &'a Directories,
    process: OwnedFd,
}

impl<'a> Broker<'a> {
    /// The one at the other end of a connection.
    ///
    /// # Errors
    /// `broker_unreachable` where it has ended.
    pub(super) fn behind(client: &Client, directories: &'a Directories) -> Result<Self> {
        Ok(Self { directories, process: client.process()? })
    }

    /// Says that the grant ends, and how; tries for as long as the command's end may wait for it. The keeper's
    /// own end will do where this fails.
    pub(super) fn finish(&self, ending: Ending) {
        let until = Instant::now() + DEADLINE;
        while self.tell(ending).is_err_and(|error| error.code == "broker_unreachable")
            && Instant::now() < until
        {
            std::thread::sleep(AGAIN);
        }
    }

    fn tell(&self, ending: Ending) -> Result<()> {
        self.ask(Question::Finish { ending })
    }

    /// Says which process is the command from now on.
    ///
    /// # Errors
    /// `grant_ended`; `broker_unreachable`.
    pub(super) fn command_started(&self, pid: u32) -> Result<()> {
        self.ask(Question::CommandStarted { pid })
    }

    fn ask(&self, question: Question) -> Result<()> {
        let mut client = Client::connect(self.directories)?;
        let limit = |error| Error::internal("set a deadline", error);
        client.stream().set_read_timeout(Some(DEADLINE)).map_err(limit)?;
        client.stream().set_write_timeout(Some(DEADLINE)).map_err(limit)?;
        client.ask(question)
    }
}

/// For poll(2): readable once the broker has ended.
impl AsFd for Broker<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}
