//! All links of the gateway: one task a port, each started anew when it fails, none able to stop another.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use clawgate_protocol::id::Id;

use super::ble::{self, BleOptions, RadioState};
use super::order::Order;
use super::port::{Owner, PortOwner};
use super::sensor::Sensor;
use super::state::{Found, PortCondition, PortState};
use super::uart::{Hotplug, Meter, Port, UartOptions};
use super::view::View;
use crate::alarm::Alarms;
use crate::audit::Audit;
use crate::clock::Clock;
use crate::ids::DeviceId;
use crate::metrics::Metrics;
use crate::pairing::code_book::Codes;
use crate::pairing::engine::{Engine, EngineParts};
use crate::pairing::{Commission, PairingPolicy};
use crate::session::FirstReadings;
use crate::spool::Spool;
use crate::store::{Device, Store};
use crate::token::Stage;

/// Orders that wait at one port.
const ORDERS: usize = 8;

/// Ports served at once: a glob that matches more serves the first so many.
const MOST_PORTS: usize = 256;

/// Who is looked for by name is found within this time, if he is there.
const FINDING: Duration = Duration::from_secs(5);

/// A port's task that panicked is started anew after this time.
const AFTER_PANIC: Duration = Duration::from_secs(5);

/// What the links work with.
#[derive(Clone)]
pub struct LinkParts {
    /// This gateway's id.
    pub gateway: Id,
    /// What the operator allows of pairings.
    pub policy: PairingPolicy,
    /// Devices and keys.
    pub store: Store,
    /// Where readings go.
    pub spool: Spool,
    /// Pairing codes.
    pub codes: Codes,
    /// Who did what.
    pub audit: Audit,
    /// What comes after the keys.
    pub commission: Arc<dyn Commission>,
    /// Counts.
    pub metrics: Metrics,
    /// The time.
    pub clock: Clock,
    /// What a person should look at.
    pub alarms: Alarms,
    /// The one stage of this gateway.
    pub stage: Stage,
}

/// All links. Cheap to clone.
#[derive(Clone)]
pub struct Links(Arc<Shared>);

struct Shared {
    engine: Arc<Engine>,
    spool: Spool,
    ports: Mutex<Vec<Handle>>,
    options: watch::Sender<UartOptions>,
    ble_options: watch::Sender<BleOptions>,
    radios: ble::Status,
    tasks: TaskTracker,
}

/// A path to a sensor: a port that is served, or a sensor on the air.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    view: Arc<View>,
    orders: mpsc::Sender<Order>,
}

/// Why nothing was done at a sensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Nobody goes by that name.
    #[error("no sensor, port or device {0:?}: clawgate scan lists what is in reach")]
    NotFound(String),
    /// Several do.
    #[error("{target:?} may mean {}: write more of it", candidates.join(" or "))]
    Ambiguous {
        /// What was written.
        target: String,
        /// Whom it may mean.
        candidates: Vec<String>,
    },
    /// It is known but cannot be reached now.
    #[error("{target}: {reason}")]
    Unreachable {
        /// The port.
        target: String,
        /// Why.
        reason: String,
    },
}

impl Links {
    /// Opens the ports and keeps them until `stop`.
    #[must_use]
    pub fn start(options: UartOptions, ble: BleOptions, parts: LinkParts, stop: CancellationToken) -> Self {
        let engine = EngineParts {
            gateway: parts.gateway,
            store: parts.store,
            codes: parts.codes,
            audit: parts.audit,
            commission: parts.commission,
            metrics: parts.metrics,
            clock: parts.clock,
            firsts: FirstReadings::default(),
            alarms: parts.alarms,
            stage: parts.stage,
        };
        engine.metrics.limit("ports", MOST_PORTS);
        engine.metrics.limit("ble sensors heard by an adapter", ble::MOST_HEARD);
        let links = Self(Arc::new(Shared {
            engine: Arc::new(Engine::new(engine, parts.policy)),
            spool: parts.spool,
            ports: Mutex::default(),
            options: watch::Sender::new(options),
            ble_options: watch::Sender::new(ble),
            radios: ble::Status::default(),
            tasks: TaskTracker::new(),
        }));
        let (engine, until) = (Arc::clone(&links.0.engine), stop.clone());
        links.0.tasks.spawn(async move {
            tokio::select! {
                () = engine.tend_codes() => {}
                () = until.cancelled() => {}
            }
        });
        // The ports stand before anybody asks for one.
        let hotplug = Hotplug::start(links.0.options.subscribe(), stop.clone());
        links.adopt(links.0.options.borrow().expand(), &hotplug);
        links.0.tasks.spawn(links.clone().serve(hotplug, stop.clone()));
        let common = ble::Common {
            engine: Arc::clone(&links.0.engine),
            spool: links.0.spool.clone(),
            ear: ble::Ear::new(),
            status: links.0.radios.clone(),
            tasks: links.0.tasks.clone(),
        };
        links.0.tasks.spawn(ble::serve(links.0.ble_options.subscribe(), common, stop));
        links
    }

