//! Who plays: the daemon, the sensors and the subscriber, each a process of its own, and how they are paired.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::process::Process;
use super::received::Line;
use super::workshop::{SITE, SUBSCRIBER, Workshop};
use crate::cli::SIMULATOR;
use crate::cli::client::Client;
use crate::control::api::{PairLine, PairRequest, Status};
use crate::control::failure::Failure;

/// For a process to be ready.
const READY: Duration = Duration::from_secs(20);
/// For a sensor to say that it makes no more readings: those that it made after the count would pass for lost.
const SILENT: Duration = Duration::from_secs(15);
/// Between two readings of a sensor.
const EVERY: &str = "100ms";

/// What pairing tells while it goes on.
pub(super) enum Happening {
    /// Something to show.
    Said(String),
    /// A person does something at the sensor with that number.
    AtSensor(usize, String),
    /// A sensor is paired.
    Paired,
    /// A sensor is not, and why.
    Failed(String),
}

/// A simulated sensor with the code on its label.
#[derive(Debug)]
pub(super) struct Sensor {
    pub(super) process: Process,
    pub(super) number: usize,
    label: String,
}

impl Sensor {
    /// Starts the sensor with that number, and reads the label off it.
    pub(super) async fn start(workshop: &Workshop, number: usize) -> io::Result<Self> {
        let name = format!("sensor-{number}");
        let mut args = words(&[SIMULATOR, "--label", "random", "--until-eof", "--every", EVERY]);
        args.extend([OsString::from("--name"), format!("Demo {number}").into()]);
        args.extend([OsString::from("--pty"), workshop.line(number).into()]);
        args.extend([OsString::from("--log"), workshop.sensor_log(number).into()]);
        let mut process = Process::start(&name, workshop.path(), args)?;
        let label = timeout(READY, async {
            loop {
                match process.line().await {
                    Some(line) => {
                        if let Some(label) = line.strip_prefix("label ") {
                            return Some(label.to_owned());
                        }
                    }
                    None => return None,
                }
            }
        });
        let label = label.await.ok().flatten();
        let label = label.ok_or_else(|| io::Error::other(format!("{name} did not start: {}", process.last_words())))?;
        Ok(Self { process, number, label })
    }

    /// Makes no more readings; what it has stays until it is safe.
    pub(super) async fn silence(&mut self) {
        // A sensor that is gone is silent too.
        if self.process.say("silence").await.is_ok() {
            let _ = timeout(SILENT, async { while self.process.line().await.is_some_and(|line| line != "silent") {} })
                .await;
        }
    }

    /// How it will be paired: odd ones by the code on their label, even ones by a code that the gateway makes and a
    /// person enters at the sensor.
    pub(super) fn ceremony(&self) -> Ceremony {
        let label = (self.number % 2 == 1).then(|| self.label.clone());
        Ceremony { number: self.number, label }
    }
}

/// One pairing to be run.
#[derive(Debug)]
pub(super) struct Ceremony {
    number: usize,
    /// The code on the label, where it is used.
    label: Option<String>,
}

/// Pairs all sensors before the user's eyes, one after the other.
pub(super) async fn pair_all(ceremonies: Vec<Ceremony>, socket: PathBuf, tell: mpsc::Sender<Happening>) {
    let client = Client::new(&socket);
    for ceremony in ceremonies {
        if let Err(failure) = pair(&ceremony, &client, &tell).await {
            let text = format!("demo-{}: {} {}", ceremony.number, failure.message, failure.next_step);
            tell_of(&tell, Happening::Failed(text)).await;
        }
    }
}

