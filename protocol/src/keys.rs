//! What each end keeps of a pairing, and the two slots that make a re-pairing old key or new key, never half.

use core::fmt;

use sha2::{Digest, Sha512};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::id::{ID_MAX, Id};
use crate::pairing::{Ceremony, Suite};

/// The length of a record as bytes.
pub const RECORD_LEN: usize = 254;

const FORMAT: u8 = 1;

/// Which end a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The gateway's half of the pairing.
    Gateway,
    /// The sensor's half of the pairing.
    Sensor,
}

/// Everything an end keeps of one pairing. Its `Debug` shows names only; the secrets leave memory with it.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PairingRecord {
    /// Whose half this is.
    #[zeroize(skip)]
    pub role: Role,
    /// The suite that was agreed.
    #[zeroize(skip)]
    pub suite: Suite,
    /// The ceremony it came from.
    #[zeroize(skip)]
    pub ceremony: Ceremony,
    /// The sensor's id.
    #[zeroize(skip)]
    pub device: Id,
    /// The gateway's id.
    #[zeroize(skip)]
    pub gateway: Id,
    /// Names this pairing for ever; both ends derive the same.
    pub pairing_id: [u8; 8],
    /// Names the key inside a session's prologue; never sent.
    pub key_id: [u8; 8],
    /// This end's static X25519 secret.
    pub own_static: [u8; 32],
    /// The other end's static X25519 public key.
    pub peer_static: [u8; 32],
    /// The pre-shared key of the session handshake.
    pub psk: [u8; 32],
    /// The key of the 8 bytes that open a session handshake.
    pub key_id_key: [u8; 32],
    /// The key of the rotating id.
    pub advertising_key: [u8; 32],
}

impl fmt::Debug for PairingRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PairingRecord")
            .field("role", &self.role)
            .field("device", &self.device)
            .field("gateway", &self.gateway)
            .finish_non_exhaustive()
    }
}

/// Stored bytes are no record of this version, or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DamagedRecord;

impl fmt::Display for DamagedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stored pairing keys are damaged or of a newer version: restore a backup or pair again")
    }
}

impl core::error::Error for DamagedRecord {}

impl PairingRecord {
    /// The record as bytes: secrets in clear, for a sealed store or protected flash only.
    ///
    /// Layout: format 1, role, suite, ceremony, device length and 32 bytes, gateway length and 32 bytes,
    /// pairing id 8, key id 8, own static 32, peer static 32, psk 32, key-id key 32, advertising key 32, and
    /// the first 8 bytes of SHA-512 over all before, so that a torn write is seen.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; RECORD_LEN] {
        let mut out = [0; RECORD_LEN];
        let role = match self.role {
            Role::Gateway => 1,
            Role::Sensor => 2,
        };
        let (device, gateway) = (padded(&self.device), padded(&self.gateway));
        let fields: [&[u8]; 10] = [
            &[FORMAT, role, self.suite.number(), self.ceremony.number()],
            &device,
            &gateway,
            &self.pairing_id,
            &self.key_id,
            &self.own_static,
            &self.peer_static,
            &self.psk,
            &self.key_id_key,
            &self.advertising_key,
        ];
        let mut hash = Sha512::new();
        for field in fields {
            hash.update(field);
        }
        let check: [u8; 64] = hash.finalize().into();
        let body = fields.iter().copied().flatten();
        for (to, from) in out.iter_mut().zip(body.chain(check.iter().take(8))) {
            *to = *from;
        }
        out
    }

    /// The record of stored bytes.
    ///
    /// # Errors
    /// [`DamagedRecord`] if the bytes are not exactly what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8; RECORD_LEN]) -> Result<Self, DamagedRecord> {
        Self::parse(bytes).ok_or(DamagedRecord)
    }

    fn parse(bytes: &[u8; RECORD_LEN]) -> Option<Self> {
        let (body, check) = bytes.split_last_chunk::<8>()?;
        let digest: [u8; 64] = Sha512::digest(body).into();
        if digest.first_chunk::<8>()? != check {
            return None;
        }
        let mut rest = body;
        let [FORMAT, role, suite, ceremony] = *take::<4>(&mut rest)? else { return None };
        Some(Self {
            role: match role {
                1 => Role::Gateway,
                2 => Role::Sensor,
                _ => return None,
            },
            suite: Suite::from_number(suite)?,
            ceremony: Ceremony::from_number(ceremony)?,
            device: unpadded(take(&mut rest)?)?,
            gateway: unpadded(take(&mut rest)?)?,
            pairing_id: *take(&mut rest)?,
            key_id: *take(&mut rest)?,
            own_static: *take(&mut rest)?,
            peer_static: *take(&mut rest)?,
            psk: *take(&mut rest)?,
            key_id_key: *take(&mut rest)?,
            advertising_key: *take(&mut rest)?,
        })
    }
}

