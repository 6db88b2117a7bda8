//! A pairing code on its way to whoever asked for it: a compact JWE (RFC 7516), ECDH-ES on P-256 directly
//! (RFC 7518, 4.6), content under ChaCha20-Poly1305 (`C20P`, draft-amringer-jose-chacha). The broker, and whoever reads
//! its topics, sees that there is a code and not which.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::token::key::{Jwk, KeyError, SigningKey};

const ENCRYPTION: &str = "C20P";

/// Why nothing was encrypted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum JweError {
    /// The recipient's key, or randomness for ours.
    #[error("encrypt_to: {0}")]
    Key(#[from] KeyError),
    /// The cipher refused; it does not for so short a text.
    #[error("the code could not be encrypted")]
    Cipher,
    /// No randomness.
    #[error("no random bytes from the operating system: {0}")]
    Random(getrandom::Error),
}

/// Encrypts `text` so that only the holder of `recipient` reads it.
pub(crate) fn encrypt(recipient: &Jwk, text: &[u8]) -> Result<String, JweError> {
    let own = SigningKey::generate()?;
    let mut nonce = [0_u8; 12];
    getrandom::fill(&mut nonce).map_err(JweError::Random)?;
    let epk = own.public();
    let header = json!({
        "alg": "ECDH-ES", "enc": ENCRYPTION,
        "epk": { "kty": epk.kty, "crv": epk.crv, "x": epk.x, "y": epk.y },
    });
    let header = BASE64URL.encode(header.to_string());
    let shared = own.agree(recipient)?;
    let key = derive(&shared);
    let sealed = ChaCha20Poly1305::new(&Key::from(*key))
        .encrypt(&Nonce::from(nonce), Payload { msg: text, aad: header.as_bytes() })
        .map_err(|_| JweError::Cipher)?;
    let (content, tag) = sealed.split_at(sealed.len().saturating_sub(16));
    let part = |bytes: &[u8]| BASE64URL.encode(bytes);
    // The second part, the encrypted key, is empty: the agreed key is used directly.
    Ok(format!("{header}..{}.{}.{}", part(&nonce), part(content), part(tag)))
}

/// Concat KDF (RFC 7518, 4.6.2), one round, no party info.
fn derive(shared: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    let mut hash = Sha256::new();
    hash.update(1_u32.to_be_bytes());
    hash.update(shared);
    let name = ENCRYPTION.as_bytes();
    hash.update(u32::try_from(name.len()).unwrap_or_default().to_be_bytes());
    hash.update(name);
    hash.update(0_u32.to_be_bytes());
    hash.update(0_u32.to_be_bytes());
    hash.update(256_u32.to_be_bytes());
    Zeroizing::new(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_recipient_reads_it_and_no_two_look_alike() {
        let (recipient, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let (first, second) =
            (encrypt(recipient.public(), b"7F3K-9Q2M").unwrap(), encrypt(recipient.public(), b"7F3K-9Q2M").unwrap());
        assert_ne!(first, second);
        let open = |who: &SigningKey, jwe: &str| {
            let parts: Vec<_> = jwe.split('.').collect();
            let decode = |at: usize| BASE64URL.decode(parts[at]).unwrap();
            let header: serde_json::Value = serde_json::from_slice(&decode(0)).unwrap();
            assert_eq!((&header["alg"], &header["enc"], parts[1]), (&json!("ECDH-ES"), &json!("C20P"), ""));
            let epk: Jwk = serde_json::from_value(header["epk"].clone()).unwrap();
            let shared = who.agree(&epk).unwrap();
            let key = derive(&shared);
            let nonce: [u8; 12] = decode(2).try_into().unwrap();
            let sealed = [decode(3), decode(4)].concat();
            let payload = Payload { msg: &sealed, aad: parts[0].as_bytes() };
            ChaCha20Poly1305::new(&Key::from(*key)).decrypt(&Nonce::from(nonce), payload).ok()
        };
        assert_eq!(open(&recipient, &first).as_deref(), Some(&b"7F3K-9Q2M"[..]));
        assert_eq!(open(&other, &first), None);
    }
}
