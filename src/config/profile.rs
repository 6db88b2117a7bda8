//! What a kind of broker cannot do, found before the daemon starts.

use super::load::{Objection, objection};
use super::{BrokerProfile as Kind, BrokerUrl, CloudStatus, Config, IssuerKind, Payload, Reauth};
use crate::relay::Profile;

impl Kind {
    /// As the configuration writes it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Mqtt5 => "mqtt5",
            Self::Rabbitmq => "rabbitmq",
            Self::Emqx => "emqx",
            Self::AzureEventGrid => "azure-event-grid",
            Self::AzureIotHub => "azure-iot-hub",
            Self::AwsIot => "aws-iot",
        }
    }
}

/// The broker inside is what it is.
pub(super) fn check_standalone(config: &Config) -> Result<(), Objection> {
    refuse(config.broker.profile != Kind::Mqtt5, "broker.profile", || {
        "is \"mqtt5\" with mode = \"standalone\"; remove it".to_owned()
    })?;
    refuse(config.issuer.kind == IssuerKind::AzureSas, "issuer.kind", || {
        "is \"local\" with mode = \"standalone\": the broker inside checks its own issuer's tokens".to_owned()
    })?;
    refuse(config.cloud.broker_alarms, "cloud.broker_alarms", || {
        "has no use with mode = \"standalone\": what the broker inside sees is heard anyway; remove it".to_owned()
    })
}

/// Whether the other keys fit the broker's profile.
pub(super) fn check(config: &Config, url: &BrokerUrl) -> Result<(), Objection> {
    let (broker, kind) = (&config.broker, config.broker.profile);
    let name = kind.as_str();
    let cloud = matches!(kind, Kind::AzureEventGrid | Kind::AzureIotHub | Kind::AwsIot);
    refuse(cloud && !url.tls, "broker.url", || {
        format!("is mqtts://host with profile = \"{name}\": it takes TLS only")
    })?;
    let profile = Profile::of(kind);
    refuse(broker.reauth == Reauth::Always && !profile.reauthenticates(), "broker.reauth", || {
        format!(
            "\"always\" cannot be kept with profile = \"{name}\": no token is replaced on a live connection there; write \"auto\""
        )
    })?;
    refuse(broker.reauth == Reauth::Never && kind == Kind::AzureEventGrid, "broker.reauth", || {
        "is \"auto\" or \"always\" with profile = \"azure-event-grid\": it takes tokens by enhanced authentication"
            .to_owned()
    })?;
    refuse(broker.payload == Payload::Cbor && profile.is_json_only(), "broker.payload", || {
        format!(
            "is \"json\" with profile = \"{name}\": MQTT 3.1.1 carries no content type, readings go in a JSON envelope"
        )
    })?;
    refuse(broker.auth_method.is_some() && !profile.reauthenticates(), "broker.auth_method", || {
        format!("has no use with profile = \"{name}\": it takes the token as password; remove it")
    })?;
    refuse(config.cloud.status == CloudStatus::On && !profile.takes_principal(), "cloud.status", || {
        format!(
            "\"on\" cannot be kept with profile = \"{name}\": there is no topic for the gateway itself; write \"off\""
        )
    })?;
    refuse(config.cloud.broker_alarms && kind != Kind::Mqtt5, "cloud.broker_alarms", || {
        format!("has no use with profile = \"{name}\": only mosquitto's plugin tells of any; remove it")
    })?;
    check_authorizer(config, url)?;
    check_issuer(config)
}

