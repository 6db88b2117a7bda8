//! What keeps the tests of this binary, which are threads of one process, out of each other's way.

use std::io::{self, Read as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held while a process starts.
///
/// Until it runs as its own program, a new process holds a copy of every file that was open here: what a test closes in
/// that moment is still open, a lock still held, a listener still heard. It is let go of a moment after
/// [`Command::spawn`] came back, and before the program's first instruction.
static STARTING: Mutex<()> = Mutex::new(());

/// Runs a program to its end. Tests start none without this file.
pub(crate) fn output(command: &mut Command) -> io::Result<Output> {
    let _starting = starting();
    command.output()
}

/// Starts a program that says something as soon as it runs, and waits for that.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    let _starting = starting();
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    if let Some(said) = &mut child.stdout {
        said.read_exact(&mut [0])?;
    }
    Ok(child)
}

/// What this process closed before is closed everywhere once this returns.
pub(crate) fn let_go() {
    drop(starting());
}

fn starting() -> MutexGuard<'static, ()> {
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}
