//! Sealing at rest: XChaCha20-Poly1305 under subkeys of the master key, bound to the place of the value,
//! so that a sealed value moved to another row opens nothing.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::StoreError;
use crate::secret::Secret;

const FORMAT: u8 = 1;
const NONCE: usize = 24;

/// Where a sealed value stands; all three are authenticated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) table: &'a str,
    pub(super) row: &'a str,
    pub(super) name: &'a str,
}

impl Place<'_> {
    fn aad(&self) -> Vec<u8> {
        let mut aad = vec![FORMAT];
        for part in [self.table, self.row, self.name] {
            aad.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            aad.extend_from_slice(part.as_bytes());
        }
        aad
    }
}

/// Seals and opens; one subkey a table.
#[derive(Debug)]
pub(super) struct Sealer(Secret<[u8; 32]>);

impl Sealer {
    pub(super) fn new(master: Secret<[u8; 32]>) -> Self {
        Self(master)
    }

    /// The key itself.
    pub(super) fn key(&self) -> Secret<[u8; 32]> {
        self.0.clone()
    }

    /// Names the key; says nothing about it.
    pub(super) fn id(&self) -> String {
        key_id("master", self.0.expose())
    }

    fn cipher(&self, table: &str) -> XChaCha20Poly1305 {
        let mut key = Zeroizing::new([0u8; 32]);
        let kdf = Hkdf::<Sha256>::new(Some(b"clawgate state v1"), self.0.expose());
        // 32 bytes are far below HKDF's limit of 255 blocks, so this cannot fail.
        let expanded = kdf.expand_multi_info(&[b"seal ", table.as_bytes()], key.as_mut());
        debug_assert!(expanded.is_ok());
        XChaCha20Poly1305::new(&Key::from(*key))
    }

    /// `format || nonce || ciphertext || tag`.
    pub(super) fn seal(&self, place: Place<'_>, secret: &[u8]) -> Result<Vec<u8>, StoreError> {
        let mut nonce = [0u8; NONCE];
        getrandom::fill(&mut nonce).map_err(|error| StoreError::Random(error.to_string()))?;
        let sealed = self
            .cipher(place.table)
            .encrypt(&XNonce::from(nonce), Payload { msg: secret, aad: &place.aad() })
            .map_err(|_| StoreError::Unsealable(format!("{} is too long", place.name)))?;
        Ok([&[FORMAT][..], &nonce, &sealed].concat())
    }

    /// The secret again, if it was sealed under this key for this place.
    pub(super) fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Secret<Vec<u8>>, StoreError> {
        let altered = || StoreError::Unsealable(format!("{} of {}", place.name, place.row));
        let (format, rest) = sealed.split_first().ok_or_else(altered)?;
        let (nonce, body) = rest.split_first_chunk::<NONCE>().ok_or_else(altered)?;
        if *format != FORMAT {
            return Err(altered());
        }
        self.cipher(place.table)
            .decrypt(&XNonce::from(*nonce), Payload { msg: body, aad: &place.aad() })
            .map(Secret::new)
            .map_err(|_| altered())
    }
}

/// A name for a secret key of 32 random bytes, from which nothing about the key follows.
pub(crate) fn key_id(kind: &str, key: &[u8; 32]) -> String {
    let mut id = [0; 8];
    let kdf = Hkdf::<Sha256>::new(Some(b"clawgate key id"), key);
    // 8 bytes are far below HKDF's limit, so this cannot fail.
    let expanded = kdf.expand(kind.as_bytes(), &mut id);
    debug_assert!(expanded.is_ok());
    format!("{:016x}", u64::from_be_bytes(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place<'static> = Place { table: "devices", row: "pump-3", name: "current" };

    #[test]
    fn a_sealed_value_opens_only_in_its_place_and_under_its_key() {
        let under = Sealer::new(Secret::new([1; 32]));
        let sealed = under.seal(HERE, b"secret").unwrap();
        assert_eq!(under.open(HERE, &sealed).unwrap().expose(), b"secret");
        for elsewhere in [
            Place { table: "secrets", ..HERE },
            Place { row: "pump-4", ..HERE },
            Place { name: "pending", ..HERE },
            Place { row: "pump-3current", name: "", ..HERE },
        ] {
            assert!(under.open(elsewhere, &sealed).is_err(), "{elsewhere:?}");
        }
        assert!(Sealer::new(Secret::new([2; 32])).open(HERE, &sealed).is_err());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let under = Sealer::new(Secret::new([1; 32]));
        let sealed = under.seal(HERE, b"secret").unwrap();
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert!(under.open(HERE, &flipped).is_err(), "byte {at}");
            assert!(under.open(HERE, &sealed[..at]).is_err(), "cut at {at}");
        }
    }
}
