//! A BlueZ of the tests' own on a bus of its own: adapters that come and go, sensors that are simulator
//! processes, strangers, and every fault that the real one is hard to bring to.

mod calls;
pub(crate) mod device;
mod wire;
mod world;

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dbus::channel::Channel;
use dbus::{Message, MessageType};

use device::Device;

use world::{Adapter, World};

const NAME: &str = "org.bluez";
const ADAPTER: &str = "org.bluez.Adapter1";
const DEVICE: &str = "org.bluez.Device1";
const CHARACTERISTIC: &str = "org.bluez.GattCharacteristic1";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const OBJECTS: &str = "org.freedesktop.DBus.ObjectManager";

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
            fake.world().adapters.insert((*adapter).to_owned(), Adapter { powered: true, ..Adapter::default() });
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

    /// The adapter hears nothing more, whatever it says, until it is switched off and on; what it knew, BlueZ forgets.
    pub(crate) fn wedge(&self, name: &str) {
        let mut world = self.world();
        world.adapters.get_mut(name).expect("such an adapter").is_wedged = true;
        let there: Vec<_> =
            world.devices.values().filter(|device| device.adapter == name).map(|d| d.address.clone()).collect();
        for address in there {
            world.drop_link(&address);
            world.vanish(&address);
        }
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
