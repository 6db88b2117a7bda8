//! The keys that stand in the registry's database, and the key above them.

use std::collections::BTreeMap;

use super::{Kind, SEALED};
use crate::audit::Actor;
use crate::control::Name as _;
use crate::control::api::{Key, KeyRotated};
use crate::control::failure::{Failure, blocking};
use crate::daemon::{Gateway, audit_key};
use crate::ids::DeviceId;
use crate::session::record;
use crate::store::{Keyed, MasterKeyInfo, StoreError, key_id};

/// The gateway's static secret, by the name of its kind.
const STATIC: &str = "gateway";

impl Gateway {
    /// The master key.
    pub(super) async fn master_keys(&self) -> Result<Vec<Key>, Failure> {
        let store = self.store().clone();
        let MasterKeyInfo { id, made_ms, place } = blocking(move || store.master_key()).await?;
        let note = "seals every other key and secret".to_owned();
        Ok(vec![self.key(Kind::Master, &id, "in_use", made_ms, place, note)])
    }

    pub(super) async fn rotate_master(&self) -> Result<KeyRotated, Failure> {
        let store = self.store().clone();
        let info = blocking(move || store.rotate_master_key()).await?;
        Ok(KeyRotated {
            kind: Kind::Master.as_str().to_owned(),
            id: info.id,
            done: "Everything is sealed under a new master key.".to_owned(),
            next_step: "Copies of the state from before open only under the old key: make a new backup (clawgate backup create)."
                .to_owned(),
        })
    }

    /// The key that signs the audit log.
    pub(super) async fn audit_keys(&self) -> Result<Vec<Key>, Failure> {
        let store = self.store().clone();
        let made_ms = blocking(move || audit_key::made_ms(&store)).await?;
        let (id, note) = (self.audit().key().to_string(), "signs the audit log; others may pin it".to_owned());
        Ok(vec![self.key(Kind::Audit, &id, "in_use", made_ms, SEALED.to_owned(), note)])
    }

    pub(super) async fn rotate_audit(&self, actor: Actor) -> Result<KeyRotated, Failure> {
        let (store, audit) = (self.store().clone(), self.audit().clone());
        let rotated = blocking(move || audit_key::rotate::<Failure>(&store, &audit, actor)).await;
        let id = rotated.map_err(|error| Failure::internal(&error))?.to_string();
        Ok(KeyRotated {
            kind: Kind::Audit.as_str().to_owned(),
            id,
            done: "The audit log is signed by a new key from now on; a line that the old one signed says so."
                .to_owned(),
            next_step: "Who pinned the old one may keep it: clawgate audit verify --key follows the change.".to_owned(),
        })
    }

    /// The static key of pairings to come, and those that pairings still hang on.
    pub(super) async fn gateway_keys(&self) -> Result<Vec<Key>, Failure> {
        let store = self.store().clone();
        let (current, made_ms, held) = blocking(move || {
            let current = key_id(STATIC, store.gateway_identity()?.expose());
            let made_ms = store.gateway_identity_made_ms()?;
            Ok::<_, StoreError>((current, made_ms, held(&store.devices_with_keys()?)))
        })
        .await?;
        let pairings = |id: &str| held.get(id).copied().unwrap_or(0);
        let note = format!("of new pairings, and of {} there are", pairings(&current));
        let own = self.key(Kind::Gateway, &current, "in_use", made_ms, SEALED.to_owned(), note);
        let older = held.iter().filter(|(id, _)| **id != current).map(|(id, count)| {
            let note = format!("of {count} pairings; erased when they have been paired again or unpaired");
            self.key(Kind::Gateway, id, "retired", None, SEALED.to_owned(), note)
        });
        Ok([own].into_iter().chain(older).collect())
    }

    pub(super) async fn rotate_gateway(&self) -> Result<KeyRotated, Failure> {
        let store = self.store().clone();
        let (id, older) = blocking(move || {
            let id = key_id(STATIC, store.renew_gateway_identity()?.expose());
            let held = held(&store.devices_with_keys()?);
            let older: usize = held.iter().filter(|(known, _)| **known != id).map(|(_, count)| count).sum();
            Ok::<_, StoreError>((id, older))
        })
        .await?;
        let next_step = match older {
            0 => String::new(),
            count => format!("{count} pairings keep an older key until they are paired again: clawgate pair DEVICE"),
        };
        let done = "New pairings have a new static key of the gateway.".to_owned();
        Ok(KeyRotated { kind: Kind::Gateway.as_str().to_owned(), id, done, next_step })
    }

    /// The pairing of each device.
    pub(super) async fn device_keys(&self) -> Result<Vec<Key>, Failure> {
        let store = self.store().clone();
        let devices = blocking(move || store.devices()).await?;
        let keys = devices.iter().filter_map(|device| {
            let pairing = device.current?;
            let note = format!("{}; session keys are renewed at each connection, and after a day", device.id);
            let id = pairing.fingerprint();
            Some(self.key(Kind::Device, &id, "in_use", device.confirmed_ms, SEALED.to_owned(), note))
        });
        Ok(keys.collect())
    }

    /// New session keys for a device, while its session goes on.
    pub(super) async fn rotate_device(&self, device: Option<&str>) -> Result<KeyRotated, Failure> {
        let name = device.ok_or_else(|| Failure::usage("Which device?", "clawgate key rotate device DEVICE"))?;
        let id = DeviceId::named(name)?;
        let known = self.known(&id).await?;
        let again = format!("The keys of its pairing change when it is paired again: clawgate pair {id}");
        let pairing = known.current;
        let pairing = pairing.ok_or_else(|| Failure::usage(format!("{id} is not proven yet."), again.clone()))?;
        let done = if self.links().renew(&id).await {
            format!("{id} gets new session keys now; the session before lives until they are in use.")
        } else {
            format!("{id} is not connected; it gets new session keys when it is.")
        };
        Ok(KeyRotated { kind: Kind::Device.as_str().to_owned(), id: pairing.fingerprint(), done, next_step: again })
    }
}

/// How many pairings hang on each static key of the gateway.
fn held(devices: &[Keyed]) -> BTreeMap<String, usize> {
    let mut held = BTreeMap::new();
    for record in devices.iter().flat_map(|device| &device.keys).filter_map(record) {
        *held.entry(key_id(STATIC, &record.own_static)).or_default() += 1;
    }
    held
}
