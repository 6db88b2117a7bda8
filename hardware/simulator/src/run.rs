//! The simulated unit at work: one loop over the line, stdin and the clock.

use std::time::{Duration, Instant};

use clawgate_protocol::pairing::{Ceremony, Profile, Suite};
use clawgate_protocol::sensor::{self, Buffers, Event, Sensor, StartError};
use clawgate_protocol::{MAX_MESSAGE, Transport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::command::{Command, Lines};
use crate::journal::{Entry, Journal, epoch_text};
use crate::line::{Line, LineError};
use crate::options::Options;
use crate::readings::{Count, Machine, Source, SourceError};
use crate::say;
use crate::store::{Platform, Store, StoreError};

/// Readings made in one turn of the loop at most.
const BURST: u32 = 256;
/// How long to wait for a line that went away.
const REOPEN_EVERY: Duration = Duration::from_millis(500);

/// Why the simulator ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RunError {
    #[error(transparent)]
    Line(#[from] LineError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("the sensor did not start: {0}")]
    Start(#[from] StartError),
    #[error("log file: {0}")]
    Journal(std::io::Error),
    #[error("waiting for the line failed: {0}")]
    Poll(rustix::io::Errno),
}

impl RunError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Line(_) => 6,
            _ => 1,
        }
    }
}

/// Runs until somebody says quit.
pub(crate) fn run(options: &Options) -> Result<(), RunError> {
    let mut bench = Bench {
        options,
        line: Line::open(options)?,
        journal: Journal::open(options.log.as_deref()).map_err(RunError::Journal)?,
        source: match (&options.csv, options.flood || options.rate.is_some()) {
            (Some(path), _) => Source::rows(path)?,
            (None, true) => Source::Count(Count::of_size(options.size.into())),
            (None, false) => Source::Machine(Machine),
        },
        stdin: Some(Lines::default()),
        made: 0,
        silent: false,
    };
    let mut store = Store::open(options.keys.as_deref(), options.device, options.label.as_ref())?;
    say(&format!("device {}", store.device));
    if let Some(label) = &store.label {
        say(&format!("label {label}"));
    }
    if let Some(path) = options.pty.as_ref().or(options.port.as_ref()).or(options.ble_socket.as_ref()) {
        say(&format!("line {}", path.display()));
    }
    while let Ended::PowerCycle = bench.unit(&mut store)? {
        say("power-cycled");
    }
    Ok(())
}

enum Ended {
    Quit,
    PowerCycle,
}

/// What stays when the unit loses power.
struct Bench<'o> {
    options: &'o Options,
    line: Line,
    journal: Journal,
    source: Source,
    stdin: Option<Lines>,
    made: u64,
    /// Somebody said so: no more readings.
    silent: bool,
}

impl Bench<'_> {
    /// One life of the unit, from power on to power off.
    fn unit(&mut self, store: &mut Store) -> Result<Ended, RunError> {
        let options = sensor::Options {
            device: store.device,
            name: &self.options.name,
            profile: Profile {
                capabilities: match self.source {
                    Source::Machine(_) => "load:/,memory:%,disk:%,net/rx:B,net/tx:B,cpu:Cel",
                    _ => "",
                },
                firmware: concat!("simulator-", env!("CARGO_PKG_VERSION")),
                certificate: None,
            },
            label: store.label.clone(),
            max_suite: if self.options.suite1 { Suite::One } else { Suite::Two },
            transport: match self.line {
                Line::Serial(_) => Transport::Uart,
                Line::Air(_) => Transport::Ble,
            },
            max_message: u16::try_from(MAX_MESSAGE).unwrap_or(u16::MAX),
        };
        let memory = usize::try_from(self.options.memory).unwrap_or(usize::MAX).saturating_mul(1024);
        let (mut readings, mut record) = (vec![0; memory], vec![0; MAX_MESSAGE]);
        let buffers = Buffers { readings: &mut readings, record: &mut record };
        let device = store.device;
        let stored = store.state().map(<[u8]>::to_vec);
        let sensor = Sensor::new(options, stored.as_deref(), Platform(store), buffers, 0)?;
        let entry = Entry::Start { device: device.as_str(), epoch: epoch_text(sensor.epoch()) };
        self.journal.add(entry).map_err(RunError::Journal)?;
        self.line.begin();
        let interval = match (self.options.flood, self.options.rate) {
            (true, _) => Duration::ZERO,
            (false, Some(rate)) => Duration::from_secs(1) / rate,
            (false, None) => self.options.every,
        };
        Unit {
            bench: self,
            sensor,
            start: Instant::now(),
            interval,
            next_reading: Duration::ZERO,
            flood_limit: memory / 128,
            shown_anew: true,
        }
        .run()
    }
}