fn check_authorizer(config: &Config, url: &BrokerUrl) -> Result<(), Objection> {
    let broker = &config.broker;
    let keys = [
        ("broker.authorizer", broker.authorizer.is_some()),
        ("broker.authorizer_token", broker.authorizer_token.is_some()),
        ("broker.authorizer_key", broker.authorizer_key.is_some()),
    ];
    if broker.profile != Kind::AwsIot {
        let written = keys.into_iter().find(|(_, is_written)| *is_written);
        return written.map_or(Ok(()), |(key, _)| Err(objection(key, "belongs to profile = \"aws-iot\"; remove it")));
    }
    refuse(url.port != 443, "broker.url", || {
        "is mqtts://ENDPOINT:443 with profile = \"aws-iot\": AWS IoT takes custom authorizers on that port".to_owned()
    })?;
    refuse(broker.authorizer_token.is_some() != broker.authorizer_key.is_some(), "broker.authorizer_token", || {
        "and broker.authorizer_key need each other; write both, or none where the authorizer checks no signatures"
            .to_owned()
    })?;
    let name = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_=,@-".contains(c));
    refuse(broker.authorizer.is_none() && broker.authorizer_token.is_some(), "broker.authorizer", || {
        "is missing; write the name of the custom authorizer".to_owned()
    })?;
    refuse(broker.authorizer.as_deref().is_some_and(|text| !name(text)), "broker.authorizer", || {
        "is no name of a custom authorizer: letters, digits and _=,@- are allowed".to_owned()
    })
}

fn check_issuer(config: &Config) -> Result<(), Objection> {
    let (issuer, kind) = (&config.issuer, config.broker.profile);
    let sas = issuer.kind == IssuerKind::AzureSas;
    refuse(kind == Kind::AzureIotHub && !sas, "issuer.kind", || {
        "is \"azure-sas\" with profile = \"azure-iot-hub\": IoT Hub takes shared access signatures, no JWT".to_owned()
    })?;
    refuse(sas && kind != Kind::AzureIotHub, "issuer.kind", || {
        "\"azure-sas\" belongs to broker.profile = \"azure-iot-hub\"".to_owned()
    })?;
    refuse(sas != issuer.device_keys.is_some(), "issuer.device_keys", || {
        "is the devices' keys with kind = \"azure-sas\", and nothing else: the group key's file, or a folder of key files"
            .to_owned()
    })?;
    refuse(kind == Kind::AzureEventGrid && !config.audience().starts_with("https://"), "issuer.audience", || {
        "is the namespace with profile = \"azure-event-grid\": \"https://NAMESPACE.ts.eventgrid.azure.net/\"".to_owned()
    })?;
    let prefix = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    refuse(kind == Kind::Rabbitmq && !prefix(config.audience()), "issuer.audience", || {
        "is RabbitMQ's auth_oauth2.resource_server_id with profile = \"rabbitmq\": letters, digits and -_. are allowed"
            .to_owned()
    })
}

