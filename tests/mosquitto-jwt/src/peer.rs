//! Who a client is beside its token: its address and its certificate, and whether the token allows them.

use std::net::{IpAddr, Ipv6Addr};

/// What the broker knows of a client.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer<'a> {
    /// Its MQTT client id.
    pub(crate) mqtt_id: &'a str,
    /// Where it connects from; `None` where that is no IP address.
    pub(crate) address: Option<IpAddr>,
    /// SHA-256 of its certificate in base64url (`x5t#S256`, RFC 8705, section 3.1); `None` without one.
    pub(crate) certificate: Option<String>,
}

/// The address as the broker prints it: an IPv6 one may name its zone, and an IPv4 one may come mapped.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    let bare = text.split_once('%').map_or(text, |(address, _zone)| address);
    Some(bare.parse::<IpAddr>().ok()?.to_canonical())
}

/// Whether `address` lies in the range `ADDRESS/BITS`, or is that one address. A range that cannot be read holds
/// nothing.
pub(crate) fn lies_in(range: &str, address: IpAddr) -> bool {
    let (base, bits) = match range.split_once('/') {
        Some((base, bits)) => (base, bits.parse::<u32>().ok()),
        None => (range, Some(128)),
    };
    let (Ok(base), Some(bits)) = (base.parse::<IpAddr>(), bits) else { return false };
    // An IPv4 address is compared in its mapped form, 96 bits further on.
    let widened = if base.is_ipv4() && range.contains('/') { bits.checked_add(96) } else { Some(bits) };
    let Some(bits) = widened.filter(|bits| *bits <= 128) else { return false };
    let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
    base.is_ipv4() == address.is_ipv4() && (number(base) ^ number(address)) & mask == 0
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => Ipv6Addr::to_bits(address.to_ipv6_mapped()),
        IpAddr::V6(address) => address.to_bits(),
    }
}
