//! clawgate: the OpenClaw pairing agent for Linux edge gateways.

use std::process::ExitCode;

fn main() -> ExitCode {
    clawgate::cli::main()
}
