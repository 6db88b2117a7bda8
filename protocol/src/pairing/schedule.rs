//! The key schedule of a run: what goes into the key exchange, and every key that comes out of it.
//!
//! `docs/protocol.md`, section Keys, states the same; both machines go through here, so that they agree.

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Ceremony, Prs};
use crate::id::Id;
use crate::kdf::{Hash, LengthPrefix, expand, extract, extract_lv, tag};
use crate::{PROTOCOL_VERSION, Transport, cpace};

/// What a run is bound to before the shares are made.
pub(super) struct Channel<'a> {
    pub(super) ceremony: Ceremony,
    pub(super) transport: Transport,
    pub(super) device: &'a Id,
    pub(super) gateway: &'a Id,
    /// SHA-512 of M1.
    pub(super) m1_hash: &'a Hash,
    /// The gateway's nonce, the sensor's nonce.
    pub(super) sid: [&'a [u8]; 2],
}

impl Channel<'_> {
    /// CPace's generator under the code.
    pub(super) fn generator(&self, prs: Prs) -> [u8; 32] {
        let version = [PROTOCOL_VERSION];
        // Each line is one value of the channel identifier; a value in two parts has one length.
        let values: [[&[u8]; 2]; 7] = [
            [b"claw-pair", b""],
            [&version, b""],
            [self.ceremony.name().as_bytes(), b""],
            [b"sensor", self.device.as_bytes()],
            [b"gateway", self.gateway.as_bytes()],
            [self.transport.name().as_bytes(), b""],
            [self.m1_hash, b""],
        ];
        let lengths = values.map(|[a, b]| LengthPrefix::of(a.len().saturating_add(b.len())));
        let mut parts: [&[u8]; 21] = [b""; 21];
        let flat = values.iter().zip(&lengths).flat_map(|([a, b], length)| [length.as_bytes(), a, b]);
        parts.iter_mut().zip(flat).for_each(|(to, from)| *to = from);
        cpace::generator(&prs, &parts, &self.sid)
    }
}

/// What follows from the key exchange alone.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct Confirm {
    /// Ta: the sensor knew the code.
    pub(super) sensor_tag: [u8; 32],
    /// Tb: the gateway knew the code.
    pub(super) gateway_tag: [u8; 32],
    link: Hash,
    seal: Hash,
}

impl Confirm {
    /// From ISK and the hash of M1 to M3 without tags.
    pub(super) fn new(isk: &Hash, transcript: &Hash) -> Self {
        let prk = extract(transcript, isk);
        let confirm = |label: &[u8]| tag(&expand::<64>(&prk, &[label]), &[transcript]);
        Self {
            sensor_tag: confirm(b"sensor tag"),
            gateway_tag: confirm(b"gateway tag"),
            link: *expand(&prk, &[b"link"]),
            seal: *expand(&prk, &[b"seal"]),
        }
    }

    /// The AEAD keys of M4 and M5, with the KEM's secret (empty in suite 1).
    pub(super) fn message_keys(&self, kem: &[u8]) -> MessageKeys {
        let prk = extract_lv(&self.seal, &[kem]);
        MessageKeys { m4: *expand(&prk, &[b"m4"]), m5: *expand(&prk, &[b"m5"]) }
    }

    /// Everything that outlives the run.
    pub(super) fn root(&self, kem: &[u8], statics: &Statics<'_>, transcript: &Hash) -> RootKeys {
        let prk = extract_lv(&[], &[&self.link, kem, statics.shared]);
        let info: [&[u8]; 6] = [&[64], transcript, &[32], statics.sensor, &[32], statics.gateway];
        let root: Zeroizing<Hash> = expand(&prk, &info);
        RootKeys {
            psk: *expand(&root, &[b"noise psk"]),
            m5_mac: *expand(&root, &[b"m5 mac"]),
            m6_mac: *expand(&root, &[b"m6 mac"]),
            key_id_key: *expand(&root, &[b"key-id key"]),
            key_id: *expand(&root, &[b"key id"]),
            pairing_id: *expand(&root, &[b"pairing id"]),
            advertising_key: *expand(&root, &[b"advertising key"]),
        }
    }
}

/// The AEAD keys of a run: one a message, nonce 0.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct MessageKeys {
    pub(super) m4: [u8; 32],
    pub(super) m5: [u8; 32],
}

/// The static keys of both ends and what they share.
pub(super) struct Statics<'a> {
    pub(super) sensor: &'a [u8; 32],
    pub(super) gateway: &'a [u8; 32],
    pub(super) shared: &'a [u8; 32],
}

/// What is expanded from the root, which is never used itself.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct RootKeys {
    pub(super) psk: [u8; 32],
    pub(super) m5_mac: Hash,
    pub(super) m6_mac: Hash,
    pub(super) key_id_key: [u8; 32],
    pub(super) key_id: [u8; 8],
    pub(super) pairing_id: [u8; 8],
    pub(super) advertising_key: [u8; 32],
}
