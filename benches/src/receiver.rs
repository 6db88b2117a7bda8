//! The subscriber at the main broker: who arrived, and when.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::line::now_ns;
use crate::mqtt::{self, Incoming, Packet, Publish};

/// A reading's name for ever: (sensor or its epoch, sequence number).
pub(crate) type Identity = (u64, u64);

/// One delivery.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    /// Which reading.
    pub(crate) identity: Identity,
    /// When the receiver read it, ns since 1970.
    pub(crate) at_ns: u64,
}

/// How a subject's messages are told apart.
pub(crate) type Identify = fn(&Publish<'_>) -> Option<Identity>;

/// A running subscriber. It comes back after an outage and keeps its session over it.
pub(crate) struct Receiver {
    stop: Arc<AtomicBool>,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    thread: JoinHandle<()>,
}

impl Receiver {
    /// Subscribes to everything that reaches the broker and returns once it is subscribed.
    ///
    /// # Errors
    /// The broker did not take the subscription in time.
    pub(crate) fn start(broker: SocketAddr, identify: Identify) -> Outcome<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let arrivals = Arc::new(Mutex::new(Vec::with_capacity(1 << 20)));
        let (subscribed, ready) = mpsc::channel();
        let mut subscription =
            Subscription { broker, identify, stop: Arc::clone(&stop), arrivals: Arc::clone(&arrivals), subscribed };
        let thread = std::thread::spawn(move || subscription.run());
        ready.recv_timeout(Duration::from_secs(10)).map_err(|_| "the broker took no subscription within 10 s")?;
        Ok(Self { stop, arrivals, thread })
    }

    /// Deliveries not yet taken.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.arrivals).len()
    }

    /// The deliveries since the last call, in order of arrival.
    pub(crate) fn take(&self) -> Vec<Arrival> {
        lock(&self.arrivals).drain(..).collect()
    }

    /// Waits until at least `expected` deliveries wait, or none came for `quiet`.
    pub(crate) fn settle(&self, expected: usize, quiet: Duration) {
        let step = Duration::from_millis(20);
        let (mut last, mut idle) = (self.waiting(), Duration::ZERO);
        while last < expected && idle < quiet {
            std::thread::sleep(step);
            let now = self.waiting();
            idle = if now == last { idle + step } else { Duration::ZERO };
            last = now;
        }
    }

    /// Waits until a delivery waits.
    ///
    /// # Errors
    /// None came within `limit`.
    pub(crate) fn wait_any(&self, limit: Duration) -> Outcome<()> {
        let asked = Instant::now();
        while self.waiting() == 0 {
            if asked.elapsed() > limit {
                return Err(format!("nothing arrived at the broker within {} s", limit.as_secs()).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Ends the subscription.
    ///
    /// # Errors
    /// The thread panicked.
    pub(crate) fn stop(self) -> Outcome<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the receiver panicked".into())
    }
}

fn lock(arrivals: &Mutex<Vec<Arrival>>) -> MutexGuard<'_, Vec<Arrival>> {
    arrivals.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Subscription {
    broker: SocketAddr,
    identify: Identify,
    stop: Arc<AtomicBool>,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    subscribed: mpsc::Sender<()>,
}

impl Subscription {
    fn run(&mut self) {
        let mut clean_start = true;
        while !self.stop.load(Ordering::Relaxed) {
            if self.receive(clean_start).is_err() {
                std::thread::sleep(Duration::from_millis(50));
            }
            clean_start = false;
        }
    }

    fn receive(&mut self, clean_start: bool) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.broker)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        stream.write_all(&mqtt::connect("bench-receiver", clean_start))?;
        let mut incoming = Incoming::new();
        let mut answer = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            match incoming.fill(&mut stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                other => other?,
            }
            answer.clear();
            self.take_packets(&mut incoming, &mut answer)?;
            stream.write_all(&answer)?;
        }
        Ok(())
    }

    fn take_packets(&mut self, incoming: &mut Incoming, answer: &mut Vec<u8>) -> io::Result<()> {
        let at_ns = now_ns();
        let mut arrivals = lock(&self.arrivals);
        while let Some(packet) = incoming.next() {
            match packet {
                Packet::ConnAck(0) => answer.extend(mqtt::subscribe("#", 1)),
                Packet::SubAck(0..=2) => drop(self.subscribed.send(())),
                Packet::ConnAck(_) | Packet::SubAck(_) => return Err(io::ErrorKind::ConnectionRefused.into()),
                Packet::Publish(publish) => {
                    if let Some(id) = publish.packet_id {
                        mqtt::put_puback(answer, id);
                    }
                    if let Some(identity) = (self.identify)(&publish) {
                        arrivals.push(Arrival { identity, at_ns });
                    }
                }
                Packet::Other => {}
            }
        }
        Ok(())
    }
}
