//! What the unit says on its console: an event as a sentence, its state as one line of JSON.

use core::fmt;

use clawgate_protocol::pairing::Ceremony;
use clawgate_protocol::sensor::Event;

/// An event in the words of the simulator.
pub(crate) struct Told<'e>(pub(crate) &'e Event);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Event::Blink { seconds } => write!(f, "blink for {seconds} s"),
            Event::WindowOpened(Ceremony::Label) => f.write_str("pairing window open for the label's code"),
            Event::WindowOpened(_) => f.write_str("pairing window open for the entered code"),
            Event::WindowClosed => f.write_str("pairing window closed"),
            Event::Paired { gateway, .. } => write!(f, "paired with {gateway}"),
            Event::PairingFailed(failure) => write!(f, "pairing failed: {failure}"),
            Event::KeyProven { pairing_id } => write!(f, "key proven {:016x}", u64::from_be_bytes(*pairing_id)),
            Event::SessionOpened => f.write_str("session open"),
            Event::SessionClosed => f.write_str("session closed by the gateway"),
            Event::Unpaired => f.write_str("reset: all keys erased, by the gateway"),
            Event::TimeSet => f.write_str("clock set"),
            Event::StorageFailed => f.write_str("the keys could not be written to flash"),
            Event::Safe { seq, .. } => write!(f, "safe {seq}"),
            _ => f.write_str("an event of a later version"),
        }
    }
}

/// How the unit is.
#[derive(Debug, Default)]
pub(crate) struct Status {
    pub(crate) paired: bool,
    pub(crate) connected: bool,
    pub(crate) window: Option<Ceremony>,
    pub(crate) held: usize,
    pub(crate) made: u32,
    pub(crate) epoch: u64,
    pub(crate) clock_set: bool,
    pub(crate) label_attempts: u32,
    pub(crate) stack: usize,
    pub(crate) work: Work,
}

/// How long the core worked on the last one of each, in nanoseconds.
#[derive(Debug, Default, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "the unit of each")]
pub(crate) struct Work {
    pub(crate) pairing_ns: u64,
    pub(crate) session_ns: u64,
    pub(crate) reading_ns: u64,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let window = match self.window {
            None => "null",
            Some(Ceremony::Label) => "\"label\"",
            Some(_) => "\"issued\"",
        };
        let Self { paired, connected, held, made, epoch, clock_set, label_attempts, stack, .. } = self;
        let Work { pairing_ns, session_ns, reading_ns } = self.work;
        write!(
            f,
            "{{\"paired\":{paired},\"connected\":{connected},\"window\":{window},\"held\":{held},\"made\":{made},\
             \"epoch\":\"{epoch:016x}\",\"clock_set\":{clock_set},\"label_attempts\":{label_attempts},\
             \"stack\":{stack},\"pairing_ns\":{pairing_ns},\
             \"session_ns\":{session_ns},\"reading_ns\":{reading_ns}}}"
        )
    }
}
