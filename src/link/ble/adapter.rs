//! One adapter: keeps it listening, gives its links to those whose turn it is, and climbs the ladder when
//! something that is expected is missing.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use clawgate_protocol::discovery::matches;

use super::arbiter::{Candidate, Decision, Want, back_off, decide};
use super::bus::{Bus, BusError, Ear};
use super::carry::{self, Traffic};
use super::gatt::Radio;
use super::heard::{Heard, MOST_HEARD};
use super::ladder::{AdapterLadder, Failures, LinkLadder, Step};
use super::options::BleOptions;
use super::peer::{Card, Grant, Peer};
use super::state::{RadioCondition, Status};
use crate::ids::DeviceId;
use crate::link::links::Handle;
use crate::link::order::Order;
use crate::link::port::Owner;
use crate::link::view::View;
use crate::metrics::Reason;
use crate::pairing::engine::Engine;
use crate::session::{blocking, record};
use crate::spool::Spool;
use crate::store::Device;

/// Orders that wait at one sensor.
const ORDERS: usize = 8;

/// A look at everything, at least so often.
const TICK: Duration = Duration::from_secs(1);

/// And not more often than this, however full the air is.
const BREATH: Duration = Duration::from_millis(100);

/// A sensor that BlueZ forgot is kept listed for so long: it may only be between two addresses, or two scans.
const GRACE: Duration = Duration::from_secs(10);

/// Discovery that BlueZ refuses is tried again after this time, doubling.
const DISCOVERY_RETRY: Duration = Duration::from_secs(2);

/// And at least so often.
const DISCOVERY_RETRY_LONGEST: Duration = Duration::from_secs(60);

/// BlueZ's word that a new link is there may come a moment after the link.
const SETTLED: Duration = Duration::from_secs(3);

/// The registry is looked at so often for devices that are missing.
const LOOK_FOR_MISSING: Duration = Duration::from_secs(10);

/// A device of ours that failed so often in a row is as good as missing.
const AS_MISSING: u32 = 6;

/// An adapter that was switched off stays so for this time.
const OFF: Duration = Duration::from_secs(2);

/// What all adapters work with.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) engine: Arc<Engine>,
    pub(crate) spool: Spool,
    pub(crate) ear: Ear,
    pub(crate) status: Status,
    pub(crate) tasks: TaskTracker,
}

/// One adapter while it is there.
pub(crate) struct Adapter {
    name: String,
    options: BleOptions,
    common: Common,
    bus: Arc<Bus>,
    radio: Radio,
    sensors: BTreeMap<String, Sensor>,
    connecting: Option<(String, JoinHandle<Result<(), String>>)>,
    ladder: AdapterLadder,
    /// Discovery is not asked for before this.
    discover_at: Instant,
    discover_gap: Duration,
    /// When the adapter is switched on again.
    off_until: Option<Instant>,
    /// Discovery is ours, as far as we know.
    discovery_is_on: bool,
    /// Whether somebody was missing, and when that was looked at.
    missing: (bool, Instant),
}

/// A sensor that the adapter hears, or heard a moment ago.
struct Sensor {
    view: Arc<View>,
    card: Arc<Card>,
    orders: mpsc::Sender<Order>,
    grants: mpsc::Sender<Grant>,
    /// The rotating id that `device` was looked up for, and when.
    looked_up: Option<([u8; 8], Instant)>,
    device: Option<DeviceId>,
    /// The window that was answered with a link.
    tried_window: Option<u8>,
    want: Want,
    ladder: LinkLadder,
    failures: Failures,
    not_before: Instant,
    since: Instant,
    missing_since: Option<Instant>,
}

/// A stranger's rotating id is looked up again after this time: the sensor may have been paired since.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(5);

impl Adapter {
    pub(crate) fn new(name: String, options: BleOptions, common: Common, bus: Arc<Bus>, radio: Radio) -> Self {
        let now = Instant::now();
        Self {
            name,
            options,
            common,
            bus,
            radio,
            sensors: BTreeMap::new(),
            connecting: None,
            ladder: AdapterLadder::new(now),
            discover_at: now,
            discover_gap: DISCOVERY_RETRY,
            off_until: None,
            discovery_is_on: false,
            missing: (false, now),
        }
    }

