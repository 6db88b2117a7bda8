//! What the fake answers to each call.

use std::time::{Duration, Instant};

use clawgate_protocol::ble::{RX, SERVICE, TX};
use dbus::arg::{PropMap, Variant};
use dbus::{Message, Path as ObjectPath};

use super::device::Cut;
use super::wire::{boxed, error, map, node, property, uuid};
use super::world::{Later, World};
use super::{ADAPTER, CHARACTERISTIC, DEVICE, OBJECTS, PROPERTIES};

impl World {
    /// Answers a call; nothing if the answer is never to come.
    pub(super) fn answer(&mut self, call: &Message) -> Option<Message> {
        let member = call.member().map(|member| member.to_string()).unwrap_or_default();
        *self.calls.entry(member.clone()).or_default() += 1;
        if self.hang.contains(&member) {
            return None;
        }
        if let Some((name, text)) = self.refuse.get(&member) {
            return Some(error(call, name, text));
        }
        let path = call.path().map(|path| path.to_string()).unwrap_or_default();
        let interface = call.interface().map(|interface| interface.to_string()).unwrap_or_default();
        Some(self.obey(call, &path, &interface, &member))
    }

    pub(super) fn obey(&mut self, call: &Message, path: &str, interface: &str, member: &str) -> Message {
        let done = |value: &dyn Fn(Message) -> Message| value(call.method_return());
        if (interface, member) == (OBJECTS, "GetManagedObjects") {
            return call.method_return().append1(self.objects());
        }
        let mut parts = path.trim_start_matches("/org/bluez/").split('/');
        let adapter = parts.next().unwrap_or_default().to_owned();
        if !self.adapters.contains_key(&adapter) {
            return error(call, "org.freedesktop.DBus.Error.UnknownObject", "no such object");
        }
        let Some(device) = parts.next() else { return self.obey_adapter(call, &adapter, interface, member) };
        let address = device.trim_start_matches("dev_").replace('_', ":").to_lowercase();
        let known = self.devices.get(&address).filter(|device| device.visible && device.adapter == adapter);
        let Some(device) = known else {
            return error(call, "org.freedesktop.DBus.Error.UnknownObject", "no such device");
        };
        match (parts.next(), parts.next(), interface, member) {
            (None, _, PROPERTIES, _) => property(call, member, &device.properties()),
            (None, _, _, "Introspect") => {
                let nodes = if device.resolved && !device.service_is_gone { &["service0010"][..] } else { &[] };
                done(&|answer| answer.append1(node(nodes)))
            }
            (None, _, DEVICE, "Connect") => self.connect(call, &address),
            (None, _, DEVICE, "Disconnect") => {
                self.drop_link(&address);
                call.method_return()
            }
            (Some(_), None, PROPERTIES, _) => {
                let properties = map([("UUID", boxed(uuid(SERVICE))), ("Primary", boxed(true))]);
                property(call, member, &properties)
            }
            (Some(_), None, _, "Introspect") => done(&|answer| answer.append1(node(&["char0011", "char0013"]))),
            (Some(_), Some(characteristic), PROPERTIES, _) => {
                let (which, flags) = match characteristic {
                    "char0011" => (RX, vec!["write".to_owned(), "write-without-response".to_owned()]),
                    _ => (TX, vec!["notify".to_owned()]),
                };
                let properties =
                    map([("UUID", boxed(uuid(which))), ("Flags", boxed(flags)), ("MTU", boxed(device.mtu))]);
                property(call, member, &properties)
            }
            (Some(_), Some(_), _, "Introspect") => done(&|answer| answer.append1(node(&[]))),
            (Some(_), Some("char0011"), CHARACTERISTIC, "WriteValue") => self.write(call, &address),
            (Some(_), Some("char0013"), CHARACTERISTIC, "StartNotify" | "StopNotify") => {
                if !device.connected {
                    return error(call, "org.bluez.Error.Failed", "Not connected");
                }
                let on = member == "StartNotify";
                let device = self.devices.get_mut(&address).unwrap();
                if !on && !device.notifying {
                    return error(call, "org.bluez.Error.Failed", "No notify session started");
                }
                device.notifying = on;
                device.tell(b'S', &[u8::from(on)]);
                if on {
                    self.cut_after(&address, Cut::Subscribe);
                }
                call.method_return()
            }
            _ => error(call, "org.freedesktop.DBus.Error.UnknownMethod", member),
        }
    }

