//! 32 bytes in hexadecimal, and the Merkle tree of RFC 6962 in the form that grows leaf by leaf.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest or another 32 bytes; in text 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Not 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not 64 hexadecimal digits")]
pub struct NotADigest;

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let mut digest = [0; 32];
        decode_hex(text, &mut digest)?;
        Ok(Self(digest))
    }
}

impl TryFrom<String> for Digest {
    type Error = NotADigest;

    fn try_from(text: String) -> Result<Self, NotADigest> {
        text.parse()
    }
}

/// Two lower-case hexadecimal digits a byte.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).flatten().collect()
}

/// Fills `out` from exactly as many pairs of lower-case hexadecimal digits: one value has one text.
pub(super) fn decode_hex(text: &str, out: &mut [u8]) -> Result<(), NotADigest> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(NotADigest),
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != out.len() || !rest.is_empty() {
        return Err(NotADigest);
    }
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Ok(())
}

/// The hash of a leaf (RFC 6962, section 2.1).
pub(super) fn leaf(entry: &[u8]) -> Digest {
    Digest(Sha256::new().chain_update([0]).chain_update(entry).finalize().into())
}

fn node(left: Digest, right: Digest) -> Digest {
    Digest(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// The right edge of the tree: the roots of its full subtrees, the largest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Edge {
    pub(super) size: u64,
    peaks: Vec<Digest>,
}

impl Edge {
    pub(super) fn push(&mut self, leaf: Digest) {
        let mut peak = leaf;
        let mut level = self.size;
        while level & 1 == 1 {
            if let Some(left) = self.peaks.pop() {
                peak = node(left, peak);
            }
            level >>= 1;
        }
        self.peaks.push(peak);
        self.size = self.size.saturating_add(1);
    }

    /// The Merkle tree hash of all leaves (RFC 6962, section 2.1).
    pub(super) fn root(&self) -> Digest {
        let right_to_left = self.peaks.iter().rev().copied();
        right_to_left.reduce(|right, left| node(left, right)).unwrap_or_else(|| Digest(Sha256::digest([]).into()))
    }

    /// Whether there is one peak for each full subtree of that many leaves.
    pub(super) fn is_consistent(&self) -> bool {
        u32::try_from(self.peaks.len()) == Ok(self.size.count_ones())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs and roots of the test data of google/certificate-transparency (RFC 6962 trees of 0 to 8 leaves).
    #[test]
    fn the_root_is_that_of_the_published_trees() {
        let inputs: [&[u8]; 8] = [
            &[],
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
        ];
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut edge = Edge::default();
        for (size, root) in roots.iter().enumerate() {
            assert_eq!(edge.root().to_string(), *root, "{size} leaves");
            assert!(edge.is_consistent());
            if let Some(input) = inputs.get(size) {
                edge.push(leaf(input));
            }
        }
    }

    #[test]
    fn only_one_text_stands_for_a_digest() {
        let text = "ab".repeat(32);
        assert_eq!(text.parse(), Ok(Digest([0xab; 32])));
        for bad in ["AB".repeat(32), "ab".repeat(31), format!("{text}a"), format!("+1{}", "ab".repeat(31))] {
            assert_eq!(bad.parse::<Digest>(), Err(NotADigest), "{bad}");
        }
    }
}
