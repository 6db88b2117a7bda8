//! What others may ask of the task that owns a port.

use tokio::sync::oneshot;

use super::sensor::Sensor;
use crate::ids::DeviceId;
use crate::pairing::engine::LabelJob;
use crate::store::Device;

/// One thing to do at a port.
#[derive(Debug)]
pub(crate) enum Order {
    /// Ask who is there; the answer is what it says now, or why nobody answers.
    Meet(oneshot::Sender<Result<Sensor, String>>),
    /// Make the sensor blink for so many seconds.
    Identify(u16, oneshot::Sender<Result<(), String>>),
    /// Pair by the code on the sensor's label.
    Pair(Box<LabelJob>),
    /// End the session of the device under one of these pairings, and have the sensor erase its key; whether it did.
    Unpair(Box<Device>, oneshot::Sender<bool>),
    /// The device has another name: its session ends, and the next one goes by that.
    Renamed(DeviceId),
    /// New session keys for the device, while its session goes on; whether there is one.
    Renew(DeviceId, oneshot::Sender<bool>),
    /// Others need the radio: say goodbye for now.
    Rest,
}

impl Order {
    /// The port is not open.
    pub(super) async fn unreachable(self, why: &str) {
        // Whoever asked and went away is not told.
        match self {
            Self::Meet(answer) => drop(answer.send(Err(why.to_owned()))),
            Self::Identify(_, answer) => drop(answer.send(Err(why.to_owned()))),
            Self::Pair(job) => job.unreachable(why).await,
            Self::Unpair(_, answer) | Self::Renew(_, answer) => drop(answer.send(false)),
            // No session, so no old name, and nothing to rest from.
            Self::Renamed(_) | Self::Rest => {}
        }
    }
}
