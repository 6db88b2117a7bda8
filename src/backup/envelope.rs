//! The sealed file: XChaCha20-Poly1305 in chunks, under a key from a passphrase (Argon2id) or from a key file.
//!
//! ```text
//! "clawgate backup 1\n"  how (1 byte: 0 key, 1 passphrase)  salt (16)  then chunks
//! chunk: 64 KiB of content (the last one less) and a 16-byte tag; nonce = 15 zero bytes, 8-byte number, 1 byte "last"
//! ```
//! The key is used for this one file (the salt is random), so numbered nonces never come twice. The header is
//! authenticated with each chunk; the number and the mark of the last one show what was reordered, left out or cut.

use std::io::{self, Read, Write};

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{BackupError, random};
use crate::secret::Secret;

const MAGIC: &[u8; 18] = b"clawgate backup 1\n";
const SALT: usize = 16;
const HEADER: usize = MAGIC.len() + 1 + SALT;
const CHUNK: usize = 64 * 1024;
const TAG: usize = 16;
/// Argon2id: 64 MiB, three passes, one lane (RFC 9106's second choice, with the lanes of a small gateway).
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;

/// What opens a backup.
pub(crate) enum Unlock {
    /// A passphrase that a person knows.
    Passphrase(Secret<String>),
    /// 32 random bytes.
    Key(Secret<[u8; 32]>),
}

impl Unlock {
    fn how(&self) -> u8 {
        match self {
            Self::Key(_) => 0,
            Self::Passphrase(_) => 1,
        }
    }

    fn cipher(&self, salt: &[u8; SALT]) -> Result<XChaCha20Poly1305, BackupError> {
        let mut key = Zeroizing::new([0u8; 32]);
        match self {
            Self::Passphrase(phrase) => {
                let params =
                    Params::new(MEMORY_KIB, PASSES, 1, Some(key.len())).map_err(|_| BackupError::NotABackup)?;
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                    .hash_password_into(phrase.expose().as_bytes(), salt, key.as_mut())
                    .map_err(|_| BackupError::NotOpened)?;
            }
            Self::Key(given) => Hkdf::<Sha256>::new(Some(salt), given.expose())
                .expand(b"clawgate backup v1", key.as_mut())
                .map_err(|_| BackupError::NotOpened)?,
        }
        Ok(XChaCha20Poly1305::new(&Key::from(*key)))
    }
}

/// Seals what is written to it.
pub(super) struct Sealing<W: Write> {
    out: W,
    cipher: XChaCha20Poly1305,
    header: [u8; HEADER],
    held: Zeroizing<Vec<u8>>,
    number: u64,
}

impl<W: Write> Sealing<W> {
    pub(super) fn begin(mut out: W, unlock: &Unlock) -> Result<Self, BackupError> {
        let salt = random::<SALT>()?;
        let mut header = [0; HEADER];
        let (magic, rest) = header.split_at_mut(MAGIC.len());
        magic.copy_from_slice(MAGIC);
        if let Some((how, place)) = rest.split_first_mut() {
            *how = unlock.how();
            place.copy_from_slice(&salt);
        }
        out.write_all(&header).map_err(unwritten)?;
        let held = Zeroizing::new(Vec::with_capacity(CHUNK));
        Ok(Self { out, cipher: unlock.cipher(&salt)?, header, held, number: 0 })
    }

