//! The name of a pairing code: it says nothing about the code, and sorts by age.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Names a code for ever, and says nothing about it: `ocpc_` and a ULID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CodeId(String);

/// Not `ocpc_` and 26 Crockford symbols.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no id of a code: it looks like ocpc_01JD3X…, see clawgate code ls")]
pub struct NotACodeId(String);

/// Crockford's symbols: no I, L, O, U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl CodeId {
    const PREFIX: &str = "ocpc_";

    /// 48 bits of wall time, then 80 random ones: sorts by age.
    pub(super) fn new(wall: Duration, random: [u8; 10]) -> Self {
        let high = u128::from(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX) & 0xffff_ffff_ffff);
        let value = random.iter().fold(high, |value, byte| value << 8 | u128::from(*byte));
        let symbols = (0..26).rev().map(|place| ALPHABET[usize::try_from(value >> (5 * place) & 31).unwrap_or(0)]);
        Self(Self::PREFIX.chars().chain(symbols.map(char::from)).collect())
    }

    /// The id as text.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CodeId {
    type Err = NotACodeId;

    fn from_str(text: &str) -> Result<Self, NotACodeId> {
        let symbols = text.strip_prefix(Self::PREFIX).unwrap_or_default();
        if symbols.len() == 26 && symbols.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()) {
            return Ok(Self(text.to_owned()));
        }
        Err(NotACodeId(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for CodeId {
    type Error = NotACodeId;

    fn try_from(text: String) -> Result<Self, NotACodeId> {
        text.parse()
    }
}

impl From<CodeId> for String {
    fn from(id: CodeId) -> Self {
        id.0
    }
}

impl fmt::Display for CodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_age_and_only_ids_are_ids() {
        let (old, new) =
            (CodeId::new(Duration::from_millis(1), [255; 10]), CodeId::new(Duration::from_millis(2), [0; 10]));
        assert!(old < new);
        assert_eq!(old.as_str(), "ocpc_0000000001ZZZZZZZZZZZZZZZZ");
        assert_eq!(old.as_str().parse(), Ok(old));
        for bad in ["", "ocpc_", "ocpc_0000000001ZZZZZZZZZZZZZZZ", "ocpc_0000000001ZZZZZZZZZZZZZZZ\u{1b}"] {
            assert!(bad.parse::<CodeId>().is_err(), "{bad:?}");
        }
    }
}
