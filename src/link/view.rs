//! What others may see of a path to a sensor, a port or a place on the air, while its task runs it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clawgate_protocol::ble::short_id;
use clawgate_protocol::pairing::Ceremony;
use tokio::time::Instant;

use super::ble::Heard;
use super::sensor::{Sensor, printable};
use super::state::{Found, FoundState, LineCondition, PortCondition, PortState};
use super::uart::{Meter, Port};
use crate::ids::DeviceId;

/// A path as it stands now.
#[derive(Debug)]
pub(crate) struct View {
    alias: String,
    path: Path,
    now: Mutex<Now>,
}

/// Which path it is.
#[derive(Debug)]
pub(crate) enum Path {
    /// A serial port.
    Port {
        /// As the config has it.
        port: Port,
        /// What its bytes say.
        meter: Arc<Meter>,
    },
    /// A sensor that an adapter hears.
    Air {
        /// `hci0`.
        adapter: String,
        /// The sensor's present address.
        address: String,
    },
}

#[derive(Debug)]
struct Now {
    condition: PortCondition,
    node: Option<PathBuf>,
    sensor: Option<Sensor>,
    /// Whose session is live here.
    device: Option<DeviceId>,
    /// What it advertises, on the air.
    heard: Option<Heard>,
    /// Who that is in the registry.
    known: Option<DeviceId>,
    /// What keeps it from being connected, on the air.
    note: Option<String>,
}

impl View {
    pub(super) fn of_port(alias: String, port: Port, meter: Arc<Meter>) -> Self {
        // Not yet looked at. `Failed` is shown for the moment it takes, and is never equal to what is found.
        let condition = PortCondition::Failed { reason: "not yet tried".to_owned() };
        Self { alias, path: Path::Port { port, meter }, now: Mutex::new(Now::of(condition)) }
    }

    pub(super) fn on_air(adapter: &str, address: &str) -> Self {
        let path = Path::Air { adapter: adapter.to_owned(), address: address.to_owned() };
        Self { alias: address.to_owned(), path, now: Mutex::new(Now::of(PortCondition::Absent)) }
    }

    pub(crate) fn alias(&self) -> &str {
        &self.alias
    }

    pub(crate) fn port(&self) -> Option<&Port> {
        match &self.path {
            Path::Port { port, .. } => Some(port),
            Path::Air { .. } => None,
        }
    }

    /// What counts are kept under: the port, or the adapter, since addresses on the air are anybody's to make.
    pub(crate) fn metrics_link(&self) -> &str {
        match &self.path {
            Path::Port { .. } => &self.alias,
            Path::Air { adapter, .. } => adapter,
        }
    }

    /// What the bytes say about a line; the air says nothing.
    pub(super) fn line(&self) -> LineCondition {
        match &self.path {
            Path::Port { meter, .. } => meter.condition(),
            Path::Air { .. } => LineCondition::Silent,
        }
    }

    pub(super) fn opened(&self, node: Option<PathBuf>) {
        let mut now = self.now();
        now.condition = PortCondition::Open;
        now.node = node;
    }

    pub(super) fn closed(&self, condition: PortCondition) {
        *self.now() = Now::of(condition);
    }

    pub(super) fn condition(&self) -> PortCondition {
        self.now().condition.clone()
    }

    pub(super) fn is_open(&self) -> bool {
        self.now().condition == PortCondition::Open
    }

    /// Whether trying again may help without any hot-plug event.
    pub(super) fn wants_retry(&self) -> bool {
        matches!(self.now().condition, PortCondition::Busy { .. } | PortCondition::Failed { .. })
    }

    pub(super) fn why_unreachable(&self) -> String {
        let path = self.port().map_or_else(|| self.alias.clone(), |port| port.path.display().to_string());
        format!("{path}: {}", self.now().condition)
    }

    /// What the sensor advertises now.
    pub(super) fn heard(&self, heard: Heard) {
        self.now().heard = Some(heard);
    }

    /// Who it is in the registry.
    pub(super) fn known(&self, known: Option<DeviceId>) {
        self.now().known = known;
    }

    /// What keeps it from being connected; nothing, if nothing does.
    pub(super) fn note(&self, note: Option<String>) {
        self.now().note = note;
    }

    /// Whether `text` is its short id, as it shows it.
    pub(super) fn is_short_id(&self, text: &str) -> bool {
        self.now().short_id().is_some_and(|id| id.eq_ignore_ascii_case(text))
    }

    /// The link over the air is gone; what was said over it is not forgotten.
    pub(super) fn unlinked(&self) {
        let mut now = self.now();
        now.condition = PortCondition::Absent;
        now.device = None;
        now.sensor = None;
    }

    pub(super) fn met(&self, sensor: Sensor) {
        self.now().sensor = Some(sensor);
    }

    pub(crate) fn sensor(&self) -> Option<Sensor> {
        self.now().sensor.clone()
    }

    /// The sensor does not answer any more.
    pub(super) fn left(&self) {
        let mut now = self.now();
        now.sensor = None;
        now.device = None;
    }

    pub(super) fn connected(&self, device: Option<DeviceId>) {
        self.now().device = device;
    }

