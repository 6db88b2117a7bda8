//! The same work for every subject: rest, 200 readings a second, flood, many sensors, an outage with a kill in it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::broker::Broker;
use crate::line::{Pace, Sent};
use crate::options::Options;
use crate::process::{Memory, Usage};
use crate::receiver::{Arrival, Receiver};
use crate::report::real;
use crate::subject::{Gateway, Site, Subject};
use crate::{Outcome, say};

/// Rate of the latency measurement.
const STEADY_PER_S: u32 = 200;
/// Rate of the outage measurement.
const OUTAGE_PER_S: u32 = 100;
/// Rate of each of many sensors.
const MANY_PER_S: u32 = 10;
/// A gateway that delivers nothing for so long has nothing left to deliver.
const QUIET: Duration = Duration::from_secs(4);
/// Time to come to rest before memory at rest is read.
const REST: Duration = Duration::from_secs(2);

/// What one subject did.
#[derive(Serialize)]
pub(crate) struct Figures {
    /// Whose figures these are.
    pub(crate) subject: &'static str,
    /// As many readings as it takes.
    pub(crate) flood: Flood,
    /// At 200 readings a second.
    pub(crate) steady: Steady,
    /// With one sensor.
    pub(crate) one: Footprint,
    /// With many sensors.
    pub(crate) many: Footprint,
    /// The broker away, the gateway killed.
    pub(crate) outage: Outage,
}

/// Figures of the floods.
#[derive(Serialize)]
pub(crate) struct Flood {
    /// Readings a second at the broker, median of the floods.
    pub(crate) per_s: f64,
    /// Each flood's rate.
    pub(crate) each_per_s: Vec<f64>,
    /// CPU time of the gateway a reading, all floods.
    pub(crate) cpu_us_per_reading: f64,
    /// Bytes written to disk a reading, all floods.
    pub(crate) disk_bytes_per_reading: f64,
}

/// Figures at 200 readings a second.
#[derive(Serialize)]
pub(crate) struct Steady {
    /// Median of sensor to subscriber.
    pub(crate) p50_ms: f64,
    /// 99th percentile of the same.
    pub(crate) p99_ms: f64,
    /// The longest.
    pub(crate) max_ms: f64,
    /// CPU time of the gateway a reading.
    pub(crate) cpu_us_per_reading: f64,
    /// Bytes written to disk a reading.
    pub(crate) disk_bytes_per_reading: f64,
}

/// Memory of all programs of the gateway.
#[derive(Serialize)]
pub(crate) struct Footprint {
    /// Sensors connected.
    pub(crate) devices: usize,
    /// Nothing to do.
    pub(crate) idle: Memory,
    /// The most that was seen under load.
    pub(crate) load: Memory,
}

/// Figures of the outage.
#[derive(Serialize)]
pub(crate) struct Outage {
    /// How long the broker was away.
    pub(crate) seconds: u64,
    /// Distinct readings that the sensor made.
    pub(crate) made: usize,
    /// Of these, acknowledged to the sensor.
    pub(crate) acknowledged: usize,
    /// Of these, never received: lost.
    pub(crate) lost: usize,
    /// Made and not received, acknowledged or not.
    pub(crate) missing: usize,
    /// Deliveries beyond the first of a reading.
    pub(crate) duplicates: usize,
    /// Bytes written to disk a reading made.
    pub(crate) disk_bytes_per_reading: f64,
}

/// Readings of a feed's first second do not count for latency: sensors are still connecting.
const RUN_IN_NS: u64 = 1_000_000_000;
/// How long the outage measurement feeds before and after the outage.
const EDGE: Duration = Duration::from_secs(5);

/// Everything about one subject.
///
/// # Errors
/// It did not come up or a step failed.
pub(crate) fn measure(subject: &dyn Subject, options: &Options) -> Outcome<Figures> {
    let name = subject.name();
    say(&format!("{name}: one sensor"));
    let mut bed = Bed::start(subject, options, |site| subject.start(site, 1))?;
    std::thread::sleep(REST);
    let idle = bed.gateway.memory();
    let steady = steady(&mut bed, options)?;
    let (flood, load) = floods(&mut bed, options)?;
    bed.end()?;

    say(&format!("{name}: {} sensors", options.many()));
    let many = many(subject, options)?;
    say(&format!("{name}: {} s of outage with a kill in it", options.outage().as_secs()));
    let outage = outage(subject, options)?;
    Ok(Figures { subject: name, flood, steady, one: Footprint { devices: 1, idle, load }, many, outage })
}

