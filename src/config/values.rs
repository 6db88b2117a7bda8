//! The forms of single values: durations, sizes, names, addresses. Each refusal says what is allowed.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use rustls::pki_types::ServerName;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::BrokerUrl;
use crate::http_client::port_of;
use crate::ids::is_valid_id;

/// A name that may stand in an MQTT topic: `[a-z0-9_-]{1,32}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    pub(super) fn fixed(text: &'static str) -> Self {
        Self(text.to_owned())
    }

    /// The name as text.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if is_valid_id(&text) {
            Ok(Self(text))
        } else {
            Err(D::Error::custom(format!("{text:?} is not a valid name: 1 to 32 of a-z, 0-9, '_' and '-' are allowed")))
        }
    }
}

/// A duration as people write it: a number and `ms`, `s`, `m`, `h` or `d`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(ms)?))
}

fn duration_between<'de, D: Deserializer<'de>>(from: D, low: &str, high: &str) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let within = |d: &Duration| Some(*d) >= parse_duration(low) && Some(*d) <= parse_duration(high);
    parse_duration(&text).filter(within).ok_or_else(|| {
        D::Error::custom(format!(
            "{text:?} is not allowed here: {low} to {high}, as a number and ms, s, m, h or d (\"60s\")"
        ))
    })
}

fn number_between<'de, D, N>(from: D, low: N, high: N) -> Result<N, D::Error>
where
    D: Deserializer<'de>,
    N: TryFrom<i64> + Into<u64> + PartialOrd + Copy,
{
    let value = i64::deserialize(from)?;
    N::try_from(value).ok().filter(|n| *n >= low && *n <= high).ok_or_else(|| {
        D::Error::custom(format!(
            "{value} is not allowed here: {} to {}",
            Into::<u64>::into(low),
            Into::<u64>::into(high)
        ))
    })
}

pub(super) fn code_life<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    duration_between(from, "1s", "1d")
}

pub(super) fn rate_learning<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    duration_between(from, "10s", "1d")
}

pub(super) fn token_life<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    duration_between(from, "5s", "1d")
}

pub(crate) fn lead<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    duration_between(from, "0s", "1d")
}

/// A time between changes, or `"off"`.
pub(crate) fn schedule<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    if text == "off" {
        return Ok(None);
    }
    let allowed = Duration::from_secs(60)..=Duration::from_secs(3650 * 86_400);
    parse_duration(&text).filter(|every| allowed.contains(every)).map(Some).ok_or_else(|| {
        D::Error::custom(format!(
            "{text:?} is not allowed here: \"off\", or 1m to 3650d as a number and m, h or d (\"90d\")"
        ))
    })
}

pub(super) fn status_every<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    duration_between(from, "10s", "1d")
}

/// How long lines of the audit log are kept, or `"off"`.
pub(super) fn audit_age<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    if text == "off" {
        return Ok(None);
    }
    let allowed = Duration::from_secs(86_400)..=Duration::from_secs(3650 * 86_400);
    parse_duration(&text)
        .filter(|age| allowed.contains(age))
        .map(Some)
        .ok_or_else(|| D::Error::custom(format!("{text:?} is not allowed here: \"off\", or 1d to 3650d (\"365d\")")))
}

pub(super) fn attempts<'de, D: Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    number_between(from, 1, 10)
}

pub(super) fn alarm_number<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
    number_between(from, 1, 1000)
}

pub(super) fn rate_factor<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
    number_between(from, 2, 1000)
}

pub(super) fn ble_links<'de, D: Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    number_between(from, 1, 32)
}

pub(super) fn suite<'de, D: Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    number_between(from, 1, 2)
}

pub(super) fn baud<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    number_between(from, 1200, 12_000_000)
}

pub(super) fn commit_ms<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    number_between(from, 10, 60_000)
}

/// A number of bytes, or text such as `"256MiB"`; 1 MiB to 1 TiB.
pub(super) fn spool_bytes<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    let size = Size::deserialize(from).map_err(|_| D::Error::custom(SIZE_FORM))?;
    let bytes = match &size {
        Size::Bytes(bytes) => Some(*bytes),
        Size::Text(text) => parse_size(text),
    };
    bytes.filter(|b| (1 << 20..=1 << 40).contains(b)).ok_or_else(|| D::Error::custom(SIZE_FORM))
}

const SIZE_FORM: &str = "not an allowed size: 1MiB to 1024GiB, as a number and KiB, MiB or GiB (\"256MiB\"), or bytes";

fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// An address with a port, or `"off"`.
pub(super) fn listen_or_off<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(from)?;
    if text == "off" {
        return Ok(None);
    }
    let refuse = |_| D::Error::custom(format!("{text:?} is not an address: \"127.0.0.1:9464\" or \"off\" is allowed"));
    SocketAddr::from_str(&text).map(Some).map_err(refuse)
}

pub(super) fn broker_url<'de, D: Deserializer<'de>>(from: D) -> Result<Option<BrokerUrl>, D::Error> {
    let text = String::deserialize(from)?;
    parse_broker_url(&text)
        .map(Some)
        .ok_or_else(|| D::Error::custom(format!("{text:?} is not a broker: mqtts://host[:port] or mqtt://host[:port]")))
}

fn parse_broker_url(text: &str) -> Option<BrokerUrl> {
    let (scheme, rest) = text.split_once("://")?;
    let (tls, default_port) = match scheme {
        "mqtts" => (true, 8883),
        "mqtt" => (false, 1883),
        _ => return None,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    // "[::1]:8883" keeps its colons inside the brackets.
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, port)
        }
        None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port_of(port)?,
        None if port.is_empty() => default_port,
        None => return None,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_');
    let is_name = !host.is_empty() && host.chars().all(plain);
    // What no certificate can be for, TLS never reaches.
    let is_reachable = is_name && (!tls || ServerName::try_from(host).is_ok());
    is_reachable.then(|| BrokerUrl { host: host.to_owned(), port, tls })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_needs_its_unit() {
        assert_eq!(parse_duration("60s"), Some(Duration::from_secs(60)));
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("1d"), Some(Duration::from_secs(86_400)));
        for bad in ["60", "s", "", "1w", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_broker_url_is_taken_apart() {
        let url = |host: &str, port, tls| Some(BrokerUrl { host: host.to_owned(), port, tls });
        assert_eq!(parse_broker_url("mqtts://broker.example"), url("broker.example", 8883, true));
        assert_eq!(parse_broker_url("mqtt://127.0.0.1:2883/"), url("127.0.0.1", 2883, false));
        assert_eq!(parse_broker_url("mqtts://[::1]:8884"), url("::1", 8884, true));
        assert_eq!(parse_broker_url("mqtt://[::1]"), url("::1", 1883, false));
        for bad in [
            "broker",
            "http://x",
            "mqtts://",
            "mqtts://user:pw@host",
            "mqtts://host:99999",
            "mqtts://a b",
            "mqtts://host:",
            "mqtts://host:0",
            "mqtts://host:+1",
            "mqtt://::1",
            "mqtt://a:b:1883",
            "mqtt://[::1]1883",
            "mqtt://[::1",
            "mqtt://[host]",
            "mqtts://-host",
        ] {
            assert_eq!(parse_broker_url(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_size_is_read_in_binary_units() {
        assert_eq!(parse_size("256MiB"), Some(256 << 20));
        assert_eq!(parse_size("256MB"), None);
        assert_eq!(parse_size("99999999999999GiB"), None);
    }
}
