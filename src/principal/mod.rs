//! The gateway itself as a principal at the broker: a token, topics and a connection of its own, beside those of its
//! devices.
//!
//! Up go its status, the signed checkpoints of its audit log, its alarms, and replies. Down come signed commands. It
//! shares nothing with the devices' connections but the broker and the issuer; what it cannot say waits in bounded
//! places ([`outbox`]) and holds nobody up.

pub mod command;
pub(crate) mod hint;
mod outbox;
mod speaker;
mod status;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::control::api::Status;
use crate::relay::{Received, RelayError, RelayOptions};
use crate::token::TokenHandle;
use outbox::{Item, Outbox};
use speaker::Speaker;

/// Commands that wait to be looked at; the broker keeps further ones.
const MOST_COMMANDS: usize = 32;

/// How the gateway's own connection stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There is no token yet, and why.
    Waiting(String),
    /// Connected.
    Up,
    /// Not connected, and why; it is tried again.
    Down(String),
    /// Issuer or broker refuse the gateway itself: somebody has to act there.
    Refused(String),
}

/// The gateway at its broker. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Principal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: RelayOptions,
    tls: Option<Arc<rustls::ClientConfig>>,
    clock: Clock,
    outbox: Outbox,
    standing: watch::Sender<Standing>,
}

impl Principal {
    /// Not yet connected; `options` say where the broker is.
    ///
    /// # Errors
    /// [`RelayError`] when certificates or keys cannot be used.
    pub(crate) fn new(mut options: RelayOptions, clock: Clock) -> Result<Self, RelayError> {
        options.profile.load()?;
        let alpn = options.profile.alpn();
        let tls = options.tls.as_ref().map(|files| files.load(alpn)).transpose()?;
        let standing = watch::Sender::new(Standing::Waiting("it starts".to_owned()));
        Ok(Self(Arc::new(Inner { options, tls, clock, outbox: Outbox::default(), standing })))
    }

    /// Room for what comes down.
    pub(crate) fn inbox() -> (mpsc::Sender<Received>, mpsc::Receiver<Received>) {
        mpsc::channel(MOST_COMMANDS)
    }

    /// Keeps a connection under this token until `stop`.
    pub(crate) async fn connect(&self, token: TokenHandle, inbox: mpsc::Sender<Received>, stop: CancellationToken) {
        let speaker = Speaker {
            options: self.0.options.clone(),
            tls: self.0.tls.clone(),
            clock: self.0.clock.clone(),
            token,
            outbox: self.0.outbox.clone(),
            commands: inbox,
            standing: self.0.standing.clone(),
            stop,
        };
        speaker.run().await;
    }

    /// How the connection stands.
    pub(crate) fn standing(&self) -> Standing {
        self.0.standing.borrow().clone()
    }

    /// Says how the gateway is, if anything of it changed since `before` or `before` is none; what it said.
    pub(crate) fn say_status(&self, status: &Status, at: &str, commands: &[String], before: Option<&Facts>) -> Facts {
        let facts = Facts(status::facts(status), commands.to_vec());
        if before != Some(&facts) {
            self.0.outbox.put(Item::Status(status::online(status, at, commands, self.0.outbox.dropped())));
        }
        facts
    }

    /// Says a signed checkpoint of the audit log.
    pub(crate) fn say_checkpoint(&self, checkpoint: Bytes) {
        self.0.outbox.put(Item::Audit(checkpoint));
    }

    /// Says an alarm.
    pub(crate) fn say_alarm(&self, alarm: Bytes) {
        self.0.outbox.put(Item::Alarm(alarm));
    }

    /// Ready when an answer finds room. Cancel safe.
    pub(crate) async fn has_room(&self) {
        self.0.outbox.has_room().await;
    }

    /// Answers the command with this id; the id was checked to be a level of a topic.
    pub(crate) fn reply(&self, jti: &str, answer: Bytes) {
        self.0.outbox.put(Item::Reply(jti.to_owned(), answer));
    }
}

/// What was said of the gateway's state, to be compared with the next picture.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Facts(serde_json::Value, Vec<String>);
