//! A sensor at the far end of a pseudo terminal, and hands to press its button, pull its plug, bend its wire.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clawgate_protocol::code::Code;
use clawgate_protocol::fragment::{Header, Joiner};
use clawgate_protocol::frame::uart::{self, Decoder};
use clawgate_protocol::pairing::{Profile, Suite};
use clawgate_protocol::senml::Record;
use clawgate_protocol::sensor::{Buffers, Event, Options, STATE_LEN, Sensor, Storage, StorageFailed};
use clawgate_protocol::{MAX_MESSAGE, Random, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_serial::{SerialPort as _, SerialStream};

/// The way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToSensor,
    ToGateway,
}

/// Stands in the wire: what it returns goes on the same way.
pub(crate) type Wire = Box<dyn FnMut(Way, Vec<u8>) -> Vec<Vec<u8>> + Send>;

enum Act {
    Button,
    Enter(Code),
    Push(u64),
    PowerCycle,
    Reset,
    Bend(Wire),
    StopClock,
    Pass(Duration),
}

/// What is seen of the sensor from outside.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) events: Vec<Event>,
    /// Identities of the readings that were made: epoch and number.
    pub(crate) made: Vec<(u64, u64)>,
    /// Readings that the gateway took over for good.
    pub(crate) safe: Vec<(u64, u64)>,
    pub(crate) held: usize,
    pub(crate) paired: bool,
    pub(crate) connected: bool,
}

/// A sensor. Dropping it pulls the plug.
pub(crate) struct Unit {
    acts: mpsc::UnboundedSender<Act>,
    seen: Arc<Mutex<Seen>>,
    flash: Flash,
    task: tokio::task::JoinHandle<()>,
    slave: PathBuf,
    ordered: AtomicUsize,
}

/// What survives the loss of power.
pub(crate) type Flash = Arc<Mutex<Option<Vec<u8>>>>;

pub(crate) fn label() -> Code {
    Code::parse(&text_of([9; 7])).unwrap()
}

/// A code from its seven symbols' values, with the right check symbol.
pub(crate) fn text_of(values: [u8; 7]) -> String {
    struct Fixed([u8; 7]);
    impl Random for Fixed {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.copy_from_slice(&self.0);
        }
    }
    Code::random(&mut Fixed(values)).to_string()
}

impl Unit {
    /// Powers a sensor up and points `port` to its line.
    pub(crate) fn plug_in(port: &Path, device: &str) -> Self {
        Self::plug_in_with(port, device, Flash::default())
    }

    /// The same with what it remembers.
    pub(crate) fn plug_in_with(port: &Path, device: &str, flash: Flash) -> Self {
        Self::plug_into(Self::line(), port, device, flash)
    }

    /// A line of its own for a sensor: the sensor's end and the gateway's.
    pub(crate) fn line() -> (SerialStream, SerialStream) {
        SerialStream::pair().unwrap()
    }

    /// The same at a line that was made before.
    pub(crate) fn plug_into(ends: (SerialStream, SerialStream), port: &Path, device: &str, flash: Flash) -> Self {
        let (wire, keep) = ends;
        let slave = PathBuf::from(keep.name().unwrap());
        let aside = port.with_extension("new");
        std::os::unix::fs::symlink(&slave, &aside).unwrap();
        std::fs::rename(&aside, port).unwrap();
        let (acts, orders) = mpsc::unbounded_channel();
        let seen = Arc::<Mutex<Seen>>::default();
        let life = Life {
            device: device.to_owned(),
            wire,
            _keep: keep,
            orders,
            seen: Arc::clone(&seen),
            flash: Arc::clone(&flash),
            bend: Box::new(|_, message| vec![message]),
        };
        Self { acts, seen, flash, task: tokio::spawn(life.run()), slave, ordered: AtomicUsize::new(0) }
    }

    pub(crate) fn flash(&self) -> Flash {
        Arc::clone(&self.flash)
    }

