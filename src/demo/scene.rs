//! What there is to see: devices with their values and tokens, the spool, and what happened. Shown as a live
//! picture on a terminal, as plain lines elsewhere.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::received::{Field, Line};
use crate::control::api::Status;

/// Values behind a sparkline.
const HISTORY: usize = 120;
/// Happenings that are kept in the picture.
const HAPPENINGS: usize = 100;

/// One device as it is shown.
#[derive(Debug, Default)]
pub(super) struct DeviceView {
    /// What is drawn, oldest first.
    pub(super) history: VecDeque<f64>,
    /// The last value in words.
    pub(super) value: String,
    /// Readings that the subscriber got.
    pub(super) received: u64,
    /// Seconds until its token expires.
    pub(super) token_left_s: Option<u64>,
    /// State of its token.
    pub(super) token_state: String,
    /// Readings that wait for the broker.
    pub(super) waiting: u64,
}

/// Everything that is shown.
#[derive(Debug, Default)]
pub(super) struct Scene {
    /// By name.
    pub(super) devices: BTreeMap<String, DeviceView>,
    /// Where the broker is.
    pub(super) broker: String,
    /// Readings that wait for the broker, all devices.
    pub(super) waiting: u64,
    /// Bytes of the spool's file.
    pub(super) disk_bytes: u64,
    /// The run ends by itself after so long.
    pub(super) left: Option<Duration>,
    /// What happened, oldest first.
    pub(super) happenings: VecDeque<String>,
}

impl Scene {
    /// Something happened.
    pub(super) fn happened(&mut self, what: &str) {
        self.happenings.extend(what.lines().map(str::to_owned));
        while self.happenings.len() > HAPPENINGS {
            self.happenings.pop_front();
        }
    }

    /// The subscriber's log went on.
    pub(super) fn subscriber(&mut self, line: &Line) {
        if let Line::Reading { device, fields, .. } = line {
            let index = self.devices.keys().position(|name| name == device).unwrap_or(self.devices.len());
            let view = self.devices.entry(device.clone()).or_default();
            view.received += 1;
            // All sensors measure this machine; each device shows another of its values.
            if let Some(field) = fields.get(index % fields.len().max(1)) {
                view.show(field);
            }
        }
    }

    /// The daemon told how it is.
    pub(super) fn status(&mut self, status: &Status) {
        self.broker.clone_from(&status.broker);
        self.waiting = status.spool.waiting;
        self.disk_bytes = status.spool.disk_bytes;
        for device in &status.devices {
            let view = self.devices.entry(device.id.clone()).or_default();
            view.token_left_s = device.token.expires_in_s;
            view.token_state.clone_from(&device.token.state);
            view.waiting = device.waiting;
        }
    }

    /// One line for where there is no terminal.
    pub(super) fn line(&self) -> String {
        let devices: Vec<String> = self
            .devices
            .iter()
            .map(|(name, view)| format!("{name} {} ({} received, token {})", view.value, view.received, view.token()))
            .collect();
        format!("{} | spool {} waiting", devices.join(" | "), self.waiting)
    }
}

impl DeviceView {
    fn show(&mut self, field: &Field) {
        self.value = format!("{} {:.2} {}", field.name, field.value, field.unit);
        self.history.push_back(field.value);
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
    }

    /// The token in words.
    pub(super) fn token(&self) -> String {
        self.token_left_s.map_or_else(|| self.token_state.clone(), |left| format!("{left} s left"))
    }

    /// The history scaled to 0..=100 between its own bounds, so that small changes are seen.
    pub(super) fn bars(&self) -> Vec<u64> {
        let low = self.history.iter().copied().fold(f64::INFINITY, f64::min);
        let high = self.history.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let width = (high - low).max(f64::MIN_POSITIVE);
        self.history.iter().map(|value| percent((value - low) / width)).collect()
    }
}

/// 10 to 100 for 0 to 1; a bar of its own also for the lowest value.
fn percent(share: f64) -> u64 {
    (1..=10_u32)
        .map(|step| (step, f64::from(step) / 10.0))
        .find(|(_, bound)| share <= *bound)
        .map_or(100, |(step, _)| u64::from(step) * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(device: &str, value: f64) -> Line {
        let field = |name: &str, value| Field { name: name.to_owned(), unit: "%".to_owned(), value };
        Line::Reading {
            id: "p.e.1".to_owned(),
            device: device.to_owned(),
            fields: vec![field("load", value), field("memory", value * 2.0)],
        }
    }

    #[test]
    fn each_device_shows_a_value_of_its_own() {
        let mut scene = Scene::default();
        scene.subscriber(&reading("demo-1", 1.0));
        scene.subscriber(&reading("demo-2", 1.0));
        scene.subscriber(&reading("demo-1", 3.0));
        assert_eq!(scene.devices["demo-1"].value, "load 3.00 %");
        assert_eq!(scene.devices["demo-2"].value, "memory 2.00 %");
        assert_eq!(scene.devices["demo-1"].bars(), [10, 100]);
        assert!(scene.line().contains("demo-1 load 3.00 % (2 received"), "{}", scene.line());
    }
}
