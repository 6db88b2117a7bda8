//! Limits that travel inside a token: from where it may be used, and how often.
//!
//! They mean nothing on a radio or a serial line. The broker keeps them (it sees addresses and counts publishes), and
//! the gateway keeps the rate too, so that what the broker would refuse is never sent.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

/// Most address ranges of one token: each is some 20 bytes of it, and a broker compares them at every connect.
pub const MOST_ADDRESSES: usize = 16;

/// A range of IP addresses in CIDR form: `192.0.2.0/24`, `2001:db8::/32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    network: IpAddr,
    prefix: u8,
}

/// Why a text is no address range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// Neither an address nor a range.
    #[error("{0:?} is no address range: write an address (192.0.2.7) or a range (192.0.2.0/24, 2001:db8::/32)")]
    NotARange(String),
    /// The prefix is longer than the address.
    #[error("{text:?}: a prefix of {family} is 0 to {longest} bits long")]
    Prefix {
        /// What was written.
        text: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// Bits of an address.
        longest: u8,
    },
    /// Bits are set beyond the prefix: one of the two was mistyped, and which one decides who gets in.
    #[error("{text:?} has address bits beyond its prefix: did you mean {meant}?")]
    HostBits {
        /// What was written.
        text: String,
        /// The range that the prefix gives.
        meant: AddressRange,
    },
    /// More ranges than a token carries.
    #[error("{0} address ranges; a token carries at most {MOST_ADDRESSES}")]
    TooMany(usize),
}

impl AddressRange {
    /// Whether the address lies in it. An IPv4 address in its IPv6 form (`::ffff:192.0.2.7`) is the IPv4 address, as a
    /// broker that listens on both sees it.
    #[must_use]
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.network.is_ipv4() && masked(address, self.prefix) == self.network
    }
}

/// The address with every bit beyond the prefix cleared.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

impl FromStr for AddressRange {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let quoted = || text.chars().take(64).collect::<String>();
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| LimitError::NotARange(quoted()))?;
        let (family, longest) = if address.is_ipv4() { ("IPv4", 32) } else { ("IPv6", 128) };
        let prefix = match prefix {
            None => longest,
            // "+8" and "08" parse as numbers, and are no prefixes.
            Some(digits) if digits.is_empty() || digits.len() > 3 || !digits.bytes().all(|b| b.is_ascii_digit()) => {
                return Err(LimitError::NotARange(quoted()));
            }
            Some(digits) => match digits.parse() {
                Ok(prefix) if prefix <= longest => prefix,
                _ => return Err(LimitError::Prefix { text: quoted(), family, longest }),
            },
        };
        // An IPv4 range in IPv6's clothes would never match: addresses are compared in their own family.
        if address.to_canonical() != address {
            return Err(LimitError::NotARange(quoted()));
        }
        let network = masked(address, prefix);
        if network != address {
            return Err(LimitError::HostBits { text: quoted(), meant: Self { network, prefix } });
        }
        Ok(Self { network, prefix })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl TryFrom<String> for AddressRange {
    type Error = LimitError;

    fn try_from(text: String) -> Result<Self, LimitError> {
        text.parse()
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> Self {
        range.to_string()
    }
}

/// What a device's token is limited to, beside its topics. Nothing, by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// From where it may be used; from anywhere when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "few")]
    pub addresses: Vec<AddressRange>,
    /// Publishes a second; as many as the broker takes when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<NonZeroU32>,
}

impl Limits {
    /// Limits with their ranges sorted, each once: the form in which two of them compare.
    ///
    /// # Errors
    /// [`LimitError::TooMany`].
    pub fn new(mut addresses: Vec<AddressRange>, per_second: Option<NonZeroU32>) -> Result<Self, LimitError> {
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.len() > MOST_ADDRESSES {
            return Err(LimitError::TooMany(addresses.len()));
        }
        Ok(Self { addresses, per_second })
    }

