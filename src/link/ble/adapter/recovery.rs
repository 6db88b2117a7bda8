//! What an adapter does about what is expected and missing: the steps that [`ladder`](super::super::ladder) asks for.

use std::time::Duration;

use tokio::time::Instant;

use super::super::arbiter::back_off;
use super::super::ladder::Step;
use super::{Adapter, DISCOVERY_RETRY, Sensor};
use crate::blocking::blocking;
use crate::metrics::Reason;
use crate::store::Device;

/// The registry is looked at so often for devices that are missing.
const LOOK_FOR_MISSING: Duration = Duration::from_secs(10);

/// A device of ours that failed so often in a row is as good as missing.
const AS_MISSING: u32 = 6;

/// An adapter that was switched off stays so for this time.
const OFF: Duration = Duration::from_secs(2);

impl Adapter {
    /// A link that could not be made, or was of no use.
    pub(super) async fn failed(&mut self, address: &str, why: &str) {
        let Some(sensor) = self.sensors.get_mut(address) else { return };
        let step = sensor.failures.another();
        let count = sensor.failures.count();
        let wait = back_off(count);
        sensor.not_before = Instant::now() + wait;
        sensor.view.note(Some(format!("{why}; try {} in {} s", count.saturating_add(1), wait.as_secs())));
        if count == 1 {
            tracing::warn!(link = %sensor.view.link_name(), error = why, "no link; it is tried again, ever more seldom");
        } else {
            tracing::debug!(link = %sensor.view.link_name(), error = why, count, "no link");
        }
        if let Some(step) = step {
            self.take_step(step, Some(address)).await;
        }
    }

    /// Looks at what is missing.
    pub(super) async fn climb(&mut self) {
        let now = Instant::now();
        let mut steps = Vec::new();
        let mut useless = Vec::new();
        for (address, sensor) in &mut self.sensors {
            match sensor.card.take_end() {
                Some(true) => {
                    sensor.failures.clear();
                    sensor.view.note(None);
                    sensor.since = now;
                    sensor.not_before = now + back_off(1);
                }
                Some(false) => useless.push(address.clone()),
                None => {}
            }
            if sensor.card.is_linked() {
                sensor.view.note(None);
                steps.extend(sensor.ladder.unanswered(sensor.card.unanswered()).map(|step| (step, address.clone())));
            }
        }
        for address in useless {
            self.failed(&address, "it was connected and did not answer").await;
        }
        for (step, address) in steps {
            self.take_step(step, Some(&address)).await;
        }
        if now >= self.missing.1 + LOOK_FOR_MISSING {
            self.missing = (self.is_somebody_missing().await, now);
        }
        let missing = self.missing.0;
        if self.connecting.is_some() || !missing {
            self.ladder.well(now);
        } else if let Some(step) = self.ladder.missing(self.sensors.values().any(|s| s.card.is_linked()), now) {
            self.take_step(step, None).await;
        }
    }

    /// Whether a device of ours, last heard by this adapter, is not heard now.
    async fn is_somebody_missing(&self) -> bool {
        let store = self.common.engine.parts().store.clone();
        let Ok(devices) = blocking(move || store.devices()).await else { return false };
        let prefix = format!("ble {} ", self.name);
        let here = |device: &Device| self.sensors.values().any(|sensor| sensor.device.as_ref() == Some(&device.id));
        let unreachable = |sensor: &Sensor| sensor.device.is_some() && sensor.failures.count() >= AS_MISSING;
        devices.iter().any(|device| device.info.link.starts_with(&prefix) && !here(device))
            || self.sensors.values().any(unreachable)
    }

    async fn take_step(&mut self, step: Step, address: Option<&str>) {
        let whom = address.and_then(|address| self.sensors.get(address));
        let link = whom.map_or_else(|| format!("ble {}", self.name), |sensor| sensor.view.link_name());
        tracing::warn!(link = %link, step = step.done(), "expected data is missing");
        self.common.status.step(&self.name, step, &link);
        self.common.engine.parts().metrics.link.recoveries.get_or_create(&Reason { reason: step.done() }).inc();
        match (step, whom, address) {
            (Step::Resubscribe, Some(sensor), _) => sensor.card.resubscribe(),
            (Step::Reconnect, Some(sensor), _) => sensor.card.hang_up(),
            (Step::Forget, _, Some(address)) => {
                if let Err(error) = self.bus.forget(&self.name, address).await {
                    tracing::debug!(link = %link, %error, "BlueZ did not forget the device");
                }
            }
            (Step::RestartDiscovery, ..) => {
                self.stop_listening().await;
                self.discover_at = Instant::now();
                self.discover_gap = DISCOVERY_RETRY;
            }
            (Step::PowerCycle, ..) => {
                if let Err(error) = self.bus.power(&self.name, false).await {
                    tracing::debug!(adapter = %self.name, %error, "the adapter was not switched off");
                }
                self.off_until = Some(Instant::now() + OFF);
                self.discover_at = Instant::now() + OFF;
            }
            _ => {}
        }
    }
}
