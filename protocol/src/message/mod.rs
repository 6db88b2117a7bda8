//! Messages between a gateway and a sensor: one type byte, then a CBOR map with integer keys.
//!
//! The three messages of a session ([`Kind::Handshake1`], [`Kind::Handshake2`], [`Kind::Record`]) carry raw
//! bytes in place of the map; [`crate::noise`] and [`crate::record`] own their layout. A message that is not
//! understood is answered with nothing.

use core::fmt;

use crate::MAX_MESSAGE;
use crate::cbor::{CborError, Reader};

pub mod pairing;

/// The uniform refusal: type byte and empty map. It says no reason, to nobody.
pub const REFUSE: [u8; 2] = [0x1f, 0xa0];

/// What a message is: its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Gateway to sensor: who is there? See [`crate::discovery`].
    Probe,
    /// Sensor to gateway: its state.
    Ident,
    /// Gateway to sensor: blink, so that a person sees which one it is.
    Identify,
    /// Pairing, gateway to sensor: version, suites, ceremony.
    M1,
    /// Pairing, sensor to gateway: its choice and its share.
    M2,
    /// Pairing, gateway to sensor: its share.
    M3,
    /// Pairing, sensor to gateway: its proof and its static key.
    M4,
    /// Pairing, gateway to sensor: its proof and its static key.
    M5,
    /// Pairing, sensor to gateway: done.
    M6,
    /// Either way: no. Without a reason.
    Refuse,
    /// Session, gateway to sensor: first handshake message.
    Handshake1,
    /// Session, sensor to gateway: second handshake message.
    Handshake2,
    /// Session, either way: an encrypted record.
    Record,
}

impl Kind {
    /// The kind of `message` by its first byte.
    ///
    /// # Errors
    /// `Empty`, `TooLong`, or `UnknownType`.
    pub fn of(message: &[u8]) -> Result<Self, MessageError> {
        let first = *message.first().ok_or(MessageError::Empty)?;
        if message.len() > MAX_MESSAGE {
            return Err(MessageError::TooLong);
        }
        Ok(match first {
            0x01 => Self::Probe,
            0x02 => Self::Ident,
            0x03 => Self::Identify,
            0x11 => Self::M1,
            0x12 => Self::M2,
            0x13 => Self::M3,
            0x14 => Self::M4,
            0x15 => Self::M5,
            0x16 => Self::M6,
            0x1f => Self::Refuse,
            0x21 => Self::Handshake1,
            0x22 => Self::Handshake2,
            0x23 => Self::Record,
            other => return Err(MessageError::UnknownType(other)),
        })
    }

    /// The type byte.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Probe => 0x01,
            Self::Ident => 0x02,
            Self::Identify => 0x03,
            Self::M1 => 0x11,
            Self::M2 => 0x12,
            Self::M3 => 0x13,
            Self::M4 => 0x14,
            Self::M5 => 0x15,
            Self::M6 => 0x16,
            Self::Refuse => 0x1f,
            Self::Handshake1 => 0x21,
            Self::Handshake2 => 0x22,
            Self::Record => 0x23,
        }
    }
}

/// Why a message was refused, or not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageError {
    /// The peer: no bytes at all.
    Empty,
    /// The peer: longer than 4096 bytes.
    TooLong,
    /// The peer: a type byte that this version does not know, or does not expect here.
    UnknownType(u8),
    /// The peer: a field has a value that the protocol does not allow.
    BadField(i64),
    /// The map was refused, or did not fit.
    Cbor(CborError),
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an empty message"),
            Self::TooLong => write!(f, "a message longer than {MAX_MESSAGE} bytes"),
            Self::UnknownType(byte) => write!(f, "message type 0x{byte:02x} is not known here"),
            Self::BadField(key) => write!(f, "the value of key {key} is not allowed"),
            Self::Cbor(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for MessageError {}

impl From<CborError> for MessageError {
    fn from(error: CborError) -> Self {
        Self::Cbor(error)
    }
}

/// A reader at the map of `message`, whose type byte must be `kind`.
pub(crate) fn body(message: &[u8], kind: u8) -> Result<Reader<'_>, MessageError> {
    match message.split_first() {
        None => Err(MessageError::Empty),
        Some(_) if message.len() > MAX_MESSAGE => Err(MessageError::TooLong),
        Some((first, map)) if *first == kind => Ok(Reader::new(map)),
        Some((first, _)) => Err(MessageError::UnknownType(*first)),
    }
}

/// Writes the type byte; the rest of `out` is for the map.
pub(crate) fn begin(out: &mut [u8], kind: u8) -> Result<&mut [u8], MessageError> {
    let (first, map) = out.split_first_mut().ok_or(CborError::NoRoom)?;
    *first = kind;
    Ok(map)
}
