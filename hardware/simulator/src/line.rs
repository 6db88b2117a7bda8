//! What the unit speaks on: a serial line with its frames, or the air through a radio of somebody else's.

use std::os::fd::{AsFd as _, BorrowedFd};

use clawgate_protocol::MAX_MESSAGE;
use clawgate_protocol::ble::Advertisement;
use clawgate_protocol::fragment::{Header, Joiner};
use clawgate_protocol::frame::uart::{self, Decoder};
use rustix::event::PollFlags;

use crate::air::{Air, AirError};
use crate::options::Options;
use crate::say;
use crate::tty::{Io, Tty, TtyError};

/// Bytes for the line are prepared up to here, so that the unit stays responsive.
const OUT_HIGH_WATER: usize = 2 * MAX_MESSAGE;

/// Why there is no line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LineError {
    /// The terminal.
    #[error(transparent)]
    Tty(#[from] TtyError),
    /// The socket of the radio.
    #[error(transparent)]
    Air(#[from] AirError),
}

/// A way to the gateway.
pub(crate) enum Line {
    Serial(Serial),
    Air(Air),
}

impl Line {
    pub(crate) fn open(options: &Options) -> Result<Self, LineError> {
        Ok(match &options.ble_socket {
            Some(path) => Self::Air(Air::listen(path, &options.name)?),
            None => Self::Serial(Serial::open(options)?),
        })
    }

    /// The unit has just been powered up: what was half said is forgotten.
    pub(crate) fn begin(&mut self) {
        match self {
            Self::Serial(line) => line.forget(),
            Self::Air(air) => air.restart(),
        }
    }

    /// Whether another message may be given to [`Self::send`].
    pub(crate) fn has_room(&self) -> bool {
        match self {
            Self::Serial(line) => line.out.waiting() < OUT_HIGH_WATER,
            Self::Air(air) => air.hears() && air.waiting() < OUT_HIGH_WATER,
        }
    }

    pub(crate) fn send(&mut self, message: &[u8]) {
        match self {
            Self::Serial(line) => line.send(message),
            Self::Air(air) => air.send(message),
        }
    }

    /// Whether bytes wait for [`Self::write`].
    pub(crate) fn wants_out(&self) -> bool {
        match self {
            Self::Serial(line) => line.out.waiting() > 0,
            Self::Air(air) => air.waiting() > 0,
        }
    }

    pub(crate) fn write(&mut self) {
        match self {
            Self::Serial(line) => line.write(),
            Self::Air(air) => air.write(),
        }
    }

    /// Reads what is there and gives each whole message to `take`.
    pub(crate) fn read(&mut self, take: impl FnMut(&mut [u8])) {
        match self {
            Self::Serial(line) => line.read(take),
            Self::Air(air) => air.read(take),
        }
    }

    /// What to wait for; nothing while the line is gone.
    pub(crate) fn poll(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let flags = if self.wants_out() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let fd = match self {
            Self::Serial(line) => line.tty.as_ref()?.as_fd(),
            Self::Air(air) => air.as_fd(),
        };
        Some((fd, flags))
    }

    /// Tries to get a lost line back.
    pub(crate) fn reopen(&mut self, options: &Options) {
        if let Self::Serial(line) = self
            && line.tty.is_none()
            && let Ok(tty) = open_tty(options)
        {
            say("line back");
            line.tty = Some(tty);
        }
    }

    /// Shows on the air what the unit is, if something of it changed or it is time; never on a line.
    pub(crate) fn advertise(&mut self, now_ms: u64, changed: bool, now: impl FnOnce() -> (Advertisement, u64)) {
        if let Self::Air(air) = self {
            air.advertise(now_ms, changed, now);
        }
    }

    /// When [`Self::advertise`] wants to be called at the latest.
    pub(crate) fn advertise_at(&self) -> Option<u64> {
        match self {
            Self::Serial(_) => None,
            Self::Air(air) => air.advertise_at(),
        }
    }
}

/// Bytes on their way out.
#[derive(Default)]
pub(crate) struct Out {
    bytes: Vec<u8>,
    /// Those before are out.
    written: usize,
}

impl Out {
    pub(crate) fn waiting(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Room for so many bytes more, and where they begin.
    pub(crate) fn reserve(&mut self, count: usize) -> &mut Vec<u8> {
        if self.waiting() == 0 {
            self.clear();
        }
        self.bytes.reserve(count);
        &mut self.bytes
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.written = 0;
    }

    /// Writes what goes; false if the other end is gone.
    pub(crate) fn write(&mut self, mut write: impl FnMut(&[u8]) -> Io) -> bool {
        while self.written < self.bytes.len() {
            match write(&self.bytes[self.written..]) {
                Io::Done(count) => self.written += count,
                Io::Later => return true,
                Io::Gone => return false,
            }
        }
        true
    }
}

/// A serial line and its frames.
pub(crate) struct Serial {
    tty: Option<Tty>,
    decoder: Box<Decoder<{ uart::MAX_ENCODED }>>,
    joiner: Box<Joiner<MAX_MESSAGE>>,
    out: Out,
}

impl Serial {
    fn open(options: &Options) -> Result<Self, TtyError> {
        let tty = Some(open_tty(options)?);
        Ok(Self { tty, decoder: Box::default(), joiner: Box::default(), out: Out::default() })
    }

    fn forget(&mut self) {
        self.out.clear();
        self.decoder.reset();
        self.joiner.reset();
    }

    fn send(&mut self, message: &[u8]) {
        let room = uart::max_encoded_len(message.len());
        let out = self.out.reserve(room);
        let begin = out.len();
        out.resize(begin + room, 0);
        let framed = uart::encode(uart::ADDRESS, Header::WHOLE, message, &mut out[begin..]);
        out.truncate(begin + framed.unwrap_or(0));
    }

    fn write(&mut self) {
        if let Some(tty) = &mut self.tty
            && !self.out.write(|bytes| tty.write(bytes))
        {
            self.lose();
        }
    }

    fn read(&mut self, mut take: impl FnMut(&mut [u8])) {
        let mut buffer = [0; 4096];
        let Some(tty) = &mut self.tty else { return };
        let mut input = match tty.read(&mut buffer) {
            Io::Done(count) => &buffer[..count],
            Io::Later => return,
            Io::Gone => return self.lose(),
        };
        while let Some(frame) = self.decoder.decode(&mut input) {
            let Ok(frame) = frame else { continue };
            if frame.address != uart::ADDRESS {
                continue;
            }
            if let Ok(Some(message)) = self.joiner.join(frame.header, frame.payload) {
                let mut copy = [0; MAX_MESSAGE];
                copy[..message.len()].copy_from_slice(message);
                take(&mut copy[..message.len()]);
            }
        }
    }

    fn lose(&mut self) {
        say("line gone; waiting for it");
        self.tty = None;
        self.forget();
    }
}

fn open_tty(options: &Options) -> Result<Tty, TtyError> {
    match (&options.pty, &options.port) {
        (Some(link), _) => Tty::pty(link),
        (None, Some(port)) => Tty::open(port, options.baud),
        // The command line asks for one of them.
        (None, None) => Tty::pty(std::path::Path::new("sensor")),
    }
}
