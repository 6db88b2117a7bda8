//! The demonstration: the daemon in standalone mode, simulated sensors on ptys, and a subscriber, each a process of
//! its own. The sensors are paired before the user's eyes; at the end what arrived is counted from the sensors' own
//! logs and the subscriber's, reading by reading.

mod cast;
mod process;
mod received;
mod scene;
mod show;
pub mod subscriber;
mod tally;
mod workshop;

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::cli::client::Client;
use crate::control::api::Status;
use cast::{Happening, Sensor, pair_all, text};
use process::Process;
use received::{Follow, Line, Received};
use scene::Scene;
use show::Show;
use tally::{SensorLog, Tokens, tally};
use workshop::{SUBSCRIBER, Workshop, WorkshopError};

pub(crate) use process::end_with_parent;
pub use tally::Tally;

/// Between two looks at everything.
const TICK: Duration = Duration::from_millis(250);
/// For the readings on their way to arrive.
const DRAIN: Duration = Duration::from_secs(15);
/// For the first sensor to be paired.
const FIRST_PAIRING: Duration = Duration::from_secs(60);

/// How the demonstration runs.
#[derive(Debug, Clone, Copy)]
pub struct DemoOptions {
    /// Ends so long after the first pairing; without it, when it is told to.
    pub time: Option<Duration>,
    /// Simulated sensors.
    pub sensors: usize,
    /// Standard output is for the JSON object.
    pub json: bool,
}

/// Why there was no demonstration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// A process could not be started.
    #[error("{0}")]
    Start(#[from] io::Error),
    /// There is no place for it.
    #[error("{0}")]
    Place(String),
    /// No sensor could be paired.
    #[error("no sensor could be paired")]
    NothingPaired,
    /// Somebody ended it before a sensor was paired.
    #[error("ended before a sensor was paired")]
    Interrupted,
}

impl From<WorkshopError> for DemoError {
    fn from(error: WorkshopError) -> Self {
        Self::Place(error.to_string())
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The figures.
    pub tally: Tally,
    /// What went wrong on the way, for people.
    pub troubles: Vec<String>,
}

/// Runs the demonstration to its end. However it ends, also by a signal or a panic, no process of it stays.
///
/// # Errors
/// [`DemoError`] when it did not come to a first pairing.
pub(crate) async fn run(options: DemoOptions) -> Result<Outcome, DemoError> {
    let stop = CancellationToken::new();
    let signals = tokio::spawn(watch_signals(stop.clone()));
    let workshop = Workshop::new(options.sensors)?;
    let mut stage = Stage {
        show: Show::begin(options.json),
        scene: Scene::default(),
        received: Received::default(),
        follow: Follow::new(workshop.subscriber_log()),
        tokens: Tokens::default(),
        troubles: Vec::new(),
        client: Client::new(&workshop.socket()),
        workshop,
        options,
        stop,
    };
    let result = stage.run().await;
    signals.abort();
    result.map(|tally| Outcome { tally, troubles: stage.troubles })
}

/// The first signal ends the run in order; the second at once.
async fn watch_signals(stop: CancellationToken) -> io::Result<()> {
    let (mut interrupt, mut terminate, mut hangup) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        stop.cancel();
    }
}

/// The processes.
struct Cast {
    sensors: Vec<Sensor>,
    daemon: Process,
    subscriber: Process,
    /// The daemon as it was when it began.
    status: Status,
}

struct Stage {
    options: DemoOptions,
    workshop: Workshop,
    show: Show,
    scene: Scene,
    received: Received,
    follow: Follow,
    tokens: Tokens,
    troubles: Vec<String>,
    client: Client,
    stop: CancellationToken,
}

impl Stage {
    async fn run(&mut self) -> Result<Tally, DemoError> {
        let mut cast = self.unless_stopped(self.start()).await??;
        self.say(&format!("{} simulated sensors run, each on a serial line of its own", cast.sensors.len()));
        self.say(&format!("the daemon runs (process {}), its broker at {}", cast.status.pid, cast.status.broker));
        self.say("a subscriber runs, with a key and a token of its own; tokens live 10 s");
        let played = self.play(&mut cast).await;
        let Cast { sensors, daemon, subscriber, .. } = cast;
        let tally = match played {
            Ok(()) => Ok(self.close(sensors, subscriber).await),
            Err(error) => Err(error),
        };
        daemon.end(true).await;
        tally
    }

    async fn start(&self) -> Result<Cast, DemoError> {
        let mut sensors = Vec::new();
        for number in 1..=self.options.sensors {
            sensors.push(Sensor::start(&self.workshop, number).await?);
        }
        let (daemon, status) = cast::daemon(&self.workshop).await?;
        let subscriber = cast::subscriber(&self.workshop, &status).await?;
        Ok(Cast { sensors, daemon, subscriber, status })
    }

