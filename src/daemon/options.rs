//! The configuration in the words of each part.

use std::path::Path;

use clawgate_protocol::pairing::Suite;

use crate::alarm::AlarmPolicy;
use crate::config::{AlarmsConfig, BleEnabled, BrokerConfig, BrokerUrl, Config, Name, PairingApproval, PortConfig};
use crate::link::ble::{BleOptions, BleUse};
use crate::link::uart::{PortOptions, UartOptions};
use crate::pairing::PairingPolicy;
use crate::relay::{ClientKey, Profile, RelayOptions, TlsFiles};
use crate::token::keeper::KeeperOptions;

/// Whose tokens are kept.
pub(super) fn keeper_options(config: &Config) -> KeeperOptions {
    KeeperOptions {
        tenant: config.gateway.tenant.to_string(),
        gateway: config.gateway.id.to_string(),
        stage: config.gateway.stage,
    }
}

/// How the relay reaches the broker.
pub(super) fn relay_options(config: &Config, broker: &BrokerUrl, key: Option<ClientKey>) -> RelayOptions {
    let (tenant, gateway) = (config.gateway.tenant.to_string(), config.gateway.id.to_string());
    let client = config.broker.client_cert.clone().zip(key);
    let tls = |ca: &Path| TlsFiles { ca: ca.to_owned(), client };
    RelayOptions {
        // The configuration's check insists on a CA where TLS is spoken.
        tls: config.broker.ca.as_deref().filter(|_| broker.tls).map(tls),
        profile: profile(&config.broker),
        reauth: config.broker.reauth,
        payload: config.broker.payload,
        ..RelayOptions::new(broker.host.clone(), broker.port, tenant, gateway)
    }
}

fn profile(broker: &BrokerConfig) -> Profile {
    let profile = Profile::of(broker.profile).with_method(broker.auth_method);
    let signing = broker.authorizer_token.clone().zip(broker.authorizer_key.clone());
    match &broker.authorizer {
        Some(name) => profile.with_authorizer(name, signing),
        None => profile,
    }
}

/// What pairings may do.
pub(super) fn pairing_policy(config: &Config) -> PairingPolicy {
    let min_suite = if config.pairing.min_suite == 2 { Suite::Two } else { Suite::One };
    let asks_backend = config.pairing.approval == PairingApproval::Backend;
    PairingPolicy { min_suite, attempts: config.pairing.attempts, asks_backend }
}

/// From when on something is an alarm.
pub(super) fn alarm_policy(config: &Config) -> AlarmPolicy {
    let AlarmsConfig { failed_attempts, window, rate_factor, rate_learning } = config.alarms;
    AlarmPolicy { failed_attempts, window, rate_factor, rate_learning }
}

/// BLE of a configuration, as the links take it.
pub(super) fn ble_options(config: &Config) -> BleOptions {
    BleOptions {
        usage: match config.ble.enabled {
            BleEnabled::Auto => BleUse::Auto,
            BleEnabled::On => BleUse::On,
            BleEnabled::Off => BleUse::Off,
        },
        adapters: config.ble.adapters.iter().map(ToString::to_string).collect(),
        links: config.ble.links.into(),
    }
}

/// The serial lines of a configuration, as the links take them.
pub(super) fn uart_options(config: &Config) -> UartOptions {
    let port = |(name, port): (&Name, &PortConfig)| PortOptions {
        name: name.to_string(),
        path: port.path.clone(),
        baud: port.baud,
    };
    UartOptions { ports: config.uart.ports.iter().map(port).collect() }
}
