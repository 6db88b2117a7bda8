//! Names of gateways and devices as they stand in messages and transcripts. Refuses anything that could
//! not be one level of an MQTT topic, so that no name from the air needs escaping.

use core::fmt;

/// The longest id in bytes.
pub const ID_MAX: usize = 32;

/// A gateway's or a device's id: 1 to 32 of `a-z`, `0-9`, `_` and `-`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id {
    bytes: [u8; ID_MAX],
    len: u8,
}

/// The text is not an id: use 1 to 32 of a-z, 0-9, '_' and '-'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedId;

impl fmt::Display for MalformedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a valid id: use 1 to 32 of a-z, 0-9, '_' and '-'")
    }
}

impl core::error::Error for MalformedId {}

impl Id {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The id as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl core::str::FromStr for Id {
    type Err = MalformedId;

    fn from_str(text: &str) -> Result<Self, MalformedId> {
        let valid = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_' || *b == b'-';
        let len = u8::try_from(text.len()).map_err(|_| MalformedId)?;
        let mut bytes = [0; ID_MAX];
        let target = bytes.get_mut(..text.len()).ok_or(MalformedId)?;
        if text.is_empty() || !text.as_bytes().iter().all(valid) {
            return Err(MalformedId);
        }
        target.copy_from_slice(text.as_bytes());
        Ok(Self { bytes, len })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_to_32_plain_characters() {
        for bad in ["", "A", "a/b", "a b", "ä", "\u{1b}[2J", "abcdefghijklmnopqrstuvwxyz0123456"] {
            assert_eq!(bad.parse::<Id>(), Err(MalformedId), "{bad:?}");
        }
        let id: Id = "abcdefghijklmnopqrstuvwxyz-_0123".parse().unwrap();
        assert_eq!(id.as_str().len(), ID_MAX);
    }
}
