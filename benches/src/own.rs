//! What only clawgate is asked: how full it keeps a serial line, what a pairing costs on it, its cold start, its size.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::clawgate::{Clawgate, Paired};
use crate::line::{Pace, READING};
use crate::options::Options;
use crate::receiver::Arrival;
use crate::report::real;
use crate::scenario::Bed;
use crate::simulator::Line;
use crate::subject::Gateway as _;
use crate::tap::{BITS_A_BYTE, Tap, Traffic};
use crate::{Outcome, say};

/// Line rates that are measured, and whether the sensor does suite 1 only.
const LINES: [(u32, bool); 2] = [(115_200, true), (3_000_000, false)];
/// Type bytes of M1 to M6.
const PAIRING: std::ops::RangeInclusive<u8> = 0x11..=0x16;
/// Cold starts; the median is reported.
const STARTS: usize = 5;
/// A sensor that was switched off and on delivers again within this time.
const STARTS_WITHIN: Duration = Duration::from_secs(30);
/// Then the line fills for so long before it is measured.
const FILL: Duration = Duration::from_secs(3);
/// Arrivals so close belong to one record.
const ONE_RECORD_NS: u64 = 5_000_000;

/// All of it.
#[derive(Serialize)]
pub(crate) struct Own {
    /// One entry a line rate.
    uart: Vec<Uart>,
    /// One entry a suite.
    pairing: Vec<Pairing>,
    /// From the start of the process, state and one device there, to its `READY=1`; median.
    cold_start_ms: f64,
    /// The program's size.
    binary_bytes: u64,
}

/// A sensor that floods a line of a given rate.
#[derive(Serialize)]
struct Uart {
    baud: u32,
    /// Bytes of readings that arrived at the broker, as a share of what the line could carry.
    payload_share: f64,
    /// Bytes on the wire from the sensor, as the same share.
    busy_share: f64,
    /// Readings a second.
    per_s: f64,
}

/// M1 to M6 on the wire.
#[derive(Serialize)]
struct Pairing {
    suite: u8,
    messages: u64,
    /// Without framing.
    bytes: u64,
}

/// Measures it all.
///
/// # Errors
/// A step failed.
pub(crate) fn measure(clawgate: &Clawgate, options: &Options) -> Outcome<Own> {
    let (mut uart, mut pairing) = (Vec::new(), Vec::new());
    for (baud, suite1) in LINES {
        say(&format!("clawgate: a line of {baud} baud"));
        let (line, paired) = on_line(clawgate, options, baud, suite1)?;
        uart.push(line);
        pairing.push(paired);
    }
    say("clawgate: cold start");
    let cold_start_ms = cold_start(clawgate, options)?;
    Ok(Own { uart, pairing, cold_start_ms, binary_bytes: std::fs::metadata(&clawgate.program)?.len() })
}

fn on_line(clawgate: &Clawgate, options: &Options, baud: u32, suite1: bool) -> Outcome<(Uart, Pairing)> {
    let tap = Tap::open(baud)?;
    let line = Line::Port { sensor: tap.sensor_path().into(), gateway: tap.gateway_path().into(), baud };
    let mut bed = Bed::start(clawgate, options, |site| clawgate.start_on(site, vec![line], suite1).map(Box::new))?;
    let pairing = pairing(&tap.traffic(), if suite1 { 1 } else { 2 });

    bed.receiver.take();
    bed.gateway.feed(Pace::Flood, options.line() + FILL)?;
    bed.receiver.wait_any(STARTS_WITHIN)?;
    std::thread::sleep(FILL);
    bed.receiver.take();
    let (before, started) = (tap.traffic().up_bytes, Instant::now());
    std::thread::sleep(options.line());
    let passed = tap.traffic().up_bytes - before;
    let carries = f64::from(baud / BITS_A_BYTE) * started.elapsed().as_secs_f64();
    let per_s = per_s(&bed.receiver.take())?;
    bed.gateway.end_feed()?;
    bed.end()?;
    tap.close()?;
    let payload_share = per_s * real(READING as u64) / f64::from(baud / BITS_A_BYTE);
    Ok((Uart { baud, payload_share, busy_share: real(passed) / carries, per_s }, pairing))
}

/// Arrivals a second. They come in records: from the first one, not counted, to the last.
fn per_s(arrivals: &[Arrival]) -> Outcome<f64> {
    let (Some(first), Some(last)) = (arrivals.first(), arrivals.last()) else {
        return Err("nothing arrived over the line".into());
    };
    let counted = arrivals.iter().filter(|arrival| arrival.at_ns > first.at_ns + ONE_RECORD_NS).count();
    Ok(real(counted as u64) / Duration::from_nanos(last.at_ns - first.at_ns).as_secs_f64())
}

fn pairing(traffic: &Traffic, suite: u8) -> Pairing {
    let all = traffic.messages.range(PAIRING).map(|(_, passed)| passed);
    let (messages, bytes) = all.fold((0, 0), |sum, (count, bytes)| (sum.0 + count, sum.1 + bytes));
    Pairing { suite, messages, bytes }
}

fn cold_start(clawgate: &Clawgate, options: &Options) -> Outcome<f64> {
    let mut bed: Bed<Paired> = Bed::start(clawgate, options, |site| clawgate.start_lines(site, 1).map(Box::new))?;
    let mut times = Vec::new();
    for _ in 0..STARTS {
        for service in bed.gateway.services() {
            service.stop()?;
        }
        let asked = Instant::now();
        let mut service = bed.gateway.daemon.start_ready()?;
        times.push(asked.elapsed());
        service.stop()?;
    }
    bed.end()?;
    times.sort();
    Ok(times[STARTS / 2].as_secs_f64() * 1e3)
}

impl Own {
    /// A table beside the one with the peers.
    pub(crate) fn table(&self) -> String {
        let mut rows = vec![(" ".to_owned(), "clawgate".to_owned()), ("---".to_owned(), "---:".to_owned())];
        for uart in &self.uart {
            let share = format!("{:.1} % ({:.0} readings/s)", uart.payload_share * 100.0, uart.per_s);
            rows.push((format!("readings of {READING} bytes at {} baud, share of the line rate", uart.baud), share));
            let busy = format!("{:.1} %", uart.busy_share * 100.0);
            rows.push((format!("wire busy at {} baud", uart.baud), busy));
        }
        for Pairing { suite, messages, bytes } in &self.pairing {
            rows.push((format!("pairing, suite {suite}"), format!("{bytes} bytes in {messages} messages")));
        }
        rows.push(("cold start to ready".to_owned(), format!("{:.0} ms", self.cold_start_ms)));
        rows.push(("binary".to_owned(), format!("{:.1} MB", real(self.binary_bytes) / 1e6)));
        rows.into_iter().fold(String::new(), |table, (what, value)| table + &format!("| {what} | {value} |\n"))
    }
}
