//! The subject itself: the daemon with simulated sensors, paired through its command line.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::line::{Pace, Sent};
use crate::mqtt::Publish;
use crate::notify::Notify;
use crate::process::Service;
use crate::receiver::{Identify, Identity};
use crate::simulator::{self, Line, Simulator, Work};
use crate::subject::{Gateway, Site, Subject};

/// Exit code of a verb that did not find what it was given.
const NOT_FOUND: i32 = 3;
/// A sensor on a line is found within this time.
const FOUND_WITHIN: Duration = Duration::from_secs(10);

/// The daemon and the simulator, as built.
#[derive(Clone)]
pub(crate) struct Clawgate {
    /// The daemon and its command line.
    pub(crate) program: PathBuf,
    /// The sensor.
    pub(crate) simulator: PathBuf,
}

impl Clawgate {
    /// As this workspace builds them.
    pub(crate) fn built() -> Self {
        let release = Path::new("target/release");
        Self { program: release.join("clawgate"), simulator: release.join("clawgate-simulator") }
    }

    /// Starts a daemon with so many sensors, each on a line of its own, and pairs them all.
    ///
    /// # Errors
    /// As [`Self::start_on`].
    pub(crate) fn start_lines(&self, site: &Site, devices: usize) -> Outcome<Paired> {
        let lines = (0..devices).map(|at| Line::Own(site.dir.join(format!("line-{at}")))).collect();
        self.start_on(site, lines, false)
    }

    /// Starts a daemon with a sensor on each line, and pairs them all.
    ///
    /// # Errors
    /// The daemon does not come up, or a pairing fails.
    pub(crate) fn start_on(&self, site: &Site, lines: Vec<Line>, suite1: bool) -> Outcome<Paired> {
        let mut sensors = Vec::new();
        let mut ports = String::new();
        for (at, line) in lines.into_iter().enumerate() {
            let (path, baud) = match &line {
                Line::Own(link) => (link.clone(), 115_200),
                Line::Port { gateway, baud, .. } => (gateway.clone(), *baud),
            };
            let _ = write!(ports, "[uart.ports.line-{at}]\npath = \"{}\"\nbaud = {baud}\n", path.display());
            let mut sensor = Simulator::new(&self.simulator, line, &site.dir, &format!("sensor-{at}"), suite1);
            sensor.start(Work::Tick)?;
            sensors.push(sensor);
        }
        let daemon = Daemon::configure(&self.program, site, &ports)?;
        let service = daemon.start_ready()?;
        for (at, sensor) in sensors.iter_mut().enumerate() {
            let code = sensor.wait_for("label ")?;
            sensor.wait_for("line ")?;
            sensor.command("button")?;
            daemon.pair(&format!("line-{at}"), &format!("sensor-{at}"), &code)?;
        }
        let mut paired = Paired { daemon, services: [service], sensors, pace: Pace::Flood };
        paired.work(Work::Rest)?;
        Ok(paired)
    }
}

impl Subject for Clawgate {
    fn name(&self) -> &'static str {
        "clawgate"
    }

    fn identify(&self) -> Identify {
        identify
    }

    fn start(&self, site: &Site, devices: usize) -> Outcome<Box<dyn Gateway>> {
        Ok(Box::new(self.start_lines(site, devices)?))
    }
}

/// The identity that a published reading carries in its CloudEvents `id`.
fn identify(publish: &Publish<'_>) -> Option<Identity> {
    if !publish.topic.ends_with(b"/up/telemetry") {
        return None;
    }
    simulator::identity(std::str::from_utf8(publish.user_property(b"id")?).ok()?)
}

/// How the daemon is started and spoken to.
pub(crate) struct Daemon {
    program: PathBuf,
    dir: PathBuf,
    socket: PathBuf,
}

impl Daemon {
    fn configure(program: &Path, site: &Site, ports: &str) -> Outcome<Self> {
        let (dir, socket) = (site.dir.clone(), site.dir.join("control.sock"));
        let text = format!(
            "state_dir = \"{}\"\n[gateway]\nid = \"bench\"\n[control]\nsocket = \"{}\"\n\
             [broker]\nurl = \"mqtt://{}\"\n[metrics]\nlisten = \"off\"\n\
             [issuer]\nlisten = \"127.0.0.1:0\"\n[log]\nlevel = \"warn\"\n{ports}",
            dir.join("state").display(),
            socket.display(),
            site.broker,
        );
        fs::write(dir.join("clawgate.toml"), text)?;
        Ok(Self { program: program.to_owned(), dir, socket })
    }

    /// Starts it and returns once it says that it is ready.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) fn start_ready(&self) -> Outcome<Service> {
        let notify = Notify::bind(&self.dir)?;
        let (program, dir, socket) = (self.program.clone(), self.dir.clone(), notify.path().to_owned());
        let service = Service::start(move || {
            let mut command = Command::new(&program);
            command.arg("run").arg("--config").arg(dir.join("clawgate.toml")).env("NOTIFY_SOCKET", &socket);
            let log = File::options().create(true).append(true).open(dir.join("clawgate.log"))?;
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            Ok(command)
        })?;
        notify.wait_ready().map_err(|error| format!("{error}; its log ends: {}", self.last_words()))?;
        Ok(service)
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.dir.join("clawgate.log")).unwrap_or_default();
        log.lines().last().unwrap_or("nothing").to_owned()
    }

    fn pair(&self, port: &str, name: &str, code: &str) -> Outcome<()> {
        let asked = Instant::now();
        let output = loop {
            let output = Command::new(&self.program)
                .args(["pair", port, "--name", name, "--socket"])
                .arg(&self.socket)
                .env("OPENCLAW_PAIRING_CODE", code)
                .stdin(Stdio::null())
                .output()?;
            if output.status.success() {
                return Ok(());
            }
            // The sensor may not have answered the first probe yet.
            if output.status.code() != Some(NOT_FOUND) || asked.elapsed() > FOUND_WITHIN {
                break output;
            }
        };
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!("pairing {name} failed ({}):\n{told}", output.status).into())
    }
}

/// A daemon with its paired sensors.
pub(crate) struct Paired {
    /// The daemon's side.
    pub(crate) daemon: Daemon,
    services: [Service; 1],
    sensors: Vec<Simulator>,
    pace: Pace,
}

impl Paired {
    fn work(&mut self, work: Work) -> Outcome<()> {
        for sensor in &mut self.sensors {
            sensor.stop()?;
            sensor.start(work)?;
        }
        Ok(())
    }
}

impl Gateway for Paired {
    fn services(&mut self) -> &mut [Service] {
        &mut self.services
    }

    fn feed(&mut self, pace: Pace, time: Duration) -> Outcome<()> {
        self.pace = pace;
        self.work(Work::Feed(pace, time))
    }

    fn end_feed(&mut self) -> Outcome<Vec<Sent>> {
        let mut all = Vec::new();
        for sensor in &mut self.sensors {
            // A sensor that floods never runs dry; one that has made its readings is heard out.
            if matches!(self.pace, Pace::PerSecond(_)) {
                sensor.wait_acknowledged()?;
            }
            sensor.stop()?;
            all.extend(sensor.notes()?);
        }
        self.work(Work::Rest)?;
        Ok(all)
    }
}
