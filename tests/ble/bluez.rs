//! A BlueZ of the tests' own on a bus of its own: adapters that come and go, sensors that are simulator
//! processes, strangers, and every fault that the real one is hard to bring to.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clawgate_protocol::ble::{RX, SERVICE, TX};
use dbus::arg::{Append, PropMap, RefArg, Variant};
use dbus::channel::Channel;
use dbus::{Message, MessageType, Path as ObjectPath};

const NAME: &str = "org.bluez";
const ADAPTER: &str = "org.bluez.Adapter1";
const DEVICE: &str = "org.bluez.Device1";
const CHARACTERISTIC: &str = "org.bluez.GattCharacteristic1";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const OBJECTS: &str = "org.freedesktop.DBus.ObjectManager";

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
    adapter: String,
    address: String,
    pub(crate) name: String,
    pub(crate) service_data: Vec<u8>,
    radio: Option<UnixStream>,
    pub(crate) mtu: u16,
    pub(crate) weather: Weather,
    pub(crate) cut: Option<Cut>,
    pub(crate) service_is_gone: bool,
    visible: bool,
    pub(crate) connected: bool,
    resolved: bool,
    notifying: bool,
    held: Option<Vec<u8>>,
    writes: usize,
    notifies: usize,
}

#[derive(Default)]
struct Adapter {
    powered: bool,
    discovering: bool,
}

/// What the fake knows, and what it is told to do wrong.
#[derive(Default)]
pub(crate) struct World {
    adapters: BTreeMap<String, Adapter>,
    pub(crate) devices: BTreeMap<String, Device>,
    /// Calls of these members get an error.
    pub(crate) refuse: HashMap<String, (String, String)>,
    /// Calls of these members get no answer.
    pub(crate) hang: Vec<String>,
    calls: HashMap<String, usize>,
    /// The longest value written, and the longest notified.
    pub(crate) longest: (usize, usize),
    pub(crate) most_connected: usize,
    /// Connects that were asked for while another was under way, or while discovery went on.
    pub(crate) rude_connects: usize,
    connecting: bool,
    out: VecDeque<Message>,
    later: Vec<(Instant, Later)>,
}

enum Later {
    Resolve(String),
    Appear(String),
}

enum Heard {
    Frame(String, u8, Vec<u8>),
    Gone(String),
}

/// The fake. Dropping it ends the bus.
pub(crate) struct Bluez {
    folder: PathBuf,
    bus: Child,
    world: Arc<Mutex<World>>,
    wanted: Arc<Mutex<Wanted>>,
    heard: std::sync::mpsc::Sender<Heard>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Owner,
    NoOwner,
    End,
}

