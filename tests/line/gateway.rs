//! The gateway's front half on a state directory of its own, with a cloud that takes what the spool gives.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clawgate::alarm::Alarms;
use clawgate::audit::{Actor, Audit};
use clawgate::clock::Clock;
use clawgate::ids::{DeviceId, PairingId};
use clawgate::link::ble::{BleOptions, BleUse};
use clawgate::link::uart::{PortOptions, UartOptions};
use clawgate::link::{LinkParts, Links};
use clawgate::metrics::Metrics;
use clawgate::pairing::code_book::Codes;
use clawgate::pairing::{
    BoxFuture, Ceremony, Commission, CommissionError, PairEvent, PairFailure, PairRequest, Pairing, PairingPolicy, Wait,
};
use clawgate::spool::{Outgoing, Spool, SpoolOptions};
use clawgate::store::{Store, StoreOptions};
use clawgate::token::{Limits, Stage};
use clawgate_protocol::code::Code;
use clawgate_protocol::pairing::Suite;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::{SOON, until};

/// A folder for the state and for the ports' stable names.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn port(&self, name: &str) -> PathBuf {
        let folder = self.0.path().join("by-id");
        std::fs::create_dir_all(&folder).unwrap();
        folder.join(name)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }
}

/// The running front half.
pub(crate) struct Gateway {
    pub(crate) links: Links,
    pub(crate) pairing: Pairing,
    pub(crate) store: Store,
    pub(crate) codes: Codes,
    pub(crate) audit: Audit,
    pub(crate) cloud: Cloud,
    pub(crate) metrics: Metrics,
    stop: CancellationToken,
    spool: tokio::task::JoinHandle<()>,
    stop_spool: CancellationToken,
}

impl Gateway {
    pub(crate) fn start(place: &Place, ports: &[&Path]) -> Self {
        Self::start_with(place, ports, Suite::One)
    }

    pub(crate) fn start_with(place: &Place, ports: &[&Path], min_suite: Suite) -> Self {
        Self::start_at(place, ports, min_suite, &Clock::system())
    }

    /// By a clock of the test's own.
    pub(crate) fn start_at(place: &Place, ports: &[&Path], min_suite: Suite, clock: &Clock) -> Self {
        Self::begin(place, ports, min_suite, clock, Some(Duration::from_millis(50)))
    }

    /// Nobody takes what comes, and nothing goes to disk in its time.
    pub(crate) fn start_without_cloud(place: &Place, ports: &[&Path]) -> Self {
        Self::begin(place, ports, Suite::One, &Clock::system(), None)
    }

    fn begin(place: &Place, ports: &[&Path], min_suite: Suite, clock: &Clock, commit: Option<Duration>) -> Self {
        let options = StoreOptions { dir: place.state(), ..StoreOptions::default() };
        let store = Store::open(&options, clock.clone()).unwrap();
        let audit = Audit::open(&place.state().join("audit"), &store.seed("audit").unwrap(), clock.clone()).unwrap();
        let codes = Codes::start(store.clone(), audit.clone(), clock.clone(), Stage::Prod).unwrap();
        let options = SpoolOptions { commit: commit.unwrap_or(Duration::from_secs(3600)), ..SpoolOptions::default() };
        let spool = Spool::open(&place.state().join("spool.db"), options, clock.clone()).unwrap();
        let stop_spool = CancellationToken::new();
        let running = spool.clone().run(stop_spool.clone());
        let cloud =
            Cloud { store: store.clone(), spool: spool.clone(), taken: Arc::default(), attached: Arc::default() };
        for device in store.devices().unwrap().into_iter().filter(|_| commit.is_some()) {
            cloud.attach(&device.id);
        }
        let ports = ports.iter().enumerate().map(|(number, path)| PortOptions {
            name: format!("line{number}"),
            path: path.to_path_buf(),
            baud: 115_200,
        });
        let metrics = Metrics::new();
        let link_parts = LinkParts {
            gateway: "shed".parse().unwrap(),
            policy: PairingPolicy { min_suite, attempts: 3, asks_backend: false },
            store: store.clone(),
            spool: spool.clone(),
            codes: codes.clone(),
            audit: audit.clone(),
            commission: Arc::new(cloud.clone()),
            metrics: metrics.clone(),
            clock: clock.clone(),
            alarms: Alarms::new(audit.clone(), Metrics::new(), clock.clone()),
            stage: Stage::Prod,
        };
        let stop = CancellationToken::new();
        let no_ble = BleOptions { usage: BleUse::Off, ..BleOptions::default() };
        let links = Links::start(UartOptions { ports: ports.collect() }, no_ble, link_parts, stop.clone());
        let spool = tokio::spawn(async move { running.await.unwrap() });
        let pairing = Pairing::new(links.clone());
        Self { links, pairing, store, codes, audit, cloud, metrics, stop, spool, stop_spool }
    }

    /// Ends in order, as the daemon does.
    pub(crate) async fn stop(self) {
        self.cloud.spool.commit().await.unwrap();
        self.stop.cancel();
        tokio::time::timeout(SOON, self.links.stopped()).await.expect("the links did not end");
        self.stop_spool.cancel();
        self.spool.await.unwrap();
    }