    /// Seals the last chunk, which may be empty, and gives the file back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.chunk(true)?;
        Ok(self.out)
    }

    fn chunk(&mut self, last: bool) -> io::Result<()> {
        let payload = Payload { msg: &self.held, aad: &self.header };
        let sealed = self
            .cipher
            .encrypt(&nonce(self.number, last), payload)
            .map_err(|_| io::Error::other("the chunk cannot be sealed"))?;
        self.out.write_all(&sealed)?;
        self.held.clear();
        self.number += 1;
        Ok(())
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Sealed only when more comes: the last chunk is known by `finish` alone.
        if self.held.len() == CHUNK {
            self.chunk(false)?;
        }
        let taken = bytes.len().min(CHUNK - self.held.len());
        self.held.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens what is read from it, a chunk at a time: nothing unauthenticated ever comes out.
pub(super) struct Opening<R: Read> {
    file: R,
    cipher: XChaCha20Poly1305,
    header: [u8; HEADER],
    open: Zeroizing<Vec<u8>>,
    at: usize,
    /// The sealed chunk after the one that is open.
    next: Vec<u8>,
    number: u64,
    ended: bool,
}

impl<R: Read> Opening<R> {
    pub(super) fn begin(mut file: R, unlock: &Unlock) -> Result<Self, BackupError> {
        let mut header = [0; HEADER];
        file.read_exact(&mut header).map_err(|_| BackupError::NotABackup)?;
        let (magic, rest) = header.split_at(MAGIC.len());
        let (how, salt) = rest.split_first().ok_or(BackupError::NotABackup)?;
        if magic != MAGIC || *how > 1 {
            return Err(BackupError::NotABackup);
        }
        if *how != unlock.how() {
            return Err(BackupError::NotOpened);
        }
        let salt = <[u8; SALT]>::try_from(salt).map_err(|_| BackupError::NotABackup)?;
        let cipher = unlock.cipher(&salt)?;
        let mut opening =
            Self { file, cipher, header, open: Zeroizing::default(), at: 0, next: Vec::new(), number: 0, ended: false };
        opening.next = opening.sealed().map_err(|_| BackupError::NotOpened)?;
        opening.turn().map_err(|_| BackupError::NotOpened)?;
        Ok(opening)
    }

    /// Whether everything was read, up to the mark of the end.
    pub(super) fn is_at_end(&self) -> bool {
        self.ended && self.at == self.open.len()
    }

    fn sealed(&mut self) -> io::Result<Vec<u8>> {
        let mut chunk = Vec::with_capacity(CHUNK + TAG);
        self.file.by_ref().take((CHUNK + TAG) as u64).read_to_end(&mut chunk)?;
        Ok(chunk)
    }

    /// Opens the next chunk. It is the last one when none follows.
    fn turn(&mut self) -> io::Result<()> {
        let following = self.sealed()?;
        let chunk = std::mem::replace(&mut self.next, following);
        self.ended = self.next.is_empty();
        let payload = Payload { msg: &chunk, aad: &self.header };
        let open = self.cipher.decrypt(&nonce(self.number, self.ended), payload);
        self.open = Zeroizing::new(open.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?);
        self.at = 0;
        self.number += 1;
        Ok(())
    }
}

impl<R: Read> Read for Opening<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.open.len() && !self.ended {
            self.turn()?;
        }
        let rest = self.open.get(self.at..).unwrap_or_default();
        let count = rest.len().min(into.len());
        if let (Some(into), Some(from)) = (into.get_mut(..count), rest.get(..count)) {
            into.copy_from_slice(from);
        }
        self.at += count;
        Ok(count)
    }
}

fn nonce(number: u64, last: bool) -> XNonce {
    let mut nonce = [0; 24];
    let (_, tail) = nonce.split_at_mut(15);
    if let Some((number_at, last_at)) = tail.split_first_chunk_mut::<8>() {
        *number_at = number.to_be_bytes();
        last_at.fill(u8::from(last));
    }
    XNonce::from(nonce)
}

fn unwritten(source: io::Error) -> BackupError {
    BackupError::Io { path: "the backup".into(), action: "write", source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Unlock {
        Unlock::Key(Secret::new([byte; 32]))
    }

    fn sealed(content: &[u8], unlock: &Unlock) -> Vec<u8> {
        let mut sealing = Sealing::begin(Vec::new(), unlock).unwrap();
        sealing.write_all(content).unwrap();
        sealing.finish().unwrap()
    }

    fn opened(file: &[u8], unlock: &Unlock) -> Option<Vec<u8>> {
        let mut opening = Opening::begin(file, unlock).ok()?;
        let mut content = Vec::new();
        opening.read_to_end(&mut content).ok()?;
        opening.is_at_end().then_some(content)
    }

    #[test]
    fn what_was_sealed_opens_again_at_every_length_around_a_chunk() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let content: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
            assert_eq!(opened(&sealed(&content, &key(1)), &key(1)), Some(content), "{length}");
        }
    }

    #[test]
    fn a_passphrase_opens_what_it_sealed_and_no_other_does() {
        let phrase = |text: &str| Unlock::Passphrase(Secret::new(text.to_owned()));
        let file = sealed(b"secret", &phrase("correct horse"));
        assert_eq!(opened(&file, &phrase("correct horse")).as_deref(), Some(&b"secret"[..]));
        assert_eq!(opened(&file, &phrase("correct hors")), None);
        assert_eq!(opened(&file, &key(1)), None);
    }

    #[test]
    fn every_altered_byte_and_every_cut_is_found() {
        let file = sealed(&[7; 100], &key(1));
        for at in 0..file.len() {
            let mut bent = file.clone();
            bent[at] ^= 1;
            assert_eq!(opened(&bent, &key(1)), None, "byte {at}");
            assert_eq!(opened(&file[..at], &key(1)), None, "cut at {at}");
        }
        assert_eq!(opened(&file, &key(2)), None);
    }

    #[test]
    fn a_file_cut_between_two_chunks_or_with_chunks_swapped_is_found() {
        let file = sealed(&vec![7; 3 * CHUNK], &key(1));
        let chunk = |n: usize| &file[HEADER + n * (CHUNK + TAG)..HEADER + (n + 1) * (CHUNK + TAG)];
        assert_eq!(opened(&file[..HEADER + CHUNK + TAG], &key(1)), None);
        let swapped = [&file[..HEADER], chunk(1), chunk(0), chunk(2)].concat();
        assert_eq!(opened(&swapped, &key(1)), None);
        let longer = [&file[..], chunk(0)].concat();
        assert_eq!(opened(&longer, &key(1)), None);
    }

    #[test]
    fn the_same_content_is_never_sealed_the_same() {
        assert_ne!(sealed(b"secret", &key(1)), sealed(b"secret", &key(1)));
        assert!(!sealed(&[7; 100], &key(1)).windows(8).any(|window| window == [7; 8]));
    }
}
