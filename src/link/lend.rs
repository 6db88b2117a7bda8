//! The line lent to pairing: when an operator asks for it, or when a code was entered at the sensor.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use clawgate_protocol::PROTOCOL_VERSION;
use clawgate_protocol::app::{Action, Status};
use clawgate_protocol::id::Id;
use clawgate_protocol::pairing::{Ceremony, Failure};

use super::attend::Attendance;
use super::duplex::LinkEnd;
use super::sensor::{Sensor, Window};
use crate::blocking::blocking;
use crate::pairing::engine::LabelJob;
use crate::pairing::event::{Cause, PairFailure, Stage};
use crate::pairing::report::Report;
use crate::pairing::run::{Agreed, Ended, Plan};
use crate::pairing::{follow, words};

/// A sensor answers an operator's request within this time.
const CONNECT: Duration = Duration::from_secs(5);

/// The window that is opened inside a session for a pairing that was asked for.
const WINDOW_S: u16 = 60;

/// A sensor that took the key and whose M6 was lost proves the key within this time.
const DOUBT: Duration = Duration::from_secs(15);

/// A pairing that waits for its sensor.
pub(super) struct Waiting {
    job: LabelJob,
    pub(super) until: Instant,
    /// The command that opens the window, while its reply is awaited.
    opening: Option<u32>,
    asked_to_open: bool,
}

/// A pairing without M6.
pub(super) struct Doubt {
    agreed: Agreed,
    report: Report,
    failure: PairFailure,
    pub(super) until: Instant,
}