    /// Waits until a sensor shows itself on the first port.
    pub(crate) async fn meets_a_sensor(&self) {
        let met =
            tokio::time::timeout(SOON, async { while self.links.scan(Duration::from_millis(100)).await.is_empty() {} });
        assert!(met.await.is_ok(), "no sensor was found: {:?}", self.links.ports());
    }

    pub(crate) fn request(target: &str, name: Option<&str>, ceremony: Ceremony) -> PairRequest {
        PairRequest {
            target: target.to_owned(),
            name: name.map(|name| name.parse().unwrap()),
            ceremony,
            scopes: vec![],
            limits: Limits::default(),
            actor: Actor::Uid { uid: 1000, name: None },
        }
    }

    /// Pairs by a code on a label; the stages that passed, and the end.
    pub(crate) async fn pair_label(&self, target: &str, name: &str, code: &Code) -> Outcome {
        let request = Self::request(target, Some(name), Ceremony::Label(code.clone()));
        Outcome::of(self.pairing.pair(request)).await
    }

    pub(crate) fn pairing_of(&self, device: &str) -> PairingId {
        let device = self.store.device(&device.parse().unwrap()).unwrap().expect("not in the registry");
        device.current.expect("no current key")
    }
}

/// How a pairing went, as its operator saw it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) stages: Vec<String>,
    pub(crate) end: Result<String, PairFailure>,
}

impl Outcome {
    pub(crate) async fn of(mut events: tokio::sync::mpsc::Receiver<PairEvent>) -> Self {
        let mut stages = Vec::new();
        let end = tokio::time::timeout(SOON, async {
            loop {
                match events.recv().await.expect("the pairing ended without an end") {
                    PairEvent::Code { .. } | PairEvent::Approval(_) | PairEvent::Decision { .. } => {}
                    PairEvent::Stage { stage, .. } => stages.push(stage.to_string()),
                    PairEvent::Failed(failure) => return Err(failure),
                    PairEvent::Paired { fingerprint, .. } => return Ok(fingerprint),
                }
            }
        });
        let end = end.await.expect("the pairing never ended");
        Self { stages, end }
    }

    pub(crate) fn failure(self) -> PairFailure {
        self.end.expect_err("it succeeded")
    }

    pub(crate) fn assert_paired(&self) {
        assert!(self.end.is_ok(), "{self:?}");
        assert_eq!(self.stages, ["connect", "key exchange", "confirm", "token", "first reading"]);
    }
}

/// A broker that takes everything at once.
#[derive(Clone)]
pub(crate) struct Cloud {
    store: Store,
    spool: Spool,
    taken: Arc<Mutex<Vec<Outgoing>>>,
    attached: Arc<Mutex<Vec<PairingId>>>,
}

impl Cloud {
    /// Readings that came and are not confirmed.
    pub(crate) fn waiting(&self) -> u64 {
        self.spool.status().depth
    }

    /// Whether everything that was taken is confirmed, so that a restart repeats nothing.
    pub(crate) fn has_confirmed_all(&self) -> bool {
        self.spool.status().depth == 0
    }

    pub(crate) fn attach(&self, device: &DeviceId) {
        let device = self.store.device(device).unwrap().unwrap();
        let Some(pairing) = device.current else { return };
        let mut attached = self.attached.lock().unwrap();
        if attached.contains(&pairing) {
            return;
        }
        attached.push(pairing);
        let (lane, taken) = (self.spool.lane(pairing), Arc::clone(&self.taken));
        tokio::spawn(async move {
            loop {
                lane.ready().await;
                let entries = lane.take(usize::MAX);
                let tickets: Vec<_> = entries.iter().map(|entry| entry.ticket).collect();
                taken.lock().unwrap().extend(entries);
                lane.confirm(&tickets);
            }
        });
    }

    pub(crate) fn look<T>(&self, at: impl FnOnce(&[Outgoing]) -> T) -> T {
        at(&self.taken.lock().unwrap())
    }

    /// Identities of what was taken, each once, sorted.
    pub(crate) fn readings(&self) -> Vec<(u64, u64)> {
        let mut names: Vec<_> = self.look(|taken| taken.iter().map(|out| (out.id.epoch, out.id.seq)).collect());
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl Commission for Cloud {
    fn token<'a>(
        &'a self,
        device: &'a DeviceId,
        _tell: &'a (dyn Fn(Wait) + Send + Sync),
    ) -> BoxFuture<'a, Result<String, CommissionError>> {
        Box::pin(async {
            self.attach(device);
            Ok("telemetry:write".to_owned())
        })
    }

    fn first_reading<'a>(
        &'a self,
        device: &'a DeviceId,
        arrives: BoxFuture<'a, ()>,
    ) -> BoxFuture<'a, Result<(), CommissionError>> {
        Box::pin(async {
            arrives.await;
            let pairing = self.store.device(device).unwrap().unwrap().current.unwrap();
            until("a first reading", || self.look(|taken| taken.iter().any(|out| out.id.pairing == pairing))).await;
            Ok(())
        })
    }
}
