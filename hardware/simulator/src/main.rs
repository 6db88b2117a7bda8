//! The simulated sensor as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    clawgate_simulator::main_with(std::env::args_os())
}
