//! What an operator can see of the links: ports, and the sensors found behind them. Plain data.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::ids::DeviceId;

/// Why a port can or cannot be used now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "condition", rename_all = "snake_case")]
pub enum PortCondition {
    /// It is ours, and frames may flow.
    Open,
    /// Nothing stands at the path; it is taken as soon as it appears.
    Absent,
    /// Somebody else holds it.
    Busy {
        /// The process, where `/proc` tells.
        pid: Option<u32>,
        /// Its name.
        process: Option<String>,
    },
    /// The node may not be opened by this user.
    NoPermission {
        /// The group that owns the node: membership is what is missing.
        group: String,
    },
    /// The path is something else than a serial port.
    NotATty,
    /// The system refused in another way.
    Failed {
        /// The system's words.
        reason: String,
    },
}

impl fmt::Display for PortCondition {
    /// What is the matter, and what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Absent => f.write_str("absent: plug the device in, or correct the path in the config"),
            Self::Busy { pid: Some(pid), process: Some(process) } => {
                write!(f, "busy: process {pid} ({process}) holds it; stop that process")
            }
            Self::Busy { pid: Some(pid), .. } => write!(f, "busy: process {pid} holds it; stop that process"),
            Self::Busy { .. } => f.write_str("busy: another process holds it; root sees which one: sudo fuser -v PATH"),
            Self::NoPermission { group } => {
                write!(f, "no permission: add the user that clawgate runs as to the group {group}")
            }
            Self::NotATty => f.write_str("not a serial port: correct the path in the config"),
            Self::Failed { reason } => write!(f, "cannot be opened: {reason}"),
        }
    }
}

/// What the bytes on a line say about its health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LineCondition {
    /// Nothing came yet.
    Silent,
    /// Valid frames come.
    Good,
    /// Much comes, nothing of it a frame: most likely the baud rate differs.
    WrongBaudRate,
    /// Our own frames come back: receive is wired to transmit.
    Echo,
}

impl fmt::Display for LineCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "silent",
            Self::Good => "good",
            Self::WrongBaudRate => {
                "noise only: the sensor most likely uses another baud rate; correct `baud` in the config"
            }
            Self::Echo => "echo: our own frames come back; check that TX and RX are not bridged",
        })
    }
}

/// One configured serial port, present or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortState {
    /// Short name for technicians, the same as long as the daemon runs: `usb1`, `acm0`, `pts3`.
    pub alias: String,
    /// The stable path of the config (a glob is listed as what it matched).
    pub path: PathBuf,
    /// Where it points now.
    pub node: Option<PathBuf>,
    /// Line speed, bits per second.
    pub baud: u32,
    /// Whether it can be used.
    #[serde(flatten)]
    pub condition: PortCondition,
    /// What the bytes say.
    pub line: LineCondition,
    /// Bytes received since start.
    pub bytes_in: u64,
    /// Bytes sent since start.
    pub bytes_out: u64,
    /// Valid frames received.
    pub frames_in: u64,
    /// Runs of bytes that were no frame.
    pub frames_bad: u64,
    /// The device whose session runs here.
    pub device: Option<DeviceId>,
}

/// What may be done with a sensor that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum FoundState {
    /// Its window is open.
    Pairable {
        /// The window ends in this time.
        left: Duration,
        /// It takes the code on its label.
        label: bool,
        /// A code that the gateway issued was entered at it.
        issued: bool,
    },
    /// No pairing, and no window: its button opens one.
    Closed,
    /// Paired with this gateway.
    Paired {
        /// Under this name.
        device: DeviceId,
        /// A session runs.
        connected: bool,
    },
    /// Paired, but not with this gateway.
    PairedElsewhere,
}

/// A sensor in reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// What a technician types: the port's alias; over BLE the short id, the device's name, or the address.
    pub id: String,
    /// The name the sensor gives itself, escaped.
    pub name: String,
    /// Where it was found, for a person: `uart by-id/usb-FTDI_…`, `ble hci0 f0:c1:a9:00:00:01`.
    pub link: String,
    /// Signal strength, where the link has one.
    pub rssi_dbm: Option<i16>,
    /// What may be done with it.
    #[serde(flatten)]
    pub state: FoundState,
    /// What keeps it from being connected, and when it is tried again.
    pub note: Option<String>,
}
