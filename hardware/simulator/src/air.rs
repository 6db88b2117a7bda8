//! BLE without a radio of our own: a unix socket, at whose other end somebody else's GATT peripheral stands.
//!
//! Each frame on it is a 2-byte big-endian length, a type byte, and content; the length counts both.
//!
//! | type | from | content |
//! |---|---|---|
//! | `A` | unit | what to advertise: 1 byte length of the service data, service data, name in UTF-8 |
//! | `N` | unit | one notification of `tx` |
//! | `X` | unit | end the connection: the unit lost its power |
//! | `C` | radio | a gateway connected; 2 bytes ATT MTU |
//! | `M` | radio | 2 bytes: another ATT MTU |
//! | `S` | radio | 1 byte: `tx` is subscribed (1) or not (0) |
//! | `W` | radio | one value written to `rx` |
//! | `D` | radio | the gateway disconnected |

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use clawgate_protocol::MAX_MESSAGE;
use clawgate_protocol::ble::{self, Advertisement, MAX_ADVERTISEMENT};
use clawgate_protocol::fragment::{Header, Joiner, split};

use crate::line::Out;
use crate::say;
use crate::tty::Io;

/// The longest frame of the radio's: a value of 512 bytes, and the type.
const LONGEST_FRAME: usize = 513;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AirError {
    /// It cannot be made.
    #[error("cannot listen at {}: {source}", path.display())]
    Listen { path: PathBuf, source: std::io::Error },
}

/// A gateway that is connected.
struct Connection {
    mtu: u16,
    subscribed: bool,
}

/// The unit's end of the socket.
pub(crate) struct Air {
    listener: UnixListener,
    path: PathBuf,
    name: String,
    radio: Option<UnixStream>,
    input: Vec<u8>,
    out: Out,
    joiner: Box<Joiner<MAX_MESSAGE>>,
    connection: Option<Connection>,
    /// When the advertisement is made anew; now, if it never was.
    advertise_at: u64,
}

impl Air {
    /// Listens; a stale socket is replaced.
    pub(crate) fn listen(path: &Path, name: &str) -> Result<Self, AirError> {
        let failed = |source| AirError::Listen { path: path.to_owned(), source };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => (),
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            name: name.to_owned(),
            radio: None,
            input: Vec::new(),
            out: Out::default(),
            joiner: Box::default(),
            connection: None,
            advertise_at: 0,
        })
    }

    pub(crate) fn restart(&mut self) {
        if self.connection.take().is_some() {
            self.frame(b'X', &[&[]]);
        }
        self.joiner.reset();
        self.advertise_at = 0;
    }

    /// Whether a gateway hears what is sent.
    pub(crate) fn hears(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.subscribed)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.out.waiting()
    }

    pub(crate) fn send(&mut self, message: &[u8]) {
        let room = self.connection.as_ref().map_or(0, |connection| ble::room(connection.mtu));
        for (header, piece) in split(message, room) {
            self.frame(b'N', &[&[header.byte()], piece]);
        }
    }

    fn frame(&mut self, kind: u8, content: &[&[u8]]) {
        if self.radio.is_none() {
            return;
        }
        let len = 1 + content.iter().map(|part| part.len()).sum::<usize>();
        let out = self.out.reserve(len + 2);
        out.extend(u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
        out.push(kind);
        for part in content {
            out.extend_from_slice(part);
        }
    }

    pub(crate) fn write(&mut self) {
        if let Some(radio) = &mut self.radio
            && !self.out.write(|bytes| outcome(radio.write(bytes)))
        {
            self.lose_radio();
        }
    }

    pub(crate) fn read(&mut self, mut take: impl FnMut(&mut [u8])) {
        let Some(radio) = &mut self.radio else { return self.accept() };
        let mut buffer = [0; 4096];
        match outcome(radio.read(&mut buffer)) {
            Io::Done(count @ 1..) => self.input.extend_from_slice(&buffer[..count]),
            Io::Later => return,
            Io::Done(_) | Io::Gone => return self.lose_radio(),
        }
        let mut input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        while let Some((length, after)) = rest.split_first_chunk() {
            let length = usize::from(u16::from_be_bytes(*length));
            if length > LONGEST_FRAME {
                say("the radio sent a frame that is too long");
                return self.lose_radio();
            }
            let Some((frame, after)) = after.split_at_checked(length) else { break };
            rest = after;
            if let Some((&kind, content)) = frame.split_first() {
                self.obey(kind, content, &mut take);
            }
        }
        let used = input.len() - rest.len();
        input.drain(..used);
        self.input = input;
    }

    fn obey(&mut self, kind: u8, content: &[u8], take: &mut impl FnMut(&mut [u8])) {
        match (kind, content, &mut self.connection) {
            (b'C', &[high, low], connection) => {
                *connection = Some(Connection { mtu: u16::from_be_bytes([high, low]), subscribed: false });
                self.joiner.reset();
                say("gateway connected");
            }
            (b'M', &[high, low], Some(connection)) => connection.mtu = u16::from_be_bytes([high, low]),
            (b'S', &[on], Some(connection)) => {
                connection.subscribed = on == 1;
                self.joiner.reset();
            }
            (b'W', [header, payload @ ..], Some(_)) => {
                if let Ok(Some(message)) = self.joiner.join(Header::from_byte(*header), payload) {
                    take(&mut message.to_vec());
                }
            }
            (b'D', [], connection) => {
                *connection = None;
                self.advertise_at = 0;
                say("gateway disconnected");
            }
            _ => say(&format!("the radio sent a frame {kind:#04x} that makes no sense now")),
        }
    }

    fn accept(&mut self) {
        if let Ok((radio, _)) = self.listener.accept()
            && radio.set_nonblocking(true).is_ok()
        {
            self.radio = Some(radio);
            self.advertise_at = 0;
            say("radio connected");
        }
    }

    fn lose_radio(&mut self) {
        say("radio gone; waiting for one");
        self.radio = None;
        self.connection = None;
        self.input.clear();
        self.out.clear();
        self.joiner.reset();
    }

    /// Shows the unit on the air, if something changed or it is time; `now` says what, and for how long.
    pub(crate) fn advertise(&mut self, now_ms: u64, changed: bool, now: impl FnOnce() -> (Advertisement, u64)) {
        if changed {
            self.advertise_at = 0;
        }
        if self.radio.is_none() || now_ms < self.advertise_at {
            return;
        }
        let (advertisement, life_ms) = now();
        self.advertise_at = now_ms + life_ms;
        let shown = advertisement.window.is_some() || advertisement.rotating.is_none();
        let name = if shown { self.name.clone() } else { String::new() };
        let mut data = [0; MAX_ADVERTISEMENT];
        let data = advertisement.encode(&mut data);
        let length = u8::try_from(data.len()).unwrap_or(0);
        self.frame(b'A', &[&[length], data, name.as_bytes()]);
    }

    pub(crate) fn advertise_at(&self) -> Option<u64> {
        self.radio.as_ref().map(|_| self.advertise_at)
    }
}

