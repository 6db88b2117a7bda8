//! What is there, and what BlueZ says of it when it changes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use dbus::arg::PropMap;
use dbus::{Message, Path as ObjectPath};

use super::device::{Cut, Device, Weather};
use super::wire::{boxed, map};
use super::{ADAPTER, CHARACTERISTIC, DEVICE, Heard, OBJECTS, PROPERTIES};

#[derive(Default)]
pub(super) struct Adapter {
    pub(super) powered: bool,
    pub(super) discovering: bool,
    /// It says that it listens and hears nothing, until it is switched off and on.
    pub(super) is_wedged: bool,
}

/// What the fake knows, and what it is told to do wrong.
#[derive(Default)]
pub(crate) struct World {
    pub(super) adapters: BTreeMap<String, Adapter>,
    pub(crate) devices: BTreeMap<String, Device>,
    /// Calls of these members get an error.
    pub(crate) refuse: HashMap<String, (String, String)>,
    /// Calls of these members get no answer.
    pub(crate) hang: Vec<String>,
    pub(super) calls: HashMap<String, usize>,
    /// What was done to adapters, in its order: `on`, `off`, `listen`, `rest`.
    pub(crate) deeds: Vec<&'static str>,
    /// The longest value written, and the longest notified.
    pub(crate) longest: (usize, usize),
    pub(crate) most_connected: usize,
    /// Connects that were asked for while another was under way, or while discovery went on.
    pub(crate) rude_connects: usize,
    pub(super) connecting: bool,
    pub(super) out: VecDeque<Message>,
    pub(super) later: Vec<(Instant, Later)>,
}

pub(super) enum Later {
    Resolve(String),
    Appear(String),
}

impl World {
    pub(super) fn adapter(&self, name: &str) -> PropMap {
        let state = &self.adapters[name];
        map([
            ("Address", boxed("C0:FF:EE:00:00:01".to_owned())),
            ("AddressType", boxed("public".to_owned())),
            ("Modalias", boxed("usb:v1D6Bp0246d0542".to_owned())),
            ("Name", boxed(name.to_owned())),
            ("Alias", boxed(name.to_owned())),
            ("Powered", boxed(state.powered)),
            ("Discovering", boxed(state.discovering)),
        ])
    }

    pub(super) fn signal(
        &mut self,
        path: &str,
        interface: &str,
        member: &str,
        append: impl FnOnce(Message) -> Message,
    ) {
        let signal = Message::new_signal(path.to_owned(), interface.to_owned(), member.to_owned()).unwrap();
        self.out.push_back(append(signal));
    }

    pub(super) fn changed(&mut self, path: &str, interface: &str, properties: PropMap) {
        let interface = interface.to_owned();
        self.signal(path, PROPERTIES, "PropertiesChanged", |s| s.append3(interface, properties, Vec::<String>::new()));
    }

    pub(super) fn added(&mut self, path: &str, interface: &str, properties: PropMap) {
        let interfaces = HashMap::from([(interface.to_owned(), properties)]);
        let path = ObjectPath::from(path.to_owned());
        self.signal("/", OBJECTS, "InterfacesAdded", |signal| signal.append2(path, interfaces));
    }

    pub(super) fn removed(&mut self, path: &str, interface: &str) {
        let (path, gone) = (ObjectPath::from(path.to_owned()), vec![interface.to_owned()]);
        self.signal("/", OBJECTS, "InterfacesRemoved", |signal| signal.append2(path, gone));
    }

    pub(super) fn hears(&self, address: &str) -> bool {
        let Some(device) = self.devices.get(address) else { return false };
        let has_data = !device.service_data.is_empty() && !device.connected;
        has_data && self.adapters.get(&device.adapter).is_some_and(|adapter| adapter.discovering && !adapter.is_wedged)
    }

    /// An advertisement is in the air.
    pub(super) fn appear(&mut self, address: &str) {
        if !self.hears(address) {
            return;
        }
        let Some(device) = self.devices.get_mut(address) else { return };
        let path = device.path();
        if std::mem::replace(&mut device.visible, true) {
            let properties = device.advertised();
            self.changed(&path, DEVICE, properties);
        } else {
            let properties = device.properties();
            self.added(&path, DEVICE, properties);
        }
    }

