//! Keys of the configuration that commands from the cloud changed. The files are the operator's and are never written:
//! these few keys lie over them, in `state.db`, shown by `clawgate status`, until a command (`null`) or an admin here
//! (`clawgate config unset`) takes them away.

use serde_json::{Map, Value, json};

use super::{Gateway, reload};
use crate::audit::{Action, Actor, Event};
use crate::blocking::blocking;
use crate::config::{self, Config};
use crate::control::failure::Failure;
use crate::store::{Overlaid, Store, StoreError};

/// A key that may be changed from afar: what a person on site would change without a second thought, and nothing that
/// decides who may do what, where readings go, or how a pairing is kept safe.
struct Key {
    name: &'static str,
    take: fn(&mut Config, Config),
}

const KEYS: &[Key] = &[
    Key { name: "log.level", take: |into, from| into.log.level = from.log.level },
    Key { name: "pairing.ttl", take: |into, from| into.pairing.ttl = from.pairing.ttl },
    Key { name: "issuer.life", take: |into, from| into.issuer.life = from.issuer.life },
    Key { name: "cloud.status_every", take: |into, from| into.cloud.status_every = from.cloud.status_every },
];

/// Lays what commands changed over the configuration of the files. What does not fit any more is left out, and said.
pub(super) fn lay(config: &mut Config, store: &Store) -> Result<(), StoreError> {
    for one in store.overlay()? {
        let value = serde_json::from_str(&one.value).unwrap_or(Value::Null);
        if let Err(error) = set(config, &one.key, &value) {
            tracing::warn!(key = one.key, error, "a key that a command changed does not apply any more");
        }
    }
    Ok(())
}

/// Changes keys by a command; the whole patch or nothing. What changed. `by`: who, by which command.
pub(super) async fn change(gateway: &Gateway, patch: Map<String, Value>, by: String) -> Result<Vec<String>, Failure> {
    if patch.is_empty() {
        return Err(Failure::args("patch is empty"));
    }
    let mut trial = Config::clone(&gateway.config());
    for (key, value) in &patch {
        if !KEYS.iter().any(|known| known.name == key) {
            let known: Vec<_> = KEYS.iter().map(|key| key.name).collect();
            let text = format!("{key:?} cannot be changed from afar. These can: {}.", known.join(", "));
            return Err(Failure::usage(text, "Change it in the files on site."));
        }
        if !value.is_null() {
            set(&mut trial, key, value).map_err(|error| Failure::usage(format!("{key}: {error}."), ""))?;
        }
    }
    let made_ms = gateway.clock().wall_ms();
    let changed = patch.keys().cloned().collect();
    put(gateway, move |before| {
        let mut after: Vec<_> = before.iter().filter(|one| !patch.contains_key(&one.key)).cloned().collect();
        after.extend(patch.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| Overlaid {
            key,
            value: value.to_string(),
            by: by.clone(),
            made_ms,
        }));
        after
    })
    .await?;
    Ok(changed)
}

impl Gateway {
    /// Goes back to the files: for this key, or for all. What lay over them and does no more; nothing is no failure.
    ///
    /// # Errors
    /// A key that nothing can lie over, or files that are refused.
    pub(crate) async fn unset(&self, key: Option<&str>, actor: Actor) -> Result<Vec<String>, Failure> {
        let store = self.store().clone();
        let laid = blocking(move || store.overlay()).await?;
        let goes = |one: &Overlaid| key.is_none_or(|key| one.key == key);
        let going: Vec<String> = laid.iter().filter(|one| goes(one)).map(|one| one.key.clone()).collect();
        if let Some(key) = key.filter(|key| going.is_empty() && !KEYS.iter().any(|known| known.name == *key)) {
            let text = format!("{key:?} is no key that a command can change, so nothing lies over the files.");
            return Err(Failure::usage(text, "clawgate config show says where each key comes from."));
        }
        if going.is_empty() {
            return Ok(going);
        }
        let gone = going.clone();
        put(self, move |before| before.into_iter().filter(|one| !gone.contains(&one.key)).collect()).await?;
        let event = Event::done(actor, Action::ConfigUnset, key.unwrap_or("all"));
        self.record(event.with(json!({ "keys": going }))).await;
        Ok(going)
    }
}

/// Lays other keys over the files and takes the configuration anew; or leaves all as it was.
async fn put(
    gateway: &Gateway,
    change: impl FnOnce(Vec<Overlaid>) -> Vec<Overlaid> + Send + 'static,
) -> Result<(), Failure> {
    // A command and an admin at once: each starts from what the other left.
    let _turn = gateway.0.overlay_turn.lock().await;
    let store = gateway.store().clone();
    let before = blocking(move || {
        let before = store.overlay()?;
        store.replace_overlay(&change(before.clone()))?;
        Ok::<_, StoreError>(before)
    });
    let before = before.await?;
    // Read again as on SIGHUP: one way by which a configuration changes.
    if let Err(error) = reload::reload(gateway).await {
        let store = gateway.store().clone();
        if let Err(error) = blocking(move || store.replace_overlay(&before)).await {
            tracing::error!(%error, "a change of the configuration could not be taken back");
        }
        return Err(Failure::usage(format!("The configuration is refused: {error}."), "Mend the files on site."));
    }
    Ok(())
}

/// Sets one key to a value as the files would say it.
fn set(config: &mut Config, key: &str, value: &Value) -> Result<(), String> {
    let known = KEYS.iter().find(|known| known.name == key).ok_or("it cannot be changed from afar")?;
    let (table, name) = key.split_once('.').ok_or("it stands in no table")?;
    let Value::String(text) = value else {
        return Err("a text is wanted, as in the files".to_owned());
    };
    // Checked by the same code that reads the files.
    let read = config::with_text(table, name, text);
    (known.take)(config, read.map_err(|error| error.message().to_owned())?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::LogLevel;

    #[test]
    fn a_value_is_held_to_what_the_files_may_say() {
        let mut config = Config::default();
        for key in KEYS {
            let value = if key.name == "log.level" { "debug" } else { "2m" };
            set(&mut config, key.name, &json!(value)).unwrap();
        }
        assert_eq!((config.log.level, config.pairing.ttl), (LogLevel::Debug, Duration::from_secs(120)));
        for (key, value) in [
            ("pairing.ttl", json!("2d")),
            ("pairing.ttl", json!(5)),
            ("log.level", json!("loud")),
            ("pairing.min_suite", json!("1")),
            ("control.socket", json!("/tmp/x")),
            ("state_dir", json!("/tmp")),
        ] {
            assert!(set(&mut config, key, &value).is_err(), "{key} = {value}");
        }
    }
}
