//! SIGHUP: reads the configuration again and changes what changed. A bad one is refused and the old one goes on; a
//! key that only a start can apply is named in the log and in `clawgate status`, and the others are applied.

use std::sync::PoisonError;

use serde_json::json;

use super::issuer::Terms;
use super::options::{alarm_policy, ble_options, pairing_policy, uart_options};
use super::{Gateway, overlay, principal};
use crate::audit::{Action, Actor, Event, Outcome};
use crate::blocking::blocking;
use crate::config::{self, Config};
use crate::principal::command::CommandKeys;

/// One key of the configuration.
struct Key {
    name: &'static str,
    differs: fn(&Config, &Config) -> bool,
    /// Only a start applies it: until then the running value is kept, from the second into the first.
    keep: Option<fn(&mut Config, &Config)>,
}

/// A key that a reload applies.
macro_rules! live {
    ($($part:ident).+) => {
        Key { name: path!($($part).+), differs: |a, b| a.$($part).+ != b.$($part).+, keep: None }
    };
}

/// A key that waits for a restart.
macro_rules! fixed {
    ($($part:ident).+) => {
        Key {
            name: path!($($part).+),
            differs: |a, b| a.$($part).+ != b.$($part).+,
            keep: Some(|new, old| new.$($part).+.clone_from(&old.$($part).+)),
        }
    };
}

/// A key as the files write it.
macro_rules! path {
    ($first:ident) => {
        stringify!($first)
    };
    ($first:ident . $second:ident) => {
        concat!(stringify!($first), ".", stringify!($second))
    };
    ($first:ident . $second:ident . $third:ident) => {
        concat!(stringify!($first), ".", stringify!($second), ".", stringify!($third))
    };
}

/// Every key there is; a test compares them with the sample configuration.
const KEYS: &[Key] = &[
    fixed!(mode),
    fixed!(state_dir),
    fixed!(master_key),
    fixed!(gateway.id),
    fixed!(gateway.tenant),
    fixed!(gateway.stage),
    fixed!(control.socket),
    live!(control.roles.viewer),
    live!(control.roles.operator),
    live!(control.roles.admin),
    live!(uart.ports),
    live!(ble.enabled),
    live!(ble.adapters),
    live!(ble.links),
    live!(pairing.ttl),
    live!(pairing.attempts),
    live!(pairing.min_suite),
    live!(pairing.approval),
    live!(pairing.approval_time),
    live!(alarms.failed_attempts),
    live!(alarms.window),
    live!(alarms.rate_factor),
    live!(alarms.rate_learning),
    fixed!(spool.commit_ms),
    fixed!(spool.max_bytes),
    fixed!(broker.url),
    fixed!(broker.ca),
    fixed!(broker.client_cert),
    fixed!(broker.client_key),
    fixed!(broker.reauth),
    fixed!(broker.payload),
    fixed!(broker.profile),
    fixed!(broker.auth_method),
    fixed!(broker.authorizer),
    fixed!(broker.authorizer_token),
    fixed!(broker.authorizer_key),
    fixed!(issuer.kind),
    live!(issuer.life),
    fixed!(issuer.audience),
    fixed!(issuer.listen),
    fixed!(issuer.url),
    fixed!(issuer.client_id),
    fixed!(issuer.client_key),
    fixed!(issuer.ca),
    fixed!(issuer.grant),
    fixed!(issuer.device_keys),
    fixed!(issuer.publish_dir),
    fixed!(standalone.listen),
    live!(standalone.subscribers),
    fixed!(metrics.listen),
    live!(audit.max_bytes),
    live!(audit.max_age),
    live!(log.level),
    live!(keys.issuer),
    live!(keys.issuer_lead),
    live!(keys.audit),
    live!(keys.gateway),
    live!(keys.master),
    fixed!(vault.url),
    fixed!(vault.ca),
    fixed!(vault.namespace),
    fixed!(vault.mount),
    fixed!(vault.token),
    fixed!(vault.role_id),
    fixed!(vault.secret_id),
    fixed!(cloud.status),
    live!(cloud.status_every),
    live!(cloud.clock),
    live!(cloud.broker_alarms),
    live!(cloud.command_keys),
];

/// What a reload did.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    /// Keys that have their new value.
    applied: Vec<&'static str>,
    /// Keys that keep their old value until a restart.
    waiting: Vec<&'static str>,
}

