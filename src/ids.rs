//! Names: of devices, of pairings, of readings. Refuses anything that could not stand in an MQTT topic.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The id of the gateway itself as a principal; no device may take it.
pub const GATEWAY_PRINCIPAL: &str = "_gateway";

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// Not `[a-z0-9_-]{1,32}`.
    #[error("{0:?} is not a valid id: use 1 to 32 of a-z, 0-9, '_' and '-'")]
    Malformed(String),
    /// `_gateway` names the gateway itself.
    #[error("{GATEWAY_PRINCIPAL:?} names the gateway itself: choose another id")]
    Reserved,
}

/// A device as the operator and the cloud know it: one level of an MQTT topic, the `sub` of its token.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(Arc<str>);

impl DeviceId {
    /// The id as text.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The gateway itself as a principal beside its devices. No text parses to it: nothing that comes from outside can
    /// make a device of this name.
    #[must_use]
    pub fn gateway() -> Self {
        Self(GATEWAY_PRINCIPAL.into())
    }

    /// Whether it is the gateway itself.
    #[must_use]
    pub(crate) fn is_gateway(&self) -> bool {
        self.as_str() == GATEWAY_PRINCIPAL
    }

    /// A device, or the gateway itself: for an issuer, and where an operator means its token.
    ///
    /// # Errors
    /// [`IdError::Malformed`].
    pub(crate) fn principal(text: &str) -> Result<Self, IdError> {
        if text == GATEWAY_PRINCIPAL { Ok(Self::gateway()) } else { text.parse() }
    }
}

/// Whether `text` is `[a-z0-9_-]{1,32}`, the form of every tenant, gateway and device id.
#[must_use]
pub(crate) fn is_valid_id(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

impl FromStr for DeviceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text == GATEWAY_PRINCIPAL {
            return Err(IdError::Reserved);
        }
        if !is_valid_id(text) {
            return Err(IdError::Malformed(text.chars().take(64).collect()));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for DeviceId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One pairing of one sensor with this gateway, for ever; 8 bytes both ends derive from the root key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PairingId(pub [u8; 8]);

impl PairingId {
    /// What a person may compare at both ends: the first half, as `9C41-77A0`.
    #[must_use]
    pub(crate) fn fingerprint(self) -> String {
        let [a, b, c, d, ..] = self.0;
        format!("{a:02X}{b:02X}-{c:02X}{d:02X}")
    }
}

impl fmt::Display for PairingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// The name of a reading for ever: what the cloud dedupes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReadingId {
    /// The pairing it came through.
    pub pairing: PairingId,
    /// 64 random bits of the sensor's start.
    pub epoch: u64,
    /// From 1, without holes, within the epoch.
    pub seq: u64,
}

impl fmt::Display for ReadingId {
    /// `hex.hex.decimal`, the CloudEvents `id`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:016x}.{}", self.pairing, self.epoch, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_change_a_topic_is_refused() {
        for bad in ["", "a/b", "+", "#", "A", "a b", "ä", "abcdefghijklmnopqrstuvwxyz0123456"] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad:?} was taken");
        }
        assert_eq!("_gateway".parse::<DeviceId>(), Err(IdError::Reserved));
        assert!(serde_json::from_str::<DeviceId>("\"_gateway\"").is_err());
        assert!(DeviceId::principal("_gateway").is_ok_and(|id| id.is_gateway()));
        assert!(DeviceId::principal("a/b").is_err());
        assert_eq!("pump-3".parse::<DeviceId>().map(|id| id.to_string()), Ok("pump-3".to_owned()));
    }

    #[test]
    fn a_reading_is_named_hex_hex_decimal() {
        let id = ReadingId { pairing: PairingId([0, 1, 2, 3, 4, 5, 6, 255]), epoch: 10, seq: 7 };
        assert_eq!(id.to_string(), "00010203040506ff.000000000000000a.7");
    }
}
