//! The demonstration's processes: started, listened to, and ended by their id in every way out.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Set for a process that must not outlive the demonstration.
const WITH_PARENT: &str = "CLAWGATE_DEMO_PROCESS";
/// Lines of a process that wait for us; older ones are read and dropped.
const LINES: usize = 64;
/// How long a process may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(15);

/// In a process of the demonstration: ends with it, even where it was killed outright.
pub(crate) fn end_with_parent() {
    if std::env::var_os(WITH_PARENT).is_some() {
        // Where the kernel refuses, the end of standard input still reaches all but the daemon.
        let _ = set_parent_process_death_signal(Some(Signal::TERM));
    }
}

/// A running process. Dropping it kills it, by its id, also when the demonstration panics.
#[derive(Debug)]
pub(super) struct Process {
    /// What people call it.
    pub(super) name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    log: PathBuf,
}

impl Process {
    /// Starts this same executable with `args`; its standard error goes to a log in `dir`.
    ///
    /// It gets a process group of its own, so that Ctrl-C reaches the demonstration alone, which ends it in order.
    pub(super) fn start(name: &str, dir: &Path, args: impl IntoIterator<Item = OsString>) -> io::Result<Self> {
        let log = dir.join(format!("{name}.err"));
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .env_remove("CLAWGATE_SOCKET")
            .env(WITH_PARENT, "1")
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (sender, lines) = mpsc::channel(LINES);
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(async move {
                let mut stdout = BufReader::new(stdout).lines();
                while let Ok(Some(line)) = stdout.next_line().await {
                    // Read on even if nobody listens: a full pipe would stop the process.
                    let _ = sender.try_send(line);
                }
            });
        }
        let stdin = child.stdin.take();
        Ok(Self { name: name.to_owned(), child, stdin, lines, log })
    }

    /// The next line it says; none when it ended.
    pub(super) async fn line(&mut self) -> Option<String> {
        self.lines.recv().await
    }

    /// Says a line to it.
    pub(super) async fn say(&mut self, line: &str) -> io::Result<()> {
        let Some(stdin) = &mut self.stdin else { return Err(io::ErrorKind::BrokenPipe.into()) };
        stdin.write_all(format!("{line}\n").as_bytes()).await?;
        stdin.flush().await
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The last words of its standard error.
    pub(super) fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// Ends it in order: its standard input ends, then SIGTERM if `by_signal`; at last SIGKILL.
    pub(super) async fn end(mut self, by_signal: bool) {
        self.stdin = None;
        if by_signal && let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            // Not reaped yet, so the id is still its own.
            let _ = kill_process(pid, Signal::TERM);
        }
        if timeout(PATIENCE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}
