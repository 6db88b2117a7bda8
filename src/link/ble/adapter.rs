//! One adapter: keeps it listening, and gives its links to those whose turn it is. Who is in reach is [`roster`]'s,
//! what is done when something expected is missing [`recovery`]'s.

mod recovery;
mod roster;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::arbiter::{Candidate, Decision, Want, back_off, decide};
use super::bus::{Bus, BusError, Ear};
use super::carry::{self, Traffic};
use super::gatt::Radio;
use super::ladder::{AdapterLadder, Failures, LinkLadder};
use super::options::BleOptions;
use super::peer::{Card, Grant};
use super::state::{RadioCondition, Status};
use crate::ids::DeviceId;
use crate::link::order::Order;
use crate::link::view::View;
use crate::pairing::engine::Engine;
use crate::spool::Spool;

/// A look at everything, at least so often.
const TICK: Duration = Duration::from_secs(1);

/// And not more often than this, however full the air is.
const BREATH: Duration = Duration::from_millis(100);

/// Discovery that BlueZ refuses is tried again after this time, doubling.
const DISCOVERY_RETRY: Duration = Duration::from_secs(2);

/// And at least so often.
const DISCOVERY_RETRY_LONGEST: Duration = Duration::from_secs(60);

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
        let half_made = self.connecting.take().map(|(address, task)| {
            task.abort();
            address
        });
        self.common.status.adapter_gone(&self.name);
        for (_, sensor) in std::mem::take(&mut self.sensors) {
            if !in_order {
                sensor.card.hang_up();
            }
            // Dropping the orders has the sensor's task say goodbye.
        }
        if in_order {
            // BlueZ would go on with it, and keep the link for nobody.
            if let Some(address) = half_made {
                let _ = self.bus.disconnect(&self.name, &address).await;
            }
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
        self.common.status.counts(&self.name, linked, self.options.links, self.sensors.len());
    }
}

/// The low bits of the window that the sensor shows.
fn window_of(ear: &Ear, adapter: &str, address: &str) -> Option<u8> {
    let said = ear.said();
    said.adapters.get(adapter)?.air.get(address)?.advertisement.window.map(|window| window.id)
}
