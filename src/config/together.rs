//! Keys that are each good and do not go together: two that listen at one address, two lines on one port, keys that
//! nothing would read. What is only unwise is a warning: the daemon runs with it, and says so.

use std::net::SocketAddr;

use super::load::{Objection, objection};
use super::written::in_units;
use super::{CloudStatus, Config, IssuerKind, Mode};
use crate::relay::Profile;

/// What cannot be as it is written.
pub(super) fn check(config: &Config) -> Result<(), Objection> {
    check_loopback(config)?;
    check_addresses(config)?;
    check_lines(config)?;
    check_client_certificate(config)?;
    check_unread(config)
}

/// What may be meant so, each with its key.
pub(crate) fn warnings(config: &Config) -> Vec<String> {
    let mut all = Vec::new();
    if let Some(url) = config.broker.url.as_ref().filter(|url| !url.tls && !url.is_here()) {
        all.push(format!(
            "broker.url: mqtt:// speaks no TLS: {} and whoever is on the way there can read the readings, and take the \
             devices' tokens; write mqtts:// and broker.ca",
            url.host
        ));
    }
    if let Some(every) = config.keys.issuer.filter(|every| *every <= config.keys.issuer_lead) {
        all.push(format!(
            "keys.issuer: {} is no longer than keys.issuer_lead ({}), for which a new key waits: keys change less often",
            in_units(every),
            in_units(config.keys.issuer_lead)
        ));
    }
    for (name, _) in config.standalone.subscribers.iter().filter(|(_, reader)| reader.topics.is_empty()) {
        all.push(format!("standalone.subscribers.{name}.topics: is empty: it may read nothing; write topic filters"));
    }
    let is_silent = match config.cloud.status {
        CloudStatus::On => false,
        CloudStatus::Auto => config.mode == Mode::Standalone,
        CloudStatus::Off => true,
    };
    let is_deaf = is_silent || !Profile::of(config.broker.profile).takes_principal();
    if is_deaf && !config.cloud.command_keys.is_empty() {
        all.push(
            "cloud.command_keys: no command is heard, for the gateway itself has no connection here: write \
             cloud.status = \"on\" where the broker has topics for it, or remove them"
                .to_owned(),
        );
    }
    all
}

/// What speaks no TLS listens on this machine only.
fn check_loopback(config: &Config) -> Result<(), Objection> {
    let issuer = config.issuer.kind == IssuerKind::Local;
    let listens = [
        ("standalone.listen", config.mode == Mode::Standalone, config.standalone.listen),
        ("issuer.listen", issuer, config.issuer.listen),
    ];
    match listens.into_iter().find(|(_, is_used, address)| *is_used && !address.ip().is_loopback()) {
        Some((key, _, address)) => {
            let text =
                format!("{address} is not a loopback address, and it speaks no TLS: 127.0.0.1:PORT or [::1]:PORT");
            Err((key.to_owned(), text))
        }
        None => Ok(()),
    }
}

/// Only one can listen at an address.
fn check_addresses(config: &Config) -> Result<(), Objection> {
    let listens = [
        ("standalone.listen", (config.mode == Mode::Standalone).then_some(config.standalone.listen)),
        ("issuer.listen", (config.issuer.kind == IssuerKind::Local).then_some(config.issuer.listen)),
        ("metrics.listen", config.metrics.listen),
    ];
    let taken: Vec<_> = listens.into_iter().filter_map(|(key, address)| Some((key, address?))).collect();
    for (nth, (key, address)) in taken.iter().enumerate() {
        if let Some((other, _)) = taken.iter().take(nth).find(|(_, other)| overlap(*other, *address)) {
            return Err(objection(key, &format!("{address} is that of {other}, too: write another port")));
        }
    }
    Ok(())
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let everywhere = |address: SocketAddr| address.ip().is_unspecified();
    // Port 0 takes a free one.
    one.port() == other.port()
        && one.port() != 0
        && (one.ip() == other.ip() || (one.is_ipv4() == other.is_ipv4() && (everywhere(one) || everywhere(other))))
}

/// One port is one line.
fn check_lines(config: &Config) -> Result<(), Objection> {
    let ports: Vec<_> = config.uart.ports.iter().collect();
    for (nth, (name, port)) in ports.iter().enumerate() {
        if let Some((other, _)) = ports.iter().take(nth).find(|(_, other)| other.path == port.path) {
            let text = format!("{} is that of uart.ports.{other}, too: one port is one line", port.path.display());
            return Err((format!("uart.ports.{name}.path"), text));
        }
    }
    Ok(())
}

/// A certificate is shown in TLS or not at all: somebody who wrote one relies on it.
fn check_client_certificate(config: &Config) -> Result<(), Objection> {
    let broker = &config.broker;
    let is_open = broker.url.as_ref().is_some_and(|url| !url.tls);
    let keys =
        [("broker.client_cert", broker.client_cert.is_some()), ("broker.client_key", broker.client_key.is_some())];
    match keys.into_iter().find(|(_, is_written)| is_open && *is_written) {
        Some((key, _)) => Err(objection(
            key,
            "is never shown with broker.url = \"mqtt://...\", which speaks no TLS: write mqtts://, or remove it",
        )),
        None => Ok(()),
    }
}

