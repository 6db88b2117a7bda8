//! Frames of a serial line: `0x00`, COBS(address, fragment header, payload, CRC-32), `0x00`.
//!
//! The CRC is CRC-32/ISO-HDLC over all before it, little-endian. One `0x00` between two frames is enough.
//! Anything between delimiters that is not a frame is dropped, and the next delimiter begins anew.

use core::fmt;

use crate::MAX_MESSAGE;
use crate::fragment::Header;

/// The delimiter; COBS removes it from what stands between.
pub const DELIMITER: u8 = 0;

/// Address, fragment header and CRC.
const OVERHEAD: usize = 6;

/// The address of the sensor on a line with two ends; others are reserved for RS-485.
pub const ADDRESS: u8 = 0;

/// The longest frame between its delimiters: what a [`Decoder`] needs to take any message whole.
pub const MAX_ENCODED: usize = max_encoded_len(MAX_MESSAGE).saturating_sub(2);

/// How long the frame of a payload can get, both delimiters included.
#[must_use]
pub const fn max_encoded_len(payload: usize) -> usize {
    let body = payload.saturating_add(OVERHEAD);
    body.saturating_add(body / 254).saturating_add(3)
}

/// Why a frame was refused, or not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The line: fewer bytes than the smallest frame.
    TooShort,
    /// The line: more bytes than the decoder has room for, without a delimiter.
    TooLong,
    /// The line: not COBS.
    BadStuffing,
    /// The line: the CRC differs. Noise, or another baud rate.
    BadCrc,
    /// Us: the buffer is too small for the frame.
    NoRoom,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooShort => "too short for a frame",
            Self::TooLong => "too long for a frame",
            Self::BadStuffing => "not a frame: bad byte stuffing",
            Self::BadCrc => "damaged: the checksum differs",
            Self::NoRoom => "the buffer is too small for the frame",
        })
    }
}

impl core::error::Error for FrameError {}

/// A frame that arrived whole and undamaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Whom it is for; ignore what is not [`ADDRESS`].
    pub address: u8,
    /// Where its payload belongs in the message.
    pub header: Header,
    /// The fragment, or the whole message.
    pub payload: &'a [u8],
}

/// Writes one frame with both delimiters into `out`; returns its length.
///
/// # Errors
/// `NoRoom`; [`max_encoded_len`] bytes are always enough.
pub fn encode(address: u8, header: Header, payload: &[u8], out: &mut [u8]) -> Result<usize, FrameError> {
    let prefix = [address, header.byte()];
    let crc = !update(update(!0, &prefix), payload);
    let mut stuffer = Stuffer::new(out)?;
    stuffer.extend(&prefix)?;
    stuffer.extend(payload)?;
    stuffer.extend(&crc.to_le_bytes())?;
    stuffer.finish()
}

/// Writes COBS: each run of bytes without a zero is preceded by its length and one.
struct Stuffer<'a> {
    out: &'a mut [u8],
    /// Where the length of the current run goes.
    code: usize,
    len: usize,
}

impl<'a> Stuffer<'a> {
    fn new(out: &'a mut [u8]) -> Result<Self, FrameError> {
        *out.first_mut().ok_or(FrameError::NoRoom)? = DELIMITER;
        Ok(Self { out, code: 1, len: 2 })
    }

    fn extend(&mut self, mut bytes: &[u8]) -> Result<(), FrameError> {
        while let Some(first) = bytes.first() {
            // A run holds at most 254 bytes; its length byte counts itself. A full one implies no zero.
            let room = 255_usize.saturating_sub(self.len.saturating_sub(self.code));
            if *first == 0 || room == 0 {
                if room > 0 {
                    bytes = bytes.get(1..).unwrap_or_default();
                }
                self.close()?;
                continue;
            }
            let window = bytes.get(..room).unwrap_or(bytes);
            let run = window.iter().position(|byte| *byte == 0).unwrap_or(window.len());
            let (taken, rest) = bytes.split_at_checked(run).ok_or(FrameError::NoRoom)?;
            let end = self.len.saturating_add(run);
            self.out.get_mut(self.len..end).ok_or(FrameError::NoRoom)?.copy_from_slice(taken);
            self.len = end;
            bytes = rest;
        }
        Ok(())
    }

    /// Ends a run and reserves the length byte of the next.
    fn close(&mut self) -> Result<(), FrameError> {
        let run = u8::try_from(self.len.saturating_sub(self.code)).map_err(|_| FrameError::NoRoom)?;
        *self.out.get_mut(self.code).ok_or(FrameError::NoRoom)? = run;
        self.code = self.len;
        self.len = self.len.saturating_add(1);
        Ok(())
    }

