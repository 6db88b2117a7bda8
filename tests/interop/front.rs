//! The gateway's links and sessions on a stopped daemon's state and by a clock of the test's own: a day goes by in a
//! moment, and the session is renewed. They are in a process of their own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
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
use clawgate::pairing::{BoxFuture, Commission, CommissionError, PairingPolicy, Wait};
use clawgate::spool::{Lane, Spool, SpoolOptions};
use clawgate::store::{Store, StoreOptions};
use clawgate::token::Stage;
use clawgate_protocol::pairing::Suite;
use tokio::io::AsyncBufReadExt as _;
use tokio_util::sync::CancellationToken;

use crate::site::BUS;

/// A line on its stdin: a day goes by. The end of stdin ends it in order.
const A_DAY: &str = "a day";
/// Begins the lines on its stdout: a reading was taken.
const TAKEN: &str = "taken ";
const FOLDER: &str = "INTEROP_FOLDER";
const GATEWAY: &str = "INTEROP_GATEWAY";

/// The front half, with a cloud that takes everything at once.
pub(crate) struct Front {
    process: Child,
    stdin: Option<ChildStdin>,
    taken: Arc<Mutex<Vec<String>>>,
}

impl Front {
    /// Starts on what the daemon in `folder` left.
    pub(crate) fn start(folder: &Path, gateway: &str, bus: Option<String>) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["the_front_half_of_a_cell", "--exact", "--ignored", "--nocapture"])
            .env(FOLDER, folder)
            .env(GATEWAY, gateway)
            .envs(bus.map(|bus| (BUS, bus)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take();
        let taken = Arc::<Mutex<Vec<_>>>::default();
        let (stdout, into) = (BufReader::new(process.stdout.take().unwrap()), Arc::clone(&taken));
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(name) = line.strip_prefix(TAKEN) {
                    into.lock().unwrap().push(name.to_owned());
                }
            }
        });
        Self { process, stdin, taken }
    }

    /// A day goes by.
    pub(crate) fn a_day_later(&mut self) {
        writeln!(self.stdin.as_mut().unwrap(), "{A_DAY}").unwrap();
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
    pub(crate) fn stop(mut self) {
        self.stdin = None;
        assert!(self.process.wait().unwrap().success(), "the front half ended in order");
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Nobody pairs here.
struct NoPairing;

impl Commission for NoPairing {
    fn token<'a>(
        &'a self,
        _: &'a DeviceId,
        _: &'a (dyn Fn(Wait) + Send + Sync),
    ) -> BoxFuture<'a, Result<String, CommissionError>> {
        Box::pin(std::future::pending())
    }

    fn first_reading<'a>(
        &'a self,
        _: &'a DeviceId,
        _: BoxFuture<'a, ()>,
    ) -> BoxFuture<'a, Result<(), CommissionError>> {
        Box::pin(std::future::pending())
    }
}

/// The other process. Without a folder there is nothing to do.
pub(crate) fn work() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    // Ends the line that the harness may have begun.
    std::io::stdout().write_all(b"\n").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(serve(&folder));
}

async fn serve(folder: &Path) {
    let clock = Clock::manual(Duration::from_secs(1_700_000_000));
    let options = StoreOptions { dir: folder.join("state"), ..StoreOptions::default() };
    let store = Store::open(&options, clock.clone()).unwrap();
    let audit = Audit::open(&folder.join("audit"), &store.seed("audit-of-a-day").unwrap(), clock.clone()).unwrap();
    let codes = Codes::start(store.clone(), audit.clone(), clock.clone(), Stage::Prod).unwrap();
    let spool = Spool::open(&folder.join("spool.db"), SpoolOptions::default(), clock.clone()).unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(spool.clone().run(stop.clone()));
    for pairing in store.devices().unwrap().into_iter().filter_map(|device| device.current) {
        tokio::spawn(take_everything(spool.lane(pairing)));
    }
    let into = LinkParts {
        gateway: std::env::var(GATEWAY).unwrap().parse().unwrap(),
        policy: PairingPolicy { min_suite: Suite::One, attempts: 3, asks_backend: false },
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
    let is_ble = std::env::var_os(BUS).is_some();
    let port = PortOptions { name: "line1".to_owned(), path: folder.join("line"), baud: 115_200 };
    let ports = if is_ble { vec![] } else { vec![port] };
    let usage = if is_ble { BleUse::On } else { BleUse::Off };
    let ble = BleOptions { usage, ..BleOptions::default() };
    let links = Links::start(UartOptions { ports }, ble, into, stop.clone());

    let mut orders = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    while let Some(order) = orders.next_line().await.unwrap() {
        assert_eq!(order, A_DAY);
        clock.advance(Duration::from_secs(24 * 3600));
    }
    stop.cancel();
    links.stopped().await;
    running.await.unwrap().unwrap();
}

async fn take_everything(lane: Lane) {
    loop {
        lane.ready().await;
        let entries = lane.take(usize::MAX);
        let tickets: Vec<_> = entries.iter().map(|entry| entry.ticket).collect();
        let mut out = std::io::stdout().lock();
        for entry in &entries {
            writeln!(out, "{TAKEN}{:x}.{}", entry.id.epoch, entry.id.seq).unwrap();
        }
        lane.confirm(&tickets);
    }
}
