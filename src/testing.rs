//! What keeps the tests of this binary, which are threads of one process, out of each other's way.

use std::io;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held while a process starts.
///
/// Until it has become its program, a new process holds a copy of every file that was open here: what a test closes in
/// that moment is still open, a lock still held, a listener still heard.
static STARTING: Mutex<()> = Mutex::new(());

/// Starts a program. Tests start none in any other way.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    let _starting = starting();
    // Comes back once the new process has closed what is not its own.
    command.spawn()
}

/// Starts a program and waits for its end.
pub(crate) fn output(command: &mut Command) -> io::Result<Output> {
    spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?.wait_with_output()
}

/// What this process closed before is closed everywhere once this returns.
pub(crate) fn let_go() {
    drop(starting());
}

fn starting() -> MutexGuard<'static, ()> {
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}