fn padded(id: &Id) -> [u8; ID_MAX + 1] {
    let mut out = [0; ID_MAX + 1];
    let length = u8::try_from(id.as_bytes().len()).unwrap_or(0);
    for (to, from) in out.iter_mut().zip(core::iter::once(&length).chain(id.as_bytes())) {
        *to = *from;
    }
    out
}

fn unpadded(bytes: &[u8; ID_MAX + 1]) -> Option<Id> {
    let (len, text) = bytes.split_first()?;
    core::str::from_utf8(text.get(..usize::from(*len))?).ok()?.parse().ok()
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(head)
}

/// An end's two key slots for one peer.
///
/// A pairing writes `pending`; the proof that the peer has the new key too moves it to `current`: at the
/// gateway a valid M6 or the first valid record of a session under it, at the sensor the first valid record
/// of a session under it. A pending key replaces only a pending key. Persist both slots after each change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slots {
    current: Option<PairingRecord>,
    pending: Option<PairingRecord>,
}

impl Slots {
    /// The slots as they were persisted.
    #[must_use]
    pub const fn new(current: Option<PairingRecord>, pending: Option<PairingRecord>) -> Self {
        Self { current, pending }
    }

    /// The proven key.
    #[must_use]
    pub const fn current(&self) -> Option<&PairingRecord> {
        self.current.as_ref()
    }

    /// The key that the peer has not yet proven.
    #[must_use]
    pub const fn pending(&self) -> Option<&PairingRecord> {
        self.pending.as_ref()
    }

    /// The keys to try in a session, the newest first; the old one only while the new one is pending.
    pub fn candidates(&self) -> impl Iterator<Item = &PairingRecord> {
        self.pending.iter().chain(self.current.iter())
    }

    /// Writes a new key beside the current one.
    pub fn store_pending(&mut self, record: PairingRecord) {
        self.pending = Some(record);
    }

    /// The peer proved this pairing: if it is the pending one it becomes the current one and the old key is
    /// gone. True if something changed and must be persisted.
    #[must_use]
    pub fn prove(&mut self, pairing_id: &[u8; 8]) -> bool {
        if self.pending.as_ref().is_none_or(|p| p.pairing_id != *pairing_id) {
            return false;
        }
        self.current = self.pending.take();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: u8) -> PairingRecord {
        PairingRecord {
            role: Role::Sensor,
            suite: Suite::One,
            ceremony: Ceremony::Label,
            device: "th-kit".parse().unwrap(),
            gateway: "shed".parse().unwrap(),
            pairing_id: [n; 8],
            key_id: [2; 8],
            own_static: [3; 32],
            peer_static: [4; 32],
            psk: [5; 32],
            key_id_key: [6; 32],
            advertising_key: [7; 32],
        }
    }

    #[test]
    fn a_record_survives_as_bytes() {
        assert_eq!(PairingRecord::from_bytes(&record(1).to_bytes()), Ok(record(1)));
    }

    #[test]
    fn a_record_with_any_bit_changed_is_refused() {
        let good = record(1).to_bytes();
        for at in 0..RECORD_LEN * 8 {
            let mut bad = good;
            bad[at / 8] ^= 1 << (at % 8);
            assert_eq!(PairingRecord::from_bytes(&bad), Err(DamagedRecord), "bit {at}");
        }
    }

    #[test]
    fn a_record_does_not_print_its_secrets() {
        let text = std::format!("{:?}", record(1));
        assert!(text.contains("th-kit") && !text.contains("psk") && !text.contains("[5"), "{text}");
    }

    #[test]
    fn a_pending_key_replaces_only_a_pending_key_until_it_is_proven() {
        let mut slots = Slots::new(Some(record(1)), None);
        slots.store_pending(record(2));
        slots.store_pending(record(3));
        assert_eq!(slots.current(), Some(&record(1)));
        assert_eq!(slots.candidates().map(|r| r.pairing_id[0]).collect::<std::vec::Vec<_>>(), [3, 1]);
        assert!(!slots.prove(&[1; 8]), "the old key proves nothing about the new one");
        assert!(slots.prove(&[3; 8]));
        assert_eq!((slots.current(), slots.pending()), (Some(&record(3)), None));
    }
}