fn refuse(is_wrong: bool, key: &str, message: impl FnOnce() -> String) -> Result<(), Objection> {
    if is_wrong { Err((key.to_owned(), message())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The objection to a configuration with these keys of `[broker]` and `[issuer]`.
    fn objection_to(url: &str, profile: &str, broker: &str, issuer: &str) -> Option<String> {
        let text =
            format!("[broker]\nurl = \"{url}\"\nca = \"/ca\"\nprofile = \"{profile}\"\n{broker}\n[issuer]\n{issuer}\n");
        let config: Config = toml::from_str(&text).unwrap();
        check(&config, config.broker.url.as_ref().unwrap()).err().map(|(key, words)| format!("{key}: {words}"))
    }

    const HUB: &str = "kind = \"azure-sas\"\ndevice_keys = \"/keys\"";
    const GRID: &str = "audience = \"https://ns.ts.eventgrid.azure.net/\"";

    #[test]
    fn a_profile_with_what_it_needs_is_taken() {
        for (url, profile, broker, issuer) in [
            ("mqtt://b", "mqtt5", "reauth = \"always\"\npayload = \"cbor\"", "[cloud]\nbroker_alarms = true"),
            ("mqtt://b", "rabbitmq", "", "[cloud]\nstatus = \"on\""),
            ("mqtt://b", "emqx", "reauth = \"never\"", ""),
            ("mqtts://ns.ts.eventgrid.azure.net", "azure-event-grid", "auth_method = \"OAUTH2-JWT\"", GRID),
            ("mqtts://contoso.azure-devices.net", "azure-iot-hub", "payload = \"cbor\"", HUB),
            ("mqtts://x-ats.iot.eu-west-1.amazonaws.com:443", "aws-iot", "authorizer = \"claw\"", ""),
        ] {
            assert_eq!(objection_to(url, profile, broker, issuer), None, "{profile}");
        }
    }

    #[test]
    fn what_a_broker_cannot_do_is_found_with_its_key() {
        let aws = "mqtts://x:443";
        for (url, profile, broker, issuer, key) in [
            ("mqtt://hub", "azure-iot-hub", "", HUB, "broker.url: is mqtts"),
            ("mqtt://ns", "azure-event-grid", "", GRID, "broker.url: is mqtts"),
            ("mqtts://x", "aws-iot", "", "", "broker.url: is mqtts://ENDPOINT:443"),
            ("mqtt://b", "rabbitmq", "reauth = \"always\"", "", "broker.reauth: "),
            ("mqtts://b", "emqx", "reauth = \"always\"", "", "broker.reauth: "),
            ("mqtts://hub", "azure-iot-hub", "reauth = \"always\"", HUB, "broker.reauth: "),
            ("mqtts://ns", "azure-event-grid", "reauth = \"never\"", GRID, "broker.reauth: "),
            ("mqtt://b", "rabbitmq", "payload = \"cbor\"", "", "broker.payload: "),
            ("mqtt://b", "emqx", "auth_method = \"CUSTOM-JWT\"", "", "broker.auth_method: "),
            ("mqtt://b", "rabbitmq", "", "[cloud]\nbroker_alarms = true", "cloud.broker_alarms: "),
            ("mqtt://b", "mqtt5", "authorizer = \"claw\"", "", "broker.authorizer: "),
            (aws, "aws-iot", "authorizer = \"a b\"", "", "broker.authorizer: is no name"),
            (aws, "aws-iot", "authorizer = \"a\"\nauthorizer_token = \"t\"", "", "broker.authorizer_token: and"),
            (aws, "aws-iot", "authorizer_token = \"t\"\nauthorizer_key = \"/k\"", "", "broker.authorizer: is missing"),
            ("mqtts://hub", "azure-iot-hub", "", "", "issuer.kind: "),
            ("mqtts://b", "mqtt5", "", HUB, "issuer.kind: "),
            ("mqtts://hub", "azure-iot-hub", "", "kind = \"azure-sas\"", "issuer.device_keys: "),
            ("mqtts://b", "mqtt5", "", "device_keys = \"/k\"", "issuer.device_keys: "),
            ("mqtts://ns", "azure-event-grid", "", "", "issuer.audience: "),
            ("mqtt://b", "rabbitmq", "", "audience = \"https://b\"", "issuer.audience: "),
            (
                "mqtts://hub",
                "azure-iot-hub",
                "",
                "kind = \"azure-sas\"\ndevice_keys = \"/k\"\n[cloud]\nstatus = \"on\"",
                "cloud.status: ",
            ),
        ] {
            let words = objection_to(url, profile, broker, issuer).unwrap_or_default();
            assert!(words.starts_with(key), "{profile} {broker} {issuer}: {words:?} instead of {key:?}");
        }
    }

    #[test]
    fn the_broker_inside_takes_no_profile() {
        let standalone = |text: &str| check_standalone(&toml::from_str(text).unwrap());
        assert_eq!(standalone("mode = \"standalone\""), Ok(()));
        assert!(standalone("[broker]\nprofile = \"emqx\"").is_err());
        assert!(standalone("[issuer]\nkind = \"azure-sas\"").is_err());
        assert!(standalone("[cloud]\nbroker_alarms = true").is_err());
    }
}
