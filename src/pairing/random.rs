//! The operating system's random source, as the protocol crate takes it.

use clawgate_protocol::Random;

/// Random bytes from the operating system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OsRandom;

impl Random for OsRandom {
    fn fill(&mut self, bytes: &mut [u8]) {
        if let Err(error) = getrandom::fill(bytes) {
            // Keys from anything else would be worse than none; the port's supervisor reports it.
            tracing::error!(error = %error, "no random bytes from the operating system");
            std::panic::resume_unwind(Box::new("no random bytes from the operating system"));
        }
    }
}
