//! The primitives' glue: length-prefixed values, HMAC and HKDF with SHA-512, the transcript.
//!
//! Every length here is a constant below a hash block, so that nothing can fail.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

/// The length of SHA-512's output.
pub const HASH_LEN: usize = 64;

/// A value of SHA-512.
pub type Hash = [u8; HASH_LEN];

/// The length in front of a value, as LEB128: seven bits a byte, the lowest first, bit 7 set on all but the
/// last (draft-irtf-cfrg-cpace-21, `prepend_len`).
pub(crate) struct LengthPrefix {
    bytes: [u8; 10],
    used: usize,
}

impl LengthPrefix {
    pub(crate) fn of(length: usize) -> Self {
        let (mut bytes, mut used, mut rest) = ([0; 10], 0_usize, length);
        for byte in &mut bytes {
            used = used.saturating_add(1);
            *byte = u8::try_from(rest & 0x7f).unwrap_or(0);
            rest >>= 7;
            if rest == 0 {
                break;
            }
            *byte |= 0x80;
        }
        Self { bytes, used }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.used).unwrap_or_default()
    }
}

/// Hashes lv(parts, one after the other): one length prefix for all of them together.
pub(crate) fn update_lv(hash: &mut impl digest_update::Update, parts: &[&[u8]]) {
    let length = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
    hash.feed(LengthPrefix::of(length).as_bytes());
    for part in parts {
        hash.feed(part);
    }
}

/// What lv values can be fed into: a hash or an HMAC.
mod digest_update {
    use super::{Digest, Hmac, Mac, Sha512};

    pub(crate) trait Update {
        fn feed(&mut self, bytes: &[u8]);
    }

    impl Update for Sha512 {
        fn feed(&mut self, bytes: &[u8]) {
            Digest::update(self, bytes);
        }
    }

    impl Update for Hmac<Sha512> {
        fn feed(&mut self, bytes: &[u8]) {
            Mac::update(self, bytes);
        }
    }
}

/// An HMAC-SHA512 under a key of at most one block (shorter ones are filled with zeros: RFC 2104).
fn keyed<const N: usize>(key: &[u8; N]) -> Hmac<Sha512> {
    const { assert!(N <= 128, "longer keys would have to be hashed") };
    let mut block = Zeroizing::new([0; 128]);
    if let Some(start) = block.first_chunk_mut::<N>() {
        *start = *key;
    }
    Hmac::new(&(*block).into())
}

/// HMAC-SHA512 over the parts, one after the other.
pub(crate) fn hmac<const N: usize>(key: &[u8; N], parts: &[&[u8]]) -> Zeroizing<Hash> {
    let mut mac = keyed(key);
    for part in parts {
        Mac::update(&mut mac, part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// The first `N` bytes of HMAC-SHA512 over the parts.
pub(crate) fn tag<const N: usize, const K: usize>(key: &[u8; K], parts: &[&[u8]]) -> [u8; N] {
    first(&hmac(key, parts))
}

/// HKDF-Extract with SHA-512 (RFC 5869), the input key material given as lv values.
pub(crate) fn extract_lv<const N: usize>(salt: &[u8; N], values: &[&[u8]]) -> Zeroizing<Hash> {
    let mut mac = keyed(salt);
    for value in values {
        update_lv(&mut mac, &[value]);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// HKDF-Extract with SHA-512 (RFC 5869).
pub(crate) fn extract<const N: usize>(salt: &[u8; N], input: &[u8]) -> Zeroizing<Hash> {
    hmac(salt, &[input])
}

/// HKDF-Expand with SHA-512 (RFC 5869) to at most one hash: a single HMAC over `info` and a byte 1.
pub(crate) fn expand<const N: usize>(key: &Hash, info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    let mut mac = keyed(key);
    for part in info {
        Mac::update(&mut mac, part);
    }
    Mac::update(&mut mac, &[1]);
    let block: Zeroizing<Hash> = Zeroizing::new(mac.finalize().into_bytes().into());
    Zeroizing::new(first(&block))
}

fn first<const N: usize>(hash: &Hash) -> [u8; N] {
    const { assert!(N <= HASH_LEN, "one block of HKDF output") };
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(hash) {
        *to = *from;
    }
    out
}

/// SHA-512 over lv(message) of each message so far.
#[derive(Clone, Default)]
pub(crate) struct Transcript(Sha512);

impl Transcript {
    /// Adds a message as it went over the link.
    pub(crate) fn push(&mut self, message: &[u8]) {
        update_lv(&mut self.0, &[message]);
    }

    /// The hash with `last` as one more message, which is not added.
    pub(crate) fn with(&self, last: &[u8]) -> Hash {
        let mut hash = self.clone();
        hash.push(last);
        hash.hash()
    }

    /// The hash of what was added.
    pub(crate) fn hash(&self) -> Hash {
        self.0.clone().finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hkdf::Hkdf;
    use proptest::prelude::*;

    #[test]
    fn a_length_is_leb128() {
        // draft-irtf-cfrg-cpace-21, appendix A.1.2, test vectors of prepend_len
        assert_eq!(LengthPrefix::of(0).as_bytes(), [0]);
        assert_eq!(LengthPrefix::of(4).as_bytes(), [4]);
        assert_eq!(LengthPrefix::of(127).as_bytes(), [0x7f]);
        assert_eq!(LengthPrefix::of(128).as_bytes(), [0x80, 1]);
        assert_eq!(LengthPrefix::of(usize::MAX).as_bytes().len(), 10);
    }

    proptest! {
        #[test]
        fn extract_and_expand_agree_with_the_hkdf_crate(
            salt in any::<[u8; 64]>(), ikm in proptest::collection::vec(any::<u8>(), 0..200), info in any::<[u8; 9]>(),
        ) {
            let (prk, oracle) = Hkdf::<Sha512>::extract(Some(&salt), &ikm);
            let ours = extract(&salt, &ikm);
            prop_assert_eq!(&ours[..], &prk[..]);
            let mut expected = [0; 32];
            oracle.expand(&info, &mut expected).unwrap();
            let expanded: Zeroizing<[u8; 32]> = expand(&ours, &[&info[..4], &info[4..]]);
            prop_assert_eq!(*expanded, expected);
        }
    }

    #[test]
    fn an_empty_salt_is_hkdfs_absent_salt() {
        let (prk, _) = Hkdf::<Sha512>::extract(None, b"\x01x\x00");
        assert_eq!(extract_lv(&[], &[b"x", b""])[..], prk[..]);
    }

    #[test]
    fn message_borders_are_part_of_the_transcript() {
        let mut one = Transcript::default();
        one.push(b"ab");
        assert_ne!(one.with(b"c"), Transcript::default().with(b"abc"));
        let before = one.hash();
        let _ = one.with(b"x");
        assert_eq!(one.hash(), before);
    }
}
