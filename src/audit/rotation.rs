//! The change of the audit key: a line `audit.key` in the log, in which the old key speaks for the new one.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde_json::{Value, json};

use super::digest::{Digest, decode_hex, hex};
use super::line::{self, Entry};
use super::{Action, Actor, Event};

/// Holds such lines of files that are no longer kept, so that an old key still leads to the new one.
pub(super) const FILE: &str = "keys.jsonl";
/// Most of that file that is read.
const LONGEST_FILE: u64 = 1 << 20;
const DOMAIN: &str = "clawgate audit key 1";

/// What an `audit.key` line says: from here on another key signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rotation {
    /// The key until this line.
    pub(super) from: Digest,
    /// The key after it; the line's subject.
    pub(super) to: Digest,
    /// The line's number.
    pub(super) seq: u64,
    /// The hash of the line before it: the signature speaks for the whole log until here.
    prev: Digest,
    signature: String,
}

impl Rotation {
    pub(super) fn sign(old: &SigningKey, to: Digest, seq: u64, prev: Digest) -> Self {
        let from = Digest(old.verifying_key().to_bytes());
        let mut rotation = Self { from, to, seq, prev, signature: String::new() };
        rotation.signature = hex(&old.sign(rotation.message().as_bytes()).to_bytes());
        rotation
    }

    pub(super) fn event(&self, actor: Actor) -> Event {
        let details = json!({ "from": self.from, "to": self.to, "signature": self.signature });
        Event::done(actor, Action::AuditKey, self.to.to_string()).with(details)
    }

    /// What a line says; none if it is no `audit.key` line.
    pub(super) fn of(entry: &Entry) -> Option<Self> {
        let digest = |name: &str| entry.details.get(name).and_then(Value::as_str)?.parse().ok();
        let text = |name: &str| entry.details.get(name).and_then(Value::as_str).map(str::to_owned);
        (entry.action == Action::AuditKey.as_str()).then_some(())?;
        // A line of this name without all of it speaks for no key.
        let (from, to) = (digest("from").unwrap_or_default(), digest("to").unwrap_or_default());
        let signature = text("signature").unwrap_or_default();
        Some(Self { from, to, seq: entry.seq, prev: entry.prev, signature })
    }

    /// Whether the old key signed it.
    pub(super) fn is_genuine(&self) -> bool {
        let mut signature = [0; 64];
        let Ok(key) = VerifyingKey::from_bytes(&self.from.0) else { return false };
        decode_hex(&self.signature, &mut signature).is_ok()
            && key.verify_strict(self.message().as_bytes(), &Signature::from_bytes(&signature)).is_ok()
    }

    fn message(&self) -> String {
        format!("{DOMAIN}\n{}\n{}\n{}\n{}\n", self.from, self.to, self.seq, self.prev)
    }
}

/// Keeps `audit.key` lines of a file that goes, line feeds included.
pub(super) fn keep(dir: &Path, lines: &[u8]) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(dir.join(FILE))?;
    file.write_all(lines)?;
    file.sync_data()
}

/// The changes of keys in files that are no longer kept, in their order, each once.
pub(super) fn kept(dir: &Path) -> io::Result<Vec<Rotation>> {
    let path = dir.join(FILE);
    let content = match fs::metadata(&path) {
        Ok(metadata) if metadata.len() <= LONGEST_FILE => fs::read(&path)?,
        Ok(_) => Vec::new(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let lines = content.split(|byte| *byte == b'\n').filter_map(line::parse);
    let mut rotations: Vec<Rotation> = lines.filter_map(|(entry, _)| Rotation::of(&entry)).collect();
    rotations.sort_by_key(|rotation| rotation.seq);
    // A crash between this file and the removal of the other leaves a line twice.
    rotations.dedup();
    Ok(rotations)
}