impl AsFd for Air {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.radio.as_ref().map_or(self.listener.as_fd(), AsFd::as_fd)
    }
}

impl Drop for Air {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn outcome(done: std::io::Result<usize>) -> Io {
    match done {
        Ok(count) => Io::Done(count),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Io::Later,
        Err(_) => Io::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len() + 1).unwrap().to_be_bytes();
        [&length[..], &[kind], content].concat()
    }

    fn air() -> (tempfile::TempDir, Air, UnixStream) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("air");
        let mut air = Air::listen(&path, "TH-Kit").unwrap();
        let radio = UnixStream::connect(&path).unwrap();
        air.read(|_| ());
        (folder, air, radio)
    }

    #[test]
    fn a_message_crosses_at_any_mtu_in_values_that_fit() {
        for mtu in [23, 24, 185, 247, 517] {
            let (_folder, mut air, mut radio) = air();
            radio.write_all(&[frame(b'C', &u16::to_be_bytes(mtu)), frame(b'S', &[1])].concat()).unwrap();
            air.read(|_| ());
            let message: Vec<u8> = (0..=255).cycle().take(1300).collect();
            air.send(&message);
            air.write();
            drop(air);
            let mut bytes = Vec::new();
            radio.read_to_end(&mut bytes).unwrap();
            let mut joiner = Joiner::<MAX_MESSAGE>::new();
            let (mut rest, mut whole) = (&bytes[..], None);
            while let [high, low, kind, after @ ..] = rest {
                let (value, after) = after.split_at(usize::from(u16::from_be_bytes([*high, *low])) - 1);
                assert_eq!(*kind, b'N');
                assert!(value.len() <= usize::from(mtu) - 3 && value.len() <= 512);
                whole = joiner.join(Header::from_byte(value[0]), &value[1..]).unwrap().map(<[u8]>::to_vec);
                rest = after;
            }
            assert_eq!(whole, Some(message));
        }
    }

    #[test]
    fn frames_are_taken_wherever_the_bytes_are_cut_and_too_long_ones_end_the_radio() {
        let (_folder, mut air, mut radio) = air();
        let bytes = [frame(b'C', &[0, 23]), frame(b'S', &[1]), frame(b'W', &[0xc0, 1, 2, 3])].concat();
        let mut taken = Vec::new();
        for byte in bytes {
            radio.write_all(&[byte]).unwrap();
            air.read(|message| taken.push(message.to_vec()));
        }
        assert_eq!(taken, [[1, 2, 3]]);
        radio.write_all(&[0xff, 0xff, b'W']).unwrap();
        air.read(|_| ());
        assert!(air.radio.is_none());
    }
}
