//! Who is in reach of an adapter, who of them is ours, and what a link to each would be for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use clawgate_protocol::discovery::matches;

use super::super::arbiter::Want;
use super::super::heard::{Heard, MOST_HEARD};
use super::super::ladder::{Failures, LinkLadder};
use super::super::peer::{Card, Peer};
use super::{Adapter, Sensor};
use crate::blocking::blocking;
use crate::ids::DeviceId;
use crate::link::links::Handle;
use crate::link::port::Owner;
use crate::link::view::View;
use crate::session::record;
use crate::store::Keyed;

/// Orders that wait at one sensor.
const ORDERS: usize = 8;

/// A sensor that BlueZ forgot is kept listed for so long: it may only be between two addresses, or two scans.
const GRACE: Duration = Duration::from_secs(10);

/// BlueZ's word that a new link is there may come a moment after the link.
const SETTLED: Duration = Duration::from_secs(3);

/// A stranger's rotating id is looked up again after this time: the sensor may have been paired since.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(5);

impl Adapter {
    /// Takes over what is heard: new sensors, changed ones, those that went.
    pub(super) async fn follow(&mut self) {
        let now = Instant::now();
        let heard: BTreeMap<String, Heard> = {
            let said = self.common.ear.said();
            let all = said.adapters.get(&self.name).into_iter().flat_map(|adapter| adapter.air.all());
            all.map(|(address, heard)| (address.to_owned(), heard.clone())).collect()
        };
        for (address, heard) in &heard {
            if !self.sensors.contains_key(address) {
                let sensor = self.adopt(address, now);
                self.sensors.insert(address.clone(), sensor);
            }
            let Some(sensor) = self.sensors.get_mut(address) else { continue };
            sensor.missing_since = None;
            sensor.view.heard(heard.clone());
        }
        for (address, sensor) in &mut self.sensors {
            if !heard.contains_key(address) {
                sensor.missing_since.get_or_insert(now);
                sensor.card.hang_up();
            } else if heard.get(address).is_some_and(|heard| !heard.connected) && now >= sensor.since + SETTLED {
                sensor.card.hang_up();
            }
        }
        let in_use = |sensor: &Sensor| sensor.card.is_linked() || sensor.card.is_wanted();
        // Strangers that went wait only where there is room: else a full air would pile them up.
        let mut room = MOST_HEARD.saturating_sub(heard.len());
        let mut may_wait = |sensor: &Sensor| {
            let has_room = sensor.device.is_some() || room > 0;
            room = room.saturating_sub(usize::from(sensor.device.is_none()));
            has_room
        };
        let mut stays = |sensor: &Sensor| match sensor.missing_since {
            Some(since) => now < since + GRACE && may_wait(sensor),
            None => true,
        };
        self.sensors.retain(|_, sensor| in_use(sensor) || stays(sensor));
        self.look_up(&heard, now).await;
        self.decide_wants(&heard, now);
        self.show_handles();
    }

    fn adopt(&self, address: &str, now: Instant) -> Sensor {
        let (orders, order_queue) = mpsc::channel(ORDERS);
        let (grants, grant_queue) = mpsc::channel(1);
        let view = Arc::new(View::on_air(&self.name, address));
        let card = Card::new(self.common.ear.clone());
        let peer = Arc::new(Peer {
            owner: Owner {
                engine: Arc::clone(&self.common.engine),
                spool: self.common.spool.clone(),
                view: Arc::clone(&view),
            },
            card: Arc::clone(&card),
            orders: tokio::sync::Mutex::new(order_queue),
            grants: tokio::sync::Mutex::new(grant_queue),
        });
        self.common.tasks.spawn(peer.supervise());
        Sensor {
            view,
            card,
            orders,
            grants,
            looked_up: None,
            device: None,
            tried_window: None,
            want: Want::Nothing,
            ladder: LinkLadder::default(),
            failures: Failures::default(),
            not_before: now,
            since: now,
            missing_since: None,
        }
    }