    pub(crate) fn device(&self) -> Option<DeviceId> {
        self.now().device.clone()
    }

    pub(super) fn state(&self) -> Option<PortState> {
        let Path::Port { port, meter } = &self.path else { return None };
        let now = self.now();
        Some(PortState {
            alias: self.alias.clone(),
            path: port.path.clone(),
            node: now.node.clone(),
            baud: port.baud,
            condition: now.condition.clone(),
            line: meter.condition(),
            bytes_in: meter.bytes_in(),
            bytes_out: meter.bytes_out(),
            frames_in: meter.frames_in(),
            frames_bad: meter.frames_bad(),
            device: now.device.clone(),
        })
    }

    pub(super) fn found(&self) -> Option<Found> {
        match &self.path {
            Path::Port { .. } => self.found_at_port(),
            Path::Air { .. } => self.found_on_air(),
        }
    }

    fn found_at_port(&self) -> Option<Found> {
        let now = self.now();
        let sensor = now.sensor.as_ref()?;
        let connected = now.device.is_some();
        Some(Found {
            id: self.alias.clone(),
            name: sensor.name.clone(),
            link: self.link_name(),
            rssi_dbm: None,
            state: sensor.state(connected),
            note: None,
        })
    }

    /// From the advertisement, so that nobody is connected to for a scan. While it is linked it advertises nothing, and
    /// what it said over the link counts.
    fn found_on_air(&self) -> Option<Found> {
        let now = self.now();
        let heard = now.heard.as_ref()?;
        let device = now.device.as_ref().or(now.known.as_ref());
        let window = now.window();
        let is_open = window.is_some();
        let state = match (window, device) {
            (Some((label, left)), _) => FoundState::Pairable { left, label, issued: !label },
            (None, Some(device)) => FoundState::Paired { device: device.clone(), connected: now.device.is_some() },
            (None, None) if heard.advertisement.rotating.is_some() => FoundState::PairedElsewhere,
            (None, None) => FoundState::Closed,
        };
        let short = now.short_id().filter(|_| is_open);
        Some(Found {
            id: short.or_else(|| device.map(ToString::to_string)).unwrap_or_else(|| self.alias.clone()),
            name: heard.name.clone(),
            link: self.link_name(),
            rssi_dbm: heard.rssi_dbm,
            state,
            note: now.note.clone(),
        })
    }

    /// The link as people read it: `uart by-id/usb-FTDI_…`, `ble hci0 f0:c1:a9:00:00:01`.
    pub(crate) fn link_name(&self) -> String {
        let path = match &self.path {
            Path::Port { port, .. } => &port.path,
            Path::Air { adapter, address } => return printable(&format!("ble {adapter} {address}")),
        };
        let folder = path.parent().and_then(|folder| folder.file_name()).unwrap_or_default().to_string_lossy();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let text = if folder.starts_with("by-") { format!("uart {folder}/{name}") } else { format!("uart {name}") };
        printable(&text)
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Now {
    fn of(condition: PortCondition) -> Self {
        Self { condition, node: None, sensor: None, device: None, heard: None, known: None, note: None }
    }

    /// Whether its open window is the label's, and how long it stays open.
    fn window(&self) -> Option<(bool, Duration)> {
        let now = Instant::now();
        match &self.sensor {
            Some(sensor) => {
                sensor.open_window().map(|window| (window.ceremony == Ceremony::Label, window.closes - now))
            }
            None => self.heard.as_ref()?.window(now),
        }
    }

    fn short_id(&self) -> Option<String> {
        let said = self.sensor.as_ref().and_then(|sensor| sensor.id.as_ref()).map(|id| {
            let [a, b] = short_id(id);
            format!("{a:02x}{b:02x}")
        });
        said.or_else(|| self.heard.as_ref().and_then(Heard::short_id))
    }
}

#[cfg(test)]
mod tests {
    use clawgate_protocol::ble::Advertisement;

    use super::*;

    #[test]
    fn a_window_that_opens_while_the_sensor_is_linked_is_shown_though_it_advertises_nothing_then() {
        let now = Instant::now();
        let view = View::on_air("hci0", "f0:c1:a9:00:00:01");
        let advertisement = Advertisement::decode(&[0x11, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        let name = String::new();
        view.heard(Heard { advertisement, told: now, last: now, name, rssi_dbm: None, connected: true });
        assert!(matches!(view.found().unwrap().state, FoundState::PairedElsewhere));

        // An Ident of docs/protocol.md: unpaired, with a label window of 252 s.
        let ident = "02a7010102f4036b74682d6b69742d37663361056654482d4b6974064201020719080008a301020218fc031adeadbeef";
        let bytes = (0..ident.len() / 2).map(|at| u8::from_str_radix(&ident[2 * at..2 * at + 2], 16).unwrap());
        view.met(Sensor::read(&bytes.collect::<Vec<_>>()).unwrap());
        let found = view.found().unwrap();
        assert!(matches!(found.state, FoundState::Pairable { label: true, .. }), "{found:?}");
        assert_eq!(found.id, "c180");
        assert!(view.is_short_id("C180"));
        view.unlinked();
        assert!(matches!(view.found().unwrap().state, FoundState::PairedElsewhere));
    }
}