/// Takes the configuration of the files as they are now.
///
/// # Errors
/// Why it is refused; the one before goes on.
pub(super) async fn reload(gateway: &Gateway) -> Result<(), String> {
    let (path, store) = (gateway.0.config_path.clone(), gateway.store().clone());
    let loaded = blocking(move || {
        let mut config = config::load(&path).map_err(|error| error.to_string())?;
        overlay::lay(&mut config, &store).map_err(|error| error.to_string())?;
        Ok::<_, String>(config)
    });
    let result = match loaded.await {
        Ok(new) => apply(gateway, new),
        Err(error) => Err(error),
    };
    let event = Event::done(Actor::Daemon, Action::ConfigReload, gateway.0.config_path.display().to_string());
    let event = match &result {
        Ok(Changes { applied, waiting }) => {
            tracing::info!(?applied, "the configuration was read again");
            for key in waiting {
                tracing::warn!(
                    key,
                    "this key is another in the files, and needs a restart: systemctl restart clawgate"
                );
            }
            waiting.clone_into(&mut gateway.0.restart_needed.lock().unwrap_or_else(PoisonError::into_inner));
            event.with(json!({ "applied": applied, "restart_needed": waiting }))
        }
        Err(error) => {
            tracing::error!(error, "the new configuration is refused; the one before goes on");
            event.ended(Outcome::Refused).because(error)
        }
    };
    let ended = result.map(drop);
    *gateway.0.config_refused.lock().unwrap_or_else(PoisonError::into_inner) = ended.clone().err();
    gateway.record(event).await;
    keep_config(gateway).await;
    ended
}

/// Name of the configuration that this gateway ran by, kept sealed.
const RAN_BY: &str = "config.ran-by";

/// The keys that are another than in the run before, which a reload did not tell of: they were changed while this gateway
/// stood still. None where it is not known what that one ran by.
pub(super) async fn changed_meanwhile(gateway: &Gateway) -> Option<Vec<&'static str>> {
    let store = gateway.store().clone();
    let kept = blocking(move || store.secret(RAN_BY)).await.ok().flatten()?;
    // Of another version it may have other keys.
    let before: Config = toml::from_str(std::str::from_utf8(kept.expose()).ok()?).ok()?;
    let Changes { applied, waiting } = compare(&before, &mut Config::clone(&gateway.config()));
    Some([applied, waiting].concat())
}

/// Keeps what this gateway runs by, for the next start to tell what was changed meanwhile.
pub(super) async fn keep_config(gateway: &Gateway) {
    let (store, config) = (gateway.store().clone(), gateway.config());
    let kept = blocking(move || {
        let now = toml::to_string(&*config).unwrap_or_default();
        let is_kept = store.secret(RAN_BY)?.is_some_and(|kept| kept.expose() == now.as_bytes());
        if is_kept { Ok(()) } else { store.put_secret(RAN_BY, now.as_bytes()) }
    });
    if let Err(error) = kept.await {
        tracing::warn!(%error, "what the gateway runs by is not kept: the next start tells no change of the configuration");
    }
}

/// Changes what may change while running.
fn apply(gateway: &Gateway, mut new: Config) -> Result<Changes, String> {
    let old = gateway.config();
    let changes = compare(&old, &mut new);
    // First of all: the subscribers' keys are read again too (a file may have changed under the same name), and may be
    // refused.
    let command_keys = CommandKeys::of(&new.cloud).map_err(|error| error.to_string())?;
    if let Some(terms) = &gateway.0.terms {
        terms.send_replace(Terms::of(&new).map_err(|error| error.to_string())?);
    }
    if old.uart != new.uart {
        gateway.links().reload(uart_options(&new));
    }
    gateway.links().set_policy(pairing_policy(&new));
    gateway.alarms().set_policy(alarm_policy(&new));
    gateway.0.service.set_decision_time(new.pairing.approval_time);
    if old.ble != new.ble {
        gateway.links().reload_ble(ble_options(&new));
    }
    if old.audit != new.audit {
        gateway.audit().set_retention(new.audit.retention());
    }
    if old.log != new.log {
        gateway.0.log.set_level(new.log.level);
    }
    if old.issuer.life != new.issuer.life {
        gateway.0.service.set_life(new.issuer.life);
    }
    let hears = |keys: &CommandKeys| !keys.is_empty();
    let renew = hears(&command_keys) != hears(&gateway.0.command_keys.load())
        || old.cloud.broker_alarms != new.cloud.broker_alarms
        || old.issuer.life != new.issuer.life;
    gateway.0.command_keys.store(command_keys.into());
    if renew {
        principal::renew(gateway, &new);
    }
    gateway.0.config.store(new.into());
    Ok(changes)
}

