//! One session: what a handshake under one pairing yielded.

use super::{Opened, REKEY_AFTER_RECORDS, SESSION_LIMIT_MS, SessionError};
use crate::PROTOCOL_VERSION;
use crate::Transport;
use crate::id::Id;
use crate::kdf::{LengthPrefix, tag};
use crate::keys::PairingRecord;
use crate::noise::{Known, TransportKeys};
use crate::record::{Opener, Sealer};

/// A session with its keys.
pub(super) struct Session {
    pub(super) index: u8,
    pairing_id: [u8; 8],
    started_ms: u64,
    peer_spoke: bool,
    sealer: Sealer,
    opener: Opener,
}

impl Session {
    pub(super) fn new(index: u8, pairing_id: [u8; 8], keys: &TransportKeys, now_ms: u64) -> Self {
        Self {
            index,
            pairing_id,
            started_ms: now_ms,
            peer_spoke: false,
            sealer: Sealer::new(keys.send, index),
            opener: Opener::new(keys.receive),
        }
    }

    pub(super) fn seal(&mut self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, SessionError> {
        self.sealer.seal(plaintext, out)
    }

    pub(super) fn open<'m>(&mut self, record: &'m mut [u8]) -> Result<Opened<'m>, SessionError> {
        let plaintext = self.opener.open(record)?;
        let first = !core::mem::replace(&mut self.peer_spoke, true);
        Ok(Opened { plaintext, first, pairing_id: self.pairing_id })
    }

    pub(super) const fn is_old(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.started_ms) >= SESSION_LIMIT_MS
            || self.sealer.count() >= REKEY_AFTER_RECORDS
            || self.opener.count() >= REKEY_AFTER_RECORDS
    }
}

/// What a handshake is bound to: at most 110 bytes.
pub(super) struct Prologue(heapless::Vec<u8, 128>);

impl Prologue {
    /// lv of `claw-session`, version, `sensor` and id, `gateway` and id, transport, key id, session index.
    pub(super) fn new(record: &PairingRecord, transport: Transport, index: u8) -> Result<Self, SessionError> {
        let (sensor, gateway): (&Id, &Id) = (&record.device, &record.gateway);
        let (version, index) = ([PROTOCOL_VERSION], [index]);
        let values: [[&[u8]; 2]; 7] = [
            [b"claw-session", b""],
            [&version, b""],
            [b"sensor", sensor.as_bytes()],
            [b"gateway", gateway.as_bytes()],
            [transport.name().as_bytes(), b""],
            [&record.key_id, b""],
            [&index, b""],
        ];
        let mut bytes = heapless::Vec::new();
        for [a, b] in values {
            let length = LengthPrefix::of(a.len().saturating_add(b.len()));
            for part in [length.as_bytes(), a, b] {
                bytes.extend_from_slice(part).map_err(|_| SessionError::NoSpace)?;
            }
        }
        Ok(Self(bytes))
    }

    /// What both ends of a handshake under `record` know.
    pub(super) fn known<'a>(&'a self, record: &'a PairingRecord) -> Known<'a> {
        Known { prologue: &self.0, psk: &record.psk, own_static: &record.own_static, peer_static: &record.peer_static }
    }
}

/// The 8 bytes in front of a handshake: only who has the pairing can make or check them.
pub(super) fn key_id_tag(record: &PairingRecord, ephemeral: &[u8], index: u8) -> [u8; 8] {
    tag(&record.key_id_key, &[ephemeral, &[index]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> [Session; 2] {
        let keys = |send, receive| TransportKeys { send: [send; 32], receive: [receive; 32], hash: [0; 64] };
        [keys(1, 2), keys(2, 1)].map(|keys| Session::new(9, [0; 8], &keys, 0))
    }

    #[test]
    fn a_million_records_in_either_direction_ask_for_a_new_session() {
        let [mut sender, mut receiver] = ends();
        sender.sealer.skip_to(REKEY_AFTER_RECORDS - 1);
        assert!(!sender.is_old(0));
        let mut record = [0; 22];
        assert_eq!(sender.seal(b"", &mut record), Ok(22));
        assert!(sender.is_old(0));
        assert!(receiver.open(&mut record).unwrap().first);
        assert!(receiver.is_old(0));
    }
}