    pub(crate) fn slave(&self) -> &Path {
        &self.slave
    }

    /// Opens the window for the label's code, and sees that it is open.
    pub(crate) async fn press_button(&self) {
        let opened = || self.look(|seen| seen.events.iter().filter(|e| matches!(e, Event::WindowOpened(_))).count());
        let before = opened();
        self.act(Act::Button);
        crate::until("the window opens", || opened() > before).await;
    }

    pub(crate) fn enter(&self, code: &Code) {
        self.act(Act::Enter(code.clone()));
    }

    /// Makes so many readings at once, soon.
    pub(crate) fn measure(&self, count: usize) {
        self.ordered.fetch_add(count, Ordering::Relaxed);
        self.act(Act::Push(count as u64));
    }

    /// Waits until every reading that was asked for is made; their identities, sorted.
    pub(crate) async fn made(&self) -> Vec<(u64, u64)> {
        let ordered = self.ordered.load(Ordering::Relaxed);
        crate::until("every reading is made", || self.look(|seen| seen.made.len() == ordered)).await;
        let mut made = self.look(|seen| seen.made.clone());
        made.sort_unstable();
        made
    }

    pub(crate) fn power_cycle(&self) {
        self.act(Act::PowerCycle);
    }

    pub(crate) fn factory_reset(&self) {
        self.act(Act::Reset);
    }

    /// From now on its clock stands still, whatever the machine is busy with.
    pub(crate) fn stop_clock(&self) {
        self.act(Act::StopClock);
    }

    /// So much time passes at once for the sensor, after which its clock runs on.
    pub(crate) fn pass(&self, time: Duration) {
        self.act(Act::Pass(time));
    }

    pub(crate) fn bend(&self, wire: impl FnMut(Way, Vec<u8>) -> Vec<Vec<u8>> + Send + 'static) {
        self.act(Act::Bend(Box::new(wire)));
    }

    pub(crate) fn look<T>(&self, at: impl FnOnce(&Seen) -> T) -> T {
        at(&self.seen.lock().unwrap())
    }

    fn act(&self, act: Act) {
        assert!(self.acts.send(act).is_ok(), "the sensor is gone");
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Random source and flash of the sensor.
struct Board(Flash);

impl Random for Board {
    fn fill(&mut self, bytes: &mut [u8]) {
        getrandom::fill(bytes).unwrap();
    }
}

impl Storage for Board {
    fn save(&mut self, state: &[u8; STATE_LEN]) -> Result<(), StorageFailed> {
        *self.0.lock().unwrap() = Some(state.to_vec());
        Ok(())
    }
}

/// The sensor's clock in milliseconds since its start; it can be stopped and put forward.
struct UnitClock {
    start: Instant,
    put_forward: Duration,
    stopped_at: Option<Duration>,
}

impl UnitClock {
    fn new() -> Self {
        Self { start: Instant::now(), put_forward: Duration::ZERO, stopped_at: None }
    }

    fn time(&self) -> Duration {
        self.stopped_at.unwrap_or_else(|| self.start.elapsed() + self.put_forward)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.time().as_millis()).unwrap()
    }

    fn stop(&mut self) {
        self.stopped_at = Some(self.time());
    }

    fn pass(&mut self, time: Duration) {
        let target = self.time() + time;
        (self.stopped_at, self.start, self.put_forward) = (None, Instant::now(), target);
    }
}

struct Life {
    device: String,
    wire: SerialStream,
    _keep: SerialStream,
    orders: mpsc::UnboundedReceiver<Act>,
    seen: Arc<Mutex<Seen>>,
    flash: Flash,
    bend: Wire,
}

impl Life {
    async fn run(mut self) {
        while self.power_on().await {}
    }

