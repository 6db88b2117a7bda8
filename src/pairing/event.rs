//! What a pairing is asked for, and what it reports on its way: stages, and on failure why and what now.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use clawgate_protocol::code::Code;
use clawgate_protocol::pairing as protocol;

use crate::audit::Actor;
use crate::ids::DeviceId;
use crate::token::scope::Scope;
use crate::token::{Approval, Limits};

/// What an operator asks for.
#[derive(Debug, Clone)]
pub struct PairRequest {
    /// Which sensor: a short id of `scan`, a port's alias or path, or the name of a device that is paired again.
    pub target: String,
    /// The name it gets; without one it keeps its old name, or gets one made from the name it gives itself.
    pub name: Option<DeviceId>,
    /// Who has the code.
    pub ceremony: Ceremony,
    /// What its tokens may do; empty for the default, `telemetry:write`.
    pub scopes: Vec<Scope>,
    /// What its tokens are limited to.
    pub limits: Limits,
    /// Who asks.
    pub actor: Actor,
}

/// The two ways a code gets to both ends.
#[derive(Debug, Clone)]
pub enum Ceremony {
    /// The code stands on the sensor and was typed at the gateway.
    Label(Code),
    /// The gateway makes the code, a person enters it at the sensor.
    Issued {
        /// How long it lives.
        ttl: Duration,
    },
}

impl Ceremony {
    /// The same as the protocol names it, without the code.
    pub(crate) fn kind(&self) -> protocol::Ceremony {
        match self {
            Self::Label(_) => protocol::Ceremony::Label,
            Self::Issued { .. } => protocol::Ceremony::Issued,
        }
    }
}

/// The steps of a pairing as an operator sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The sensor answers.
    Connect,
    /// Both ends sent their public shares.
    KeyExchange,
    /// Both ends proved that they know the code.
    Confirm,
    /// The issuer gave a token for the device.
    Token,
    /// The cloud confirmed its first reading.
    FirstReading,
}

impl Stage {
    /// The stage as programs name it.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::KeyExchange => "key_exchange",
            Self::Confirm => "confirm",
            Self::Token => "token",
            Self::FirstReading => "first_reading",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name().replace('_', " "))
    }
}

/// What went wrong, for programs. [`PairFailure::message`] says it to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// No sensor or port goes by that name.
    NotFound,
    /// The port cannot be used.
    Port,
    /// The sensor does not answer.
    NoAnswer,
    /// The sensor's window is not open for this ceremony.
    WindowClosed,
    /// The ends know different codes.
    WrongCode,
    /// The code's life is over.
    CodeDead,
    /// Nobody entered the code in time.
    CodeNotEntered,
    /// The sensor refused, and by its nature does not say why.
    Refused,
    /// The exchange took longer than a run may.
    TimeOut,
    /// The sensor speaks another protocol, or too weak a suite.
    Unsupported,
    /// The peer broke the protocol, or somebody is on the line.
    Tampered,
    /// The name belongs to another device.
    NameTaken,
    /// Another pairing is under way there.
    Occupied,
    /// Our own disk or keys.
    Store,
    /// No token could be had.
    Token,
    /// The cloud did not confirm.
    Cloud,
    /// The daemon stops.
    Stopping,
}

impl Cause {
    /// The cause as metrics and logs name it.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Port => "port",
            Self::NoAnswer => "no_answer",
            Self::WindowClosed => "window_closed",
            Self::WrongCode => "wrong_code",
            Self::CodeDead => "code_dead",
            Self::CodeNotEntered => "code_not_entered",
            Self::Refused => "refused",
            Self::TimeOut => "time_out",
            Self::Unsupported => "unsupported",
            Self::Tampered => "tampered",
            Self::NameTaken => "name_taken",
            Self::Occupied => "occupied",
            Self::Store => "store",
            Self::Token => "token",
            Self::Cloud => "cloud",
            Self::Stopping => "stopping",
        }
    }

    /// The exit code of the command line.
    #[must_use]
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::NameTaken | Self::Occupied => 2,
            Self::NotFound => 3,
            Self::WrongCode | Self::CodeDead => 4,
            Self::NoAnswer | Self::CodeNotEntered | Self::TimeOut | Self::WindowClosed => 5,
            Self::Port | Self::Refused | Self::Unsupported | Self::Tampered => 6,
            Self::Token | Self::Cloud => 7,
            Self::Store | Self::Stopping => 8,
        }
    }
}

/// Where a pairing failed, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message} {next_step}")]
pub struct PairFailure {
    /// The stage that failed.
    pub stage: Stage,
    /// For programs.
    pub cause: Cause,
    /// What happened and why, one or two sentences.
    pub message: String,
    /// What a person does now.
    pub next_step: String,
    /// Of the command line.
    pub exit_code: u8,
}

impl PairFailure {
    /// Puts a failure into words.
    #[must_use]
    pub(crate) fn new(stage: Stage, cause: Cause, message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { stage, cause, message: message.into(), next_step: next_step.into(), exit_code: cause.exit_code() }
    }
}

/// What a running pairing reports. The last one is `Paired` or `Failed`.
#[derive(Debug)]
pub enum PairEvent {
    /// A code was made; a person enters it at the sensor. Shown once.
    Code {
        /// The id of the code, `ocpc_…`.
        id: String,
        /// The code itself.
        code: Code,
        /// It lives so long.
        ttl: Duration,
    },
    /// A stage ended well.
    Stage {
        /// Which.
        stage: Stage,
        /// How long it took.
        elapsed: Duration,
        /// What to show beside it: `telemetry:write`, `21.5 Cel`.
        detail: Option<String>,
    },
    /// A person has to approve the device at the issuer; the stage goes on when that is done.
    Approval(Approval),
    /// The backend, or an admin here, decides about the device; the stage goes on when that is done.
    Decision {
        /// The name of the device.
        device: DeviceId,
        /// It is waited for so long.
        within: Duration,
    },
    /// A stage failed, and with it the pairing; of the stages after `Confirm`, only itself: the device is paired.
    Failed(PairFailure),
    /// All stages ended well.
    Paired {
        /// The name of the device.
        device: DeviceId,
        /// Of the keys, as the sensor may show it too: `9C41-77A0`.
        fingerprint: String,
        /// From the arrival of the first reading at the gateway to the cloud's confirmation.
        confirmed_after: Duration,
    },
}