    /// Whether nothing is limited.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.per_second.is_none()
    }

    /// Whether a connection may come from there.
    #[must_use]
    pub(crate) fn permits_address(&self, address: IpAddr) -> bool {
        self.addresses.is_empty() || self.addresses.iter().any(|range| range.contains(address))
    }

    /// For people: `from 192.0.2.0/24, at most 10/s`; empty where nothing is limited.
    #[must_use]
    pub(crate) fn in_words(&self) -> String {
        let ranges: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        let from = (!ranges.is_empty()).then(|| format!("from {}", ranges.join(" ")));
        let rate = self.per_second.map(|rate| format!("at most {rate}/s"));
        from.into_iter().chain(rate).collect::<Vec<_>>().join(", ")
    }
}

/// Address ranges, refused where they are more than a token carries.
pub(super) fn few<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<AddressRange>, D::Error> {
    let ranges = Vec::<AddressRange>::deserialize(from)?;
    if ranges.len() > MOST_ADDRESSES {
        return Err(serde::de::Error::custom(LimitError::TooMany(ranges.len())));
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    fn contains(text: &str, address: &str) -> bool {
        range(text).contains(address.parse().unwrap())
    }

    #[test]
    fn a_range_holds_its_first_and_last_address_and_not_their_neighbours() {
        for inside in ["192.0.2.64", "192.0.2.127", "::ffff:192.0.2.100"] {
            assert!(contains("192.0.2.64/26", inside), "{inside}");
        }
        for outside in ["192.0.2.63", "192.0.2.128", "::", "::c000:240"] {
            assert!(!contains("192.0.2.64/26", outside), "{outside}");
        }
        assert!(contains("2001:db8::/32", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"));
        assert!(!contains("2001:db8::/32", "2001:db9::"));
    }

    #[test]
    fn the_widest_and_the_narrowest_range_are_ranges() {
        assert!(contains("0.0.0.0/0", "255.255.255.255"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"));
        assert!(contains("::/0", "ffff::"));
        assert!(!contains("::/0", "192.0.2.1"));
        assert!(contains("192.0.2.1", "192.0.2.1"));
        assert!(!contains("192.0.2.1", "192.0.2.2"));
        assert_eq!(range("192.0.2.1").to_string(), "192.0.2.1/32");
        assert_eq!(range("2001:DB8:0:0::1/128").to_string(), "2001:db8::1/128");
    }

    #[test]
    fn what_is_no_range_is_refused_and_a_likely_slip_is_named() {
        for bad in ["", "192.0.2.0/33", "::/129", "192.0.2/24", "192.0.2.0/", "192.0.2.0/+8", "a/8", "192.0.2.0/8/8"] {
            assert!(bad.parse::<AddressRange>().is_err(), "{bad:?}");
        }
        assert!("::ffff:192.0.2.0/120".parse::<AddressRange>().is_err(), "it would never match");
        let slip = "192.0.2.7/24".parse::<AddressRange>().unwrap_err().to_string();
        assert!(slip.contains("did you mean 192.0.2.0/24?"), "{slip}");
    }

    #[test]
    fn no_ranges_permit_every_address_and_some_permit_theirs_only() {
        let anywhere = Limits::default();
        assert!(anywhere.permits_address("203.0.113.9".parse().unwrap()));
        let here = Limits::new(vec![range("192.0.2.0/24"), range("2001:db8::/64")], None).unwrap();
        assert!(here.permits_address("2001:db8::7".parse().unwrap()));
        assert!(!here.permits_address("203.0.113.9".parse().unwrap()));
        assert_eq!(here.in_words(), "from 192.0.2.0/24 2001:db8::/64");
    }

    #[test]
    fn limits_compare_whatever_order_they_were_written_in_and_are_bounded() {
        let (a, b) = (range("192.0.2.0/24"), range("198.51.100.0/24"));
        assert_eq!(Limits::new(vec![b, a, b], None), Limits::new(vec![a, b], None));
        let many: Vec<_> = (0..=16).map(|n| range(&format!("10.{n}.0.0/16"))).collect();
        assert_eq!(Limits::new(many.clone(), None), Err(LimitError::TooMany(17)));
        let text = serde_json::json!({ "addresses": many }).to_string();
        assert!(serde_json::from_str::<Limits>(&text).is_err());
    }
}
