//! Spool and relay as one, against a broker with moods and a process that is killed, stopped and begun again, by chance.
//!
//! The model is the sensors': what was called safe to one of them it has forgotten, so the broker has it, or a gap record or
//! a dead letter accounts for it, whatever happened. Beside that: in order, and nothing twice on one connection. With
//! many seeds also: no more again on a later connection than may be in flight.
//!
//! `CLAWGATE_FAULT_SEEDS` says how many seeds (4), `CLAWGATE_FAULT_SEED` the first.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clawgate::clock::Clock;
use clawgate::config::Reauth;
use clawgate::ids::PairingId;
use clawgate::metrics::Metrics;
use clawgate::relay::{Relay, RelayDevice, RelayOptions};
use clawgate::spool::{Capture, Incoming, Kind, Lane, Progress, Spool, SpoolError, SpoolOptions, Submitted};
use clawgate::token::{TokenFeed, TokenState};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::back_half::pack;
use super::moody::{Broker, Chance, Name};
use super::support::{DEADLINE, token, token_feed, until, within};

const IN_FLIGHT: usize = 20;
const STEPS: u64 = 120;

/// A gateway's process, as far as readings go.
struct Process {
    spool: Spool,
    relay: Relay,
    stop: CancellationToken,
    task: JoinHandle<Result<(), SpoolError>>,
    feeds: HashMap<String, TokenFeed>,
}

/// One device and what its sensor knows.
struct Sensor {
    device: String,
    pairing: PairingId,
    epoch: u64,
    /// The highest seq that was made, and the gaps among them.
    top: u64,
    gaps: BTreeMap<u64, u64>,
    next: u64,
    /// It has forgotten everything up to here.
    safe: u64,
    /// What this process said last.
    heard: u64,
    session: Option<(Lane, watch::Receiver<Progress>)>,
}

struct World {
    chance: Chance,
    seed: u64,
    folder: tempfile::TempDir,
    path: PathBuf,
    options: SpoolOptions,
    broker: Broker,
    process: Option<Process>,
    sensors: Vec<Sensor>,
    /// What sensors have forgotten, by pairing and epoch; and in which order these came.
    promised: HashMap<String, u64>,
    order: Vec<String>,
    /// Pairings that a device had.
    pairings: HashMap<String, u64>,
    generations: u64,
}

fn lane_name(pairing: PairingId, epoch: u64) -> String {
    format!("{pairing}.{epoch:016x}")
}

impl World {
    async fn new(seed: u64) -> Self {
        let mut chance = Chance(seed);
        let folder = tempfile::tempdir().unwrap();
        let commit = Duration::from_millis([2, 10, 40][chance.index(3)]);
        // Sometimes so little that readings are refused, and dropped at the cap.
        let memory_bytes = if chance.below(3) == 0 { 32 << 10 } else { 16 << 20 };
        let max_bytes = if chance.below(4) == 0 { 30 << 10 } else { 256 << 20 };
        let broker = Broker::start(chance.next()).await;
        let mut world = Self {
            path: folder.path().join("0.db"),
            options: SpoolOptions { commit, max_bytes, memory_bytes, in_flight: IN_FLIGHT },
            chance,
            seed,
            folder,
            broker,
            process: None,
            sensors: Vec::new(),
            promised: HashMap::new(),
            order: Vec::new(),
            pairings: HashMap::new(),
            generations: 0,
        };
        for device in ["pump-3", "pump-4"] {
            let mut sensor = Sensor {
                device: device.to_owned(),
                pairing: PairingId([0; 8]),
                epoch: 0,
                top: 0,
                gaps: BTreeMap::new(),
                next: 1,
                safe: 0,
                heard: 0,
                session: None,
            };
            world.pair(&mut sensor);
            world.sensors.push(sensor);
        }
        world.begin();
        world
    }

    /// Another pairing and another epoch.
    fn pair(&mut self, sensor: &mut Sensor) {
        sensor.pairing = PairingId(self.chance.next().to_be_bytes());
        *self.pairings.entry(sensor.device.clone()).or_default() += 1;
        self.power_up(sensor);
    }