/// A broker, a receiver and a gateway with its sensors.
pub(crate) struct Bed<G: Gateway + ?Sized = dyn Gateway> {
    broker: Broker,
    /// The subscriber at the main broker.
    pub(crate) receiver: Receiver,
    /// The gateway and its sensors.
    pub(crate) gateway: Box<G>,
}

impl<G: Gateway + ?Sized> Bed<G> {
    /// Starts broker and receiver afresh, then the gateway with `start`.
    ///
    /// # Errors
    /// One of them does not come up.
    pub(crate) fn start(
        subject: &dyn Subject,
        options: &Options,
        start: impl FnOnce(&Site) -> Outcome<Box<G>>,
    ) -> Outcome<Self> {
        let dir = options.work.join(subject.name());
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir_all(&dir)?;
        let broker = Broker::start(&dir)?;
        let receiver = Receiver::start(broker.address, subject.identify())?;
        let gateway = start(&Site { dir, broker: broker.address })?;
        Ok(Self { broker, receiver, gateway })
    }

    /// Feeds for a while and waits until everything arrived.
    fn feed_for(&mut self, pace: Pace, time: Duration) -> Outcome<Fed> {
        let before = self.gateway.usage();
        let mut most = Memory::default();
        let started = Instant::now();
        self.gateway.feed(pace, time)?;
        while started.elapsed() < time {
            std::thread::sleep(Duration::from_millis(100));
            let now = self.gateway.memory();
            if now.rss_kib > most.rss_kib {
                most = now;
            }
        }
        let sent = self.gateway.end_feed()?;
        self.receiver.settle(sent.iter().filter(|sent| sent.acknowledged).count(), QUIET);
        Ok(Fed { sent, arrived: self.receiver.take(), used: self.gateway.usage().since(before), most })
    }

