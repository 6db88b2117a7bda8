//! Programs under measurement: started, killed and restarted by pid, weighed through `/proc`.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::Outcome;

/// How long after its start a service that ended is started again, as a service manager would.
const RESTART: Duration = Duration::from_secs(1);
/// How long an orderly end may take.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// What processes have used since they started.
#[derive(Clone, Copy, Default, Serialize)]
pub(crate) struct Usage {
    /// User and system time, microseconds.
    pub(crate) cpu_us: u64,
    /// Bytes that went (or will go) to a disk.
    pub(crate) disk_bytes: u64,
}

impl Usage {
    /// The sum of two.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { cpu_us: self.cpu_us + other.cpu_us, disk_bytes: self.disk_bytes + other.disk_bytes }
    }

    /// What came after `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            cpu_us: self.cpu_us.saturating_sub(earlier.cpu_us),
            disk_bytes: self.disk_bytes.saturating_sub(earlier.disk_bytes),
        }
    }
}

/// Memory of processes, in KiB.
#[derive(Clone, Copy, Default, Serialize)]
pub(crate) struct Memory {
    /// Resident; a page that two processes share counts twice.
    pub(crate) rss_kib: u64,
    /// Resident, shared pages divided among those who share them.
    pub(crate) pss_kib: u64,
}

impl Memory {
    /// The sum of two.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { rss_kib: self.rss_kib + other.rss_kib, pss_kib: self.pss_kib + other.pss_kib }
    }
}

/// One program that is kept running.
pub(crate) struct Service {
    command: Box<dyn FnMut() -> Outcome<Command>>,
    child: Child,
    started: Instant,
    /// Used by earlier lives.
    past: Usage,
}

impl Service {
    /// Starts the program that `command` describes; it is asked again at each restart.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(crate) fn start(mut command: impl FnMut() -> Outcome<Command> + 'static) -> Outcome<Self> {
        let child = spawn(command()?)?;
        Ok(Self { command: Box::new(command), child, started: Instant::now(), past: Usage::default() })
    }

    /// Kills it without warning and starts it again.
    ///
    /// # Errors
    /// It cannot be started again.
    pub(crate) fn kill_and_restart(&mut self) -> Outcome<()> {
        self.past = self.usage();
        self.child.kill()?;
        self.child.wait()?;
        self.restart()
    }

    /// Starts it again if it ended by itself, at most once a second.
    ///
    /// # Errors
    /// It cannot be started again.
    pub(crate) fn keep_alive(&mut self) -> Outcome<()> {
        if self.started.elapsed() >= RESTART && self.child.try_wait()?.is_some() {
            self.restart()?;
        }
        Ok(())
    }

    fn restart(&mut self) -> Outcome<()> {
        self.child = spawn((self.command)()?)?;
        self.started = Instant::now();
        Ok(())
    }

    /// What it used, earlier lives included.
    pub(crate) fn usage(&self) -> Usage {
        self.past.plus(usage(self.child.id()).unwrap_or_default())
    }

    /// What it holds now.
    pub(crate) fn memory(&self) -> Memory {
        memory(self.child.id()).unwrap_or_default()
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// It did not end in time and was killed.
    pub(crate) fn stop(&mut self) -> Outcome<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        if let Some(pid) = Pid::from_raw(i32::try_from(self.child.id())?) {
            kill_process(pid, Signal::TERM)?;
        }
        let asked = Instant::now();
        while self.child.try_wait()?.is_none() {
            if asked.elapsed() > STOP_LIMIT {
                self.child.kill()?;
                self.child.wait()?;
                return Err("a program did not end within 15 s of being asked".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(mut command: Command) -> Outcome<Child> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.spawn().map_err(|error| format!("cannot start {program}: {error}").into())
}

fn usage(pid: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may hold anything, in parentheses: utime and stime are fields 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    let cpu_us = ticks * 1_000_000 / rustix::param::clock_ticks_per_second();
    let disk_bytes = value(&fs::read_to_string(format!("/proc/{pid}/io")).ok()?, "write_bytes:")?;
    Some(Usage { cpu_us, disk_bytes })
}

fn memory(pid: u32) -> Option<Memory> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    Some(Memory { rss_kib: value(&rollup, "Rss:")?, pss_kib: value(&rollup, "Pss:")? })
}

fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}

/// A loopback port that nobody uses now.
///
/// # Errors
/// The system has none.
pub(crate) fn free_port() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Waits until somebody listens.
///
/// # Errors
/// Nobody did within 10 s.
pub(crate) fn wait_listening(address: SocketAddr) -> Outcome<()> {
    let asked = Instant::now();
    while TcpStream::connect(address).is_err() {
        if asked.elapsed() > Duration::from_secs(10) {
            return Err(format!("nothing listens on {address} after 10 s").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
