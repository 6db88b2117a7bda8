//! The configuration as it is in force, and where each key of it comes from.

use std::collections::HashMap;

use serde_json::Value;

use super::{Gateway, overlay, view};
use crate::blocking::blocking;
use crate::config::load::load_with_origins;
use crate::config::origin::{Origins, keys};
use crate::config::{Config, ConfigError};
use crate::control::api::{ConfigKey, Configuration};
use crate::control::failure::Failure;
use crate::store::{Overlaid, StoreError};

/// What was read now, to be held beside what is in force.
struct Read {
    files: Result<(Config, Origins), ConfigError>,
    /// The files with what lies over them.
    laid: Option<Config>,
    overlay: Vec<Overlaid>,
}

impl Gateway {
    /// Every key with its value and where it comes from. Secrets do not stand in the configuration, only their places.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub(crate) async fn configured(&self) -> Result<Configuration, Failure> {
        let (path, store) = (self.0.config_path.clone(), self.store().clone());
        let read = blocking(move || {
            let files = load_with_origins(&path);
            let mut laid = files.as_ref().ok().map(|(config, _)| config.clone());
            if let Some(config) = &mut laid {
                overlay::lay(config, &store)?;
            }
            Ok::<_, StoreError>(Read { files, laid, overlay: store.overlay()? })
        });
        let read = read.await.map_err(|error| Failure::internal(&error))?;
        Ok(shown(&self.config(), &read))
    }
}

fn shown(now: &Config, read: &Read) -> Configuration {
    let (files, origins) = match &read.files {
        Ok((config, origins)) => (values(config), Some(origins)),
        Err(_) => (HashMap::new(), None),
    };
    let next = read.laid.as_ref().map(values);
    let mut now: Vec<(String, Value)> = values(now).into_iter().collect();
    now.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let all = now.into_iter().map(|(key, value)| {
        let laid = read.overlay.iter().find(|one| one.key == key);
        let file = origins.and_then(|origins| origins.of(&key)).map(|path| path.display().to_string());
        // Where the files cannot be read, nobody knows what they said.
        let from = match (laid, &file, origins) {
            (Some(_), ..) => "command",
            (None, Some(_), _) => "file",
            (None, None, Some(_)) => "default",
            (None, None, None) => "unknown",
        };
        ConfigKey {
            from: from.to_owned(),
            file,
            by: laid.map(|one| one.by.clone()),
            at: laid.map(|one| view::rfc3339(one.made_ms)),
            beneath: laid.and_then(|_| files.get(&key).cloned()),
            waiting: next.as_ref().and_then(|next| next.get(&key)).filter(|next| **next != value).cloned(),
            key,
            value,
        }
    });
    Configuration { keys: all.collect(), refused: read.files.as_ref().err().map(ToString::to_string) }
}

/// Every key of a configuration as the files would write it; `null` where nothing is set.
fn values(config: &Config) -> HashMap<String, Value> {
    let written = serde_json::to_value(config).unwrap_or_default();
    keys(&written).into_iter().map(|(key, value)| (key, without_login(value))).collect()
}

/// A URL may be written with a password in it: that is not shown.
fn without_login(value: Value) -> Value {
    let Value::String(text) = &value else { return value };
    let Some((scheme, rest)) = text.split_once("://") else { return value };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://***@{host}{path}").into(),
        None => value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_says_where_it_comes_from_and_what_waits() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("clawgate.toml");
        std::fs::write(&main, "mode = \"standalone\"\n[log]\nlevel = \"warn\"\n[gateway]\nid = \"new\"\n").unwrap();
        let files = load_with_origins(&main);
        let mut laid = files.as_ref().unwrap().0.clone();
        laid.log.level = crate::config::LogLevel::Debug;
        let mut now = laid.clone();
        now.gateway.id = serde_json::from_value(json!("old")).unwrap();
        let over = Overlaid {
            key: "log.level".to_owned(),
            value: "\"debug\"".to_owned(),
            by: "the cloud (key ops), command a-1".to_owned(),
            made_ms: 0,
        };
        let read = Read { files, laid: Some(laid), overlay: vec![over] };
        let shown = shown(&now, &read);
        let key = |name: &str| shown.keys.iter().find(|key| key.key == name).unwrap().clone();
        let level = key("log.level");
        assert_eq!(
            (level.from.as_str(), &level.value, &level.beneath),
            ("command", &json!("debug"), &Some(json!("warn")))
        );
        assert_eq!(level.by.as_deref(), Some("the cloud (key ops), command a-1"));
        let id = key("gateway.id");
        assert_eq!((id.from.as_str(), &id.value, &id.waiting), ("file", &json!("old"), &Some(json!("new"))));
        let ttl = key("pairing.ttl");
        assert_eq!((ttl.from.as_str(), ttl.file, ttl.waiting), ("default", None, None));
        assert!(shown.refused.is_none());
    }

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        for (written, shown) in [
            ("https://user:pw@host/a@b", "https://***@host/a@b"),
            ("https://host/a@b", "https://host/a@b"),
            ("no url @", "no url @"),
        ] {
            assert_eq!(without_login(json!(written)), json!(shown));
        }
    }
}