    /// Lets time pass; what ends by itself is started again.
    fn keep_alive_for(&mut self, time: Duration) -> Outcome<()> {
        let started = Instant::now();
        while started.elapsed() < time {
            for service in self.gateway.services() {
                service.keep_alive()?;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Ends everything in order.
    ///
    /// # Errors
    /// Something did not end.
    pub(crate) fn end(mut self) -> Outcome<()> {
        for service in self.gateway.services() {
            service.stop()?;
        }
        self.receiver.stop()?;
        self.broker.pause()
    }
}

/// What came of one feed.
struct Fed {
    sent: Vec<Sent>,
    arrived: Vec<Arrival>,
    used: Usage,
    most: Memory,
}

impl Fed {
    /// Readings a second at the receiver, from the first arrival to the last.
    fn per_s(&self) -> Outcome<f64> {
        let (Some(first), Some(last)) = (self.arrived.first(), self.arrived.last()) else {
            return Err("nothing arrived at the broker".into());
        };
        Ok(count(self.arrived.len()) / Duration::from_nanos(last.at_ns - first.at_ns).as_secs_f64())
    }

    /// From the sensor's note to the receiver, in milliseconds, sorted.
    fn latencies_ms(&self) -> Vec<f64> {
        let from_ns = self.sent.iter().map(|sent| sent.at_ns).min().unwrap_or(0) + RUN_IN_NS;
        let late = self.sent.iter().filter(|sent| sent.at_ns >= from_ns);
        let made: HashMap<_, _> = late.map(|sent| (sent.identity, sent.at_ns)).collect();
        let mut all: Vec<f64> = self
            .arrived
            .iter()
            .filter_map(|arrival| Some(arrival.at_ns.saturating_sub(*made.get(&arrival.identity)?)))
            .map(|ns| Duration::from_nanos(ns).as_secs_f64() * 1e3)
            .collect();
        all.sort_by(f64::total_cmp);
        all
    }
}

fn steady(bed: &mut Bed, options: &Options) -> Outcome<Steady> {
    let fed = bed.feed_for(Pace::PerSecond(STEADY_PER_S), options.steady())?;
    let latencies = fed.latencies_ms();
    let at = |percent: usize| latencies.get((latencies.len() * percent / 100).min(latencies.len() - 1)).copied();
    let max_ms = latencies.last().copied().ok_or("nothing arrived at 200 readings a second")?;
    Ok(Steady {
        p50_ms: at(50).unwrap_or(max_ms),
        p99_ms: at(99).unwrap_or(max_ms),
        max_ms,
        cpu_us_per_reading: real(fed.used.cpu_us) / count(fed.arrived.len()),
        disk_bytes_per_reading: real(fed.used.disk_bytes) / count(fed.arrived.len()),
    })
}

fn floods(bed: &mut Bed, options: &Options) -> Outcome<(Flood, Memory)> {
    let mut each_per_s = Vec::new();
    let (mut used, mut arrived, mut most) = (Usage::default(), 0, Memory::default());
    for _ in 0..options.floods() {
        let fed = bed.feed_for(Pace::Flood, options.flood())?;
        each_per_s.push(fed.per_s()?);
        used = used.plus(fed.used);
        arrived += fed.arrived.len();
        most = if fed.most.rss_kib > most.rss_kib { fed.most } else { most };
    }
    let mut sorted = each_per_s.clone();
    sorted.sort_by(f64::total_cmp);
    let flood = Flood {
        per_s: sorted[sorted.len() / 2],
        each_per_s,
        cpu_us_per_reading: real(used.cpu_us) / count(arrived),
        disk_bytes_per_reading: real(used.disk_bytes) / count(arrived),
    };
    Ok((flood, most))
}

fn many(subject: &dyn Subject, options: &Options) -> Outcome<Footprint> {
    let mut bed = Bed::start(subject, options, |site| subject.start(site, options.many()))?;
    std::thread::sleep(REST);
    let idle = bed.gateway.memory();
    let fed = bed.feed_for(Pace::PerSecond(MANY_PER_S), options.flood())?;
    bed.end()?;
    Ok(Footprint { devices: options.many(), idle, load: fed.most })
}

/// Five seconds of feeding, the broker stops, in the middle of its absence every program of the gateway is killed
/// and started again, the broker comes back, five more seconds of feeding.
fn outage(subject: &dyn Subject, options: &Options) -> Outcome<Outage> {
    let mut bed = Bed::start(subject, options, |site| subject.start(site, 1))?;
    let before = bed.gateway.usage();
    bed.gateway.feed(Pace::PerSecond(OUTAGE_PER_S), options.outage() + EDGE * 2)?;
    bed.keep_alive_for(EDGE)?;
    bed.broker.pause()?;
    bed.keep_alive_for(options.outage() / 2)?;
    for service in bed.gateway.services() {
        service.kill_and_restart()?;
    }
    bed.keep_alive_for(options.outage() / 2)?;
    bed.broker.resume()?;
    bed.keep_alive_for(EDGE)?;
    let sent = bed.gateway.end_feed()?;
    bed.receiver.settle(usize::MAX, QUIET);
    let used = bed.gateway.usage().since(before);
    let arrived = bed.receiver.take();
    bed.end()?;

    let received: HashSet<_> = arrived.iter().map(|arrival| arrival.identity).collect();
    let made: HashSet<_> = sent.iter().map(|sent| sent.identity).collect();
    let acknowledged: HashSet<_> = sent.iter().filter(|sent| sent.acknowledged).map(|sent| sent.identity).collect();
    Ok(Outage {
        seconds: options.outage().as_secs(),
        made: made.len(),
        acknowledged: acknowledged.len(),
        lost: acknowledged.difference(&received).count(),
        missing: made.difference(&received).count(),
        duplicates: arrived.len() - received.len(),
        disk_bytes_per_reading: real(used.disk_bytes) / count(made.len()),
    })
}

fn count(readings: usize) -> f64 {
    real(readings as u64)
}