struct Unit<'u, 'o, 's> {
    bench: &'u mut Bench<'o>,
    sensor: Sensor<'s, Platform<'s>>,
    start: Instant,
    interval: Duration,
    /// When the next reading is made, since the start.
    next_reading: Duration,
    /// A flood waits while so many readings are not yet safe.
    flood_limit: usize,
    /// What others see of the unit before they connect changed.
    shown_anew: bool,
}

impl Unit<'_, '_, '_> {
    fn run(mut self) -> Result<Ended, RunError> {
        loop {
            let now_ms = self.now_ms();
            self.sensor.handle_timeout(now_ms);
            self.make_readings()?;
            self.fill_out(now_ms);
            self.tell_events()?;
            // What is on the line is in the log before it.
            self.bench.journal.flush().map_err(RunError::Journal)?;
            let (sensor, changed) = (&mut self.sensor, std::mem::take(&mut self.shown_anew));
            let shown = || (sensor.advertisement(now_ms), sensor.advertisement_life_ms(now_ms));
            self.bench.line.advertise(now_ms, changed, shown);
            self.bench.line.write();
            let (line, stdin) = self.wait()?;
            if line {
                self.read();
            }
            if stdin && let Some(ended) = self.read_stdin()? {
                self.bench.journal.flush().map_err(RunError::Journal)?;
                return Ok(ended);
            }
            self.bench.line.reopen(self.bench.options);
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn make_readings(&mut self) -> Result<(), RunError> {
        if !self.sensor.is_paired() {
            self.next_reading = self.start.elapsed();
            return Ok(());
        }
        for _ in 0..BURST {
            let now = self.start.elapsed();
            let silent = self.is_silent();
            let full = self.interval.is_zero() && self.sensor.held() >= self.flood_limit;
            if silent || full || now < self.next_reading {
                break;
            }
            // Late readings are caught up with for a second, not for ever.
            self.next_reading = self.next_reading.max(now.saturating_sub(Duration::from_secs(1))) + self.interval;
            if !self.make_reading()? {
                self.bench.made = self.bench.options.count.unwrap_or(self.bench.made);
                self.next_reading = Duration::MAX;
                break;
            }
        }
        Ok(())
    }

    /// Makes one; false if the source has no more.
    fn make_reading(&mut self) -> Result<bool, RunError> {
        let now_ms = self.now_ms();
        let sensor = &mut self.sensor;
        match self.bench.source.next(|records| sensor.push(records, now_ms)) {
            None => return Ok(false),
            Some(Ok(pushed)) => {
                self.bench.made += 1;
                self.log_reading(&pushed)?;
            }
            Some(Err(error)) => say(&error.to_string()),
        }
        Ok(true)
    }

    fn log_reading(&mut self, pushed: &sensor::Pushed) -> Result<(), RunError> {
        let pairing = self.sensor.pairing_id().map(u64::from_be_bytes).unwrap_or_default();
        let id = format!("{pairing:016x}.{:016x}.{}", pushed.epoch, pushed.seq);
        self.log(Entry::Reading { id: &id })?;
        if let Some(gap) = pushed.dropped {
            self.log(Entry::Dropped { epoch: epoch_text(gap.epoch), from: gap.from, to: gap.to })?;
        }
        Ok(())
    }

    fn log(&mut self, entry: Entry<'_>) -> Result<(), RunError> {
        self.bench.journal.add(entry).map_err(RunError::Journal)
    }

    /// Gives messages to the line until enough bytes wait for the line.
    fn fill_out(&mut self, now_ms: u64) {
        let mut message = [0; MAX_MESSAGE];
        while self.bench.line.has_room() {
            let Some(len) = self.sensor.poll_transmit(&mut message, now_ms) else { break };
            self.bench.line.send(&message[..len]);
        }
    }

    /// Sleeps until there is something to do; says whether the line and stdin have something.
    fn wait(&self) -> Result<(bool, bool), RunError> {
        let bench = &self.bench;
        let wants_out = bench.line.wants_out();
        let now = self.start.elapsed();
        let reading = if self.sensor.is_paired() && !self.is_held_back() { self.next_reading } else { Duration::MAX };
        let sensor = self.sensor.poll_timeout().map_or(Duration::MAX, Duration::from_millis);
        let line = bench.line.poll();
        let line_back = if line.is_none() { now + REOPEN_EVERY } else { Duration::MAX };
        // A reading that is due waits only for room on the line.
        let reading = if wants_out && reading <= now { Duration::MAX } else { reading };
        let shown = bench.line.advertise_at().map_or(Duration::MAX, Duration::from_millis);
        let until = reading.min(sensor).min(line_back).min(shown).min(now + Duration::from_secs(60));
        let timeout = until.saturating_sub(now);
        let timeout = Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
        let mut fds = Vec::with_capacity(2);
        let has_line = line.is_some();
        fds.extend(line.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        let stdin = rustix::stdio::stdin();
        if bench.stdin.is_some() {
            fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
        }
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => (),
            Err(error) => return Err(RunError::Poll(error)),
        }
        let readable = |at: usize| {
            fds.get(at).is_some_and(|fd| fd.revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR))
        };
        Ok((has_line && readable(0), bench.stdin.is_some() && readable(usize::from(has_line))))
    }

    fn is_held_back(&self) -> bool {
        self.interval.is_zero() && self.sensor.held() >= self.flood_limit || self.is_silent()
    }

    fn is_silent(&self) -> bool {
        self.bench.silent || self.bench.options.count.is_some_and(|count| self.bench.made >= count)
    }

    fn read(&mut self) {
        let (now_ms, sensor) = (self.now_ms(), &mut self.sensor);
        self.bench.line.read(|message| sensor.handle(message, now_ms));
    }

    fn read_stdin(&mut self) -> Result<Option<Ended>, RunError> {
        let mut buffer = [0; 1024];
        let lines = match (rustix::io::read(rustix::stdio::stdin(), &mut buffer), &mut self.bench.stdin) {
            (Ok(0), _) => {
                self.bench.stdin = None;
                return Ok(self.bench.options.until_eof.then_some(Ended::Quit));
            }
            (Ok(count), Some(lines)) => lines.push(&buffer[..count]),
            _ => return Ok(None),
        };
        for line in lines {
            match line.parse::<Command>() {
                Ok(Command::Quit) => return Ok(Some(Ended::Quit)),
                Ok(Command::PowerCycle) => return Ok(Some(Ended::PowerCycle)),
                Ok(command) => self.obey(command)?,
                Err(error) => say(&error.to_string()),
            }
        }
        Ok(None)
    }

    fn obey(&mut self, command: Command) -> Result<(), RunError> {
        let now_ms = self.now_ms();
        match command {
            Command::Code(code) => self.sensor.enter_code(code, now_ms),
            Command::Button => {
                if let Err(error) = self.sensor.open_label_window(now_ms) {
                    say(&error.to_string());
                }
            }
            Command::Reset => match self.sensor.reset() {
                Ok(()) => {
                    self.shown_anew = true;
                    say("reset: all keys erased");
                    self.log(Entry::Note { text: "factory reset" })?;
                }
                Err(error) => say(&error.to_string()),
            },
            Command::Read(count) => {
                for _ in 0..count {
                    if !self.make_reading()? {
                        break;
                    }
                }
            }
            Command::Silence => {
                self.bench.silent = true;
                say("silent");
                self.log(Entry::Note { text: "silent" })?;
            }
            Command::Status => self.tell_status(now_ms),
            Command::PowerCycle | Command::Quit => (),
        }
        Ok(())
    }

    fn tell_status(&self, now_ms: u64) {
        let window = self.sensor.window(now_ms);
        let status = serde_json::json!({
            "paired": self.sensor.is_paired(),
            "connected": self.sensor.is_connected(),
            "window": window.map(|(ceremony, _)| ceremony.name()),
            "window_seconds": window.map(|(_, seconds)| seconds),
            "made": self.bench.made,
            "held": self.sensor.held(),
            "epoch": epoch_text(self.sensor.epoch()),
            "clock_set": self.sensor.unix_ms(now_ms).is_some(),
        });
        say(&status.to_string());
    }

    fn tell_events(&mut self) -> Result<(), RunError> {
        while let Some(event) = self.sensor.poll_event() {
            self.shown_anew |=
                matches!(event, Event::WindowOpened(_) | Event::WindowClosed | Event::Paired { .. } | Event::Unpaired);
            let text = match event {
                Event::Safe { epoch, seq } => {
                    self.log(Entry::Ack { epoch: epoch_text(epoch), safe: seq })?;
                    continue;
                }
                Event::Blink { seconds } => format!("blink for {seconds} s"),
                Event::WindowOpened(Ceremony::Label) => "pairing window open for the label's code".to_owned(),
                Event::WindowOpened(_) => "pairing window open for the entered code".to_owned(),
                Event::WindowClosed => "pairing window closed".to_owned(),
                Event::Paired { gateway, .. } => format!("paired with {gateway}"),
                Event::PairingFailed(failure) => format!("pairing failed: {failure}"),
                Event::KeyProven { pairing_id } => format!("key proven {:016x}", u64::from_be_bytes(pairing_id)),
                Event::SessionOpened => "session open".to_owned(),
                Event::SessionClosed => "session closed by the gateway".to_owned(),
                Event::Unpaired => "unpaired by the gateway".to_owned(),
                Event::TimeSet => "clock set".to_owned(),
                Event::StorageFailed => "the key file could not be written".to_owned(),
                other => format!("{other:?}"),
            };
            say(&text);
            self.log(Entry::Note { text: &text })?;
        }
        Ok(())
    }
}
