//! One pairing run over a link: drives the protocol's machine and keeps its persistence points.
//!
//! The order on the disk: an attempt at an issued code is counted before the sensor's tag is verified; the new
//! key is pending before M5 goes out, and becomes current on M6 or on the first valid record under it,
//! whichever comes first; the code is used then, and the old key dropped.

use std::time::Duration;

use zeroize::Zeroizing;

use clawgate_protocol::code::Code;
use clawgate_protocol::id::Id;
use clawgate_protocol::message::{Kind, REFUSE};
use clawgate_protocol::pairing::{Ceremony, Failure, Gateway, GatewayOptions, GatewayStep, Suite};

use super::code::CodeId;
use super::engine::Engine;
use super::event::{PairFailure, Stage};
use super::random::OsRandom;
use super::report::Report;
use super::words;
use crate::audit::Actor;
use crate::blocking::blocking;
use crate::ids::{DeviceId, PairingId};
use crate::link::{Link, printable};
use crate::secret::Secret;
use crate::store::{Decision, DeviceInfo, KeySlot, NewPairing};
use crate::token::scope::Scope;
use crate::token::{Limits, Stage as SiteStage};

/// One run to be made.
pub(crate) struct Plan {
    pub(crate) ceremony: Ceremony,
    pub(crate) code: Code,
    /// Of an issued code.
    pub(crate) code_id: Option<CodeId>,
    pub(crate) device: DeviceId,
    pub(crate) hardware_id: Id,
    pub(crate) sensor_name: String,
    pub(crate) link: String,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) limits: Limits,
    pub(crate) site: SiteStage,
    pub(crate) decision: Decision,
    pub(crate) actor: Actor,
}

/// What both ends agreed on.
#[derive(Debug, Clone)]
pub(crate) struct Agreed {
    pub(crate) device: DeviceId,
    pub(crate) pairing: PairingId,
    pub(crate) code: Option<CodeId>,
    pub(crate) actor: Actor,
    pub(crate) ceremony: Ceremony,
}

/// How a run ended.
pub(crate) enum Ended {
    /// With M6.
    Paired(Agreed),
    /// With the new key pending on our side and no M6: a session under it may yet prove it.
    InDoubt(Agreed, PairFailure),
    /// Without a key.
    Failed(PairFailure),
}

/// A step of the machine, free of its borrow.
enum Next {
    Wait,
    Send(Vec<u8>),
    Count,
    Store(Box<NewPairing>),
    Paired,
    Failed { failure: Failure, refuse: bool },
}

/// A run under way.
pub(super) struct Run<'a> {
    engine: &'a Engine,
    link: &'a mut Link,
    plan: &'a Plan,
    report: &'a mut Report,
    /// Once the new key is pending.
    agreed: Option<Agreed>,
}

impl<'a> Run<'a> {
    /// Makes the run; it takes at most ten seconds.
    pub(super) async fn make(engine: &'a Engine, link: &'a mut Link, plan: &'a Plan, report: &'a mut Report) -> Ended {
        let mut run = Self { engine, link, plan, report, agreed: None };
        let result = run.drive().await;
        match (result, run.agreed.take()) {
            (Ok(()), Some(agreed)) => Ended::Paired(agreed),
            (Err(failure), Some(agreed)) => Ended::InDoubt(agreed, failure),
            (Err(failure), None) => Ended::Failed(failure),
            // The machine ends well only after it gave us the key.
            (Ok(()), None) => Ended::Failed(words::protocol(run.report, Failure::Malformed)),
        }
    }

    async fn drive(&mut self) -> Result<(), PairFailure> {
        let mut machine = self.start().await?;
        self.send(machine.message().to_vec()).await?;
        loop {
            let mut next = self.input(&mut machine).await?;
            loop {
                next = match next {
                    Next::Wait => break,
                    Next::Send(message) => {
                        self.send(message).await?;
                        break;
                    }
                    Next::Count => {
                        self.report.passed(Stage::Confirm, None);
                        if let Err(failure) = self.count().await {
                            self.send(REFUSE.to_vec()).await?;
                            return Err(failure);
                        }
                        self.plan.read(&machine.attempt_counted())
                    }
                    Next::Store(new) => {
                        let (pairing, store) = (new.key.pairing, self.engine.parts().store.clone());
                        let stored = blocking(move || store.put_pending(&new)).await;
                        stored.map_err(|error| words::store(self.report, &error))?;
                        self.agreed = Some(self.plan.agreed(pairing));
                        self.plan.read(&machine.pending_stored())
                    }
                    Next::Paired => return Ok(()),
                    Next::Failed { failure, refuse } => {
                        if refuse {
                            self.send(REFUSE.to_vec()).await?;
                        }
                        return Err(self.explain(failure).await);
                    }
                };
            }
        }
    }

    async fn start(&self) -> Result<Box<Gateway>, PairFailure> {
        let parts = self.engine.parts();
        let store = parts.store.clone();
        let own = blocking(move || store.gateway_identity()).await;
        let own = own.map_err(|error| words::store(self.report, &error))?;
        let options = GatewayOptions {
            gateway: parts.gateway,
            device: Some(self.plan.hardware_id),
            ceremony: self.plan.ceremony,
            transport: self.link.transport(),
            max_suite: Suite::Two,
            min_suite: self.engine.policy().min_suite,
            config: &[],
        };
        let prs = Zeroizing::new(self.plan.code.prs());
        let machine = Gateway::start(&options, &prs, own.expose(), self.engine.parts().clock.boot_ms(), &mut OsRandom);
        machine.map(Box::new).map_err(|failure| words::protocol(self.report, failure))
    }

