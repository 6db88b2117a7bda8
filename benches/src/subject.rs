//! What is measured: a gateway that takes readings from serial lines and brings them to the main broker.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::Outcome;
use crate::clawgate::Clawgate;
use crate::line::{Pace, Sent};
use crate::options::Options;
use crate::peers::{Bridge, MosquittoPub};
use crate::process::{Memory, Service, Usage};
use crate::receiver::Identify;

/// Where one instance of a subject works.
pub(crate) struct Site {
    /// An empty directory of its own.
    pub(crate) dir: PathBuf,
    /// The main broker.
    pub(crate) broker: SocketAddr,
}

/// A kind of gateway.
pub(crate) trait Subject {
    /// Its name in tables and results.
    fn name(&self) -> &'static str;

    /// How its messages name their reading.
    fn identify(&self) -> Identify;

    /// Starts it with so many sensors connected, ready for readings.
    ///
    /// # Errors
    /// It did not come up.
    fn start(&self, site: &Site, devices: usize) -> Outcome<Box<dyn Gateway>>;
}

/// A gateway at work with its sensors.
pub(crate) trait Gateway {
    /// The programs that make it up; sensors and main broker do not belong to it.
    fn services(&mut self) -> &mut [Service];

    /// Lets every sensor make readings, for so long.
    ///
    /// # Errors
    /// The sensors cannot be started.
    fn feed(&mut self, pace: Pace, time: Duration) -> Outcome<()>;

    /// Ends the making of readings, hears the sensors out, and returns what they noted of this feed.
    ///
    /// # Errors
    /// A sensor failed.
    fn end_feed(&mut self) -> Outcome<Vec<Sent>>;

    /// What its programs used since their start.
    fn usage(&mut self) -> Usage {
        self.services().iter().map(Service::usage).fold(Usage::default(), Usage::plus)
    }

    /// What its programs hold now.
    fn memory(&mut self) -> Memory {
        self.services().iter().map(Service::memory).fold(Memory::default(), Memory::plus)
    }
}

/// The subjects of this run.
pub(crate) fn all(options: &Options) -> Vec<Box<dyn Subject>> {
    let all: [Box<dyn Subject>; 3] = [Box::new(Clawgate::built()), Box::new(MosquittoPub), Box::new(Bridge)];
    all.into_iter().filter(|subject| options.wants(subject.name())).collect()
}