impl Attendance<'_> {
    /// An operator wants to pair by the label.
    pub(super) async fn begin(&mut self, job: LabelJob) {
        if self.waiting.is_some() || self.doubt.is_some() {
            let failure =
                job.report.failure(Cause::Occupied, "Another pairing is under way there.", "Wait for its end.");
            return job.report.fail(failure).await;
        }
        self.waiting = Some(Waiting { job, until: Instant::now() + CONNECT, opening: None, asked_to_open: false });
        self.next_probe = Instant::now();
    }

    /// Runs what the sensor's state allows now.
    pub(super) async fn pair_if_wanted(&mut self, sensor: &Sensor) {
        match (self.waiting.take(), sensor.open_window(), sensor.id) {
            (Some(waiting), Some(window), Some(id)) if window.ceremony == Ceremony::Label => {
                self.pair_label(waiting.job, sensor, id).await;
            }
            (Some(waiting), Some(_), _) => {
                waiting.job.report.fail(words::window_closed(&waiting.job.report, true)).await;
            }
            (Some(waiting), None, _) => self.open_window_first(waiting).await,
            (None, Some(window), Some(id)) if window.ceremony == Ceremony::Issued => {
                self.pair_issued(window, sensor, id).await;
            }
            (None, _, _) => {}
        }
    }

    /// A paired sensor opens its window when it is told inside the session; others only by hand.
    async fn open_window_first(&mut self, mut waiting: Waiting) {
        if waiting.opening.is_none() && !waiting.asked_to_open {
            let open = Action::OpenWindow { seconds: WINDOW_S };
            waiting.opening = self.session.as_mut().and_then(|session| session.command(open));
            waiting.asked_to_open = waiting.opening.is_some();
        }
        if waiting.asked_to_open {
            self.waiting = Some(waiting);
        } else {
            waiting.job.report.fail(words::window_closed(&waiting.job.report, false)).await;
        }
    }

    pub(super) async fn window_command_replied(&mut self, id: u32, status: Status) {
        let Some(waiting) = &mut self.waiting else { return };
        if waiting.opening.take_if(|command| *command == id).is_none() {
            return;
        }
        if status == Status::Ok {
            self.next_probe = Instant::now();
        } else if let Some(waiting) = self.waiting.take() {
            waiting.job.report.fail(words::window_closed(&waiting.job.report, false)).await;
        }
    }

    async fn pair_label(&mut self, job: LabelJob, sensor: &Sensor, hardware_id: Id) {
        let mut report = job.report;
        report.is_about(hardware_id.as_str());
        let device = match self.check(sensor, &report) {
            Ok(()) => self.engine().name(job.name, hardware_id, &report).await,
            Err(failure) => Err(failure),
        };
        let device = match device {
            Ok(device) => device,
            Err(failure) => return report.fail(failure).await,
        };
        let plan = Plan {
            ceremony: Ceremony::Label,
            code: job.code,
            code_id: None,
            device,
            hardware_id,
            sensor_name: sensor.name.clone(),
            link: self.owner.view.link_name(),
            scopes: job.scopes,
            limits: job.limits,
            site: self.engine().parts().stage,
            decision: self.engine().decision(),
            actor: job.actor,
        };
        self.lend(plan, report).await;
    }

    /// A code was entered at the sensor: if one of ours may be meant, it is tried, once a window.
    async fn pair_issued(&mut self, window: Window, sensor: &Sensor, hardware_id: Id) {
        if self.tried_window.replace(window.id) == Some(window.id) {
            return;
        }
        let Some((claim, report)) = self.engine().claim(hardware_id).await else { return };
        let request = claim.record.request;
        let device = match self.check(sensor, &report) {
            Ok(()) => self.engine().name(request.device, hardware_id, &report).await,
            Err(failure) => Err(failure),
        };
        let device = match device {
            Ok(device) => device,
            Err(failure) => return report.fail(failure).await,
        };
        let plan = Plan {
            ceremony: Ceremony::Issued,
            code: claim.code,
            code_id: Some(claim.record.id),
            device,
            hardware_id,
            sensor_name: sensor.name.clone(),
            link: self.owner.view.link_name(),
            scopes: request.scopes,
            limits: request.limits,
            site: request.stage,
            decision: self.engine().decision(),
            actor: claim.record.creator,
        };
        self.lend(plan, report).await;
    }

    /// What is known to fail is not tried: it would cost the sensor its window.
    fn check(&self, sensor: &Sensor, report: &Report) -> Result<(), PairFailure> {
        if sensor.version != PROTOCOL_VERSION {
            return Err(words::protocol(report, Failure::Version));
        }
        if sensor.suite.is_none_or(|best| best < self.engine().policy().min_suite) {
            return Err(words::protocol(report, Failure::Suite));
        }
        Ok(())
    }

    async fn lend(&mut self, plan: Plan, mut report: Report) {
        self.end_session();
        report.passed(Stage::KeyExchange, None);
        let ended = self.engine().run(self.link, &plan, &mut report).await;
        match ended {
            Ended::Paired(agreed) => match self.engine().confirmed(&agreed, &report).await {
                Ok(()) => self.succeed(agreed, report).await,
                Err(failure) => report.fail(failure).await,
            },
            Ended::InDoubt(agreed, failure) => {
                tracing::warn!(device = %agreed.device, "the sensor did not confirm; a session under the new key is tried");
                self.resume(&agreed).await;
                self.doubt = Some(Doubt { agreed, report, failure, until: Instant::now() + DOUBT });
            }
            Ended::Failed(failure) => report.fail(failure).await,
        }
        self.probe_by(Duration::from_millis(500));
    }

    async fn succeed(&mut self, agreed: Agreed, mut report: Report) {
        report.passed(Stage::Token, None);
        let first = self.engine().parts().firsts.expect(agreed.pairing);
        self.resume(&agreed).await;
        follow::bring_into_service(Arc::clone(&self.owner.engine), agreed, report, first);
    }

    /// The session under the new key.
    async fn resume(&mut self, agreed: &Agreed) {
        let (store, id) = (self.engine().parts().store.clone(), agreed.device.clone());
        match blocking(move || store.device_with_keys(&id)).await {
            Ok(Some(known)) => self.start_session(&known, Some(agreed.pairing)),
            Ok(None) => {}
            Err(error) => tracing::error!(device = %agreed.device, error = %error, "no session"),
        }
    }

    /// A session proved a pending key, which is current from now on.
    pub(super) async fn proven(&mut self, code: Option<String>) {
        let Some(session) = &self.session else { return };
        let (device, pairing) = (session.device().clone(), session.pairing());
        let first = self.engine().parts().firsts.expect(pairing);
        if let Some(doubt) = self.doubt.take_if(|doubt| doubt.agreed.device == device) {
            let mut report = doubt.report;
            self.engine().proven(&doubt.agreed).await;
            report.passed(Stage::Token, None);
            return follow::bring_into_service(Arc::clone(&self.owner.engine), doubt.agreed, report, first);
        }
        // Of a run before this start.
        let code = code.and_then(|id| id.parse().ok());
        let agreed = Agreed::found(device, pairing, code);
        self.engine().proven(&agreed).await;
        let about = self.engine().about(agreed.actor.clone(), agreed.device.as_str(), agreed.ceremony);
        follow::bring_into_service(Arc::clone(&self.owner.engine), agreed, Report::new(about, None), first);
    }

    /// The line is lost: whoever waits is told.
    pub(super) async fn give_up_pairing(&mut self, end: &LinkEnd) {
        if let Some(waiting) = self.waiting.take() {
            waiting.job.report.fail(words::link(&waiting.job.report, end)).await;
        }
        if let Some(doubt) = self.doubt.take() {
            doubt.report.fail(words::not_confirmed(&doubt.report, &doubt.failure)).await;
        }
    }

    pub(super) async fn keep_pairing_time(&mut self, now: Instant) {
        if let Some(waiting) = self.waiting.take_if(|waiting| now >= waiting.until) {
            let report = &waiting.job.report;
            report.fail(words::no_answer(report, self.owner.view.line())).await;
        }
        if let Some(doubt) = self.doubt.take_if(|doubt| now >= doubt.until) {
            // The key stays pending: the sensor may yet come.
            self.engine().count_failure("not_confirmed");
            doubt.report.fail(words::not_confirmed(&doubt.report, &doubt.failure)).await;
        }
    }
}
