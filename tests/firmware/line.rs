//! The far end of a unit's line, and the messages on it.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use clawgate_protocol::fragment::Header;
use clawgate_protocol::frame::uart::{self, Decoder};

use crate::SOON;

pub(crate) const REFUSE: &[u8] = &[0x1f, 0xa0];
pub(crate) const M2: u8 = 0x12;
pub(crate) const M4: u8 = 0x14;
pub(crate) const HANDSHAKE2: u8 = 0x22;
pub(crate) const RECORD: u8 = 0x23;
/// A unit that says nothing for so long has nothing to say.
const QUIET: Duration = Duration::from_millis(500);
const PROBE: &[u8] = &[0x01, 0xa1, 0x01, 0x01];
const IDENT: u8 = 0x02;

/// The far end of the unit's line.
pub(crate) struct Line {
    port: File,
    decoder: Decoder<5000>,
    heard: Vec<u8>,
}

impl Line {
    pub(crate) fn open(folder: &Path) -> Self {
        use std::os::unix::fs::OpenOptionsExt as _;
        // O_NONBLOCK | O_NOCTTY of Linux.
        let port = File::options().read(true).write(true).custom_flags(0o4000 | 0o400).open(folder.join("line"));
        Self { port: port.unwrap(), decoder: Decoder::new(), heard: Vec::new() }
    }

    /// Writes all of it, however slowly the unit takes it; what comes meanwhile is kept.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) {
        let end = Instant::now() + SOON;
        while !bytes.is_empty() {
            assert!(Instant::now() < end, "the unit takes nothing more");
            match self.port.write(&bytes[..bytes.len().min(512)]) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.listen(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn send(&mut self, message: &[u8]) {
        self.write(&framed(message));
    }

    fn listen(&mut self) {
        let mut bytes = [0; 4096];
        match self.port.read(&mut bytes) {
            Ok(count) => self.heard.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
    }

    /// Every message that the unit sent up to its answer to a Probe, without that Ident.
    pub(crate) fn answers(&mut self) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        self.write(&[0]);
        self.send(PROBE);
        let end = Instant::now() + SOON;
        loop {
            let heard = std::mem::take(&mut self.heard);
            let mut input = heard.as_slice();
            while let Some(frame) = self.decoder.decode(&mut input) {
                let message = frame.expect("the unit sends whole frames").payload.to_vec();
                if message[0] == IDENT {
                    return answers;
                }
                answers.push(message);
            }
            assert!(Instant::now() < end, "it answers no Probe any more");
            self.listen();
        }
    }

    /// Forgets what the unit says unasked, after its start for one, until it has answered and is quiet.
    pub(crate) fn settle(&mut self) {
        // Before its answer it may be slow, not quiet.
        self.answers();
        let mut quiet_since = Instant::now();
        while quiet_since.elapsed() < QUIET {
            self.listen();
            if !self.heard.is_empty() {
                quiet_since = Instant::now();
            }
            let heard = std::mem::take(&mut self.heard);
            let mut input = heard.as_slice();
            while self.decoder.decode(&mut input).is_some() {}
        }
    }

    /// Sends a message; what comes back.
    pub(crate) fn ask(&mut self, message: &[u8]) -> Vec<Vec<u8>> {
        self.send(message);
        self.answers()
    }
}

pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; uart::max_encoded_len(message.len())];
    let len = uart::encode(uart::ADDRESS, Header::WHOLE, message, &mut frame).unwrap();
    frame.truncate(len);
    frame
}