    pub(super) fn vanish(&mut self, address: &str) {
        let Some(device) = self.devices.get_mut(address) else { return };
        let path = device.path();
        if std::mem::take(&mut device.visible) {
            self.removed(&path, DEVICE);
        }
    }

    pub(super) fn drop_link(&mut self, address: &str) {
        let Some(device) = self.devices.get_mut(address) else { return };
        if !std::mem::take(&mut device.connected) {
            return;
        }
        (device.resolved, device.notifying, device.held) = (false, false, None);
        device.tell(b'D', &[]);
        let path = device.path();
        self.changed(&path, DEVICE, map([("ServicesResolved", boxed(false))]));
        self.changed(&path, DEVICE, map([("Connected", boxed(false))]));
    }

    pub(super) fn cut_after(&mut self, address: &str, now: Cut) {
        let is_it = self.devices.get(address).is_some_and(|device| device.cut == Some(now));
        if is_it {
            self.devices.get_mut(address).unwrap().cut = None;
            self.drop_link(address);
        }
    }

    pub(super) fn notify(&mut self, address: &str, value: Vec<u8>) {
        let Some(device) = self.devices.get_mut(address) else { return };
        if !device.notifying {
            return;
        }
        self.longest.1 = self.longest.1.max(value.len());
        assert!(value.len() + 3 <= usize::from(device.mtu), "the sensor keeps to the MTU");
        device.notifies += 1;
        let count = device.notifies;
        let is_its_turn = |every: usize| count.is_multiple_of(every);
        let mut values = vec![value];
        match device.weather {
            Weather::Deaf => values.clear(),
            Weather::Lose(every) if is_its_turn(every) => values.clear(),
            Weather::Repeat(every) if is_its_turn(every) => values.push(values[0].clone()),
            Weather::Swap(every) if is_its_turn(every) => device.held = values.pop(),
            _ => values.extend(device.held.take()),
        }
        let path = format!("{}/service0010/char0013", device.path());
        for value in values {
            self.changed(&path, CHARACTERISTIC, map([("Value", boxed(value))]));
        }
        self.cut_after(address, Cut::Notify(count));
    }

    pub(super) fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Frame(address, b'A', content) => {
                let (length, rest) = content.split_first().unwrap();
                let (data, name) = rest.split_at(usize::from(*length));
                if let Some(device) = self.devices.get_mut(&address) {
                    device.service_data = data.to_vec();
                    device.name = String::from_utf8_lossy(name).into_owned();
                }
                self.appear(&address);
            }
            Heard::Frame(address, b'N', value) => self.notify(&address, value),
            Heard::Frame(address, b'X', _) => self.drop_link(&address),
            Heard::Frame(..) => {}
            Heard::Gone(address) => {
                self.drop_link(&address);
                if let Some(device) = self.devices.get_mut(&address) {
                    device.service_data.clear();
                    device.radio = None;
                }
                self.vanish(&address);
            }
        }
    }

    pub(super) fn objects(&self) -> HashMap<ObjectPath<'static>, HashMap<String, PropMap>> {
        let adapters = self
            .adapters
            .keys()
            .map(|name| (format!("/org/bluez/{name}"), HashMap::from([(ADAPTER.to_owned(), self.adapter(name))])));
        let devices = self.devices.values().filter(|device| device.visible);
        let devices = devices.map(|device| (device.path(), HashMap::from([(DEVICE.to_owned(), device.properties())])));
        adapters.chain(devices).map(|(path, object)| (ObjectPath::from(path), object)).collect()
    }

    pub(super) fn catch_up(&mut self) {
        let now = Instant::now();
        let due: Vec<_> = self.later.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, what) in due {
            match what {
                Later::Appear(address) => self.appear(&address),
                Later::Resolve(address) => {
                    self.connecting = false;
                    let Some(device) = self.devices.get_mut(&address).filter(|device| device.connected) else {
                        continue;
                    };
                    device.resolved = true;
                    let path = device.path();
                    self.changed(&path, DEVICE, map([("ServicesResolved", boxed(true))]));
                    self.cut_after(&address, Cut::Resolved);
                }
            }
        }
    }
}
