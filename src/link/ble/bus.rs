//! BlueZ on the system bus: what it says, kept in one bounded place, and the few calls that btleplug has not.
//!
//! btleplug asks BlueZ back for each advertisement and queues without a bound; a full air would drown it. So
//! advertisements, adapters and connections are read here, in the callback of the bus, into [`Ear`], where the
//! newest word stands and nothing queues up.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dbus::arg::{AppendAll, PropMap, ReadAll, RefArg, Variant, cast, prop_cast};
use dbus::channel::MatchingReceiver as _;
use dbus::message::MatchRule;
use dbus::nonblock::{Proxy, SyncConnection};
use dbus::{Message, Path};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use clawgate_protocol::ble::SERVICE;

use super::heard::{Air, News};

const BLUEZ: &str = "org.bluez";
const ADAPTER: &str = "org.bluez.Adapter1";
const DEVICE: &str = "org.bluez.Device1";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const OBJECTS: &str = "org.freedesktop.DBus.ObjectManager";
const BUS: &str = "org.freedesktop.DBus";

/// What BlueZ does not answer within this time it does not answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Interfaces of an object with their properties.
type Interfaces = HashMap<String, PropMap>;

/// Why BlueZ cannot be spoken to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum BusError {
    /// No system bus.
    #[error("there is no system D-Bus ({0}); install and start dbus")]
    NoBus(String),
    /// Nobody is `org.bluez`.
    #[error("bluetoothd does not run; install bluez, then: systemctl start bluetooth")]
    NoService,
    /// The bus refuses us.
    #[error(
        "D-Bus refuses this user to speak to BlueZ ({0}); add the user that clawgate runs as to the group bluetooth"
    )]
    NoRights(String),
    /// The adapter is blocked.
    #[error("the adapter is blocked; unblock it: rfkill unblock bluetooth")]
    Blocked,
    /// No answer in time.
    #[error("BlueZ does not answer; if it stays so: systemctl restart bluetooth")]
    Silent,
    /// Another refusal, in BlueZ's words.
    #[error("BlueZ refused: {0}")]
    Refused(String),
}

impl From<dbus::Error> for BusError {
    fn from(error: dbus::Error) -> Self {
        let name = error.name().unwrap_or_default();
        let text: String = error.message().unwrap_or(name).chars().take(200).collect();
        let text = crate::link::printable(&text);
        match name {
            "org.freedesktop.DBus.Error.ServiceUnknown" | "org.freedesktop.DBus.Error.NameHasNoOwner" => {
                Self::NoService
            }
            "org.freedesktop.DBus.Error.AccessDenied" => Self::NoRights(text),
            "org.freedesktop.DBus.Error.NoReply" | "org.freedesktop.DBus.Error.Timeout" => Self::Silent,
            _ if text.contains("rfkill") || name.ends_with(".Blocked") => Self::Blocked,
            _ => Self::Refused(text),
        }
    }
}

/// What BlueZ said last.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// Somebody is `org.bluez`. Counted, so that a restart between two looks is seen.
    pub(crate) owners: u64,
    pub(crate) is_there: bool,
    /// `hci0` and so on.
    pub(crate) adapters: BTreeMap<String, Hearing>,
}

/// One adapter.
#[derive(Debug, Default)]
pub(crate) struct Hearing {
    pub(crate) powered: bool,
    pub(crate) discovering: bool,
    pub(crate) air: Air,
}

/// Keeps what BlueZ says. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Ear(Arc<EarParts>);

#[derive(Debug)]
struct EarParts {
    said: Mutex<Said>,
    changed: watch::Sender<u64>,
}

impl Ear {
    pub(crate) fn new() -> Self {
        Self(Arc::new(EarParts { said: Mutex::default(), changed: watch::Sender::new(0) }))
    }

