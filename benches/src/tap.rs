//! A serial line at a given rate: two ptys and a pump between them that carries no more than a wire would, and
//! counts what passes.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clawgate_protocol::frame::uart::{Decoder, MAX_ENCODED};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::Outcome;
use crate::pty::Pty;

/// Start bit, eight data bits, stop bit.
pub(crate) const BITS_A_BYTE: u32 = 10;
/// How often a direction moves bytes while it is busy.
const TICK: Duration = Duration::from_millis(5);
/// A sleep that was too long is made up for within this time, so that the mean rate is the line's.
const CREDIT: Duration = Duration::from_millis(250);

/// How long an idle or blocked direction goes without looking whether it should end.
const LIMIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// What passed since the line was opened.
#[derive(Clone, Default)]
pub(crate) struct Traffic {
    /// Bytes on the wire from the sensor.
    pub(crate) up_bytes: u64,
    /// Messages of both directions by their type byte: how many, and their bytes without framing.
    pub(crate) messages: BTreeMap<u8, (u64, u64)>,
}

/// The line.
pub(crate) struct Tap {
    sensor: Pty,
    gateway: Pty,
    stop: Arc<AtomicBool>,
    traffic: Arc<Mutex<Traffic>>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Tap {
    /// A line of so many baud.
    ///
    /// # Errors
    /// The system gives no ptys.
    pub(crate) fn open(baud: u32) -> Outcome<Self> {
        let (sensor, gateway) = (Pty::open()?, Pty::open()?);
        let stop = Arc::new(AtomicBool::new(false));
        let traffic = Arc::<Mutex<Traffic>>::default();
        let mut threads = Vec::new();
        for (from, to, is_up) in [(&sensor, &gateway, true), (&gateway, &sensor, false)] {
            let (from, to) = (from.near.try_clone()?, to.near.try_clone()?);
            fcntl_setfl(&to, fcntl_getfl(&to)? | OFlags::NONBLOCK)?;
            let (traffic, stop) = (Arc::clone(&traffic), Arc::clone(&stop));
            threads.push(std::thread::spawn(move || {
                pump(from, to, baud, &stop, |bytes, kinds| {
                    let mut traffic = lock(&traffic);
                    if is_up {
                        traffic.up_bytes += bytes;
                    }
                    for (kind, length) in kinds {
                        let (count, bytes) = traffic.messages.entry(*kind).or_default();
                        *count += 1;
                        *bytes += length;
                    }
                })
            }));
        }
        Ok(Self { sensor, gateway, stop, traffic, threads })
    }

    /// Where the sensor connects.
    pub(crate) fn sensor_path(&self) -> &Path {
        &self.sensor.path
    }

    /// Where the gateway connects.
    pub(crate) fn gateway_path(&self) -> &Path {
        &self.gateway.path
    }

    /// What passed so far.
    pub(crate) fn traffic(&self) -> Traffic {
        lock(&self.traffic).clone()
    }

    /// Ends the pump.
    ///
    /// # Errors
    /// A pty failed.
    pub(crate) fn close(self) -> Outcome<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| "a pump of a serial line panicked")??;
        }
        Ok(())
    }
}

fn lock(traffic: &Mutex<Traffic>) -> MutexGuard<'_, Traffic> {
    traffic.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Moves bytes at the line's rate: what a tick would carry, then waits until the wire would be free again.
fn pump(
    mut from: impl Read + AsFd,
    mut to: impl Write + AsFd,
    baud: u32,
    stop: &AtomicBool,
    note: impl Fn(u64, &[(u8, u64)]),
) -> io::Result<()> {
    let byte_time = Duration::from_secs(1) * BITS_A_BYTE / baud;
    let a_tick = TICK.as_nanos().div_ceil(byte_time.as_nanos().max(1));
    let mut buffer = vec![0; usize::try_from(a_tick).unwrap_or(1)];
    let mut decoder = Box::new(Decoder::<MAX_ENCODED>::new());
    let mut free_at = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if poll(&mut [PollFd::new(&from, PollFlags::IN)], Some(&LIMIT))? == 0 {
            continue;
        }
        let length = from.read(&mut buffer)?;
        let bytes = &buffer[..length];
        let start = Instant::now().checked_sub(CREDIT).map_or(free_at, |earliest| free_at.max(earliest));
        free_at = start + byte_time * u32::try_from(length).unwrap_or(u32::MAX);
        std::thread::sleep(free_at.saturating_duration_since(Instant::now()));
        write_all(&mut to, bytes, stop)?;

        let (mut rest, mut kinds) = (bytes, Vec::new());
        while let Some(frame) = decoder.decode(&mut rest) {
            if let Ok(payload) = frame.map(|frame| frame.payload) {
                kinds.extend(payload.first().map(|kind| (*kind, payload.len() as u64)));
            }
        }
        note(length as u64, &kinds);
    }
    Ok(())
}

/// Writes all of `bytes`, however long the far end takes, unless told to stop.
fn write_all(to: &mut (impl Write + AsFd), mut bytes: &[u8], stop: &AtomicBool) -> io::Result<()> {
    while !bytes.is_empty() && !stop.load(Ordering::Relaxed) {
        match to.write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(to, PollFlags::OUT)], Some(&LIMIT))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