    /// Has the sensors paired, and shows everything until the time is over.
    async fn play(&mut self, cast: &mut Cast) -> Result<(), DemoError> {
        let (tell, mut happenings) = mpsc::channel(64);
        let ceremonies = cast.sensors.iter().map(Sensor::ceremony).collect();
        let mut pairing = JoinSet::new();
        pairing.spawn(pair_all(ceremonies, self.workshop.socket(), tell));
        let began = Instant::now();
        let mut first_paired = None;
        loop {
            tokio::select! {
                Some(happening) = happenings.recv() => {
                    match happening {
                        Happening::Said(what) => self.say(&what),
                        Happening::AtSensor(number, what) => self.at_sensor(cast, number, &what).await,
                        Happening::Paired => _ = first_paired.get_or_insert_with(Instant::now),
                        Happening::Failed(what) => self.trouble(what),
                    }
                    continue;
                }
                Some(_) = pairing.join_next() => {}
                () = sleep(TICK) => {}
                () = self.stop.cancelled() => {}
            }
            self.look().await;
            self.look_for_the_gone(cast);
            let end = self.options.time.zip(first_paired).map(|(time, first)| first + time);
            self.scene.left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let wants_end = self.show.draw(&self.scene, Instant::now()) || self.stop.is_cancelled();
            let is_over = self.scene.left.is_some_and(|left| left.is_zero()) && pairing.is_empty();
            let has_failed = pairing.is_empty() || began.elapsed() > FIRST_PAIRING;
            match first_paired {
                Some(_) if wants_end || is_over => return Ok(()),
                None if wants_end => return Err(DemoError::Interrupted),
                None if has_failed => return Err(DemoError::NothingPaired),
                _ => {}
            }
        }
    }

    async fn at_sensor(&mut self, cast: &mut Cast, number: usize, what: &str) {
        if let Some(sensor) = cast.sensors.iter_mut().find(|sensor| sensor.number == number)
            && let Err(error) = sensor.process.say(what).await
        {
            self.trouble(format!("nobody is at sensor {number}: {error}"));
        }
    }

    /// Says which process ended though nobody ended it.
    fn look_for_the_gone(&mut self, cast: &mut Cast) {
        let sensors = cast.sensors.iter_mut().map(|sensor| &mut sensor.process);
        for process in sensors.chain([&mut cast.daemon, &mut cast.subscriber]) {
            if let Some(status) = process.ended() {
                let what = format!("{} ended by itself ({status}) {}", process.name, process.last_words());
                if !self.troubles.contains(&what) {
                    self.trouble(what);
                }
            }
        }
    }

    /// Reads the subscriber's log and the daemon's state.
    async fn look(&mut self) {
        self.read_subscriber();
        if let Ok(Ok(status)) = timeout(Duration::from_secs(1), self.client.get::<Status>("/v1/status")).await {
            for device in &status.devices {
                if let Some(jti) = &device.token.jti {
                    self.tokens.saw(&device.id, jti);
                }
            }
            self.scene.status(&status);
        }
    }

    fn read_subscriber(&mut self) {
        for text in self.follow.lines().unwrap_or_default() {
            match self.received.add(&text) {
                Some(Line::Token { jti, .. }) => self.tokens.saw(SUBSCRIBER, &jti),
                Some(Line::Lost { why }) => self.say(&format!("the subscriber connects again: {why}")),
                Some(line) => self.scene.subscriber(&line),
                None => {}
            }
        }
    }

    /// No more readings; waits for those on their way; counts.
    async fn close(&mut self, mut sensors: Vec<Sensor>, subscriber: Process) -> Tally {
        self.say("the sensors fall silent; what is on its way arrives");
        for sensor in &mut sensors {
            sensor.silence().await;
        }
        let deadline = Instant::now() + DRAIN;
        loop {
            self.look().await;
            let logs = self.sensor_logs();
            let now = tally(&logs, &self.received, &self.tokens);
            let is_done = now.received == now.sent && logs.iter().all(SensorLog::is_drained);
            if is_done || Instant::now() > deadline {
                break;
            }
            sleep(TICK).await;
        }
        subscriber.end(false).await;
        for sensor in sensors {
            sensor.process.end(false).await;
        }
        self.read_subscriber();
        tally(&self.sensor_logs(), &self.received, &self.tokens)
    }

    fn sensor_logs(&self) -> Vec<SensorLog> {
        (1..=self.options.sensors).map(|number| SensorLog::parse(&text(&self.workshop.sensor_log(number)))).collect()
    }

    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, DemoError> {
        self.stop.run_until_cancelled(work).await.ok_or(DemoError::Interrupted)
    }

    fn say(&mut self, what: &str) {
        self.show.happened(&mut self.scene, what);
    }

    fn trouble(&mut self, what: String) {
        self.say(&what);
        self.troubles.push(what);
    }
}