    /// What was said; held for no longer than a look.
    pub(crate) fn said(&self) -> MutexGuard<'_, Said> {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever something of interest was said.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Whoever follows looks again.
    pub(crate) fn nudge(&self) {
        self.0.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn owner(&self, is_there: bool) {
        let mut said = self.said();
        said.adapters.clear();
        said.is_there = is_there;
        said.owners = said.owners.wrapping_add(1);
        drop(said);
        self.nudge();
    }

    fn added(&self, path: &str, interfaces: &Interfaces) {
        if let (Some(adapter), Some(properties)) = (adapter_of(path), interfaces.get(ADAPTER)) {
            self.said().adapters.entry(adapter.to_owned()).or_default();
            self.adapter_changed(adapter, properties);
            self.nudge();
        }
        if let (Some((adapter, address)), Some(properties)) = (device_of(path), interfaces.get(DEVICE)) {
            self.device_changed(adapter, &address, properties);
        }
    }

    fn removed(&self, path: &str, interfaces: &[String]) {
        let gone = |interface: &str| interfaces.iter().any(|gone| gone == interface);
        let mut said = self.said();
        if let Some(adapter) = adapter_of(path).filter(|_| gone(ADAPTER)) {
            said.adapters.remove(adapter);
        } else if let Some((adapter, address)) = device_of(path).filter(|_| gone(DEVICE)) {
            if let Some(hearing) = said.adapters.get_mut(adapter) {
                hearing.air.forget(&address);
            }
        } else {
            return;
        }
        drop(said);
        self.nudge();
    }

    fn adapter_changed(&self, adapter: &str, properties: &PropMap) {
        let mut said = self.said();
        let Some(hearing) = said.adapters.get_mut(adapter) else { return };
        let before = (hearing.powered, hearing.discovering);
        hearing.powered = *prop_cast(properties, "Powered").unwrap_or(&hearing.powered);
        hearing.discovering = *prop_cast(properties, "Discovering").unwrap_or(&hearing.discovering);
        let changed = before != (hearing.powered, hearing.discovering);
        drop(said);
        if changed {
            self.nudge();
        }
    }

    fn device_changed(&self, adapter: &str, address: &str, properties: &PropMap) {
        let news = News {
            service_data: service_data(properties),
            rssi_dbm: prop_cast(properties, "RSSI").copied(),
            name: prop_cast::<String>(properties, "Name").cloned(),
            connected: prop_cast(properties, "Connected").copied(),
        };
        let mut said = self.said();
        let Some(hearing) = said.adapters.get_mut(adapter) else { return };
        let changed = hearing.air.hear(address, news, Instant::now());
        drop(said);
        if changed {
            self.nudge();
        }
    }

    fn take(&self, message: &Message) {
        let path = message.path();
        let path = path.as_deref().unwrap_or_default();
        match message.member().as_deref() {
            Some("NameOwnerChanged") => {
                if let Ok((name, _, new)) = message.read3::<&str, &str, &str>()
                    && name == BLUEZ
                {
                    self.owner(!new.is_empty());
                }
            }
            Some("InterfacesAdded") => {
                if let Ok((path, interfaces)) = message.read2::<Path<'_>, Interfaces>() {
                    self.added(&path, &interfaces);
                }
            }
            Some("InterfacesRemoved") => {
                if let Ok((path, interfaces)) = message.read2::<Path<'_>, Vec<String>>() {
                    self.removed(&path, &interfaces);
                }
            }
            Some("PropertiesChanged") => {
                let Ok((interface, properties)) = message.read2::<&str, PropMap>() else { return };
                if let Some(adapter) = adapter_of(path).filter(|_| interface == ADAPTER) {
                    self.adapter_changed(adapter, &properties);
                } else if let Some((adapter, address)) = device_of(path).filter(|_| interface == DEVICE) {
                    self.device_changed(adapter, &address, &properties);
                }
            }
            _ => {}
        }
    }
}

