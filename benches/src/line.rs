//! The sensor of the peers: it writes lines of 100 bytes to serial lines and notes what it handed over.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::Outcome;
use crate::mqtt::Publish;
use crate::receiver::Identity;

/// Bytes of a reading: of a line with its line feed, and of a SenML pack.
pub(crate) const READING: usize = 100;
/// Lines made at once in a flood.
const BURST: u32 = 32;
/// How long a sensor that was told to stop still tries to hand over what it holds.
const PATIENCE: Duration = Duration::from_secs(20);

/// Nanoseconds since 1970, the clock that sensors' and receiver's notes share.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// How fast each sensor makes readings.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// As fast as the line takes them.
    Flood,
    /// So many a second.
    PerSecond(u32),
}

/// A reading as its sensor noted it.
#[derive(Clone, Copy)]
pub(crate) struct Sent {
    /// Which reading.
    pub(crate) identity: Identity,
    /// When it was made, ns since 1970.
    pub(crate) at_ns: u64,
    /// Whether the sensor may forget it: for these lines, that the serial line took it.
    pub(crate) acknowledged: bool,
}

/// The identity that a line carries.
pub(crate) fn identify(publish: &Publish<'_>) -> Option<Identity> {
    let mut words = std::str::from_utf8(publish.payload).ok()?.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

fn put_line(to: &mut VecDeque<u8>, device: u64, seq: u64) {
    let text = format!("{device} {seq} ");
    to.extend(format!("{text:x<width$}\n", width = READING - 1).as_bytes());
}

struct Sensor {
    port: File,
    device: u64,
    made: u64,
    /// Readings of `sent` that are wholly handed over.
    handed: usize,
    waiting: VecDeque<u8>,
    sent: Vec<Sent>,
}

impl Sensor {
    fn make(&mut self) {
        self.made += 1;
        put_line(&mut self.waiting, self.device, self.made);
        self.sent.push(Sent { identity: (self.device, self.made), at_ns: now_ns(), acknowledged: false });
    }

    /// Writes what the line takes now; whether anything was written.
    fn hand_over(&mut self) -> io::Result<bool> {
        let written = match self.port.write(self.waiting.make_contiguous()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            other => other?,
        };
        self.waiting.drain(..written);
        let handed = self.sent.len() - self.waiting.len().div_ceil(READING);
        for sent in &mut self.sent[self.handed..handed] {
            sent.acknowledged = true;
        }
        self.handed = handed;
        Ok(written > 0)
    }
}

/// Sensors at work, one a line, all in one thread.
pub(crate) struct Feed {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Vec<Sent>>>,
}

impl Feed {
    /// Starts sensors at the near ends of `ports`; each numbers its readings on from `made`.
    ///
    /// # Errors
    /// A port cannot be used.
    pub(crate) fn start<'a>(ports: impl Iterator<Item = &'a File>, made: u64, pace: Pace) -> Outcome<Self> {
        let mut sensors = Vec::new();
        for (device, port) in (0..).zip(ports) {
            fcntl_setfl(port, fcntl_getfl(port)? | OFlags::NONBLOCK)?;
            let (port, sent, waiting) = (port.try_clone()?, Vec::with_capacity(1 << 16), VecDeque::new());
            sensors.push(Sensor { port, device, made, handed: 0, waiting, sent });
        }
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            match pace {
                Pace::Flood => flood(&mut sensors, &told)?,
                Pace::PerSecond(rate) => steady(&mut sensors, rate, &told)?,
            }
            let deadline = Instant::now() + PATIENCE;
            for sensor in &mut sensors {
                while !sensor.waiting.is_empty() && Instant::now() < deadline {
                    if !sensor.hand_over()? {
                        wait_writable(&sensor.port)?;
                    }
                }
            }
            Ok(sensors.into_iter().flat_map(|sensor| sensor.sent).collect())
        });
        Ok(Self { stop, thread })
    }

    /// Ends the making of readings, lets the sensors hand over what they hold, and returns their notes.
    ///
    /// # Errors
    /// A port failed.
    pub(crate) fn stop(self) -> Outcome<Vec<Sent>> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| "a line sensor panicked")??)
    }
}

fn flood(sensors: &mut [Sensor], stop: &AtomicBool) -> io::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let mut moved = false;
        for sensor in &mut *sensors {
            if sensor.waiting.len() < READING {
                (0..BURST).for_each(|_| sensor.make());
            }
            moved |= sensor.hand_over()?;
        }
        if let (false, [only]) = (moved, &*sensors) {
            wait_writable(&only.port)?;
        }
    }
    Ok(())
}

fn steady(sensors: &mut [Sensor], rate: u32, stop: &AtomicBool) -> io::Result<()> {
    let gap = Duration::from_secs(1) / rate / u32::try_from(sensors.len()).unwrap_or(1);
    let mut due = Instant::now();
    loop {
        // One after the other, so that a hundred sensors do not speak in one breath.
        for sensor in &mut *sensors {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            due += gap;
            sensor.make();
            sensor.hand_over()?;
        }
    }
}

fn wait_writable(port: &File) -> io::Result<()> {
    let limit = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    poll(&mut [PollFd::new(port, PollFlags::OUT)], Some(&limit))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_100_bytes_and_names_its_reading() {
        let mut line = VecDeque::new();
        put_line(&mut line, 7, 123_456);
        assert_eq!(line.len(), READING);
        assert!(line.make_contiguous().starts_with(b"7 123456 x"));
        assert_eq!(line.back(), Some(&b'\n'));
    }
}
