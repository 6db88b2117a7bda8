//! Bluetooth Low Energy: the GATT service, what fits into one value, and the service data of the advertisement.
//!
//! One characteristic value is one fragment: its [header](crate::fragment::Header) and its piece of the message.

use core::fmt;

use sha2::{Digest, Sha512};

use crate::PROTOCOL_VERSION;
use crate::id::Id;
use crate::pairing::Ceremony;

/// The GATT service of a sensor; also the UUID of its service data.
pub const SERVICE: u128 = 0xc1a9_0001_5d2e_4f6b_9a37_20c8_4e1b_7f50;

/// The characteristic that the gateway writes: gateway to sensor.
pub const RX: u128 = 0xc1a9_0002_5d2e_4f6b_9a37_20c8_4e1b_7f50;

/// The characteristic that notifies: sensor to gateway.
pub const TX: u128 = 0xc1a9_0003_5d2e_4f6b_9a37_20c8_4e1b_7f50;

/// The smallest ATT MTU, which every link has.
pub const MIN_MTU: u16 = 23;

/// The longest attribute value of any link (Core Specification, Vol 3, Part F, 3.2.9).
const LONGEST_VALUE: usize = 512;

/// The longest service data.
pub const MAX_ADVERTISEMENT: usize = 13;

/// How many bytes of a message fit into one value: for [`split`](crate::fragment::split).
///
/// ATT takes 3 bytes of the MTU, the fragment's header 1; a value is never longer than 512 bytes. An MTU below
/// 23 is taken as 23.
#[must_use]
pub fn room(att_mtu: u16) -> usize {
    let mtu = usize::from(att_mtu.max(MIN_MTU));
    mtu.saturating_sub(3).min(LONGEST_VALUE).saturating_sub(1)
}

/// The two bytes by which people tell sensors apart, shown as four hexadecimal digits: the first of
/// SHA-512(device id). On the air only while a pairing window is open.
#[must_use]
pub fn short_id(device: &Id) -> [u8; 2] {
    Sha512::digest(device.as_str().as_bytes()).first_chunk().copied().unwrap_or_default()
}

/// The service data of an advertisement: what a gateway knows of a sensor before it connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertisement {
    /// The highest protocol version it speaks, 1 to 15.
    pub version: u8,
    /// Under which id it shows itself, if it is paired.
    pub rotating: Option<[u8; 8]>,
    /// The pairing window, while one is open.
    pub window: Option<Window>,
}

/// An open pairing window, as it is advertised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The one ceremony it takes.
    pub ceremony: Ceremony,
    /// The sensor's [`short_id`].
    pub short_id: [u8; 2],
    /// The low 8 bits of the window id of its `Ident`: a gateway need not connect to one that it tried.
    pub id: u8,
    /// Seconds until it closes by itself, rounded up to an even number.
    pub seconds_left: u16,
}

/// Why service data is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdvertisementError {
    /// Another length than what its first byte says.
    Length,
    /// Version 0, a ceremony without a window, or a bit that is reserved.
    Reserved,
}

impl fmt::Display for AdvertisementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "service data of the wrong length",
            Self::Reserved => "service data with reserved bits",
        })
    }
}

impl core::error::Error for AdvertisementError {}

const PAIRED: u8 = 0x01;
const WINDOW: u8 = 0x02;
const ISSUED: u8 = 0x04;
const RESERVED: u8 = 0x08;