    fn finish(mut self) -> Result<usize, FrameError> {
        self.close()?;
        // The byte reserved for a next run becomes the delimiter.
        *self.out.get_mut(self.code).ok_or(FrameError::NoRoom)? = DELIMITER;
        Ok(self.len)
    }
}

/// Finds frames in a stream of bytes. `N` is the longest encoded frame it takes: [`MAX_ENCODED`] for any
/// message, less on a small sensor that states a smaller message length.
#[derive(Debug)]
pub struct Decoder<const N: usize> {
    buffer: [u8; N],
    len: usize,
    overrun: bool,
}

impl<const N: usize> Default for Decoder<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Decoder<N> {
    /// A decoder that waits for a delimiter or a frame.
    #[must_use]
    pub const fn new() -> Self {
        Self { buffer: [0; N], len: 0, overrun: false }
    }

    /// Takes bytes off the front of `input` until a frame is complete (or refused) or `input` is empty.
    /// Call it until it returns `None`.
    ///
    /// ```
    /// # use clawgate_protocol::{fragment::Header, frame::uart::{self, Decoder}};
    /// let mut line = [0; 32];
    /// let len = uart::encode(0, Header::WHOLE, b"hello", &mut line)?;
    /// let mut decoder = Decoder::<{ uart::MAX_ENCODED }>::new();
    /// let mut input = &line[..len];
    /// while let Some(result) = decoder.decode(&mut input) {
    ///     assert_eq!(result?.payload, b"hello");
    /// }
    /// # Ok::<(), uart::FrameError>(())
    /// ```
    pub fn decode(&mut self, input: &mut &[u8]) -> Option<Result<Frame<'_>, FrameError>> {
        loop {
            let Some(end) = input.iter().position(|byte| *byte == DELIMITER) else {
                self.keep(input);
                *input = &[];
                return None;
            };
            let (part, rest) = input.split_at_checked(end)?;
            *input = rest.get(1..).unwrap_or_default();
            self.keep(part);
            let len = core::mem::take(&mut self.len);
            let overrun = core::mem::take(&mut self.overrun);
            if overrun {
                return Some(Err(FrameError::TooLong));
            }
            if len > 0 {
                return Some(self.buffer.get_mut(..len).ok_or(FrameError::TooLong).and_then(open));
            }
        }
    }

    /// Forgets a frame that began, for instance when the line was opened anew.
    pub fn reset(&mut self) {
        self.len = 0;
        self.overrun = false;
    }

    fn keep(&mut self, bytes: &[u8]) {
        let end = self.len.saturating_add(bytes.len());
        match self.buffer.get_mut(self.len..end) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.len = end;
            }
            _ => self.overrun = true,
        }
    }
}

/// Removes the stuffing in place, checks the CRC, and takes the frame apart.
fn open(buffer: &mut [u8]) -> Result<Frame<'_>, FrameError> {
    let len = unstuff(buffer)?;
    let body = buffer.get(..len).ok_or(FrameError::BadStuffing)?;
    let (checked, crc) = body.split_last_chunk::<4>().ok_or(FrameError::TooShort)?;
    let [address, header, payload @ ..] = checked else { return Err(FrameError::TooShort) };
    if !update(!0, checked) != u32::from_le_bytes(*crc) {
        return Err(FrameError::BadCrc);
    }
    Ok(Frame { address: *address, header: Header::from_byte(*header), payload })
}

fn unstuff(buffer: &mut [u8]) -> Result<usize, FrameError> {
    let (mut from, mut to) = (0_usize, 0_usize);
    while let Some(code) = buffer.get(from) {
        let code = usize::from(*code);
        let (start, end) = (from.saturating_add(1), from.saturating_add(code));
        if code == 0 || end > buffer.len() {
            return Err(FrameError::BadStuffing);
        }
        buffer.copy_within(start..end, to);
        to = to.saturating_add(code).saturating_sub(1);
        from = end;
        if code < 255 && from < buffer.len() {
            *buffer.get_mut(to).ok_or(FrameError::BadStuffing)? = 0;
            to = to.saturating_add(1);
        }
    }
    Ok(to)
}

/// Feeds `bytes` to a CRC-32/ISO-HDLC (reflected 0x04C11DB7); begin with `!0` and invert at the end.
fn update(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| {
        let [low, ..] = crc.to_le_bytes();
        let entry = TABLE.get(usize::from(low ^ byte)).copied().unwrap_or_default();
        crc >> 8 ^ entry
    })
}

const TABLE: [u32; 256] = table();

#[expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "computed at compile time")]
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "computed at compile time, below 256")]
const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut entry = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            entry = if entry & 1 == 1 { entry >> 1 ^ 0xedb8_8320 } else { entry >> 1 };
            bit += 1;
        }
        table[byte] = entry;
        byte += 1;
    }
    table
}