    pub(super) fn obey_adapter(&mut self, call: &Message, adapter: &str, interface: &str, member: &str) -> Message {
        let path = format!("/org/bluez/{adapter}");
        match (interface, member) {
            (PROPERTIES, "Set") => {
                let (_, name, Variant(on)) = call.read3::<&str, &str, Variant<bool>>().unwrap();
                assert_eq!(name, "Powered");
                let state = self.adapters.get_mut(adapter).unwrap();
                state.is_wedged &= on;
                state.powered = on;
                state.discovering &= on;
                let discovering = state.discovering;
                self.deeds.push(if on { "on" } else { "off" });
                self.changed(&path, ADAPTER, map([("Powered", boxed(on)), ("Discovering", boxed(discovering))]));
                call.method_return()
            }
            (PROPERTIES, _) => property(call, member, &self.adapter(adapter)),
            (ADAPTER, "SetDiscoveryFilter") => {
                let filter = call.read1::<PropMap>().unwrap();
                let uuids = filter["UUIDs"].0.as_iter().unwrap().filter_map(|uuid| uuid.as_str().map(str::to_owned));
                assert_eq!(uuids.collect::<Vec<_>>(), [uuid(SERVICE)], "only our service is asked for");
                call.method_return()
            }
            (ADAPTER, "StartDiscovery" | "StopDiscovery") => {
                let on = member == "StartDiscovery";
                let state = self.adapters.get_mut(adapter).unwrap();
                if on && !state.powered {
                    return error(call, "org.bluez.Error.NotReady", "Resource Not Ready");
                }
                if on == state.discovering {
                    let text = if on { "Operation already in progress" } else { "No discovery started" };
                    return error(call, "org.bluez.Error.InProgress", text);
                }
                state.discovering = on;
                self.deeds.push(if on { "listen" } else { "rest" });
                self.changed(&path, ADAPTER, map([("Discovering", boxed(on))]));
                let there: Vec<String> = self.devices.keys().cloned().collect();
                for address in there {
                    self.appear(&address);
                }
                call.method_return()
            }
            (ADAPTER, "RemoveDevice") => {
                let device = call.read1::<ObjectPath<'_>>().unwrap();
                let address = device[device.len() - 17..].replace('_', ":").to_lowercase();
                self.drop_link(&address);
                self.vanish(&address);
                self.later.push((Instant::now() + Duration::from_millis(200), Later::Appear(address)));
                call.method_return()
            }
            _ => error(call, "org.freedesktop.DBus.Error.UnknownMethod", member),
        }
    }

    pub(super) fn connect(&mut self, call: &Message, address: &str) -> Message {
        let discovering = self.adapters[&self.devices[address].adapter].discovering;
        self.rude_connects += usize::from(self.connecting || discovering);
        let device = self.devices.get_mut(address).unwrap();
        if device.radio.is_none() {
            return error(call, "org.bluez.Error.Failed", "le-connection-abort-by-local");
        }
        (device.connected, device.writes, device.notifies) = (true, 0, 0);
        let (mtu, path) = (device.mtu, device.path());
        device.tell(b'C', &mtu.to_be_bytes());
        self.changed(&path, DEVICE, map([("Connected", boxed(true))]));
        let connected = self.devices.values().filter(|device| device.connected).count();
        self.most_connected = self.most_connected.max(connected);
        self.later.push((Instant::now() + Duration::from_millis(30), Later::Resolve(address.to_owned())));
        self.connecting = true;
        self.cut_after(address, Cut::Connect);
        call.method_return()
    }

    pub(super) fn write(&mut self, call: &Message, address: &str) -> Message {
        let (value, _) = call.read2::<Vec<u8>, PropMap>().unwrap();
        self.longest.0 = self.longest.0.max(value.len());
        let device = self.devices.get_mut(address).unwrap();
        if !device.connected {
            return error(call, "org.bluez.Error.Failed", "Not connected");
        }
        assert!(value.len() + 3 <= usize::from(device.mtu) && value.len() <= 512, "the gateway keeps to the MTU");
        device.tell(b'W', &value);
        device.writes += 1;
        let count = device.writes;
        self.cut_after(address, Cut::Write(count));
        call.method_return()
    }
}