/// A connection to the system bus. Dropping it closes it.
pub(crate) struct Bus {
    connection: Arc<SyncConnection>,
    driver: tokio::task::JoinHandle<()>,
    /// Cancelled when the bus is gone.
    pub(crate) lost: CancellationToken,
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Bus {
    /// Connects, and has everything that BlueZ says put into `ear` from now on.
    ///
    /// # Errors
    /// [`BusError::NoBus`]; others if the bus refuses.
    pub(crate) async fn connect(ear: &Ear) -> Result<Self, BusError> {
        // libdbus connects and shakes hands in the thread that asks.
        let made = tokio::task::spawn_blocking(dbus_tokio::connection::new_system_sync);
        let made = tokio::time::timeout(ANSWER, made).await;
        let no_bus = |why: String| BusError::NoBus(crate::link::printable(&why));
        let (resource, connection) = match made {
            Ok(Ok(Ok(made))) => made,
            Ok(Ok(Err(error))) => return Err(no_bus(error.message().unwrap_or("it cannot be reached").to_owned())),
            Ok(Err(error)) => return Err(no_bus(error.to_string())),
            Err(_) => return Err(no_bus("it does not answer".to_owned())),
        };
        let lost = CancellationToken::new();
        let ended = lost.clone();
        let driver = tokio::spawn(async move {
            let error = resource.await;
            tracing::warn!(%error, "the system bus is gone");
            ended.cancel();
        });
        let bus = Self { connection, driver, lost };
        let listener = ear.clone();
        bus.connection.start_receive(
            MatchRule::new().with_type(dbus::MessageType::Signal),
            Box::new(move |message, _| {
                listener.take(&message);
                true
            }),
        );
        for rule in [
            format!("type='signal',sender='{BUS}',member='NameOwnerChanged',arg0='{BLUEZ}'"),
            format!("type='signal',sender='{BLUEZ}',interface='{OBJECTS}'"),
            format!("type='signal',sender='{BLUEZ}',member='PropertiesChanged',arg0='{ADAPTER}'"),
            format!("type='signal',sender='{BLUEZ}',member='PropertiesChanged',arg0='{DEVICE}'"),
        ] {
            bus.ask_of::<(), _>(BUS, "/org/freedesktop/DBus", BUS, "AddMatch", (rule,)).await?;
        }
        Ok(bus)
    }

    /// Reads everything that BlueZ knows, after it came or was connected to.
    ///
    /// # Errors
    /// Every [`BusError`].
    pub(crate) async fn look(&self, ear: &Ear) -> Result<(), BusError> {
        type Objects = HashMap<Path<'static>, Interfaces>;
        let (objects,): (Objects,) = self.ask("/", OBJECTS, "GetManagedObjects", ()).await?;
        ear.said().is_there = true;
        let mut paths: Vec<_> = objects.iter().collect();
        // An adapter before its devices.
        paths.sort_by_key(|(path, _)| path.len());
        for (path, interfaces) in paths {
            ear.added(path, interfaces);
        }
        ear.nudge();
        Ok(())
    }

    /// Switches an adapter on or off.
    ///
    /// # Errors
    /// Every [`BusError`].
    pub(crate) async fn power(&self, adapter: &str, on: bool) -> Result<(), BusError> {
        self.ask(&adapter_path(adapter), PROPERTIES, "Set", (ADAPTER, "Powered", Variant(on))).await
    }

    /// Listens for sensors of our service, and no others.
    ///
    /// # Errors
    /// Every [`BusError`].
    pub(crate) async fn start_discovery(&self, adapter: &str) -> Result<(), BusError> {
        let path = adapter_path(adapter);
        let mut filter = PropMap::new();
        filter.insert("Transport".to_owned(), Variant(Box::new("le".to_owned())));
        filter.insert("UUIDs".to_owned(), Variant(Box::new(vec![service_uuid()])));
        filter.insert("DuplicateData".to_owned(), Variant(Box::new(true)));
        self.ask::<(), _>(&path, ADAPTER, "SetDiscoveryFilter", (filter,)).await?;
        self.ask(&path, ADAPTER, "StartDiscovery", ()).await
    }

    /// Stops listening.
    ///
    /// # Errors
    /// Every [`BusError`].
    pub(crate) async fn stop_discovery(&self, adapter: &str) -> Result<(), BusError> {
        self.ask(&adapter_path(adapter), ADAPTER, "StopDiscovery", ()).await
    }

    /// Ends a link, or the try to make one.
    ///
    /// # Errors
    /// Every [`BusError`].
    pub(crate) async fn disconnect(&self, adapter: &str, address: &str) -> Result<(), BusError> {
        self.ask(&device_path(adapter, address), DEVICE, "Disconnect", ()).await
    }

    /// Has BlueZ forget a device and what it cached of it.
    ///
    /// # Errors
    /// Every [`BusError`].
    pub(crate) async fn forget(&self, adapter: &str, address: &str) -> Result<(), BusError> {
        let device = Path::new(device_path(adapter, address)).map_err(BusError::Refused)?;
        self.ask(&adapter_path(adapter), ADAPTER, "RemoveDevice", (device,)).await
    }

    async fn ask<R: ReadAll + 'static, A: AppendAll>(
        &self,
        path: &str,
        interface: &str,
        member: &str,
        args: A,
    ) -> Result<R, BusError> {
        self.ask_of(BLUEZ, path, interface, member, args).await
    }

    async fn ask_of<R: ReadAll + 'static, A: AppendAll>(
        &self,
        whom: &str,
        path: &str,
        interface: &str,
        member: &str,
        args: A,
    ) -> Result<R, BusError> {
        let proxy = Proxy::new(whom, path, ANSWER, &*self.connection);
        let answer = proxy.method_call(interface, member, args);
        tokio::select! {
            answer = tokio::time::timeout(ANSWER, answer) => Ok(answer.map_err(|_| BusError::Silent)??),
            () = self.lost.cancelled() => Err(BusError::NoBus("it went away".to_owned())),
        }
    }
}