/// Keys of an OAuth client where there is none: tokens would silently come from elsewhere.
fn check_unread(config: &Config) -> Result<(), Objection> {
    let issuer = &config.issuer;
    let keys = [
        ("issuer.client_key", issuer.client_key.is_some()),
        ("issuer.client_id", issuer.client_id.is_some()),
        ("issuer.ca", issuer.ca.is_some()),
    ];
    match keys.into_iter().find(|(_, is_written)| *is_written && issuer.kind != IssuerKind::Oauth) {
        Some((key, _)) => Err(objection(
            key,
            "is read with issuer.kind = \"oauth\" alone, and that is not written: write it, or remove this",
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_does_not_go_together_is_named_by_its_key() {
        let relay = |host: &str, more: &str| format!("[broker]\nurl = \"{host}\"\n{more}");
        for (text, words) in [
            (
                "mode = \"standalone\"\n[metrics]\nlisten = \"127.0.0.1:1883\"\n".to_owned(),
                "metrics.listen 127.0.0.1:1883 is that of standalone.listen",
            ),
            (
                "mode = \"standalone\"\n[standalone]\nlisten = \"127.0.0.1:5\"\n[issuer]\nlisten = \"127.0.0.1:5\"\n"
                    .to_owned(),
                "issuer.listen 127.0.0.1:5 is that of standalone.listen",
            ),
            (
                relay("mqtt://b", "[metrics]\nlisten = \"0.0.0.0:7480\"\n"),
                "metrics.listen 0.0.0.0:7480 is that of issuer",
            ),
            (
                "[uart.ports.a]\npath = \"/dev/x\"\n[uart.ports.b]\npath = \"/dev/x\"\n".to_owned(),
                "uart.ports.b.path /dev/x is that of uart.ports.a",
            ),
            (
                relay("mqtt://127.0.0.1", "client_cert = \"/c\"\nclient_key = \"/k\"\n"),
                "broker.client_cert is never shown",
            ),
            (relay("mqtt://127.0.0.1", "client_key = \"/k\"\n"), "broker.client_key is never shown"),
            ("[issuer]\nurl = \"https://i\"\nclient_key = \"/k\"\n".to_owned(), "issuer.client_key is read with"),
            ("[issuer]\nclient_id = \"gw\"\n".to_owned(), "issuer.client_id is read with"),
        ] {
            let (key, message) = check(&config(&text)).unwrap_err();
            let said = format!("{key} {message}");
            assert!(said.starts_with(words), "{said}");
        }
    }

    #[test]
    fn what_goes_together_is_taken() {
        for text in [
            "mode = \"standalone\"\n[standalone]\nlisten = \"127.0.0.1:0\"\n[issuer]\nlisten = \"127.0.0.1:0\"\n",
            // Nothing listens for devices there, and no issuer is here.
            "[metrics]\nlisten = \"127.0.0.1:1883\"\n",
            "[metrics]\nlisten = \"127.0.0.1:7480\"\n[issuer]\nkind = \"oauth\"\nclient_key = \"/k\"\nca = \"/ca\"\n",
            "[metrics]\nlisten = \"127.0.0.2:7480\"\n",
            "[broker]\nurl = \"mqtts://b\"\nca = \"/ca\"\nclient_cert = \"/c\"\nclient_key = \"/k\"\n",
        ] {
            assert_eq!(check(&config(text)), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_is_unwise_is_warned_of_and_taken() {
        let warned = |text: &str| {
            let config = config(text);
            assert_eq!(check(&config), Ok(()), "{text}");
            warnings(&config)
        };
        let keys = "[cloud.command_keys.ops]\npublic_key = \"/k\"\ncommands = [\"code\"]\n";
        let open = warned("[broker]\nurl = \"mqtt://broker.example\"\n");
        assert!(open.len() == 1 && open[0].starts_with("broker.url: ") && open[0].contains("mqtts://"), "{open:?}");
        let deaf = warned(&format!("mode = \"standalone\"\n{keys}"));
        assert!(deaf.len() == 1 && deaf[0].starts_with("cloud.command_keys: "), "{deaf:?}");
        let waits = warned("mode = \"standalone\"\n[keys]\nissuer = \"10m\"\nissuer_lead = \"10m\"\n");
        assert!(waits.len() == 1 && waits[0].starts_with("keys.issuer: 10m is no longer"), "{waits:?}");
        let blind = warned("mode = \"standalone\"\n[standalone.subscribers.dash]\npublic_key = \"/k\"\n");
        assert!(blind.len() == 1 && blind[0].starts_with("standalone.subscribers.dash.topics: "), "{blind:?}");
        for quiet in ["mqtt://127.0.0.1:1884", "mqtt://[::1]", "mqtt://localhost", "mqtts://broker.example"] {
            assert_eq!(warned(&format!("[broker]\nurl = \"{quiet}\"\n{keys}")), [""; 0], "{quiet}");
        }
        assert_eq!(warned(&format!("mode = \"standalone\"\n[cloud]\nstatus = \"on\"\n{keys}")), [""; 0]);
    }
}
