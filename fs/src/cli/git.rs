//! What does git say of a path? It is asked, where it is there, with a deadline, and told to start nothing.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long git may take for an answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// Whether `directory` is in a git work tree.
pub(super) fn is_work_tree(directory: &Path) -> bool {
    directory.ancestors().any(|above| std::fs::symlink_metadata(above.join(".git")).is_ok())
}

/// Whether git ignores a path below `directory`; where it does not answer, it does not.
pub(super) fn ignores(directory: &Path, path: &Path) -> bool {
    says_yes(directory, &["check-ignore", "--quiet", "--no-index", "--"], path)
}

/// Whether git tracks a path below `directory`.
pub(super) fn tracks(directory: &Path, path: &Path) -> bool {
    is_work_tree(directory) && says_yes(directory, &["ls-files", "--error-unmatch", "--"], path)
}

/// A checkout's own configuration may name programs to start (core.fsmonitor, git-config(1)): not for this.
fn says_yes(directory: &Path, question: &[&str], path: &Path) -> bool {
    let child = Command::new("git")
        .args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "--literal-pathspecs"])
        .args(question)
        .arg(path)
        .current_dir(directory)
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return false };
    let until = Instant::now() + DEADLINE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}
