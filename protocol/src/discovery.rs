//! Finding a sensor: `Probe`, `Ident`, `Identify`, and the rotating id of a paired sensor.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha512;
use subtle::ConstantTimeEq;

use crate::Random;
use crate::cbor::{CborError, Reader, Writer};
use crate::id::Id;
use crate::message::{Kind, MessageError, begin, body};
use crate::pairing::Ceremony;

/// The longest name in bytes.
pub const MAX_NAME: usize = 32;

/// What a sensor answers to a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ident<'b> {
    /// The highest protocol version it speaks.
    pub version: u8,
    /// Whether it has a pairing. (It may have a window all the same: to be paired anew.)
    pub paired: bool,
    /// Its hardware id: only while it is unpaired or has a window open.
    pub id: Option<Id>,
    /// Its rotating id, if it is paired: whoever holds the pairing knows it again, nobody else does.
    pub rotating: Option<[u8; 8]>,
    /// Its name for people, at most 32 bytes (a longer one is left out): only where `id` is there too. From the air: escape it.
    pub name: Option<&'b str>,
    /// The suites it can do, one byte each, ascending.
    pub suites: &'b [u8],
    /// The longest message it can take, at least [`crate::MIN_MESSAGE`].
    pub max_message: u16,
    /// The pairing window, while one is open.
    pub window: Option<Window>,
}

/// An open pairing window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The one ceremony it takes.
    pub ceremony: Ceremony,
    /// Seconds until it closes by itself, at most 300.
    pub seconds_left: u16,
    /// Random for each opening and each code entry: the gateway knows a new one from an old one.
    pub id: u32,
}

impl Ident<'_> {
    /// Writes the message into `out`; returns its length.
    ///
    /// # Errors
    /// `Cbor(NoRoom)`; 160 bytes are always enough.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, MessageError> {
        let mut writer = Writer::new(begin(out, Kind::Ident.byte())?);
        let optional = [self.id.is_some(), self.rotating.is_some(), self.name.is_some(), self.window.is_some()];
        writer.map(optional.iter().filter(|present| **present).count().saturating_add(4))?;
        writer.uint(1_u8)?.uint(self.version)?.uint(2_u8)?.bool(self.paired)?;
        if let Some(id) = &self.id {
            writer.uint(3_u8)?.text(id.as_str())?;
        }
        if let Some(rotating) = &self.rotating {
            writer.uint(4_u8)?.bytes(rotating)?;
        }
        if let Some(name) = self.name {
            writer.uint(5_u8)?.text(name)?;
        }
        writer.uint(6_u8)?.bytes(self.suites)?.uint(7_u8)?.uint(self.max_message)?;
        if let Some(window) = self.window {
            writer.uint(8_u8)?.map(3)?;
            writer
                .uint(1_u8)?
                .uint(window.ceremony.number())?
                .uint(2_u8)?
                .uint(window.seconds_left)?
                .uint(3_u8)?
                .uint(window.id)?;
        }
        Ok(writer.len().saturating_add(1))
    }
}

impl Window {
    fn read(value: &mut Reader<'_>) -> Result<Self, MessageError> {
        let mut map = value.map()?;
        let ceremony = Ceremony::from_number(map.need(1)?.uint()?).ok_or(MessageError::BadField(8))?;
        let window = Self { ceremony, seconds_left: map.need(2)?.uint()?, id: map.need(3)?.uint()? };
        map.end()?;
        Ok(window)
    }
}

impl<'b> Ident<'b> {
    /// Reads an `Ident` message.
    ///
    /// # Errors
    /// Every [`MessageError`]: the peer is at fault.
    pub fn decode(message: &'b [u8]) -> Result<Self, MessageError> {
        body(message, Kind::Ident.byte())?.only_map(|map| {
            Ok(Self {
                version: map.need(1)?.uint()?,
                paired: map.need(2)?.bool()?,
                id: match map.find(3)? {
                    None => None,
                    Some(value) => Some(value.text()?.parse().map_err(|_| MessageError::BadField(3))?),
                },
                rotating: map.find(4)?.map(Reader::array_of).transpose()?,
                name: match map.find(5)? {
                    None => None,
                    Some(value) => Some(value.text()?).filter(|name| name.len() <= MAX_NAME),
                },
                suites: map.need(6)?.bytes()?,
                max_message: map.need(7)?.uint()?,
                window: map.find(8)?.map(Window::read).transpose()?,
            })
        })
    }
}

/// Writes a `Probe` for `version` into `out`; returns its length.
///
/// # Errors
/// `Cbor(NoRoom)`.
pub fn encode_probe(version: u8, out: &mut [u8]) -> Result<usize, MessageError> {
    encode_number(Kind::Probe, version.into(), out)
}

/// Reads a `Probe`: the highest version of the gateway.
///
/// # Errors
/// Every [`MessageError`]: the peer is at fault.
pub fn decode_probe(message: &[u8]) -> Result<u8, MessageError> {
    decode_number(Kind::Probe, message)?.try_into().map_err(|_| CborError::OutOfRange.into())
}

/// Writes an `Identify` into `out`: blink for `seconds` (a sensor bounds it to 60). Returns its length.
///
/// # Errors
/// `Cbor(NoRoom)`.
pub fn encode_identify(seconds: u16, out: &mut [u8]) -> Result<usize, MessageError> {
    encode_number(Kind::Identify, seconds, out)
}

/// Reads an `Identify`: for how many seconds to blink.
///
/// # Errors
/// Every [`MessageError`]: the peer is at fault.
pub fn decode_identify(message: &[u8]) -> Result<u16, MessageError> {
    decode_number(Kind::Identify, message)
}

fn encode_number(kind: Kind, number: u16, out: &mut [u8]) -> Result<usize, MessageError> {
    let mut writer = Writer::new(begin(out, kind.byte())?);
    writer.map(1)?.uint(1_u8)?.uint(number)?;
    Ok(writer.len().saturating_add(1))
}

fn decode_number(kind: Kind, message: &[u8]) -> Result<u16, MessageError> {
    body(message, kind.byte())?.only_map(|map| Ok(map.need(1)?.uint()?))
}

/// The id under which a paired sensor shows itself: `random` and the first 5 bytes of
/// HMAC-SHA512(advertising key, `random`).
#[must_use]
pub fn rotating_id(key: &[u8; 32], random: [u8; 3]) -> [u8; 8] {
    // `new_from_slice` takes a key of any length.
    let tag = Hmac::<Sha512>::new_from_slice(key).map(|mac| mac.chain_update(random).finalize().into_bytes());
    let mut id = [0; 8];
    let (head, tail) = id.split_at_mut(3);
    head.copy_from_slice(&random);
    if let Ok(tag) = tag {
        tail.iter_mut().zip(tag).for_each(|(to, from)| *to = from);
    }
    id
}

/// A fresh rotating id.
pub fn new_rotating_id(key: &[u8; 32], random: &mut dyn Random) -> [u8; 8] {
    let mut bytes = [0; 3];
    random.fill(&mut bytes);
    rotating_id(key, bytes)
}

/// Whether the holder of `key` shows `id`.
#[must_use]
pub fn matches(key: &[u8; 32], id: &[u8; 8]) -> bool {
    let [a, b, c, ..] = *id;
    rotating_id(key, [a, b, c]).ct_eq(id).into()
}