    /// From power on to power off; false when nobody holds the sensor any more.
    async fn power_on(&mut self) -> bool {
        let (mut readings, mut record) = (vec![0; 256 << 10], vec![0; MAX_MESSAGE]);
        let options = Options {
            device: self.device.parse().unwrap(),
            name: "TH\u{1b}[2J-Kit",
            profile: Profile { capabilities: "temperature:Cel", firmware: "1.2\u{1b}", certificate: None },
            label: Some(label()),
            max_suite: Suite::One,
            transport: Transport::Uart,
            max_message: 4096,
        };
        let stored = self.flash.lock().unwrap().clone();
        let buffers = Buffers { readings: &mut readings, record: &mut record };
        let mut sensor =
            Sensor::<_, 16>::new(options, stored.as_deref(), Board(Arc::clone(&self.flash)), buffers, 0).unwrap();
        let mut clock = UnitClock::new();
        let mut decoder = Box::new(Decoder::<{ uart::MAX_ENCODED }>::new());
        let mut joiner = Box::new(Joiner::<MAX_MESSAGE>::new());
        let mut chunk = vec![0; 8192];
        loop {
            // While its clock stands still nothing is due: the line and orders wake it.
            let due = sensor.poll_timeout().map_or(1000, |at| at.saturating_sub(clock.now())).min(1000);
            let wait = if clock.stopped_at.is_some() { 1000 } else { due };
            tokio::select! {
                // What a hand does comes before what arrives on the line after it.
                biased;
                act = self.orders.recv() => match act {
                    None => return false,
                    Some(Act::PowerCycle) => return true,
                    Some(Act::Button) => sensor.open_label_window(clock.now()).unwrap(),
                    Some(Act::Enter(code)) => sensor.enter_code(code, clock.now()),
                    Some(Act::Reset) => sensor.reset().unwrap(),
                    Some(Act::Bend(wire)) => self.bend = wire,
                    Some(Act::StopClock) => clock.stop(),
                    Some(Act::Pass(time)) => clock.pass(time),
                    Some(Act::Push(count)) => for number in 0..count {
                        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                        let mut pack = [Record::number("temperature", "Cel", 20.0 + number as f64)];
                        let pushed = sensor.push(&mut pack, clock.now()).unwrap();
                        self.seen.lock().unwrap().made.push((pushed.epoch, pushed.seq));
                    },
                },
                read = self.wire.read(&mut chunk) => {
                    let Ok(count) = read else { return false };
                    let mut rest = &chunk[..count];
                    while let Some(frame) = decoder.decode(&mut rest) {
                        let Ok(frame) = frame else { continue };
                        let Ok(Some(message)) = joiner.join(frame.header, frame.payload) else { continue };
                        for mut message in (self.bend)(Way::ToSensor, message.to_vec()) {
                            sensor.handle(&mut message, clock.now());
                        }
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(wait)) => {}
            }
            sensor.handle_timeout(clock.now());
            let mut out = vec![0; MAX_MESSAGE];
            while let Some(length) = sensor.poll_transmit(&mut out, clock.now()) {
                for message in (self.bend)(Way::ToGateway, out[..length].to_vec()) {
                    let mut line = vec![0; uart::max_encoded_len(message.len())];
                    let length = uart::encode(uart::ADDRESS, Header::WHOLE, &message, &mut line).unwrap();
                    if self.wire.write_all(&line[..length]).await.is_err() {
                        return false;
                    }
                }
            }
            let mut seen = self.seen.lock().unwrap();
            while let Some(event) = sensor.poll_event() {
                if let Event::Safe { epoch, seq } = event {
                    let from = seen.safe.iter().rev().find(|(e, _)| *e == epoch).map_or(0, |(_, seq)| *seq);
                    seen.safe.extend((from + 1..=seq).map(|seq| (epoch, seq)));
                }
                seen.events.push(event);
            }
            (seen.held, seen.paired, seen.connected) = (sensor.held(), sensor.is_paired(), sensor.is_connected());
        }
    }
}