impl Advertisement {
    /// Writes the service data into `out`; returns what was written.
    #[must_use]
    pub fn encode<'o>(&self, out: &'o mut [u8; MAX_ADVERTISEMENT]) -> &'o [u8] {
        let issued = self.window.is_some_and(|window| window.ceremony == Ceremony::Issued);
        let flags = [(self.rotating.is_some(), PAIRED), (self.window.is_some(), WINDOW), (issued, ISSUED)];
        let flags = flags.into_iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag);
        let mut len = 0_usize;
        let mut put = |bytes: &[u8]| {
            let room = out.iter_mut().skip(len);
            room.zip(bytes).for_each(|(to, from)| *to = *from);
            len = len.saturating_add(bytes.len());
        };
        put(&[self.version.min(15) << 4 | flags]);
        if let Some(window) = &self.window {
            let left = u8::try_from(window.seconds_left.div_ceil(2)).unwrap_or(u8::MAX);
            put(&window.short_id);
            put(&[window.id, left]);
        }
        if let Some(rotating) = &self.rotating {
            put(rotating);
        }
        out.get(..len).unwrap_or_default()
    }

    /// Reads service data.
    ///
    /// # Errors
    /// Every [`AdvertisementError`]: it is not of this protocol. A later version may be longer: only the parts
    /// that this version knows are read of it.
    pub fn decode(data: &[u8]) -> Result<Self, AdvertisementError> {
        let (&first, mut rest) = data.split_first().ok_or(AdvertisementError::Length)?;
        let version = first >> 4;
        let without_window = first & (WINDOW | ISSUED) == ISSUED;
        if version == 0 || without_window || (version == PROTOCOL_VERSION && first & RESERVED != 0) {
            return Err(AdvertisementError::Reserved);
        }
        let window = if first & WINDOW == 0 {
            None
        } else {
            let (&[a, b, id, left], after) = rest.split_first_chunk().ok_or(AdvertisementError::Length)?;
            rest = after;
            let ceremony = if first & ISSUED == 0 { Ceremony::Label } else { Ceremony::Issued };
            Some(Window { ceremony, short_id: [a, b], id, seconds_left: u16::from(left).saturating_mul(2) })
        };
        let rotating = if first & PAIRED == 0 {
            None
        } else {
            let (&rotating, after) = rest.split_first_chunk().ok_or(AdvertisementError::Length)?;
            rest = after;
            Some(rotating)
        };
        if version == PROTOCOL_VERSION && !rest.is_empty() {
            return Err(AdvertisementError::Length);
        }
        Ok(Self { version, rotating, window })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(advertisement: Advertisement) -> std::vec::Vec<u8> {
        let mut out = [0; MAX_ADVERTISEMENT];
        let bytes = advertisement.encode(&mut out).to_vec();
        assert_eq!(Advertisement::decode(&bytes), Ok(advertisement));
        bytes
    }

    #[test]
    fn every_state_of_a_sensor_is_read_as_it_was_written_and_none_truncated_is() {
        let window = Window { ceremony: Ceremony::Label, short_id: [0x7f, 0x3a], id: 0xef, seconds_left: 300 };
        let issued = Window { ceremony: Ceremony::Issued, ..window };
        for rotating in [None, Some([9; 8])] {
            for window in [None, Some(window), Some(issued)] {
                let bytes = round(Advertisement { version: 1, rotating, window });
                for len in 0..bytes.len() {
                    assert!(Advertisement::decode(&bytes[..len]).is_err(), "{bytes:?} cut at {len}");
                }
                let longer = [&bytes[..], &[0]].concat();
                assert_eq!(Advertisement::decode(&longer), Err(AdvertisementError::Length));
            }
        }
    }

    #[test]
    fn the_page_shows_these_bytes() {
        let window = Window { ceremony: Ceremony::Label, short_id: [0xc1, 0x80], id: 0xef, seconds_left: 300 };
        let rotating = crate::discovery::rotating_id(&[7; 32], [1, 2, 3]);
        let shown = [
            round(Advertisement { version: 1, rotating: None, window: None }),
            round(Advertisement { version: 1, rotating: None, window: Some(window) }),
            round(Advertisement { version: 1, rotating: Some(rotating), window: None }),
            round(Advertisement { version: 1, rotating: Some(rotating), window: Some(window) }),
        ];
        let page = include_str!("../../docs/protocol.md");
        for bytes in shown {
            let hex = bytes.iter().fold(std::string::String::new(), |hex, byte| std::format!("{hex}{byte:02x}"));
            assert!(page.lines().any(|line| line.ends_with(&std::format!("  {hex}"))), "{hex}");
        }
        let id: Id = "th-kit-7f3a".parse().unwrap();
        let [a, b] = short_id(&id);
        assert!(page.contains(&std::format!("`th-kit-7f3a` is `{a:02x}{b:02x}`")), "{a:02x}{b:02x}");
        for uuid in [SERVICE, RX, TX] {
            assert!(page.contains(&std::format!("{:08x}-5d2e-4f6b-9a37-20c84e1b7f50", uuid >> 96)));
        }
    }

    #[test]
    fn a_later_version_may_add_and_garbage_is_refused() {
        let later = [0x28, 1, 2, 3];
        assert_eq!(Advertisement::decode(&later), Ok(Advertisement { version: 2, rotating: None, window: None }));
        for garbage in [&[][..], &[0], &[0x18], &[0x14], &[0x01, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert!(Advertisement::decode(garbage).is_err(), "{garbage:?}");
        }
    }

    #[test]
    fn one_value_has_room_for_what_the_mtu_leaves_and_never_more_than_512() {
        assert_eq!([0, 23, 185, 247, 515, 516, 517].map(room), [19, 19, 181, 243, 511, 511, 511]);
    }
}