    /// Until the adapter, BlueZ or the bus is gone, or `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        tracing::info!(adapter = %self.name, "adapter in use");
        let mut changes = self.common.ear.changes();
        while !stop.is_cancelled() && self.is_there() {
            self.listen().await;
            self.follow().await;
            self.finish_connecting().await;
            self.climb().await;
            self.arbitrate().await;
            self.tell();
            tokio::time::sleep(BREATH).await;
            tokio::select! {
                () = stop.cancelled() => {}
                _ = changes.changed() => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
        self.end(stop.is_cancelled()).await;
    }

    fn is_there(&self) -> bool {
        let said = self.common.ear.said();
        said.is_there && said.adapters.contains_key(&self.name) && !self.bus.lost.is_cancelled()
    }

    /// Says goodbye where that can be heard, and leaves the adapter as it was found.
    async fn end(mut self, in_order: bool) {
        if let Some((_, task)) = self.connecting.take() {
            task.abort();
        }
        self.common.status.adapter_gone(&self.name);
        for (_, sensor) in std::mem::take(&mut self.sensors) {
            if !in_order {
                sensor.card.hang_up();
            }
            // Dropping the orders has the sensor's task say goodbye.
        }
        if in_order {
            let _ = self.bus.stop_discovery(&self.name).await;
        }
        tracing::info!(adapter = %self.name, "adapter left");
    }

    /// Keeps discovery on, except while a link is being made.
    async fn listen(&mut self) {
        let now = Instant::now();
        if self.off_until.is_some_and(|until| now < until) || self.connecting.is_some() || now < self.discover_at {
            return;
        }
        let (powered, discovering) = {
            let said = self.common.ear.said();
            said.adapters.get(&self.name).map_or((false, false), |a| (a.powered, a.discovering))
        };
        if powered && discovering && self.discovery_is_on {
            self.discover_gap = DISCOVERY_RETRY;
            return self.common.status.condition(&self.name, RadioCondition::Listening);
        }
        self.off_until = None;
        let power = if powered { Ok(()) } else { self.bus.power(&self.name, true).await };
        let started = match power {
            Ok(()) => self.bus.start_discovery(&self.name).await,
            Err(error) => Err(error),
        };
        self.discover_at = now + self.discover_gap;
        self.discover_gap = (self.discover_gap * 2).min(DISCOVERY_RETRY_LONGEST);
        match started {
            // BlueZ says so by a signal; until then it is not asked again.
            Ok(()) => {
                self.discovery_is_on = true;
                self.common.status.condition(&self.name, RadioCondition::Listening);
            }
            // A discovery of ours that goes on, in spite of what it says.
            Err(BusError::Refused(why)) if why.contains("progress") => {
                self.stop_listening().await;
            }
            Err(error) => self.common.status.condition(&self.name, RadioCondition::Failed(error)),
        }
    }

    async fn stop_listening(&mut self) {
        self.discovery_is_on = false;
        if let Err(error) = self.bus.stop_discovery(&self.name).await {
            tracing::debug!(adapter = %self.name, %error, "discovery was not stopped");
        }
    }

    /// Takes over what is heard: new sensors, changed ones, those that went.
    async fn follow(&mut self) {
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
        let stays = |sensor: &Sensor| sensor.missing_since.is_none_or(|since| now < since + GRACE);
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
            let devices = store.devices()?;
            let of = |rotating: [u8; 8]| {
                devices.iter().find(|device| shows(device, rotating)).map(|device| device.id.clone())
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

    /// What became of the connect that was begun.
    async fn finish_connecting(&mut self) {
        let Some((address, task)) = self.connecting.take_if(|(_, task)| task.is_finished()) else { return };
        let result = task.await.unwrap_or_else(|error| Err(error.to_string()));
        let now = Instant::now();
        self.discover_at = now;
        let Some(sensor) = self.sensors.get_mut(&address) else { return };
        sensor.since = now;
        match result {
            Ok(()) => {
                *sensor.card.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
                sensor.tried_window = window_of(&self.common.ear, &self.name, &address).or(sensor.tried_window);
            }
            Err(why) => {
                *sensor.card.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
                self.failed(&address, &why).await;
            }
        }
    }

    async fn failed(&mut self, address: &str, why: &str) {
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
    async fn climb(&mut self) {
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

    /// Gives a link to whose turn it is.
    async fn arbitrate(&mut self) {
        if self.connecting.is_some() || self.off_until.is_some() {
            return;
        }
        let candidates: Vec<_> = self
            .sensors
            .iter()
            .map(|(address, sensor)| Candidate {
                address,
                want: sensor.card.want(sensor.want),
                linked: sensor.card.is_linked(),
                // Who is waited for by a person is not made to wait by failures of before.
                not_before: if sensor.card.is_wanted() {
                    sensor.not_before.min(Instant::now() + back_off(2))
                } else {
                    sensor.not_before
                },
                since: sensor.since,
            })
            .collect();
        match decide(&candidates, self.options.links, Instant::now()) {
            Some(Decision::Connect(address)) => {
                let address = address.to_owned();
                self.begin(address).await;
            }
            Some(Decision::Rest(address)) => {
                // A full queue has other orders first; it is asked again.
                let _ = self.sensors.get(address).map(|sensor| sensor.orders.try_send(Order::Rest));
            }
            None => {}
        }
    }

    async fn begin(&mut self, address: String) {
        let Some(sensor) = self.sensors.get_mut(&address) else { return };
        sensor.since = Instant::now();
        sensor.view.note(Some("connecting".to_owned()));
        sensor.ladder = LinkLadder::default();
        // BlueZ hears and connects badly at once.
        self.stop_listening().await;
        let Some(sensor) = self.sensors.get_mut(&address) else { return };
        let (name, radio, bus) = (self.name.clone(), self.radio.clone(), Arc::clone(&self.bus));
        let (card, grants, to) = (Arc::clone(&sensor.card), sensor.grants.clone(), address.clone());
        let traffic = card.begin(Traffic::new(&self.name, &self.common.engine.parts().metrics.link));
        let task = tokio::spawn(async move {
            let made = async {
                let gatt = Arc::new(radio.connect(&name, &to).await?);
                let link = carry::start(gatt, &traffic).await?;
                Ok::<_, super::gatt::GattError>(link)
            };
            match made.await {
                Ok(link) => {
                    let let_go = async move {
                        let _ = bus.disconnect(&name, &to).await;
                    };
                    let grant = Grant { link, lent: card.lend(), let_go: Box::pin(let_go) };
                    grants.try_send(grant).map_err(|_| "its task takes no link".to_owned())
                }
                Err(error) => {
                    // Also ends a connect that BlueZ goes on with.
                    let _ = bus.disconnect(&name, &to).await;
                    Err(error.to_string())
                }
            }
        });
        self.connecting = Some((address, task));
    }

    fn tell(&self) {
        let linked = self.sensors.values().filter(|sensor| sensor.card.is_linked()).count();
        self.common.status.counts(&self.name, linked, self.options.links, self.sensors.len().min(MOST_HEARD));
    }
}

/// The low bits of the window that the sensor shows.
fn window_of(ear: &Ear, adapter: &str, address: &str) -> Option<u8> {
    let said = ear.said();
    said.adapters.get(adapter)?.air.get(address)?.advertisement.window.map(|window| window.id)
}

/// Whether the rotating id is of a key of this device.
fn shows(device: &Device, rotating: [u8; 8]) -> bool {
    let slots = device.pending.as_ref().map(|pending| &pending.key).into_iter().chain(&device.current);
    slots.filter_map(record).any(|record| matches(&record.advertising_key, &rotating))
}