    /// Uses BLE in another way.
    pub(crate) fn reload_ble(&self, options: BleOptions) {
        self.0.ble_options.send_if_modified(|known| {
            let is_new = *known != options;
            *known = options;
            is_new
        });
    }

    /// Every adapter that is there or should be.
    #[must_use]
    pub(crate) fn radios(&self) -> Vec<RadioState> {
        self.0.radios.radios()
    }

    /// Serves another set of ports: those that stay are left alone.
    pub fn reload(&self, options: UartOptions) {
        self.0.options.send_if_modified(|known| {
            let is_new = *known != options;
            *known = options;
            is_new
        });
    }

    /// Pairings that begin from now on follow this policy.
    pub(crate) fn set_policy(&self, policy: PairingPolicy) {
        self.0.engine.set_policy(policy);
    }

    /// Ends when every port is closed, after the `stop` of [`Self::start`].
    pub async fn stopped(&self) {
        self.0.tasks.wait().await;
    }

    /// Every configured port.
    #[must_use]
    pub fn ports(&self) -> Vec<PortState> {
        self.handles().iter().filter_map(|handle| handle.view.state()).collect()
    }

    /// Asks on every open port who is there and gives what is known after `wait`.
    pub async fn scan(&self, wait: Duration) -> Vec<Found> {
        let handles = self.handles();
        let answers = handles.iter().filter(|handle| handle.view.is_open()).map(|handle| {
            let (answer, answered) = oneshot::channel();
            // A port whose queue is full is at work; what is known of it is shown.
            let _ = handle.orders.try_send(Order::Meet(answer));
            answered
        });
        let answers: Vec<_> = answers.collect();
        let all = async {
            for answer in answers {
                let _ = answer.await;
            }
            // A scan lasts as long as it was asked for: sensors may be plugged in meanwhile.
            std::future::pending::<()>().await;
        };
        let _ = tokio::time::timeout(wait, all).await;
        self.handles().iter().filter_map(|handle| handle.view.found()).collect()
    }