    /// Who of those heard is ours.
    async fn look_up(&mut self, heard: &BTreeMap<String, Heard>, now: Instant) {
        let unknown = |sensor: &Sensor, rotating| match sensor.looked_up {
            Some((known, at)) => known != rotating || (sensor.device.is_none() && now >= at + LOOK_UP_AGAIN),
            None => true,
        };
        let mut asked: Vec<(String, [u8; 8])> = Vec::new();
        for (address, sensor) in &mut self.sensors {
            let rotating = heard.get(address).and_then(|heard| heard.advertisement.rotating);
            match (rotating, sensor.view.device()) {
                // A session knows better than any advertisement.
                (_, Some(device)) => sensor.device = Some(device),
                (Some(rotating), None) if unknown(sensor, rotating) => asked.push((address.clone(), rotating)),
                (None, None) if heard.contains_key(address) && !sensor.card.is_linked() => sensor.device = None,
                _ => {}
            }
            sensor.view.known(sensor.device.clone());
        }
        if asked.is_empty() {
            return;
        }
        let store = self.common.engine.parts().store.clone();
        let found = blocking(move || {
            let devices = store.devices_with_keys()?;
            let of = |rotating: [u8; 8]| {
                devices.iter().find(|known| shows(known, rotating)).map(|known| known.device.id.clone())
            };
            Ok::<_, crate::store::StoreError>(
                asked.into_iter().map(|(address, rotating)| (address, rotating, of(rotating))).collect::<Vec<_>>(),
            )
        });
        match found.await {
            Ok(found) => {
                for (address, rotating, device) in found {
                    if let Some(sensor) = self.sensors.get_mut(&address) {
                        sensor.looked_up = Some((rotating, now));
                        sensor.view.known(device.clone());
                        sensor.device = device;
                    }
                }
            }
            Err(error) => tracing::error!(adapter = %self.name, %error, "the registry cannot be read"),
        }
    }

    /// What each sensor's link would be for.
    fn decide_wants(&mut self, heard: &BTreeMap<String, Heard>, now: Instant) {
        let codes = self.common.engine.has_live_codes();
        let linked: Vec<(String, DeviceId)> = self
            .sensors
            .iter()
            .filter(|(_, sensor)| sensor.card.is_linked())
            .filter_map(|(address, sensor)| Some((address.clone(), sensor.device.clone()?)))
            .collect();
        let mut said = self.common.ear.said();
        for (address, sensor) in &mut self.sensors {
            let heard = heard.get(address);
            let window = heard.and_then(|heard| heard.advertisement.window);
            let issued = heard.and_then(|heard| heard.window(now)).is_some_and(|(label, _)| !label);
            if window.is_none() {
                sensor.tried_window = None;
            }
            if sensor.card.is_linked() && sensor.view.device().is_some() {
                // What somebody waited for is done; from now on it is a session as any other.
                sensor.card.set_wanted(false);
            }
            let entered = issued && codes && sensor.tried_window != window.map(|window| window.id);
            let elsewhere = sensor
                .device
                .as_ref()
                .is_some_and(|device| linked.iter().any(|(other, theirs)| other != address && theirs == device));
            sensor.want = match &sensor.device {
                _ if sensor.missing_since.is_some() => Want::Nothing,
                _ if entered => Want::Pairing,
                Some(_) if !elsewhere => Want::Session,
                _ => Want::Nothing,
            };
            if let Some(adapter) = said.adapters.get_mut(&self.name) {
                adapter.air.keep(address, sensor.device.is_some() || sensor.card.is_linked());
            }
        }
    }

    /// Lets the command line find the sensors.
    fn show_handles(&self) {
        let handles = self.sensors.values().map(|sensor| Handle::new(Arc::clone(&sensor.view), sensor.orders.clone()));
        self.common.status.handles(&self.name, handles.collect());
    }
}

/// Whether the rotating id is of a key of this device.
fn shows(known: &Keyed, rotating: [u8; 8]) -> bool {
    known.keys.iter().filter_map(record).any(|record| matches(&record.advertising_key, &rotating))
}
