//! SIGHUP: reads the configuration again and changes what changed. A bad one is refused and the old one goes on.

use std::sync::PoisonError;

use super::options::uart_options;
use super::{Gateway, issuer};
use crate::config::{self, Config};

/// Takes the configuration of the files as they are now.
pub(super) async fn reload(gateway: &Gateway) {
    let path = gateway.0.config_path.clone();
    let loaded = tokio::task::spawn_blocking(move || config::load(&path)).await;
    let refused = match loaded {
        Ok(Ok(new)) => apply(gateway, new),
        Ok(Err(error)) => Some(error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(error) = &refused {
        tracing::error!(%error, "the new configuration is refused; the one before goes on");
    } else {
        tracing::info!("the configuration was read again");
    }
    *gateway.0.config_refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
}

/// Changes what may change while running; says what needs a restart, and then changes nothing.
fn apply(gateway: &Gateway, new: Config) -> Option<String> {
    let old = gateway.config();
    let fixed = needs_restart(&old, &new);
    if !fixed.is_empty() {
        return Some(format!("{} cannot change while running; restart clawgate for it", fixed.join(", ")));
    }
    if let Some(subscribers) = &gateway.0.subscribers {
        // The keys are read again too: a file may have changed under the same name.
        match issuer::subscribers(&new) {
            Ok(clients) => drop(subscribers.send(clients)),
            Err(error) => return Some(error.to_string()),
        }
    }
    if old.uart != new.uart {
        gateway.links().reload(uart_options(&new));
    }
    if old.log != new.log {
        gateway.0.log.set_level(new.log.level);
    }
    gateway.0.config.store(new.into());
    None
}

/// The sections that differ and are only read at the start.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    [
        ("mode", old.mode != new.mode),
        ("state_dir", old.state_dir != new.state_dir),
        ("master_key", old.master_key != new.master_key),
        ("[gateway]", old.gateway != new.gateway),
        ("control.socket", old.control.socket != new.control.socket),
        ("[spool]", old.spool != new.spool),
        ("[broker]", old.broker != new.broker),
        ("[issuer]", old.issuer != new.issuer),
        ("standalone.listen", old.standalone.listen != new.standalone.listen),
        ("[metrics]", old.metrics != new.metrics),
        ("pairing.min_suite", old.pairing.min_suite != new.pairing.min_suite),
    ]
    .into_iter()
    .filter_map(|(name, differs)| differs.then_some(name))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_change_while_running_is_named() {
        let old = Config::default();
        let mut new = old.clone();
        new.log.level = config::LogLevel::Debug;
        new.pairing.attempts = 5;
        assert!(needs_restart(&old, &new).is_empty());
        new.spool.commit_ms = 20;
        new.state_dir = "/elsewhere".into();
        assert_eq!(needs_restart(&old, &new), ["state_dir", "[spool]"]);
    }
}