    /// Makes a sensor blink for `wait`, so that a person sees which one it is.
    ///
    /// # Errors
    /// Every [`TargetError`].
    pub async fn identify(&self, target: &str, wait: Duration) -> Result<(), TargetError> {
        let handle = self.find(target).await?;
        let (answer, answered) = oneshot::channel();
        let seconds = u16::try_from(wait.as_secs()).unwrap_or(u16::MAX).max(1);
        handle.order(Order::Identify(seconds, answer)).await;
        match answered.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(handle.unreachable(reason)),
            Err(_) => Err(handle.unreachable("the gateway stops".to_owned())),
        }
    }

    /// Ends the session of a device under a pairing that is known of it; before that, if there is one, tells the
    /// sensor to erase its key. Returns whether the sensor confirmed. The registry is the caller's to change.
    pub async fn unpair(&self, known: &Device) -> bool {
        let Some(handle) = self.handles().into_iter().find(|handle| handle.view.device().as_ref() == Some(&known.id))
        else {
            return false;
        };
        let (answer, answered) = oneshot::channel();
        handle.order(Order::Unpair(Box::new(known.clone()), answer)).await;
        answered.await.unwrap_or(false)
    }

    /// A device has another name in the registry: its session is opened anew under that.
    pub(crate) async fn renamed(&self, old: &DeviceId) {
        let handles = self.handles();
        if let Some(handle) = handles.iter().find(|handle| handle.view.device().as_ref() == Some(old)) {
            handle.order(Order::Renamed(old.clone())).await;
        }
    }

    /// Begins a new session with a device while the one it has goes on; false where it has none.
    pub(crate) async fn renew(&self, device: &DeviceId) -> bool {
        let handles = self.handles();
        let Some(handle) = handles.iter().find(|handle| handle.view.device().as_ref() == Some(device)) else {
            return false;
        };
        let (answer, answered) = oneshot::channel();
        handle.order(Order::Renew(device.clone(), answer)).await;
        answered.await.unwrap_or(false)
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.0.engine
    }

    /// As [`Self::resolve`], but nobody is said to be unknown before every port was asked who is there: right after
    /// the start, or when a sensor was just plugged in, no name is known yet.
    pub(crate) async fn find(&self, target: &str) -> Result<Handle, TargetError> {
        let known = self.resolve(target);
        if !matches!(known, Err(TargetError::NotFound(_))) {
            return known;
        }
        let mut asked = JoinSet::new();
        // A sensor on the air says who it is to whoever listens; nobody is connected to for a question.
        for handle in self.handles().into_iter().filter(Handle::is_near) {
            asked.spawn(async move { handle.meet().await });
        }
        let asking = async {
            while asked.join_next().await.is_some() {
                // The beginning of a name may mean another sensor too, which has yet to answer.
                if let Some(handle) = self.named(target) {
                    return Ok(handle);
                }
            }
            self.resolve(target)
        };
        // A port that is busy with a pairing answers late.
        tokio::time::timeout(FINDING, asking).await.unwrap_or(known)
    }

    /// The port that a technician means: by its name, its path, the sensor's hardware id (four characters are
    /// enough), the device paired there.
    pub(crate) fn resolve(&self, target: &str) -> Result<Handle, TargetError> {
        let handles = self.handles();
        // Addresses on the air are anybody's to choose, short ids too: who says the same is told apart by a person.
        let mut near: Vec<&Handle> = handles.iter().filter(|handle| handle.is_named(target)).collect();
        if near.is_empty() {
            near = handles.iter().filter(|handle| handle.sensor_begins_with(target)).collect();
        }
        match near.len() {
            0 => Err(TargetError::NotFound(super::sensor::printable(target))),
            1 => Ok(near.remove(0).clone()),
            _ => Err(TargetError::Ambiguous {
                target: super::sensor::printable(target),
                candidates: near.iter().map(|handle| handle.view.alias().to_owned()).collect(),
            }),
        }
    }

    fn named(&self, target: &str) -> Option<Handle> {
        self.handles().into_iter().find(|handle| handle.is_named(target))
    }

    fn handles(&self) -> Vec<Handle> {
        let mut handles = self.ports_now().clone();
        handles.extend(self.0.radios.all_handles());
        handles
    }

    fn ports_now(&self) -> MutexGuard<'_, Vec<Handle>> {
        self.0.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps one task for each port that is configured and there.
    async fn serve(self, mut hotplug: Hotplug, stop: CancellationToken) {
        let mut options = self.0.options.subscribe();
        while !stop.is_cancelled() {
            let wanted = options.borrow_and_update().expand();
            self.adopt(wanted, &hotplug);
            tokio::select! {
                () = stop.cancelled() => {}
                // The sender is ours: it does not go before we do.
                _ = options.changed() => {}
                () = hotplug.changed() => {}
            }
        }
        // Without orders a port says goodbye and ends.
        self.ports_now().clear();
        self.0.tasks.close();
    }

    /// Takes up new ports, leaves those alone that are served, gives up those that nobody wants any more.
    fn adopt(&self, wanted: Vec<Port>, hotplug: &Hotplug) {
        let mut ports = self.ports_now();
        ports.retain(|handle| handle.view.port().is_some_and(|port| wanted.contains(port)));
        for port in wanted.into_iter().take(MOST_PORTS) {
            if ports.iter().all(|handle| !handle.is_at(&port.path)) && ports.len() < MOST_PORTS {
                let alias = free_alias(&port.name, &ports);
                ports.push(self.own(alias, port, hotplug.clone()));
            }
        }
    }

    fn own(&self, alias: String, port: Port, hotplug: Hotplug) -> Handle {
        let (orders, receiver) = mpsc::channel(ORDERS);
        let meter = Arc::new(Meter::new(alias.clone(), &self.0.engine.parts().metrics.link));
        let view = Arc::new(View::of_port(alias, port.clone(), Arc::clone(&meter)));
        let owner = Arc::new(PortOwner {
            port,
            owner: Owner { engine: Arc::clone(&self.0.engine), spool: self.0.spool.clone(), view: Arc::clone(&view) },
            meter,
            hotplug,
            orders: tokio::sync::Mutex::new(receiver),
        });
        self.0.tasks.spawn(supervise(owner));
        Handle { view, orders }
    }
}

