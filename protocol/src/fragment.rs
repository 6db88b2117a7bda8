//! Fragments: a message that is longer than one frame or one BLE value travels in several.
//!
//! Each begins with a header byte: bit 7 first, bit 6 last, bits 5-0 the index from 0, modulo 64. A gap
//! discards the whole message; who needs it sends it again.

use core::fmt;

/// The header byte of a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header(u8);

const FIRST: u8 = 0x80;
const LAST: u8 = 0x40;
const INDEX: u8 = 0x3f;

impl Header {
    /// First and last in one: the payload is the whole message.
    pub const WHOLE: Self = Self(FIRST | LAST);

    /// The header that stands as `byte` on the line.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        Self(byte)
    }

    /// How it stands on the line.
    #[must_use]
    pub const fn byte(self) -> u8 {
        self.0
    }

    const fn is_first(self) -> bool {
        self.0 & FIRST != 0
    }

    const fn is_last(self) -> bool {
        self.0 & LAST != 0
    }

    const fn index(self) -> u8 {
        self.0 & INDEX
    }
}

/// Why a fragment was refused; the message it belongs to is discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FragmentError {
    /// The link: one before it is missing, or it came twice.
    Gap,
    /// The peer: the message is longer than this side takes.
    TooLong,
    /// The peer: an empty message, or an empty fragment in a longer one.
    Empty,
}

impl fmt::Display for FragmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gap => "a fragment is missing",
            Self::TooLong => "the message is longer than this side takes",
            Self::Empty => "an empty fragment",
        })
    }
}

impl core::error::Error for FragmentError {}

/// Splits a message into fragments of at most `room` bytes of payload each.
///
/// `room` for BLE is the ATT MTU less 4 (three bytes of ATT, one of header): 19 at the smallest MTU of 23.
/// An empty message has no fragments, nor has any message where there is no room.
pub fn split(message: &[u8], room: usize) -> impl Iterator<Item = (Header, &[u8])> {
    let count = message.len().div_ceil(room.max(1));
    let chunks = if room == 0 { [].chunks(1) } else { message.chunks(room) };
    let indices = (0..=INDEX).cycle();
    chunks.zip(indices).enumerate().map(move |(at, (chunk, index))| {
        let first = if at == 0 { FIRST } else { 0 };
        let last = if at.saturating_add(1) == count { LAST } else { 0 };
        (Header(first | last | index), chunk)
    })
}

/// Joins fragments to messages of at most `N` bytes.
#[derive(Debug)]
pub struct Joiner<const N: usize> {
    buffer: [u8; N],
    len: usize,
    /// The index that must come next; none outside of a message.
    next: Option<u8>,
}

impl<const N: usize> Default for Joiner<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Joiner<N> {
    /// A joiner that waits for a first fragment.
    #[must_use]
    pub const fn new() -> Self {
        Self { buffer: [0; N], len: 0, next: None }
    }

    /// Takes one fragment; with the last one it returns the message. A first fragment begins anew.
    ///
    /// # Errors
    /// Every [`FragmentError`]; what was joined so far is discarded.
    pub fn join<'a>(&'a mut self, header: Header, payload: &'a [u8]) -> Result<Option<&'a [u8]>, FragmentError> {
        let expected = self.next.take();
        if payload.is_empty() {
            return Err(FragmentError::Empty);
        }
        if header.is_first() {
            if header.index() != 0 {
                return Err(FragmentError::Gap);
            }
            self.len = 0;
            if header.is_last() {
                return if payload.len() > N { Err(FragmentError::TooLong) } else { Ok(Some(payload)) };
            }
        } else if expected != Some(header.index()) {
            return Err(FragmentError::Gap);
        }
        let end = self.len.saturating_add(payload.len());
        self.buffer.get_mut(self.len..end).ok_or(FragmentError::TooLong)?.copy_from_slice(payload);
        self.len = end;
        if header.is_last() {
            return Ok(self.buffer.get(..self.len));
        }
        self.next = Some(header.index().wrapping_add(1) & INDEX);
        Ok(None)
    }

    /// Forgets a message that began, for instance after a reconnect.
    pub fn reset(&mut self) {
        self.next = None;
    }
}