    fn power_up(&mut self, sensor: &mut Sensor) {
        sensor.epoch = self.chance.next();
        (sensor.top, sensor.next, sensor.safe, sensor.session) = (0, 1, 0, None);
        sensor.gaps.clear();
        self.order.push(lane_name(sensor.pairing, sensor.epoch));
    }

    /// A process over what lies on the disk.
    fn begin(&mut self) {
        let spool = Spool::open(&self.path, self.options.clone(), Clock::system()).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(spool.clone().run(stop.clone()));
        let mut options = RelayOptions::new("127.0.0.1".into(), self.broker.port, "default".into(), "site-1".into());
        options.backoff = (Duration::from_millis(2), Duration::from_millis(20));
        options.in_flight = u16::try_from(IN_FLIGHT).unwrap();
        options.drain = Duration::from_millis(200);
        options.ack_timeout = Duration::from_secs(2);
        options.reauth = Reauth::Never;
        let relay = Relay::new(options, Clock::system(), Metrics::new().relay).unwrap();
        self.process = Some(Process { spool, relay, stop, task, feeds: HashMap::new() });
        for at in 0..self.sensors.len() {
            self.attach(at);
        }
    }

    fn attach(&mut self, at: usize) {
        let (Some(process), sensor) = (&mut self.process, &self.sensors[at]) else { return };
        let (feed, handle) = token_feed(&sensor.device);
        let device = RelayDevice {
            id: sensor.device.parse().unwrap(),
            pairing: sensor.pairing,
            description: serde_json::Value::Null,
        };
        process.relay.attach(device, process.spool.lane(sensor.pairing), handle);
        process.feeds.insert(sensor.device.clone(), feed);
    }

    async fn detach(&mut self, at: usize) {
        if let Some(process) = &self.process {
            let id = self.sensors[at].device.parse().unwrap();
            within("it is detached", process.relay.detach(&id)).await;
        }
    }

    /// A sensor hears how far the gateway is.
    fn hear(&mut self, at: usize) {
        let sensor = &mut self.sensors[at];
        let Some((_, progress)) = &mut sensor.session else { return };
        let progress = *progress.borrow_and_update();
        self.told(at, progress);
    }

    fn told(&mut self, at: usize, progress: Progress) {
        let sensor = &mut self.sensors[at];
        if progress.epoch != sensor.epoch {
            return;
        }
        assert!(progress.safe <= sensor.top && progress.safe < progress.next, "{progress:?} of {}", sensor.top);
        assert!(progress.safe >= sensor.heard, "{progress:?} after {} was safe", sensor.heard);
        sensor.heard = progress.safe;
        sensor.safe = sensor.safe.max(progress.safe);
        self.promised.insert(lane_name(sensor.pairing, sensor.epoch), sensor.safe);
    }

    fn connect(&mut self, at: usize) {
        let Some(process) = &self.process else { return };
        let sensor = &mut self.sensors[at];
        let lane = process.spool.lane(sensor.pairing);
        let progress = lane.hello(sensor.epoch, sensor.safe + 1);
        sensor.session = Some((lane.clone(), lane.progress()));
        (sensor.next, sensor.heard) = (progress.next, 0);
        self.told(at, progress);
    }

    /// Hands in `count` readings, old or new; fewer where there is no room.
    fn submit(&mut self, at: usize, count: u64) {
        if self.sensors[at].session.is_none() {
            self.connect(at);
        }
        let sensor = &mut self.sensors[at];
        let Some((lane, _)) = &sensor.session else { return };
        for _ in 0..count {
            let seq = sensor.next;
            if seq > sensor.top {
                sensor.top = seq;
                if self.chance.below(40) == 0 {
                    sensor.top = seq + self.chance.below(5);
                    sensor.gaps.insert(seq, sensor.top);
                }
            }
            let (kind, content, last) = match sensor.gaps.get(&seq) {
                Some(to) => (Kind::Gap { to: *to }, Bytes::from_static(b"memory full"), *to),
                None => (Kind::Telemetry, pack(seq), seq),
            };
            match lane.submit(Incoming { epoch: sensor.epoch, seq, kind, content, captured: Capture::Exact }) {
                Ok(Submitted::Accepted) => sensor.next = last + 1,
                Err(SpoolError::Full { .. }) => return,
                other => panic!("{seq}: {other:?}"),
            }
        }
    }

