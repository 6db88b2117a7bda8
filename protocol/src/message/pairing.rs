//! M1 to M6, and what stands encrypted inside M4 and M5.
//!
//! A field that belongs to one ceremony or suite is an `Option` here; [`crate::pairing`] decides whether it
//! may be there.

use super::{Kind, MessageError, begin, body};
use crate::cbor::{CborError, Reader, Writer, copy_without};
use crate::id::Id;
use crate::pairing::Ceremony;

/// Key of the confirmation tag in M3.
const M3_TAG: i64 = 3;
/// Key of the encrypted part in M4.
const M4_SEALED: i64 = 3;
/// Key of the encrypted part in M5.
const M5_SEALED: i64 = 2;
/// Key of the MAC in M5.
const M5_MAC: i64 = 3;

/// Gateway to sensor: who asks, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct M1<'b> {
    /// The protocol version.
    pub version: u8,
    /// The suites the gateway offers, one byte each, ascending.
    pub suites: &'b [u8],
    /// The gateway's id.
    pub gateway: Id,
    /// Whose code it is.
    pub ceremony: Ceremony,
    /// Fresh random bytes.
    pub nonce: [u8; 16],
}

impl<'b> M1<'b> {
    /// Writes the message into `out`; returns its length.
    ///
    /// # Errors
    /// `Cbor(NoRoom)`, as for every `encode` here.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, MessageError> {
        write(out, Kind::M1, 5, |w| {
            w.uint(1_u8)?.uint(self.version)?.uint(2_u8)?.bytes(self.suites)?;
            w.uint(3_u8)?.text(self.gateway.as_str())?.uint(4_u8)?.uint(self.ceremony.number())?;
            w.uint(5_u8)?.bytes(&self.nonce)?;
            Ok(())
        })
    }

    /// Reads the message.
    ///
    /// # Errors
    /// Every [`MessageError`], as for every `decode` here: the peer is at fault.
    pub fn decode(message: &'b [u8]) -> Result<Self, MessageError> {
        body(message, Kind::M1.byte())?.only_map(|map| {
            Ok(Self {
                version: map.need(1)?.uint()?,
                suites: map.need(2)?.bytes()?,
                gateway: id(map.need(3)?, 3)?,
                ceremony: Ceremony::from_number(map.need(4)?.uint()?).ok_or(MessageError::BadField(4))?,
                nonce: map.need(5)?.array_of()?,
            })
        })
    }
}

/// Sensor to gateway: its choice and its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct M2 {
    /// The protocol version.
    pub version: u8,
    /// The suite it chose.
    pub suite: u8,
    /// Its id.
    pub device: Id,
    /// The longest message it takes.
    pub max_message: u16,
    /// Fresh random bytes.
    pub nonce: [u8; 16],
    /// Ya.
    pub share: [u8; 32],
}

impl M2 {
    /// Writes the message into `out`; returns its length.
    ///
    /// # Errors
    /// `Cbor(NoRoom)`.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, MessageError> {
        write(out, Kind::M2, 6, |w| {
            w.uint(1_u8)?.uint(self.version)?.uint(2_u8)?.uint(self.suite)?;
            w.uint(3_u8)?.text(self.device.as_str())?.uint(4_u8)?.uint(self.max_message)?;
            w.uint(5_u8)?.bytes(&self.nonce)?.uint(6_u8)?.bytes(&self.share)?;
            Ok(())
        })
    }

    /// Reads the message.
    ///
    /// # Errors
    /// Every [`MessageError`].
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        body(message, Kind::M2.byte())?.only_map(|map| {
            Ok(Self {
                version: map.need(1)?.uint()?,
                suite: map.need(2)?.uint()?,
                device: id(map.need(3)?, 3)?,
                max_message: map.need(4)?.uint()?,
                nonce: map.need(5)?.array_of()?,
                share: map.need(6)?.array_of()?,
            })
        })
    }
}

/// Gateway to sensor: its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct M3<'b> {
    /// Yb.
    pub share: [u8; 32],
    /// Suite 2: the ML-KEM-768 encapsulation key.
    pub ek: Option<&'b [u8]>,
    /// Label: Tb.
    pub tag: Option<[u8; 32]>,
}

impl<'b> M3<'b> {
    /// Writes the message into `out`; returns its length.
    ///
    /// # Errors
    /// `Cbor(NoRoom)`.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, MessageError> {
        let entries = [true, self.ek.is_some(), self.tag.is_some()];
        write(out, Kind::M3, count(&entries), |w| {
            w.uint(1_u8)?.bytes(&self.share)?;
            optional(w, 2, self.ek)?;
            optional(w, 3, self.tag.as_ref().map(<[u8; 32]>::as_slice))
        })
    }

    /// Reads the message.
    ///
    /// # Errors
    /// Every [`MessageError`].
    pub fn decode(message: &'b [u8]) -> Result<Self, MessageError> {
        body(message, Kind::M3.byte())?.only_map(|map| {
            Ok(Self {
                share: map.need(1)?.array_of()?,
                ek: map.find(2)?.map(Reader::bytes).transpose()?,
                tag: map.find(M3_TAG)?.map(Reader::array_of).transpose()?,
            })
        })
    }

    /// Copies M3 without its tag into `out`, as it stands in the transcript of the tags.
    ///
    /// # Errors
    /// Every [`MessageError`].
    pub fn without_tag(message: &[u8], out: &mut [u8]) -> Result<usize, MessageError> {
        without(message, Kind::M3, &[M3_TAG], out)
    }
}

