//! What others may see of a port while its task runs it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::sensor::Sensor;
use super::state::{Found, PortCondition, PortState};
use super::uart::{Meter, Port};
use crate::ids::DeviceId;

/// A port as it stands now.
#[derive(Debug)]
pub(crate) struct View {
    alias: String,
    port: Port,
    meter: Arc<Meter>,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    condition: PortCondition,
    node: Option<PathBuf>,
    sensor: Option<Sensor>,
    /// Whose session is live here.
    device: Option<DeviceId>,
}

impl View {
    pub(super) fn new(alias: String, port: Port, meter: Arc<Meter>) -> Self {
        // Not yet looked at. `Failed` is shown for the moment it takes, and is never equal to what is found.
        let condition = PortCondition::Failed { reason: "not yet tried".to_owned() };
        Self { alias, port, meter, now: Mutex::new(Now { condition, node: None, sensor: None, device: None }) }
    }

    pub(crate) fn alias(&self) -> &str {
        &self.alias
    }

    pub(crate) fn port(&self) -> &Port {
        &self.port
    }

    pub(super) fn opened(&self, node: Option<PathBuf>) {
        let mut now = self.now();
        now.condition = PortCondition::Open;
        now.node = node;
    }

    pub(super) fn closed(&self, condition: PortCondition) {
        *self.now() = Now { condition, node: None, sensor: None, device: None };
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
        format!("{}: {}", self.port.path.display(), self.now().condition)
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

    pub(super) fn state(&self) -> PortState {
        let now = self.now();
        PortState {
            alias: self.alias.clone(),
            path: self.port.path.clone(),
            node: now.node.clone(),
            baud: self.port.baud,
            condition: now.condition.clone(),
            line: self.meter.condition(),
            bytes_in: self.meter.bytes_in(),
            bytes_out: self.meter.bytes_out(),
            frames_in: self.meter.frames_in(),
            frames_bad: self.meter.frames_bad(),
            device: now.device.clone(),
        }
    }

    pub(super) fn found(&self) -> Option<Found> {
        let now = self.now();
        let sensor = now.sensor.as_ref()?;
        let connected = now.device.is_some();
        Some(Found {
            id: self.alias.clone(),
            name: sensor.name.clone(),
            link: self.link_name(),
            rssi_dbm: None,
            state: sensor.state(connected),
        })
    }

    /// The link as people read it: `uart by-id/usb-FTDI_…`.
    pub(crate) fn link_name(&self) -> String {
        let path = &self.port.path;
        let folder = path.parent().and_then(|folder| folder.file_name()).unwrap_or_default().to_string_lossy();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let text = if folder.starts_with("by-") { format!("uart {folder}/{name}") } else { format!("uart {name}") };
        super::sensor::printable(&text)
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
