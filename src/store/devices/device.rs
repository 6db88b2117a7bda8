//! A device as the registry knows it, and how it stands in its row.

use serde::{Deserialize, Serialize};

use crate::ids::{DeviceId, PairingId};
use crate::secret::Secret;
use crate::store::{Decision, Place, Sealer, StoreError};
use crate::token::scope::Scope;
use crate::token::{Limits, Stage};

/// What is known of a device beyond its keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// What the sensor calls itself; came from the air, escape it before showing.
    pub sensor_name: String,
    /// Firmware version, as the sensor states it.
    pub firmware: String,
    /// What it measures, as the sensor states it.
    pub capabilities: Vec<String>,
    /// The link it was paired over, as people read it.
    pub link: String,
    /// What its token may do.
    pub scopes: Vec<Scope>,
    /// What its token is limited to.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// The stage it was paired in.
    #[serde(default)]
    pub stage: Stage,
    /// Whether somebody else had to say yes.
    #[serde(default, skip_serializing_if = "Decision::is_not_needed")]
    pub decision: Decision,
}

/// One device.
#[derive(Debug, Clone)]
pub struct Device {
    /// Its name here and in the cloud.
    pub id: DeviceId,
    /// The sensor's own id.
    pub hardware_id: String,
    /// Of the current pairing; of the pending one while there is no other.
    pub info: DeviceInfo,
    /// Wall time of the first pairing, in milliseconds since 1970.
    pub created_ms: i64,
    /// Wall time at which the current key was proven.
    pub confirmed_ms: Option<i64>,
    /// Where and when it was last heard.
    pub seen: Option<Seen>,
    /// Why it gets no token any more; until it is paired again.
    pub revoked: Option<String>,
    /// The pairing whose key is in use.
    pub current: Option<PairingId>,
    /// The pairing whose key the sensor has yet to prove.
    pub pending: Option<Pending>,
}

impl Device {
    /// The pairing that its readings come under: the proven one, else the one to be proven.
    #[must_use]
    pub(crate) fn pairing(&self) -> Option<PairingId> {
        self.current.or(self.pending.as_ref().map(|pending| pending.pairing))
    }

    /// Its pairings, the current one first.
    pub fn pairings(&self) -> impl Iterator<Item = PairingId> {
        self.current.into_iter().chain(self.pending.as_ref().map(|pending| pending.pairing))
    }
}

/// A device with its keys, opened.
#[derive(Debug, Clone)]
pub struct Keyed {
    /// The device.
    pub device: Device,
    /// Its keys, in the order to try them: one that it has yet to prove first.
    pub keys: Vec<KeySlot>,
}

/// Where and when a device was last heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The link, as people read it.
    pub link: String,
    /// Wall time in milliseconds since 1970.
    pub at_ms: i64,
}

/// The key of a pairing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySlot {
    /// The pairing.
    pub pairing: PairingId,
    /// The pairing record of the protocol crate, in its own form.
    pub record: Secret<Vec<u8>>,
}

/// A pairing whose key is not proven yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The pairing.
    pub pairing: PairingId,
    /// The code it was agreed with, to be marked used when the key is proven; none for a code on a label.
    pub code: Option<String>,
    /// Wall time in milliseconds since 1970.
    pub since_ms: i64,
}

/// A pairing whose key both sides computed, before either can be sure of the other.
#[derive(Debug, Clone)]
pub struct NewPairing {
    /// The name the device gets.
    pub device: DeviceId,
    /// The sensor's own id.
    pub hardware_id: String,
    /// Takes the place of what is known when the key is proven.
    pub info: DeviceInfo,
    /// The key.
    pub key: KeySlot,
    /// The code it was agreed with.
    pub code: Option<String>,
}

/// What [`Row::read`] takes, without the keys.
pub(super) const COLUMNS: &str = "id, hardware_id, info, created_ms, confirmed_ms, current_pairing, pending_pairing, pending_code, \
                       pending_ms, seen_ms, seen_link, revoked_why";
/// What [`Sealed::read`] takes.
pub(super) const SEALED_COLUMNS: &str = "current_sealed, pending_sealed";

pub(super) fn with_keys(condition: &str) -> String {
    format!("SELECT {COLUMNS}, {SEALED_COLUMNS} FROM devices WHERE {condition}")
}

pub(super) fn place<'a>(id: &'a DeviceId, slot: &'a str) -> Place<'a> {
    Place { table: "devices", row: id.as_str(), name: slot }
}

/// A device as its row has it.
pub(super) struct Row {
    id: String,
    hardware_id: String,
    info: String,
    created_ms: i64,
    confirmed_ms: Option<i64>,
    current: Option<[u8; 8]>,
    pending: Option<[u8; 8]>,
    pending_code: Option<String>,
    pending_ms: Option<i64>,
    seen: Option<Seen>,
    revoked: Option<String>,
}

impl Row {
    pub(super) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let seen = row.get::<_, Option<i64>>("seen_ms")?.zip(row.get::<_, Option<String>>("seen_link")?);
        Ok(Self {
            id: row.get("id")?,
            hardware_id: row.get("hardware_id")?,
            info: row.get("info")?,
            created_ms: row.get("created_ms")?,
            confirmed_ms: row.get("confirmed_ms")?,
            current: row.get("current_pairing")?,
            pending: row.get("pending_pairing")?,
            pending_code: row.get("pending_code")?,
            pending_ms: row.get("pending_ms")?,
            seen: seen.map(|(at_ms, link)| Seen { link, at_ms }),
            revoked: row.get("revoked_why")?,
        })
    }

    pub(super) fn into_device(self) -> Result<Device, StoreError> {
        let altered = |what: &str| StoreError::Unsealable(format!("{what} of device {:?}", self.id));
        Ok(Device {
            id: self.id.parse().map_err(|_| altered("name"))?,
            info: serde_json::from_str(&self.info).map_err(|_| altered("description"))?,
            hardware_id: self.hardware_id,
            created_ms: self.created_ms,
            confirmed_ms: self.confirmed_ms,
            seen: self.seen,
            revoked: self.revoked,
            current: self.current.map(PairingId),
            pending: self.pending.map(|pairing| Pending {
                pairing: PairingId(pairing),
                code: self.pending_code,
                since_ms: self.pending_ms.unwrap_or_default(),
            }),
        })
    }
}

/// A row with its keys, before they are opened.
pub(super) struct Sealed {
    row: Row,
    current: Option<Vec<u8>>,
    pending: Option<Vec<u8>>,
}

impl Sealed {
    pub(super) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let (current, pending) = (row.get("current_sealed")?, row.get("pending_sealed")?);
        Ok(Self { row: Row::read(row)?, current, pending })
    }

    pub(super) fn open(self, under: &Sealer) -> Result<Keyed, StoreError> {
        let device = self.row.into_device()?;
        let pending = device.pending.as_ref().map(|pending| pending.pairing);
        let mut keys = Vec::new();
        for (pairing, sealed, name) in [(pending, self.pending, "pending"), (device.current, self.current, "current")] {
            if let Some((pairing, sealed)) = pairing.zip(sealed) {
                keys.push(KeySlot { pairing, record: under.open(place(&device.id, name), &sealed)? });
            }
        }
        Ok(Keyed { device, keys })
    }
}