/// Sensor to gateway: its proof and, encrypted, its static key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct M4<'b> {
    /// Ta.
    pub tag: [u8; 32],
    /// Suite 2: the ML-KEM-768 ciphertext.
    pub ct: Option<&'b [u8]>,
    /// A [`SensorPart`], encrypted.
    pub sealed: &'b [u8],
}

impl<'b> M4<'b> {
    /// Writes the message into `out`; returns its length.
    ///
    /// # Errors
    /// `Cbor(NoRoom)`.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, MessageError> {
        write(out, Kind::M4, count(&[true, self.ct.is_some(), true]), |w| {
            w.uint(1_u8)?.bytes(&self.tag)?;
            optional(w, 2, self.ct)?;
            w.uint(3_u8)?.bytes(self.sealed)?;
            Ok(())
        })
    }

    /// Reads the message.
    ///
    /// # Errors
    /// Every [`MessageError`].
    pub fn decode(message: &'b [u8]) -> Result<Self, MessageError> {
        body(message, Kind::M4.byte())?.only_map(|map| {
            Ok(Self {
                tag: map.need(1)?.array_of()?,
                ct: map.find(2)?.map(Reader::bytes).transpose()?,
                sealed: map.need(M4_SEALED)?.bytes()?,
            })
        })
    }

    /// Copies the clear fields of M4 into `out`, as the encrypted part is bound to them.
    ///
    /// # Errors
    /// Every [`MessageError`].
    pub fn clear(message: &[u8], out: &mut [u8]) -> Result<usize, MessageError> {
        without(message, Kind::M4, &[M4_SEALED], out)
    }
}

/// Gateway to sensor: its proof and, encrypted, its static key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct M5<'b> {
    /// Issued: Tb.
    pub tag: Option<[u8; 32]>,
    /// A [`GatewayPart`], encrypted.
    pub sealed: &'b [u8],
    /// The gateway has the root key.
    pub mac: [u8; 16],
}

impl<'b> M5<'b> {
    /// Writes the message into `out`; returns its length.
    ///
    /// # Errors
    /// `Cbor(NoRoom)`.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, MessageError> {
        write(out, Kind::M5, count(&[self.tag.is_some(), true, true]), |w| {
            optional(w, 1, self.tag.as_ref().map(<[u8; 32]>::as_slice))?;
            w.uint(2_u8)?.bytes(self.sealed)?.uint(3_u8)?.bytes(&self.mac)?;
            Ok(())
        })
    }

    /// Reads the message.
    ///
    /// # Errors
    /// Every [`MessageError`].
    pub fn decode(message: &'b [u8]) -> Result<Self, MessageError> {
        body(message, Kind::M5.byte())?.only_map(|map| {
            Ok(Self {
                tag: map.find(1)?.map(Reader::array_of).transpose()?,
                sealed: map.need(M5_SEALED)?.bytes()?,
                mac: map.need(M5_MAC)?.array_of()?,
            })
        })
    }

    /// Copies the clear fields of M5 into `out`, as the encrypted part is bound to them.
    ///
    /// # Errors
    /// Every [`MessageError`].
    pub fn clear(message: &[u8], out: &mut [u8]) -> Result<usize, MessageError> {
        without(message, Kind::M5, &[M5_SEALED, M5_MAC], out)
    }

    /// Copies M5 without its MAC into `out`, as the MAC covers it.
    ///
    /// # Errors
    /// Every [`MessageError`].
    pub fn without_mac(message: &[u8], out: &mut [u8]) -> Result<usize, MessageError> {
        without(message, Kind::M5, &[M5_MAC], out)
    }
}

/// Sensor to gateway: it has stored the new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct M6 {
    /// The sensor has the root key and saw the same messages.
    pub mac: [u8; 16],
}

impl M6 {
    /// Writes the message into `out`; returns its length.
    ///
    /// # Errors
    /// `Cbor(NoRoom)`.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, MessageError> {
        write(out, Kind::M6, 1, |w| w.uint(1_u8)?.bytes(&self.mac).map(|_| ()))
    }

    /// Reads the message.
    ///
    /// # Errors
    /// Every [`MessageError`].
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        body(message, Kind::M6.byte())?.only_map(|map| Ok(Self { mac: map.need(1)?.array_of()? }))
    }
}

/// What M4 carries encrypted. Not `Debug`: it is for the gateway that knew the code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SensorPart<'b> {
    /// The sensor's static X25519 public key.
    pub static_key: [u8; 32],
    /// What it measures.
    pub capabilities: &'b str,
    /// Its firmware's version.
    pub firmware: &'b str,
    /// A device certificate.
    pub certificate: Option<&'b [u8]>,
}