impl Handle {
    pub(super) fn new(view: Arc<View>, orders: mpsc::Sender<Order>) -> Self {
        Self { view, orders }
    }

    /// Gives an order. If the port was given up the order is dropped, and its answer with it.
    pub(crate) async fn order(&self, order: Order) {
        let _ = self.orders.send(order).await;
    }

    /// Who is there now.
    pub(crate) async fn meet(&self) -> Result<Sensor, TargetError> {
        let (answer, answered) = oneshot::channel();
        self.order(Order::Meet(answer)).await;
        match answered.await {
            Ok(Ok(sensor)) => Ok(sensor),
            Ok(Err(reason)) => Err(self.unreachable(reason)),
            Err(_) => Err(self.unreachable("the gateway stops".to_owned())),
        }
    }

    fn unreachable(&self, reason: String) -> TargetError {
        TargetError::Unreachable { target: self.view.alias().to_owned(), reason }
    }

    fn is_named(&self, target: &str) -> bool {
        let sensor = self.view.sensor();
        self.view.alias() == target
            || self.is_at(Path::new(target))
            || self.view.is_short_id(target)
            || self.view.device().is_some_and(|device| device.as_str() == target)
            || sensor.as_ref().is_some_and(|sensor| sensor.device.as_ref().is_some_and(|id| id.as_str() == target))
            || sensor.is_some_and(|sensor| sensor.id.is_some_and(|id| id.as_str() == target))
    }

    /// A port, or a sensor on the air that is connected.
    fn is_near(&self) -> bool {
        self.view.port().is_some() || self.view.is_open()
    }

    fn is_at(&self, path: &Path) -> bool {
        self.view.port().is_some_and(|port| port.path == path)
    }

    fn sensor_begins_with(&self, target: &str) -> bool {
        let Some(id) = self.view.sensor().and_then(|sensor| sensor.id) else { return false };
        target.len() >= 4 && id.as_str().get(..target.len()).is_some_and(|head| head.eq_ignore_ascii_case(target))
    }
}

/// Runs a port's task; if it panics, that port is down for a moment, and no other.
async fn supervise(owner: Arc<PortOwner>) {
    loop {
        let task = Arc::clone(&owner);
        let Err(error) = tokio::spawn(async move { task.run().await }).await else { return };
        tracing::error!(link = %owner.owner.view.alias(), error = %error, "the port's task failed and is started anew");
        owner.owner.view.closed(PortCondition::Failed { reason: "a fault in clawgate; see its log".to_owned() });
        tokio::time::sleep(AFTER_PANIC).await;
    }
}

/// `NAME`, or `NAME.2` and so on for the further matches of a glob.
fn free_alias(name: &str, taken: &[Handle]) -> String {
    let is_free = |alias: &String| taken.iter().all(|handle| handle.view.alias() != alias);
    let numbered = (2..).map(|number| format!("{name}.{number}"));
    std::iter::once(name.to_owned()).chain(numbered).find(is_free).unwrap_or_default()
}
