//! The keys under which a sensor may answer: the current one, and one that it has yet to prove.

use clawgate_protocol::keys::PairingRecord;

use crate::ids::PairingId;
use crate::store::{KeySlot, Keyed};

/// One or two keys of a device, in the order to try them.
pub(crate) struct Keys {
    first: PairingRecord,
    other: Option<PairingRecord>,
    /// Of the pending key: its pairing, and the code it was made with.
    pending: Option<(PairingId, Option<String>)>,
}

/// A pending key was proven.
pub(super) struct Proof {
    /// The code it was made with, if it was one of ours.
    pub(super) code: Option<String>,
}

impl Keys {
    /// The keys of a device; the key that the sensor showed first, else the pending one. None without a
    /// usable key.
    pub(crate) fn of(Keyed { device, keys }: &Keyed, shown: Option<PairingId>) -> Option<Self> {
        let mut records: Vec<PairingRecord> = keys.iter().filter_map(record).collect();
        records.sort_by_key(|record| shown != Some(PairingId(record.pairing_id)));
        let mut records = records.into_iter();
        Some(Self {
            first: records.next()?,
            other: records.next(),
            pending: device.pending.as_ref().map(|pending| (pending.pairing, pending.code.clone())),
        })
    }

    /// The key to try.
    pub(super) fn first(&self) -> &PairingRecord {
        &self.first
    }

    /// Turns to the other key, once; false when there is none left.
    pub(super) fn try_other(&mut self) -> bool {
        let Some(other) = self.other.take() else { return false };
        self.first = other;
        true
    }

    /// The sensor has shown that it holds the key of `pairing`: if that was pending, no other key is tried
    /// any more.
    pub(super) fn prove(&mut self, pairing: PairingId) -> Option<Proof> {
        let (_, code) = self.pending.take_if(|(pending, _)| *pending == pairing)?;
        self.other = None;
        Some(Proof { code })
    }
}

/// The record of a key slot; none where it is damaged.
pub(crate) fn record(slot: &KeySlot) -> Option<PairingRecord> {
    slot.record.expose().as_slice().try_into().ok().and_then(|bytes| PairingRecord::from_bytes(bytes).ok())
}