    /// Waits for the next message of the run, or its time.
    async fn input(&mut self, machine: &mut Gateway) -> Result<Next, PairFailure> {
        let wait = machine.poll_timeout().unwrap_or_default().saturating_sub(self.engine.parts().clock.boot_ms());
        let message = tokio::select! {
            message = self.link.receive() => message.map_err(|end| words::link(self.report, &end))?,
            () = tokio::time::sleep(Duration::from_millis(wait)) => {
                return Ok(self.plan.read(&machine.handle_timeout(self.engine.parts().clock.boot_ms())));
            }
        };
        Ok(match Kind::of(&message) {
            Ok(Kind::M2 | Kind::M4 | Kind::M6 | Kind::Refuse) => {
                self.plan.read(&machine.handle(&message, self.engine.parts().clock.boot_ms()))
            }
            // Records of a session that goes on meanwhile: the sensor keeps what is not acknowledged.
            _ => Next::Wait,
        })
    }

    /// Counts the attempt, on the disk where the code is ours to guard.
    async fn count(&self) -> Result<(), PairFailure> {
        let parts = self.engine.parts();
        parts.metrics.pairing.attempts.inc();
        let Some(id) = self.plan.code_id.clone() else { return Ok(()) };
        let codes = parts.codes.clone();
        blocking(move || codes.count_attempt(&id)).await.map(drop).map_err(|error| words::code(self.report, &error))
    }

    async fn explain(&self, failure: Failure) -> PairFailure {
        let sensor = self.plan.hardware_id;
        let is_label = self.plan.ceremony == Ceremony::Label;
        match (failure, self.report.stage()) {
            // The label's sensor verifies first: its refusal of our tag is its answer to a wrong code.
            (Failure::Refused, Stage::Confirm) if is_label => {
                words::wrong_label(self.report, self.engine.guessed(sensor))
            }
            (Failure::Refused, Stage::KeyExchange) if is_label => {
                words::refused_label(self.report, self.engine.guess_wait(sensor))
            }
            (Failure::WrongCode, _) => match self.plan.code_id.clone() {
                Some(id) => self.wrong_issued(id).await,
                // It took our proof and has none: it is not the sensor whose label was read.
                None => words::protocol(self.report, Failure::Unauthentic),
            },
            _ => words::protocol(self.report, failure),
        }
    }

    async fn wrong_issued(&self, id: CodeId) -> PairFailure {
        let codes = self.engine.parts().codes.clone();
        match blocking(move || codes.attempt_failed(&id)).await {
            Ok(left) => words::wrong_issued(self.report, left),
            Err(error) => words::code(self.report, &error),
        }
    }

    async fn send(&self, message: Vec<u8>) -> Result<(), PairFailure> {
        self.link.send(message).await.map_err(|end| words::link(self.report, &end))
    }
}

impl Plan {
    fn read(&self, step: &GatewayStep<'_>) -> Next {
        match *step {
            GatewayStep::Send(message) => Next::Send(message.to_vec()),
            GatewayStep::CountAttempt => Next::Count,
            GatewayStep::StorePending { record, profile } => {
                let capabilities = profile.capabilities.split(',').filter(|text| !text.is_empty());
                Next::Store(Box::new(NewPairing {
                    device: self.device.clone(),
                    hardware_id: self.hardware_id.as_str().to_owned(),
                    info: DeviceInfo {
                        sensor_name: self.sensor_name.clone(),
                        firmware: printable(profile.firmware),
                        capabilities: capabilities.map(printable).collect(),
                        link: self.link.clone(),
                        scopes: self.scopes.clone(),
                        limits: self.limits.clone(),
                        stage: self.site,
                        decision: self.decision.clone(),
                    },
                    key: KeySlot {
                        pairing: PairingId(record.pairing_id),
                        record: Secret::new(record.to_bytes().to_vec()),
                    },
                    code: self.code_id.as_ref().map(|id| id.as_str().to_owned()),
                }))
            }
            GatewayStep::Paired(_) => Next::Paired,
            GatewayStep::Failed { failure, refuse } => Next::Failed { failure, refuse },
            _ => Next::Wait,
        }
    }

    fn agreed(&self, pairing: PairingId) -> Agreed {
        Agreed {
            device: self.device.clone(),
            pairing,
            code: self.code_id.clone(),
            actor: self.actor.clone(),
            ceremony: self.ceremony,
        }
    }
}

impl Agreed {
    /// A pairing of a run before this start, whose key was proven only now.
    pub(crate) fn found(device: DeviceId, pairing: PairingId, code: Option<CodeId>) -> Self {
        let ceremony = if code.is_some() { Ceremony::Issued } else { Ceremony::Label };
        Self { device, pairing, code, actor: Actor::Daemon, ceremony }
    }

    /// What a person may compare at both ends.
    pub(crate) fn fingerprint(&self) -> String {
        self.pairing.fingerprint()
    }
}
