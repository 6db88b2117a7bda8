//! The gateway's links and sessions in this process, on a stopped daemon's state and by a clock of the test's own: a day
//! goes by in a moment, and the session is renewed.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clawgate::alarm::Alarms;
use clawgate::audit::Audit;
use clawgate::clock::Clock;
use clawgate::ids::DeviceId;
use clawgate::link::ble::{BleOptions, BleUse};
use clawgate::link::uart::{PortOptions, UartOptions};
use clawgate::link::{LinkParts, Links};
use clawgate::metrics::Metrics;
use clawgate::pairing::code_book::Codes;
use clawgate::pairing::{BoxFuture, Commission, CommissionError, PairingPolicy};
use clawgate::spool::{Spool, SpoolOptions};
use clawgate::store::{Store, StoreOptions};
use clawgate::token::Approval;
use clawgate::token::Stage;
use clawgate_protocol::pairing::Suite;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// The front half, with a cloud that takes everything at once.
pub(crate) struct Front {
    links: Links,
    clock: Clock,
    stop: CancellationToken,
    spool: tokio::task::JoinHandle<()>,
    taken: Arc<Mutex<Vec<(u64, u64)>>>,
}

/// Nobody pairs here.
struct NoPairing;

impl Commission for NoPairing {
    fn token<'a>(
        &'a self,
        _: &'a DeviceId,
        _: &'a (dyn Fn(Approval) + Send + Sync),
    ) -> BoxFuture<'a, Result<String, CommissionError>> {
        Box::pin(std::future::pending())
    }

    fn first_reading<'a>(&'a self, _: &'a DeviceId) -> BoxFuture<'a, Result<(), CommissionError>> {
        Box::pin(std::future::pending())
    }
}

impl Front {
    /// Starts on what the daemon in `folder` left.
    pub(crate) fn start(runtime: &Handle, folder: &Path, gateway: &str) -> Self {
        let _guard = runtime.enter();
        let clock = Clock::manual(Duration::from_secs(1_700_000_000));
        let options = StoreOptions { dir: folder.join("state"), ..StoreOptions::default() };
        let store = Store::open(&options, clock.clone()).unwrap();
        let audit = Audit::open(&folder.join("audit"), &store.seed("audit-of-a-day").unwrap(), clock.clone()).unwrap();
        let codes = Codes::start(store.clone(), audit.clone(), clock.clone(), Stage::Prod).unwrap();
        let spool = Spool::open(&folder.join("spool.db"), SpoolOptions::default(), clock.clone()).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let running = spool.clone().run(stop.clone());
            async move { running.await.unwrap() }
        });
        let taken = Arc::<Mutex<Vec<_>>>::default();
        for key in store.devices().unwrap().into_iter().filter_map(|device| device.current) {
            let (lane, taken) = (spool.lane(key.pairing), Arc::clone(&taken));
            tokio::spawn(async move {
                loop {
                    lane.ready().await;
                    let entries = lane.take(usize::MAX);
                    let tickets: Vec<_> = entries.iter().map(|entry| entry.ticket).collect();
                    taken.lock().unwrap().extend(entries.iter().map(|entry| (entry.id.epoch, entry.id.seq)));
                    lane.confirm(&tickets);
                }
            });
        }
        let port = PortOptions { name: "line1".to_owned(), path: folder.join("line"), baud: 115_200 };
        let parts = LinkParts {
            gateway: gateway.parse().unwrap(),
            policy: PairingPolicy { min_suite: Suite::One, attempts: 3 },
            store,
            spool,
            codes,
            alarms: Alarms::new(audit.clone(), Metrics::new(), clock.clone()),
            audit,
            commission: Arc::new(NoPairing),
            metrics: Metrics::new(),
            clock: clock.clone(),
            stage: Stage::Prod,
        };
        let no_ble = BleOptions { usage: BleUse::Off, ..BleOptions::default() };
        let links = Links::start(UartOptions { ports: vec![port] }, no_ble, parts, stop.clone());
        Self { links, clock, stop, spool: running, taken }
    }

    /// A day goes by.
    pub(crate) fn a_day_later(&self) {
        self.clock.advance(Duration::from_secs(24 * 3600));
    }

    /// How many readings it took.
    pub(crate) fn count(&self) -> usize {
        self.taken.lock().unwrap().len()
    }

    /// Sees that no reading was taken twice.
    pub(crate) fn has_each_once(&self) {
        let mut names = self.taken.lock().unwrap().clone();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all, "a reading was taken twice");
    }

    /// Ends, so that the daemon can have the line again.
    pub(crate) fn stop(self, runtime: &Handle) {
        self.stop.cancel();
        runtime.block_on(async {
            self.links.stopped().await;
            self.spool.await.unwrap();
        });
    }
}