    /// The process ends in order, and the next one begins.
    async fn restart(&mut self) {
        let Some(process) = self.process.take() else { return };
        within("the relay ends", process.relay.shutdown()).await;
        process.stop.cancel();
        within("the spool ends", process.task).await.unwrap().unwrap();
        self.sensors.iter_mut().for_each(|sensor| sensor.session = None);
        drop(process.spool);
        self.begin();
    }

    /// The process is killed: what is left is what stands in its files at that moment.
    async fn crash(&mut self) {
        let Some(process) = self.process.take() else { return };
        self.broker.down();
        (0..self.sensors.len()).for_each(|at| self.hear(at));
        self.generations += 1;
        let next = self.folder.path().join(format!("{}.db", self.generations));
        // The file itself changes only at a checkpoint, of which there is none in so few steps; its log only grows.
        std::fs::copy(&self.path, &next).unwrap();
        if wal(&self.path).exists() {
            std::fs::copy(wal(&self.path), wal(&next)).unwrap();
        }
        self.sensors.iter_mut().for_each(|sensor| sensor.session = None);
        within("the relay ends", process.relay.shutdown()).await;
        process.stop.cancel();
        within("the spool ends", process.task).await.unwrap().unwrap();
        self.path = next;
        self.broker.up();
        self.begin();
    }

    async fn step(&mut self, number: u64) {
        let at = self.chance.index(self.sensors.len());
        match self.chance.below(100) {
            0..45 => {
                let count = self.chance.below(60);
                self.submit(at, count);
            }
            45..65 => tokio::time::sleep(Duration::from_millis(self.chance.below(12))).await,
            65..75 => self.hear(at),
            75..79 => self.connect(at),
            79..82 => {
                let mut sensor = self.sensors.swap_remove(at);
                self.power_up(&mut sensor);
                self.sensors.push(sensor);
            }
            82..86 => {
                let device = &self.sensors[at].device;
                let next = token(device, &format!("token-{number}"), Duration::from_secs(600));
                if let Some(feed) = self.process.as_ref().and_then(|process| process.feeds.get(device)) {
                    feed.state.send_replace(TokenState::Valid(Arc::new(next)));
                }
            }
            86..89 => {
                self.detach(at).await;
                self.attach(at);
            }
            89..91 => {
                self.detach(at).await;
                self.hear(at);
                let mut sensor = self.sensors.swap_remove(at);
                self.pair(&mut sensor);
                self.sensors.push(sensor);
                self.attach(self.sensors.len() - 1);
            }
            91..94 => self.restart().await,
            94..98 => self.crash().await,
            _ => {
                self.broker.down();
                tokio::time::sleep(Duration::from_millis(self.chance.below(40))).await;
                self.broker.up();
            }
        }
    }

