//! A device of the air, and what may happen to it.

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use clawgate_protocol::ble::SERVICE;
use dbus::Path as ObjectPath;
use dbus::arg::PropMap;

use super::wire::{boxed, map, uuid};

/// What the air does to a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Weather {
    #[default]
    Fair,
    /// Every so manieth is lost.
    Lose(usize),
    /// Every so manieth comes twice.
    Repeat(usize),
    /// Every so manieth changes places with the next.
    Swap(usize),
    /// All are lost.
    Deaf,
}

/// After what a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    Connect,
    Resolved,
    Subscribe,
    Write(usize),
    Notify(usize),
}

/// A device of the air.
#[allow(clippy::struct_excessive_bools, reason = "BlueZ has them so")]
pub(crate) struct Device {
    pub(super) adapter: String,
    pub(super) address: String,
    pub(crate) name: String,
    pub(crate) service_data: Vec<u8>,
    pub(super) radio: Option<UnixStream>,
    pub(crate) mtu: u16,
    pub(crate) weather: Weather,
    pub(crate) cut: Option<Cut>,
    pub(crate) service_is_gone: bool,
    pub(super) visible: bool,
    pub(crate) connected: bool,
    pub(super) resolved: bool,
    pub(super) notifying: bool,
    pub(super) held: Option<Vec<u8>>,
    pub(super) writes: usize,
    pub(super) notifies: usize,
}

impl Device {
    pub(super) fn new(adapter: &str, address: &str, radio: Option<UnixStream>) -> Self {
        Self {
            adapter: adapter.to_owned(),
            address: address.to_owned(),
            name: String::new(),
            service_data: Vec::new(),
            radio,
            mtu: 247,
            weather: Weather::Fair,
            cut: None,
            service_is_gone: false,
            visible: false,
            connected: false,
            resolved: false,
            notifying: false,
            held: None,
            writes: 0,
            notifies: 0,
        }
    }

    /// Cuts the connection after so many values from now on.
    pub(crate) fn cut_from_here(&mut self, step: Cut) {
        (self.writes, self.notifies, self.cut) = (0, 0, Some(step));
    }

    pub(super) fn path(&self) -> String {
        format!("/org/bluez/{}/dev_{}", self.adapter, self.address.replace(':', "_").to_uppercase())
    }

    pub(super) fn tell(&mut self, kind: u8, content: &[u8]) {
        if let Some(radio) = &mut self.radio {
            let length = u16::try_from(content.len() + 1).unwrap().to_be_bytes();
            let _ = radio.write_all(&[&length[..], &[kind], content].concat());
        }
    }

    pub(super) fn properties(&self) -> PropMap {
        let mut all = map([
            ("Address", boxed(self.address.to_uppercase())),
            ("AddressType", boxed("random".to_owned())),
            ("Adapter", boxed(ObjectPath::from(format!("/org/bluez/{}", self.adapter)))),
            ("UUIDs", boxed(vec![uuid(SERVICE)])),
            ("Paired", boxed(false)),
            ("Trusted", boxed(false)),
            ("Blocked", boxed(false)),
            ("LegacyPairing", boxed(false)),
            ("Connected", boxed(self.connected)),
            ("ServicesResolved", boxed(self.resolved)),
        ]);
        all.extend(self.advertised());
        all
    }

    pub(super) fn advertised(&self) -> PropMap {
        let data = map([(uuid(SERVICE).as_str(), boxed(self.service_data.clone()))]);
        let mut all = map([("ServiceData", boxed(data)), ("RSSI", boxed(-61_i16))]);
        if !self.name.is_empty() {
            all.extend(map([("Name", boxed(self.name.clone())), ("Alias", boxed(self.name.clone()))]));
        }
        all
    }
}
