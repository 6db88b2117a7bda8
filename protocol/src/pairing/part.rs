//! Bounded buffers of a run, and the encrypted part of M4 and M5 in them.

use heapless::Vec;
use zeroize::Zeroize;

use super::Failure;
use crate::aead::{self, TAG_LEN};
use crate::kdf::{Hash, Transcript};
use crate::kem::CT_LEN;
use crate::message::MessageError;

/// The longest text inside an encrypted part: a device certificate is the long thing in it.
pub(super) const PART_MAX: usize = if cfg!(feature = "certificate") { 640 } else { 176 };

/// The longest message of a run: M4 with a full part, and the KEM's ciphertext where it is built in.
pub(super) const BUFFER: usize = PART_MAX + 64 + CT_LEN;

/// A message of a run.
pub(super) type Buffer = Vec<u8, BUFFER>;

/// Replaces what is in `buffer` by what `encode` writes.
pub(super) fn fill<const N: usize>(
    buffer: &mut Vec<u8, N>,
    encode: impl FnOnce(&mut [u8]) -> Result<usize, MessageError>,
) -> Result<(), Failure> {
    buffer.clear();
    buffer.resize_default(N).map_err(|_| Failure::Unencodable)?;
    let length = encode(buffer);
    buffer.truncate(*length.as_ref().unwrap_or(&0));
    length.map(|_| ()).map_err(|_| Failure::Unencodable)
}

/// The transcript hash with a peer's or our own message from which `strip` took some fields.
pub(super) fn hash_without(
    transcript: &Transcript,
    message: &[u8],
    strip: impl FnOnce(&[u8], &mut [u8]) -> Result<usize, MessageError>,
) -> Result<Hash, Failure> {
    let mut stripped = [0; BUFFER];
    let length = strip(message, &mut stripped).map_err(|_| Failure::Malformed)?;
    Ok(transcript.with(stripped.get(..length).unwrap_or_default()))
}

/// An encrypted part: first its text, then text and tag. Zeroized when dropped.
#[derive(Default)]
pub(super) struct Part(Vec<u8, { PART_MAX + TAG_LEN }>);

impl Part {
    /// A part whose text `encode` writes, with room for the tag.
    pub(super) fn new(encode: impl FnOnce(&mut [u8]) -> Result<usize, MessageError>) -> Result<Self, Failure> {
        let mut part = Self::default();
        fill(&mut part.0, |out| encode(out.get_mut(..PART_MAX).unwrap_or_default()))?;
        part.0.extend_from_slice(&[0; TAG_LEN]).map_err(|_| Failure::Unencodable)?;
        Ok(part)
    }

    /// A peer's part.
    pub(super) fn received(sealed: &[u8]) -> Result<Self, Failure> {
        Vec::from_slice(sealed).map(Self).map_err(|_| Failure::Malformed)
    }

    /// What goes into the message: text and tag, encrypted once [`Self::seal`] was called.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Encrypts in place.
    pub(super) fn seal(&mut self, key: &[u8; 32], aad: &Hash) -> Result<(), Failure> {
        let (text, tag) = self.0.split_last_chunk_mut::<TAG_LEN>().ok_or(Failure::Unencodable)?;
        *tag = aead::seal(key, 0, aad, text).map_err(|_| Failure::Unencodable)?;
        Ok(())
    }

    /// Decrypts in place; the text is in [`Self::text`] then.
    pub(super) fn open(&mut self, key: &[u8; 32], aad: &Hash) -> Result<(), Failure> {
        let (text, tag) = self.0.split_last_chunk_mut::<TAG_LEN>().ok_or(Failure::Malformed)?;
        aead::open(key, 0, aad, text, tag).map_err(|_| Failure::Unauthentic)
    }

    /// The text without the tag.
    pub(super) fn text(&self) -> &[u8] {
        self.0.split_last_chunk::<TAG_LEN>().map_or(&[], |(text, _)| text)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.0.as_mut_slice().zeroize();
    }
}