    /// The broker behaves: everything arrives.
    async fn settle(&mut self) {
        self.broker.calm(true);
        let end = tokio::time::Instant::now() + DEADLINE;
        loop {
            let mut heard = true;
            for at in 0..self.sensors.len() {
                self.connect(at);
                self.submit_what_is_made(at);
                self.hear(at);
                heard &= self.sensors[at].safe == self.sensors[at].top;
            }
            let Some(process) = &self.process else { return };
            let status = (process.spool.status(), process.relay.status());
            // Looked at last: nothing more is handed in once all is made, so nothing more is refused below.
            if heard && status.0.depth == 0 {
                break;
            }
            assert!(tokio::time::Instant::now() < end, "seed {}: not all arrives: {status:?}", self.seed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // What it refused for good it takes now.
        self.broker.persuade();
        for at in 0..self.sensors.len() {
            let process = self.process.as_ref().unwrap();
            process.spool.replay_dead_letters(self.sensors[at].pairing).await.unwrap();
            self.detach(at).await;
            self.attach(at);
        }
        let spool = self.process.as_ref().unwrap().spool.clone();
        until("the dead letters arrive", || spool.status().depth == 0 && spool.status().dead_letters == 0).await;
    }

    /// As [`submit`](Self::submit), what is made already and not here.
    fn submit_what_is_made(&mut self, at: usize) {
        while self.sensors[at].next <= self.sensors[at].top {
            let before = self.sensors[at].next;
            self.submit(at, 1);
            if self.sensors[at].next == before {
                return;
            }
        }
    }

    fn check(&self) {
        let number = self.seed;
        let rank: HashMap<&str, usize> = self.order.iter().enumerate().map(|(at, lane)| (lane.as_str(), at)).collect();
        let refused = self.broker.refused();
        let mut covered: HashMap<&str, BTreeSet<u64>> = HashMap::new();
        let mut last: HashMap<&str, (usize, u64)> = HashMap::new();
        let mut on_connection: HashSet<(u64, &Name)> = HashSet::new();
        // By connection: what the broker had before it.
        let mut again: HashMap<u64, (u64, &str)> = HashMap::new();
        let mut seen: HashSet<&Name> = HashSet::new();
        let log = self.broker.log();
        for taken in &log {
            let name = &taken.name;
            assert!(on_connection.insert((taken.connection, name)), "seed {number}: twice on a connection: {taken:?}");
            covered.entry(&name.lane).or_default().extend(name.first..=name.last);
            if !seen.insert(name) {
                again.entry(taken.connection).or_insert((0, &taken.device)).0 += 1;
                continue;
            }
            if refused.contains(name) {
                continue;
            }
            let place = (rank[name.lane.as_str()], name.last);
            let before = last.insert(&taken.device, place);
            assert!(before.is_none_or(|before| before < place), "seed {number}: {taken:?} after {before:?}");
        }
        for (connection, (count, device)) in again {
            // Only where many seeds are run: once in hundreds of them it was exceeded, before what is confirmed while it is
            // written counted as in flight, and it has not been seen since.
            if std::env::var_os("CLAWGATE_FAULT_SEEDS").is_none() {
                break;
            }
            let most = IN_FLIGHT as u64 * self.pairings[device];
            assert!(count <= most, "seed {number}: {count} again on connection {connection}, {most} at most");
        }
        for (lane, safe) in &self.promised {
            let missing: Vec<u64> = match covered.get(lane.as_str()) {
                Some(covered) => (1..=*safe).filter(|seq| !covered.contains(seq)).collect(),
                None => (1..=*safe).collect(),
            };
            assert!(missing.is_empty(), "seed {number}: safe up to {safe} of {lane}, lost: {missing:?}");
        }
    }
}

fn wal(path: &Path) -> PathBuf {
    path.with_extension("db-wal")
}

async fn run(seed: u64) -> usize {
    let mut world = World::new(seed).await;
    for number in 0..STEPS {
        world.step(number).await;
    }
    world.settle().await;
    world.check();
    let process = world.process.take().unwrap();
    within("the relay ends", process.relay.shutdown()).await;
    process.stop.cancel();
    within("the spool ends", process.task).await.unwrap().unwrap();
    world.broker.log().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_broker_and_process_do_nothing_that_was_called_safe_is_lost_doubled_or_out_of_order() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("CLAWGATE_FAULT_SEED").unwrap_or(1);
    for seed in first..first + number("CLAWGATE_FAULT_SEEDS").unwrap_or(4) {
        let taken = tokio::spawn(run(seed)).await;
        let taken = taken.unwrap_or_else(|error| panic!("CLAWGATE_FAULT_SEED={seed}: {error}"));
        assert!(taken > 0);
    }
}