async fn pair(ceremony: &Ceremony, client: &Client, tell: &mpsc::Sender<Happening>) -> Result<(), Failure> {
    let number = ceremony.number;
    let device = format!("demo-{number}");
    let said = |what: String| tell_of(tell, Happening::Said(format!("{device}: {what}")));
    if let Some(label) = &ceremony.label {
        said(format!("the label on the sensor says {label}; its button is pressed")).await;
        tell_of(tell, Happening::AtSensor(number, "button".to_owned())).await;
    }
    let request = PairRequest {
        target: format!("line-{number}"),
        name: Some(device.clone()),
        code: ceremony.label.clone(),
        ttl_s: None,
        scopes: Vec::new(),
        addresses: Vec::new(),
        per_second: None,
    };
    let mut lines = client.stream(Method::POST, "/v1/pair", Some(&request)).await?;
    while let Some(line) = lines.next_as::<PairLine>().await? {
        match line {
            PairLine::Code { code, ttl_s, .. } => {
                said(format!("the gateway made the code {code}, good for {ttl_s} s; a person enters it")).await;
                tell_of(tell, Happening::AtSensor(number, format!("code {code}"))).await;
            }
            PairLine::Stage { stage, elapsed_ms, detail } => {
                let detail = detail.map(|detail| format!(" {detail}")).unwrap_or_default();
                said(format!("{}{detail} ok, {elapsed_ms} ms", stage.replace('_', " "))).await;
                if stage == "confirm" {
                    tell_of(tell, Happening::Paired).await;
                }
            }
            PairLine::Paired { fingerprint, confirmed_after_ms, .. } => {
                said(format!(
                    "paired, fingerprint {fingerprint}; first reading confirmed after {confirmed_after_ms} ms"
                ))
                .await;
                break;
            }
            // The demo's own issuer asks nobody.
            PairLine::Approval { .. } | PairLine::Decision { .. } => {}
            PairLine::Failed { stage, message, next_step, .. } => {
                let text = format!("{device}: {} FAILED: {message} {next_step}", stage.replace('_', " "));
                tell_of(tell, Happening::Failed(text)).await;
                break;
            }
        }
    }
    Ok(())
}

async fn tell_of(tell: &mpsc::Sender<Happening>, happening: Happening) {
    // The run is over; nobody is left to tell.
    let _ = tell.send(happening).await;
}

/// Starts the daemon and waits until it answers.
pub(super) async fn daemon(workshop: &Workshop) -> io::Result<(Process, Status)> {
    let args = [OsString::from("run"), "--config".into(), workshop.config().into()];
    let mut process = Process::start("daemon", workshop.path(), args)?;
    let client = Client::new(&workshop.socket());
    let deadline = Instant::now() + READY;
    loop {
        if let Ok(status) = client.get::<Status>("/v1/status").await {
            return Ok((process, status));
        }
        if let Some(status) = process.ended() {
            return Err(io::Error::other(format!("the daemon did not start ({status}): {}", process.last_words())));
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("the daemon does not answer: {}", process.last_words())));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Starts the subscriber and waits until the broker took its subscription: what is published before is not for it.
pub(super) async fn subscriber(workshop: &Workshop, status: &Status) -> io::Result<Process> {
    let broker = status.broker.split_once("://").map_or(status.broker.as_str(), |(_, address)| address);
    let issuer = status.issuer.as_str();
    let mut args = words(&["demo-subscriber", "--issuer", issuer, "--broker", broker, "--client", SUBSCRIBER]);
    args.extend(words(&["--audience", "claw", "--filter", &format!("claw/v1/{SITE}/{SITE}/+/up/telemetry")]));
    args.extend([OsString::from("--key"), workshop.subscriber_key().into()]);
    args.extend([OsString::from("--log"), workshop.subscriber_log().into()]);
    let mut process = Process::start("subscriber", workshop.path(), args)?;
    let deadline = Instant::now() + READY;
    let subscribed = |line: &str| matches!(serde_json::from_str(line), Ok(Line::Subscribed));
    while !text(&workshop.subscriber_log()).lines().any(subscribed) {
        if process.ended().is_some() || Instant::now() > deadline {
            return Err(io::Error::other(format!("the subscriber did not subscribe: {}", process.last_words())));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(process)
}

/// The text of a file; empty where there is none.
pub(super) fn text(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}
