//! The signed checkpoint: how long the log is, its Merkle root and its last hash, under the gateway's audit key.
//! Kept beside the log and, published, as an anchor that nobody with this disk can change.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::digest::{Digest, Edge, decode_hex, hex};

pub(super) const FILE: &str = "checkpoint.json";
const DOMAIN: &[u8] = b"clawgate audit checkpoint 1\n";

/// Where a chain stands: the tree so far and the hash of the last line.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) edge: Edge,
    pub(super) last: Digest,
}

impl State {
    /// One line further.
    pub(super) fn push(&mut self, hash: Digest) {
        self.edge.push(hash);
        self.last = hash;
    }
}

/// A signed statement about the log. In JSON, what is signed is this object without `signature`, compact, its
/// fields in this order, after the line `clawgate audit checkpoint 1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    #[serde(flatten)]
    pub(super) body: Body,
    signature: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Body {
    /// Lines since the log began.
    pub(super) size: u64,
    /// Their RFC 6962 root.
    pub(super) root: Digest,
    /// The log so far.
    pub(super) head: State,
    /// The log up to the oldest line that is still kept.
    pub(super) base: State,
    /// Wall time in milliseconds since 1970.
    pub(super) time_ms: i64,
    /// The public key.
    pub(super) key: Digest,
}

impl Checkpoint {
    pub(super) fn sign(key: &SigningKey, head: State, base: State, time_ms: i64) -> Self {
        let public = Digest(key.verifying_key().to_bytes());
        let body = Body { size: head.edge.size, root: head.edge.root(), head, base, time_ms, key: public };
        let signature = hex(&key.sign(&body.message()).to_bytes());
        Self { body, signature }
    }

    /// Whether the signature is that of the key it names, and its parts agree with each other.
    pub(super) fn is_genuine(&self) -> bool {
        let mut signature = [0; 64];
        let Ok(key) = VerifyingKey::from_bytes(&self.body.key.0) else { return false };
        decode_hex(&self.signature, &mut signature).is_ok()
            && key.verify_strict(&self.body.message(), &Signature::from_bytes(&signature)).is_ok()
            && self.body.head.edge.is_consistent()
            && self.body.base.edge.is_consistent()
            && self.body.head.edge.size == self.body.size
            && self.body.head.edge.root() == self.body.root
    }

    /// The checkpoint in a text: its last line, so that an export of the log serves as well as the file itself or what
    /// was published; or all of it, where somebody laid it out.
    #[must_use]
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        text.lines().last().and_then(|line| serde_json::from_str(line).ok()).or_else(|| serde_json::from_str(text).ok())
    }

    /// How many lines it speaks for.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.body.size
    }

    /// The RFC 6962 root of those lines.
    #[must_use]
    pub(crate) fn root(&self) -> Digest {
        self.body.root
    }

    /// The Ed25519 public key that signed it.
    #[must_use]
    pub(crate) fn key(&self) -> Digest {
        self.body.key
    }

    /// The checkpoint of a log; none if there is no file, or one that is no checkpoint.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Result<Self, serde_json::Error>>> {
        match fs::read(dir.join(FILE)) {
            Ok(content) => Ok(Some(serde_json::from_slice(&content))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the checkpoint whole: a crash leaves the old one or the new one.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let aside = dir.join("checkpoint.json.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(serde_json::to_string(self)?.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_data()?;
        fs::rename(&aside, dir.join(FILE))
    }
}

impl Body {
    fn message(&self) -> Vec<u8> {
        // Integers and strings only: this cannot fail, and an empty message verifies nothing.
        [DOMAIN, &serde_json::to_vec(self).unwrap_or_default()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> Checkpoint {
        let mut head = State::default();
        head.push(Digest([1; 32]));
        Checkpoint::sign(&SigningKey::from_bytes(&[3; 32]), head, State::default(), 5)
    }

    #[test]
    fn a_checkpoint_that_was_changed_anywhere_is_not_genuine() {
        let good = serde_json::to_string(&signed()).unwrap();
        assert!(serde_json::from_str::<Checkpoint>(&good).unwrap().is_genuine());
        for at in 0..good.len() {
            let mut changed = good.clone().into_bytes();
            changed[at] ^= 1;
            let read = serde_json::from_slice::<Checkpoint>(&changed);
            assert!(read.is_err() || !read.is_ok_and(|c| c.is_genuine()), "byte {at}");
        }
    }
}
