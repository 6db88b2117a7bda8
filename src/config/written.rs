//! Values back in the form in which the files write them: what is shown of the configuration can be copied into a file.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{BrokerUrl, Name, Principal};
use crate::secret_source::SecretSource;

/// `"90s"`, in the largest unit that says it exactly.
pub(crate) fn in_units(duration: Duration) -> String {
    let ms = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let exact = units.into_iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit));
    exact.map_or_else(|| format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
}

pub(super) fn duration<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&in_units(*duration))
}

#[expect(clippy::ref_option, reason = "serde hands over a reference to the field")]
pub(super) fn duration_or_off<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&duration.map_or_else(|| "off".to_owned(), in_units))
}

#[expect(clippy::ref_option, reason = "serde hands over a reference to the field")]
pub(super) fn listen_or_off<S: Serializer>(address: &Option<SocketAddr>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&address.map_or_else(|| "off".to_owned(), |address| address.to_string()))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference to the field")]
pub(super) fn size<S: Serializer>(bytes: &u64, to: S) -> Result<S::Ok, S::Error> {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| *bytes > 0 && bytes.trailing_zeros() >= *shift) {
        Some((shift, name)) => to.serialize_str(&format!("{}{name}", bytes >> shift)),
        None => to.serialize_u64(*bytes),
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl Serialize for Principal {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Uid(uid) => to.collect_str(&format_args!("uid:{uid}")),
            Self::Gid(gid) => to.collect_str(&format_args!("gid:{gid}")),
        }
    }
}

impl Serialize for BrokerUrl {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        to.collect_str(&format_args!("{scheme}://{host}:{}", self.port))
    }
}

/// Where a secret stands, never the secret.
impl Serialize for SecretSource {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;
    use crate::config::Config;

    #[test]
    fn a_duration_is_written_in_the_largest_unit_that_is_exact() {
        for text in ["0ms", "250ms", "90s", "7m", "36h", "365d"] {
            let read = crate::config::parse_duration(text).unwrap();
            assert_eq!(in_units(read), text);
        }
    }

    #[test]
    fn what_is_shown_of_a_configuration_is_read_as_the_same_configuration() {
        let default = to_value(Config::default()).unwrap();
        assert_eq!(default["pairing"]["ttl"], json!("1m"));
        assert_eq!((&default["keys"]["issuer"], &default["audit"]["max_age"]), (&json!("off"), &json!("off")));
        assert_eq!(default["spool"]["max_bytes"], json!("256MiB"));
        let mut changed = default.clone();
        changed["broker"]["url"] = json!("mqtts://[::1]:8884");
        changed["broker"]["client_key"] = json!("vault:a/b#c");
        changed["metrics"]["listen"] = json!("off");
        changed["control"]["roles"]["admin"] = json!(["uid:7", "gid:8"]);
        changed["spool"]["max_bytes"] = json!(1_048_577);
        let read: Config = from_value(without_nulls(&changed)).unwrap();
        assert_eq!(without_nulls(&to_value(&read).unwrap()), without_nulls(&changed));
        assert_eq!(from_value::<Config>(without_nulls(&default)).unwrap(), Config::default());
    }

    /// TOML has none: a key that is not set is left out.
    fn without_nulls(value: &serde_json::Value) -> serde_json::Value {
        match value {
            serde_json::Value::Object(all) => {
                let set = all.iter().filter(|(_, value)| !value.is_null());
                set.map(|(key, value)| (key.clone(), without_nulls(value))).collect()
            }
            other => other.clone(),
        }
    }
}