/// What differs; a key that needs a restart gets its old value in `new`.
fn compare(old: &Config, new: &mut Config) -> Changes {
    let mut changes = Changes::default();
    for key in KEYS {
        if !(key.differs)(old, new) {
            continue;
        }
        if let Some(keep) = key.keep {
            keep(new, old);
            changes.waiting.push(key.name);
        } else {
            changes.applied.push(key.name);
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The sample with every key in it, also those that are commented out, in other values than the defaults.
    fn everything_changed() -> Config {
        let changed = r#"
            mode = "standalone"
            state_dir = "/elsewhere"
            master_key = "/key"
            [gateway]
            id = "other"
            tenant = "other"
            stage = "dev"
            [control]
            socket = "/other"
            [control.roles]
            viewer = ["uid:1"]
            operator = ["uid:2"]
            admin = ["uid:3"]
            [uart.ports.line1]
            path = "/dev/other"
            [ble]
            enabled = "off"
            adapters = ["hci9"]
            links = 3
            [pairing]
            ttl = "5m"
            attempts = 5
            min_suite = 2
            approval = "backend"
            approval_time = "1m"
            [alarms]
            failed_attempts = 6
            window = "1h"
            rate_factor = 3
            rate_learning = "1h"
            [audit]
            max_bytes = "2MiB"
            max_age = "90d"
            [spool]
            commit_ms = 20
            max_bytes = "2MiB"
            [broker]
            url = "mqtt://other"
            ca = "/ca"
            client_cert = "/cert"
            client_key = "/key"
            reauth = "never"
            payload = "cbor"
            profile = "aws-iot"
            auth_method = "CUSTOM-JWT"
            authorizer = "claw"
            authorizer_token = "token"
            authorizer_key = "/key"
            [issuer]
            kind = "oauth"
            life = "7m"
            audience = "other"
            listen = "127.0.0.1:1"
            url = "http://other"
            client_id = "other"
            client_key = "/key"
            ca = "/ca"
            grant = "device_code"
            device_keys = "/keys"
            publish_dir = "/public"
            [standalone]
            listen = "127.0.0.1:2"
            [standalone.subscribers.other]
            public_key = "/key"
            topics = ["a"]
            [metrics]
            listen = "off"
            [log]
            level = "debug"
            [keys]
            issuer = "90d"
            issuer_lead = "3m"
            audit = "200d"
            gateway = "30d"
            master = "300d"
            [vault]
            url = "https://vault"
            ca = "/ca"
            namespace = "site"
            mount = "kv"
            token = "/token"
            role_id = "role"
            secret_id = "credential:id"
            [cloud]
            status = "off"
            status_every = "1m"
            clock = "any"
            broker_alarms = true
            [cloud.command_keys.ops]
            public_key = "/key"
            commands = ["revoke"]
        "#;
        toml::from_str(changed).unwrap()
    }

    #[test]
    fn every_key_of_the_sample_is_applied_or_named() {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clawgate.sample.toml");
        let mut table = String::new();
        let mut written = BTreeSet::new();
        for line in fs::read_to_string(sample).unwrap().lines() {
            let line = line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line);
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                name.0.clone_into(&mut table);
            } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
                let key = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
                // Tables with names of the operator's are compared whole.
                let whole = ["uart.ports", "standalone.subscribers", "cloud.command_keys"]
                    .into_iter()
                    .find(|whole| key.starts_with(whole));
                written.insert(whole.map_or(key, str::to_owned));
            }
        }
        assert!(written.len() > 30, "{written:?}");
        assert_eq!(written, KEYS.iter().map(|key| key.name.to_owned()).collect());
    }

    #[test]
    fn a_configuration_that_was_kept_reads_back_as_it_was() {
        for config in [Config::default(), everything_changed()] {
            assert_eq!(toml::from_str::<Config>(&toml::to_string(&config).unwrap()).unwrap(), config);
        }
    }

    #[test]
    fn every_key_that_changes_is_said_and_none_besides() {
        let old = Config::default();
        let mut new = everything_changed();
        let changes = compare(&old, &mut new);
        let said: BTreeSet<_> = changes.applied.iter().chain(&changes.waiting).copied().collect();
        assert_eq!(said, KEYS.iter().map(|key| key.name).collect());
        // What waits for a restart runs on as it was; said again, it is not forgotten.
        assert_eq!((&new.spool, &new.broker, &new.gateway), (&old.spool, &old.broker, &old.gateway));
        assert_eq!((new.pairing.min_suite, new.issuer.life.as_secs()), (2, 420));
        assert_eq!(compare(&new, &mut everything_changed()), Changes { applied: vec![], ..changes });
        assert_eq!(compare(&old, &mut Config::default()), Changes::default());
    }
}