fn service_uuid() -> String {
    let hex = format!("{SERVICE:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn service_data(properties: &PropMap) -> Option<Vec<u8>> {
    let all: &PropMap = prop_cast(properties, "ServiceData")?;
    let (_, data) = all.iter().find(|(uuid, _)| uuid.eq_ignore_ascii_case(&service_uuid()))?;
    cast::<Vec<u8>>(&data.0).cloned().or_else(|| data.0.as_iter()?.map(byte).collect())
}

fn byte(value: &dyn RefArg) -> Option<u8> {
    value.as_u64().and_then(|value| u8::try_from(value).ok())
}

/// `hci0` of `/org/bluez/hci0`.
fn adapter_of(path: &str) -> Option<&str> {
    path.strip_prefix("/org/bluez/").filter(|name| !name.contains('/'))
}

/// Adapter and address of `/org/bluez/hci0/dev_F0_C1_A9_00_00_01`.
fn device_of(path: &str) -> Option<(&str, String)> {
    let (adapter, device) = path.strip_prefix("/org/bluez/")?.split_once('/')?;
    let address = device.strip_prefix("dev_").filter(|address| address.len() == 17)?;
    Some((adapter, address.replace('_', ":").to_ascii_lowercase()))
}

fn adapter_path(adapter: &str) -> String {
    format!("/org/bluez/{adapter}")
}

fn device_path(adapter: &str, address: &str) -> String {
    format!("/org/bluez/{adapter}/dev_{}", address.replace(':', "_").to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_and_made_as_bluez_has_them() {
        assert_eq!(adapter_of("/org/bluez/hci0"), Some("hci0"));
        assert_eq!(adapter_of("/org/bluez/hci0/dev_F0_C1_A9_00_00_01"), None);
        let device = device_of("/org/bluez/hci1/dev_F0_C1_A9_00_00_01");
        assert_eq!(device, Some(("hci1", "f0:c1:a9:00:00:01".to_owned())));
        assert_eq!(device_of("/org/bluez/hci1/dev_F0_C1_A9_00_00_01/service0001"), None);
        assert_eq!(device_path("hci1", "f0:c1:a9:00:00:01"), "/org/bluez/hci1/dev_F0_C1_A9_00_00_01");
        assert_eq!(service_uuid(), "c1a90001-5d2e-4f6b-9a37-20c84e1b7f50");
    }

    #[test]
    fn an_adapter_that_goes_takes_what_it_heard_with_it() {
        let ear = Ear::new();
        let mut device = PropMap::new();
        let mut data = PropMap::new();
        data.insert(service_uuid(), Variant(Box::new(vec![0x10_u8])));
        device.insert("ServiceData".to_owned(), Variant(Box::new(data)));
        device.insert("RSSI".to_owned(), Variant(Box::new(-61_i16)));
        let path = "/org/bluez/hci0/dev_F0_C1_A9_00_00_01";
        let with = |name: &str, properties| Interfaces::from([(name.to_owned(), properties)]);
        ear.added(path, &with(DEVICE, PropMap::new()));
        assert!(ear.said().adapters.is_empty(), "a device without its adapter is nobody's");
        ear.added("/org/bluez/hci0", &with(ADAPTER, PropMap::new()));
        ear.added(path, &with(DEVICE, device));
        assert_eq!(ear.said().adapters["hci0"].air.get("f0:c1:a9:00:00:01").unwrap().rssi_dbm, Some(-61));
        ear.removed("/org/bluez/hci0", &[ADAPTER.to_owned()]);
        assert!(ear.said().adapters.is_empty());
    }

    #[test]
    fn a_refusal_says_what_is_missing() {
        let of = |name, text: &str| BusError::from(dbus::Error::new_custom(name, text)).to_string();
        assert!(of("org.freedesktop.DBus.Error.ServiceUnknown", "x").contains("systemctl start bluetooth"));
        assert!(of("org.freedesktop.DBus.Error.AccessDenied", "x").contains("group bluetooth"));
        assert!(of("org.bluez.Error.Failed", "Blocked through rfkill").contains("rfkill unblock"));
        assert!(!of("org.bluez.Error.Failed", "\u{1b}[2J").contains('\u{1b}'));
    }
}