impl Bluez {
    /// A bus, and on it a BlueZ with these adapters.
    pub(crate) fn start(folder: &Path, adapters: &[&str]) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let config = folder.join("bus.conf");
        let policy = "<policy context=\"default\"><allow send_destination=\"*\"/><allow receive_sender=\"*\"/><allow own=\"*\"/></policy>";
        let listen = format!("unix:path={}", folder.join("bus").display());
        let text = format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n<busconfig><listen>{listen}</listen><auth>EXTERNAL</auth>{policy}</busconfig>"
        );
        std::fs::write(&config, text).unwrap();
        let bus = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile"])
            .stdin(Stdio::null())
            .spawn()
            .expect("dbus-daemon; it comes with the package dbus-daemon");
        let (heard, hearing) = std::sync::mpsc::channel();
        let mut fake = Self {
            folder: folder.to_owned(),
            bus,
            world: Arc::default(),
            wanted: Arc::new(Mutex::new(Wanted::Owner)),
            heard,
            thread: None,
        };
        for adapter in adapters {
            fake.world().adapters.insert((*adapter).to_owned(), Adapter { powered: true, discovering: false });
        }
        let (world, wanted, address) = (Arc::clone(&fake.world), Arc::clone(&fake.wanted), fake.address());
        let (ready, is_ready) = std::sync::mpsc::channel();
        fake.thread = Some(std::thread::spawn(move || serve(&address, &world, &wanted, &hearing, &ready)));
        is_ready.recv_timeout(Duration::from_secs(60)).expect("the fake BlueZ is on the bus");
        fake
    }

    /// For `DBUS_SYSTEM_BUS_ADDRESS`.
    pub(crate) fn address(&self) -> String {
        format!("unix:path={}", self.folder.join("bus").display())
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// Changes one sensor.
    pub(crate) fn at<T>(&self, address: &str, change: impl FnOnce(&mut Device) -> T) -> T {
        change(self.world().devices.get_mut(address).expect("such a device"))
    }

    /// Puts a simulator on the air.
    pub(crate) fn sensor(&self, adapter: &str, address: &str, socket: &Path) {
        let radio = UnixStream::connect(socket).unwrap();
        let mut reading = radio.try_clone().unwrap();
        self.world().devices.insert(address.to_owned(), Device::new(adapter, address, Some(radio)));
        let (heard, whose) = (self.heard.clone(), address.to_owned());
        std::thread::spawn(move || {
            let mut length = [0; 2];
            while reading.read_exact(&mut length).is_ok() {
                let mut frame = vec![0; usize::from(u16::from_be_bytes(length))];
                if reading.read_exact(&mut frame).is_err() {
                    break;
                }
                let _ = heard.send(Heard::Frame(whose.clone(), frame[0], frame[1..].to_vec()));
            }
            let _ = heard.send(Heard::Gone(whose));
        });
    }

    /// Puts somebody on the air who only advertises.
    pub(crate) fn stranger(&self, adapter: &str, address: &str, name: &str, service_data: &[u8]) {
        let mut world = self.world();
        let device = Device {
            name: name.to_owned(),
            service_data: service_data.to_vec(),
            ..Device::new(adapter, address, None)
        };
        world.devices.insert(address.to_owned(), device);
        world.appear(address);
    }

    /// How often a member was called.
    pub(crate) fn calls(&self, member: &str) -> usize {
        self.world().calls.get(member).copied().unwrap_or(0)
    }

    /// bluetoothd ends: its name is gone, and with it every connection.
    pub(crate) fn stop_service(&self) {
        let mut world = self.world();
        let connected: Vec<_> = world.devices.keys().cloned().collect();
        for address in connected {
            world.drop_link(&address);
        }
        world.devices.values_mut().for_each(|device| device.visible = false);
        world.adapters.values_mut().for_each(|adapter| adapter.discovering = false);
        drop(world);
        *lock(&self.wanted) = Wanted::NoOwner;
    }

    /// And is there again.
    pub(crate) fn start_service(&self) {
        *lock(&self.wanted) = Wanted::Owner;
    }

    /// The adapter is pulled.
    pub(crate) fn remove_adapter(&self, name: &str) {
        let mut world = self.world();
        let there: Vec<_> =
            world.devices.values().filter(|device| device.adapter == name).map(|d| d.address.clone()).collect();
        for address in there {
            world.drop_link(&address);
            world.vanish(&address);
        }
        world.adapters.remove(name);
        world.removed(&format!("/org/bluez/{name}"), ADAPTER);
    }

    /// And plugged in again, switched off.
    pub(crate) fn add_adapter(&self, name: &str) {
        let mut world = self.world();
        world.adapters.insert(name.to_owned(), Adapter::default());
        let properties = world.adapter(name);
        world.added(&format!("/org/bluez/{name}"), ADAPTER, properties);
    }

    /// The sensor went out of reach in the middle of everything.
    pub(crate) fn cut(&self, address: &str) {
        self.world().drop_link(address);
    }
}

impl Drop for Bluez {
    fn drop(&mut self) {
        *lock(&self.wanted) = Wanted::End;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = self.bus.kill();
        let _ = self.bus.wait();
    }
}

