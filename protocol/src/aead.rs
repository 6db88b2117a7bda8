//! ChaCha20-Poly1305 (RFC 8439) in place. A failed opening leaves no plaintext behind.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Tag};

/// The length of an authentication tag.
pub(crate) const TAG_LEN: usize = 16;

/// It did not authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forged;

/// The nonce of a counter as Noise forms it: four zero bytes, then the counter as 8 bytes little-endian.
fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    if let Some(tail) = nonce.last_chunk_mut::<8>() {
        *tail = counter.to_le_bytes();
    }
    nonce
}

/// Encrypts in place. The caller never uses a (key, counter) twice.
pub(crate) fn seal(key: &[u8; 32], counter: u64, aad: &[u8], text: &mut [u8]) -> Result<[u8; TAG_LEN], Forged> {
    ChaCha20Poly1305::new(key.into())
        .encrypt_inout_detached(&nonce(counter).into(), aad, text.into())
        .map(Into::into)
        .map_err(|_| Forged) // only texts beyond 2^38 bytes
}

/// Decrypts in place.
pub(crate) fn open(
    key: &[u8; 32],
    counter: u64,
    aad: &[u8],
    text: &mut [u8],
    tag: &[u8; TAG_LEN],
) -> Result<(), Forged> {
    ChaCha20Poly1305::new(key.into())
        .decrypt_inout_detached(&nonce(counter).into(), aad, text.into(), &Tag::from(*tag))
        .map_err(|_| Forged)
}