impl<'b> SensorPart<'b> {
    /// Writes the map into `out`; returns its length.
    ///
    /// # Errors
    /// `Cbor(NoRoom)`.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, MessageError> {
        let mut writer = Writer::new(out);
        writer.map(count(&[true, true, true, self.certificate.is_some()]))?;
        writer.uint(1_u8)?.bytes(&self.static_key)?.uint(2_u8)?.text(self.capabilities)?;
        writer.uint(3_u8)?.text(self.firmware)?;
        optional(&mut writer, 4, self.certificate)?;
        Ok(writer.len())
    }

    /// Reads the map.
    ///
    /// # Errors
    /// Every [`MessageError`].
    pub fn decode(bytes: &'b [u8]) -> Result<Self, MessageError> {
        Reader::new(bytes).only_map(|map| {
            Ok(Self {
                static_key: map.need(1)?.array_of()?,
                capabilities: map.need(2)?.text()?,
                firmware: map.need(3)?.text()?,
                certificate: map.find(4)?.map(Reader::bytes).transpose()?,
            })
        })
    }
}

/// What M5 carries encrypted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct GatewayPart<'b> {
    /// The gateway's static X25519 public key.
    pub static_key: [u8; 32],
    /// Opaque settings.
    pub config: &'b [u8],
}

impl<'b> GatewayPart<'b> {
    /// Writes the map into `out`; returns its length.
    ///
    /// # Errors
    /// `Cbor(NoRoom)`.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, MessageError> {
        let mut writer = Writer::new(out);
        writer.map(2)?.uint(1_u8)?.bytes(&self.static_key)?.uint(2_u8)?.bytes(self.config)?;
        Ok(writer.len())
    }

    /// Reads the map.
    ///
    /// # Errors
    /// Every [`MessageError`].
    pub fn decode(bytes: &'b [u8]) -> Result<Self, MessageError> {
        Reader::new(bytes)
            .only_map(|map| Ok(Self { static_key: map.need(1)?.array_of()?, config: map.need(2)?.bytes()? }))
    }
}

fn id(value: &mut Reader<'_>, key: i64) -> Result<Id, MessageError> {
    value.text()?.parse().map_err(|_| MessageError::BadField(key))
}

fn count(present: &[bool]) -> usize {
    present.iter().filter(|p| **p).count()
}

fn optional(writer: &mut Writer<'_>, key: u8, value: Option<&[u8]>) -> Result<(), CborError> {
    if let Some(value) = value {
        writer.uint(key)?.bytes(value)?;
    }
    Ok(())
}

/// Writes the type byte, the head of a map and what `fill` adds to it.
fn write(
    out: &mut [u8],
    kind: Kind,
    entries: usize,
    fill: impl FnOnce(&mut Writer<'_>) -> Result<(), CborError>,
) -> Result<usize, MessageError> {
    let mut writer = Writer::new(begin(out, kind.byte())?);
    fill(writer.map(entries)?)?;
    Ok(writer.len().saturating_add(1))
}

/// Copies `message` without some keys of its map.
fn without(message: &[u8], kind: Kind, keys: &[i64], out: &mut [u8]) -> Result<usize, MessageError> {
    let map = match message.split_first() {
        Some((first, map)) if *first == kind.byte() => map,
        Some((first, _)) => return Err(MessageError::UnknownType(*first)),
        None => return Err(MessageError::Empty),
    };
    Ok(copy_without(map, keys, begin(out, kind.byte())?)?.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_without_its_tag_is_the_message_that_never_had_one() {
        let (mut with, mut never, mut stripped) = ([0; 128], [0; 128], [0; 128]);
        let m3 = M3 { share: [1; 32], ek: None, tag: Some([2; 32]) };
        let with_len = m3.encode(&mut with).unwrap();
        let never_len = M3 { tag: None, ..m3 }.encode(&mut never).unwrap();
        let stripped_len = M3::without_tag(&with[..with_len], &mut stripped).unwrap();
        assert_eq!(stripped[..stripped_len], never[..never_len]);
    }

    #[test]
    fn a_share_of_another_length_is_refused() {
        let mut out = [0; 64];
        let len = M6 { mac: [7; 16] }.encode(&mut out).unwrap();
        assert_eq!(M6::decode(&out[..len]), Ok(M6 { mac: [7; 16] }));
        assert_eq!(M6::decode(b"\x16\xa1\x01\x41\x00"), Err(MessageError::Cbor(CborError::OutOfRange)));
    }

    #[test]
    fn an_id_that_could_change_a_topic_is_refused() {
        let m2 = M2 {
            version: 1,
            suite: 1,
            device: "a-b".parse().unwrap(),
            max_message: 256,
            nonce: [0; 16],
            share: [0; 32],
        };
        let mut out = [0; 128];
        let len = m2.encode(&mut out).unwrap();
        let at = out.iter().position(|b| *b == b'-').unwrap();
        out[at] = b'/';
        assert_eq!(M2::decode(&out[..len]), Err(MessageError::BadField(3)));
    }
}