impl Device {
    fn new(adapter: &str, address: &str, radio: Option<UnixStream>) -> Self {
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

    fn path(&self) -> String {
        format!("/org/bluez/{}/dev_{}", self.adapter, self.address.replace(':', "_").to_uppercase())
    }

    fn tell(&mut self, kind: u8, content: &[u8]) {
        if let Some(radio) = &mut self.radio {
            let length = u16::try_from(content.len() + 1).unwrap().to_be_bytes();
            let _ = radio.write_all(&[&length[..], &[kind], content].concat());
        }
    }

    fn properties(&self) -> PropMap {
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

    fn advertised(&self) -> PropMap {
        let data = map([(uuid(SERVICE).as_str(), boxed(self.service_data.clone()))]);
        let mut all = map([("ServiceData", boxed(data)), ("RSSI", boxed(-61_i16))]);
        if !self.name.is_empty() {
            all.extend(map([("Name", boxed(self.name.clone())), ("Alias", boxed(self.name.clone()))]));
        }
        all
    }
}

impl World {
    fn adapter(&self, name: &str) -> PropMap {
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

    fn signal(&mut self, path: &str, interface: &str, member: &str, append: impl FnOnce(Message) -> Message) {
        let signal = Message::new_signal(path.to_owned(), interface.to_owned(), member.to_owned()).unwrap();
        self.out.push_back(append(signal));
    }

    fn changed(&mut self, path: &str, interface: &str, properties: PropMap) {
        let interface = interface.to_owned();
        self.signal(path, PROPERTIES, "PropertiesChanged", |s| s.append3(interface, properties, Vec::<String>::new()));
    }

    fn added(&mut self, path: &str, interface: &str, properties: PropMap) {
        let interfaces = HashMap::from([(interface.to_owned(), properties)]);
        let path = ObjectPath::from(path.to_owned());
        self.signal("/", OBJECTS, "InterfacesAdded", |signal| signal.append2(path, interfaces));
    }

    fn removed(&mut self, path: &str, interface: &str) {
        let (path, gone) = (ObjectPath::from(path.to_owned()), vec![interface.to_owned()]);
        self.signal("/", OBJECTS, "InterfacesRemoved", |signal| signal.append2(path, gone));
    }

    fn hears(&self, address: &str) -> bool {
        let Some(device) = self.devices.get(address) else { return false };
        let has_data = !device.service_data.is_empty() && !device.connected;
        has_data && self.adapters.get(&device.adapter).is_some_and(|adapter| adapter.discovering)
    }

    /// An advertisement is in the air.
    fn appear(&mut self, address: &str) {
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

    fn vanish(&mut self, address: &str) {
        let Some(device) = self.devices.get_mut(address) else { return };
        let path = device.path();
        if std::mem::take(&mut device.visible) {
            self.removed(&path, DEVICE);
        }
    }

    fn drop_link(&mut self, address: &str) {
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

    fn cut_after(&mut self, address: &str, now: Cut) {
        let is_it = self.devices.get(address).is_some_and(|device| device.cut == Some(now));
        if is_it {
            self.devices.get_mut(address).unwrap().cut = None;
            self.drop_link(address);
        }
    }

    fn notify(&mut self, address: &str, value: Vec<u8>) {
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

    fn heard(&mut self, heard: Heard) {
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

    fn objects(&self) -> HashMap<ObjectPath<'static>, HashMap<String, PropMap>> {
        let adapters = self
            .adapters
            .keys()
            .map(|name| (format!("/org/bluez/{name}"), HashMap::from([(ADAPTER.to_owned(), self.adapter(name))])));
        let devices = self.devices.values().filter(|device| device.visible);
        let devices = devices.map(|device| (device.path(), HashMap::from([(DEVICE.to_owned(), device.properties())])));
        adapters.chain(devices).map(|(path, object)| (ObjectPath::from(path), object)).collect()
    }

    /// Answers a call; nothing if the answer is never to come.
    fn answer(&mut self, call: &Message) -> Option<Message> {
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

    fn obey(&mut self, call: &Message, path: &str, interface: &str, member: &str) -> Message {
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

    fn obey_adapter(&mut self, call: &Message, adapter: &str, interface: &str, member: &str) -> Message {
        let path = format!("/org/bluez/{adapter}");
        match (interface, member) {
            (PROPERTIES, "Set") => {
                let (_, name, Variant(on)) = call.read3::<&str, &str, Variant<bool>>().unwrap();
                assert_eq!(name, "Powered");
                let state = self.adapters.get_mut(adapter).unwrap();
                state.powered = on;
                state.discovering &= on;
                let discovering = state.discovering;
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

    fn connect(&mut self, call: &Message, address: &str) -> Message {
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

    fn write(&mut self, call: &Message, address: &str) -> Message {
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

    fn catch_up(&mut self) {
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

fn serve(
    address: &str,
    world: &Mutex<World>,
    wanted: &Mutex<Wanted>,
    hearing: &std::sync::mpsc::Receiver<Heard>,
    ready: &std::sync::mpsc::Sender<()>,
) {
    let mut channel: Option<Channel> = None;
    loop {
        let wants = *lock(wanted);
        match (wants, &channel) {
            (Wanted::End, _) => return,
            // A bluetoothd that ends takes its connection with it.
            (Wanted::NoOwner, Some(_)) => {
                channel = None;
                lock(world).out.clear();
            }
            (Wanted::Owner, None) => {
                channel = own_name(address);
                if channel.is_some() {
                    let _ = ready.send(());
                }
            }
            _ => {}
        }
        while let Ok(heard) = hearing.try_recv() {
            lock(world).heard(heard);
        }
        let Some(channel) = &channel else {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        // The answer and what it caused leave in this order: signals come before the answer, as BlueZ's do.
        while let Some(message) = channel.pop_message() {
            if message.msg_type() == MessageType::MethodCall {
                let mut world = lock(world);
                let answer = world.answer(&message);
                flush(&mut world, channel);
                if let Some(answer) = answer {
                    let _ = channel.send(answer);
                }
            }
        }
        let mut there = lock(world);
        there.catch_up();
        flush(&mut there, channel);
        drop(there);
        if channel.read_write(Some(Duration::from_millis(5))).is_err() {
            return;
        }
    }
}

fn flush(world: &mut World, channel: &Channel) {
    while let Some(signal) = world.out.pop_front() {
        let _ = channel.send(signal);
    }
}

fn own_name(address: &str) -> Option<Channel> {
    let mut channel = Channel::open_private(address).ok()?;
    channel.register().ok()?;
    let call = Message::new_method_call("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "RequestName").ok()?;
    channel.send_with_reply_and_block(call.append2(NAME, 0_u32), Duration::from_secs(10)).ok()?;
    Some(channel)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn uuid(value: u128) -> String {
    let hex = format!("{value:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn boxed<T: RefArg + Append + 'static>(value: T) -> Variant<Box<dyn RefArg>> {
    Variant(Box::new(value))
}

fn map<const N: usize>(entries: [(&str, Variant<Box<dyn RefArg>>); N]) -> PropMap {
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn error(call: &Message, name: &str, text: &str) -> Message {
    let text = std::ffi::CString::new(text).unwrap();
    call.error(&name.to_owned().into(), &text)
}

fn property(call: &Message, member: &str, all: &PropMap) -> Message {
    let copy = |value: &Variant<Box<dyn RefArg>>| Variant(value.0.box_clone());
    if member == "GetAll" {
        let all: PropMap = all.iter().map(|(name, value)| (name.clone(), copy(value))).collect();
        return call.method_return().append1(all);
    }
    let (_, name) = call.read2::<&str, &str>().unwrap_or_default();
    match all.get(name) {
        Some(value) if member == "Get" => call.method_return().append1(copy(value)),
        _ => error(call, "org.freedesktop.DBus.Error.InvalidArgs", "no such property"),
    }
}

fn node(children: &[&str]) -> String {
    let nodes = children.iter().fold(String::new(), |nodes, child| format!("{nodes}<node name=\"{child}\"/>"));
    format!(
        "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\" \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\"><node>{nodes}</node>"
    )
}
