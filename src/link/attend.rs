//! An open line: who is there, the session with it, and what is asked for meanwhile. Pairing: [`super::lend`].

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use clawgate_protocol::PROTOCOL_VERSION;
use clawgate_protocol::app::{Action, Status};
use clawgate_protocol::discovery::{encode_identify, encode_probe, matches};
use clawgate_protocol::message::Kind;

use super::duplex::{Link, LinkEnd};
use super::lend::{Doubt, Waiting};
use super::order::Order;
use super::pace::Pace;
use super::port::Owner;
use super::sensor::Sensor;
use crate::blocking::blocking;
use crate::ids::PairingId;
use crate::logging::Burst;
use crate::metrics;
use crate::pairing::engine::Engine;
use crate::session::{Happened, Session, SessionEnd, SessionParts, record};
use crate::store::{Device, Keyed};

/// The first probe is repeated after this time, then ever more seldom.
const FIRST_PROBE: Duration = Duration::from_millis(250);

/// A line on which nobody answers, or nobody of ours, is probed so often.
const SLOW_PROBE: Duration = Duration::from_secs(5);

/// While a code lives somebody may enter it at any moment; while somebody waits, so much the more.
const QUICK_PROBE: Duration = Duration::from_millis(500);

/// A sensor that does not answer so many probes has left.
const PATIENCE: u32 = 3;

/// Who asks who is there gets an answer within this time.
const MEETING: Duration = Duration::from_secs(3);

/// A sensor confirms that it forgets us within this time.
const UNPAIRING: Duration = Duration::from_secs(3);

/// An Ident so long after the last probe was not asked for; so often at most one is taken for a restart.
const UNASKED: Duration = Duration::from_secs(2);

/// Messages that are taken before others get their turn.
const AT_ONCE: usize = 64;

/// A link while it is open.
pub(super) struct Attendance<'a> {
    pub(super) owner: &'a Owner,
    pub(super) link: &'a mut Link,
    pub(super) session: Option<Session>,
    pub(super) next_probe: Instant,
    unanswered: u32,
    meetings: Vec<(oneshot::Sender<Result<Sensor, String>>, Instant)>,
    unpairing: Option<(u32, oneshot::Sender<bool>, Instant)>,
    pub(super) waiting: Option<Waiting>,
    pub(super) doubt: Option<Doubt>,
    /// The window that was answered with a run; there is one run a window.
    pub(super) tried_window: Option<u32>,
    is_live: bool,
    bad_messages: Burst,
    idents: Pace,
    /// The last probe; an Ident long after it was not asked for.
    probed: Option<Instant>,
    /// The last time that an unasked Ident was taken for a restart.
    restarted: Option<Instant>,
    codes: watch::Receiver<usize>,
    /// A link that is needed elsewhere is left when it is of no use for so long.
    leave_after: Option<Duration>,
    of_use: Instant,
}

impl<'a> Attendance<'a> {
    pub(super) fn new(owner: &'a Owner, link: &'a mut Link) -> Self {
        Self {
            owner,
            link,
            session: None,
            next_probe: Instant::now(),
            unanswered: 0,
            meetings: Vec::new(),
            unpairing: None,
            waiting: None,
            doubt: None,
            tried_window: None,
            is_live: false,
            bad_messages: Burst::default(),
            idents: Pace::new(),
            probed: None,
            restarted: None,
            codes: owner.engine.watch_codes(),
            leave_after: None,
            of_use: Instant::now(),
        }
    }

    /// Ends when the link was of no use for so long: no session, and nobody who wants anything of the sensor.
    pub(super) fn leaving_after(mut self, idle: Duration) -> Self {
        self.leave_after = Some(idle);
        self
    }

    /// Takes an order that came before the link was there.
    pub(super) async fn begun_for(mut self, order: Option<Order>) -> Self {
        if let Some(order) = order {
            self.obey(order).await;
        }
        self
    }

    pub(super) fn engine(&self) -> &'a Engine {
        &self.owner.engine
    }

    /// Until the line is lost, or the orders end.
    pub(super) async fn run(mut self, orders: &mut mpsc::Receiver<Order>) -> LinkEnd {
        let end = loop {
            match self.turn(orders).await {
                Ok(()) => {}
                Err(end) => break end,
            }
        };
        self.end_session();
        self.give_up_pairing(&end).await;
        end
    }

    async fn turn(&mut self, orders: &mut mpsc::Receiver<Order>) -> Result<(), LinkEnd> {
        let deadline = self.deadline();
        tokio::select! {
            message = self.link.receive() => {
                self.take(message?).await;
                for _ in 0..AT_ONCE {
                    let Some(message) = self.link.try_receive() else { break };
                    self.take(message).await;
                }
            }
            order = orders.recv() => match order {
                Some(Order::Rest) | None => return self.say_goodbye().await,
                Some(order) => self.obey(order).await,
            },
            () = progressed(&mut self.session) => {}
            Ok(()) = self.codes.changed() => self.probe_by(QUICK_PROBE),
            () = tokio::time::sleep_until(deadline) => {}
        }
        self.keep_time().await?;
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), LinkEnd> {
        if let Some(session) = &mut self.session {
            for message in session.outbox() {
                self.link.send(message).await?;
            }
        }
        Ok(())
    }

    async fn say_goodbye(&mut self) -> Result<(), LinkEnd> {
        if let Some(session) = &mut self.session {
            session.bye();
        }
        self.flush().await?;
        Err(LinkEnd::Closed)
    }

    fn deadline(&self) -> Instant {
        let waits = [
            self.session.as_ref().map(Session::deadline),
            self.meetings.iter().map(|(_, until)| *until).min(),
            self.unpairing.as_ref().map(|(_, _, until)| *until),
            self.waiting.as_ref().map(|waiting| waiting.until),
            self.doubt.as_ref().map(|doubt| doubt.until),
            self.leave_after.map(|idle| self.of_use + idle),
        ];
        waits.into_iter().flatten().fold(self.next_probe, Instant::min)
    }

    async fn keep_time(&mut self) -> Result<(), LinkEnd> {
        let now = Instant::now();
        if let Some(session) = &mut self.session
            && now >= session.deadline()
            && let Err(end) = session.handle_timeout(now)
        {
            self.session_ended(&end);
        }
        if now >= self.next_probe {
            self.probe(now).await?;
        }
        self.meetings.retain(|(answer, _)| !answer.is_closed());
        let unanswered = |line| format!("no sensor answers (line: {line})");
        for (answer, _) in self.meetings.extract_if(.., |(_, until)| now >= *until) {
            // Whoever asked and went away is not told.
            let _ = answer.send(Err(unanswered(self.owner.view.line())));
        }
        if let Some((_, answer, _)) = self.unpairing.take_if(|(_, _, until)| now >= *until) {
            let _ = answer.send(false);
            self.end_session();
        }
        self.keep_pairing_time(now).await;
        let in_use = self.session.is_some() || self.waiting.is_some() || self.doubt.is_some();
        if in_use || !self.meetings.is_empty() || self.unpairing.is_some() {
            self.of_use = now;
        }
        match self.leave_after {
            Some(idle) if now >= self.of_use + idle => self.say_goodbye().await,
            _ => Ok(()),
        }
    }

    async fn probe(&mut self, now: Instant) -> Result<(), LinkEnd> {
        let is_wanted = !self.meetings.is_empty() || self.waiting.is_some() || self.engine().has_live_codes();
        if self.session.is_some() && !is_wanted {
            // A session watches its sensor by itself.
            self.next_probe = now + SLOW_PROBE;
            return Ok(());
        }
        let mut message = [0; 8];
        if let Ok(length) = encode_probe(PROTOCOL_VERSION, &mut message) {
            self.link.send(message[..length].to_vec()).await?;
        }
        self.probed = Some(now);
        self.unanswered = self.unanswered.saturating_add(1);
        if self.unanswered > PATIENCE && self.session.is_none() {
            self.owner.view.left();
        }
        let gap = if is_wanted { QUICK_PROBE } else { (FIRST_PROBE * (1 << self.unanswered.min(6))).min(SLOW_PROBE) };
        self.next_probe = now + gap;
        Ok(())
    }

    /// Probes soon, if not sooner.
    pub(super) fn probe_by(&mut self, gap: Duration) {
        self.next_probe = self.next_probe.min(Instant::now() + gap);
    }

    async fn take(&mut self, message: Vec<u8>) {
        match Kind::of(&message) {
            Ok(Kind::Record | Kind::Handshake2) => self.of_session(message).await,
            Ok(Kind::Ident) => match (self.idents.take(Instant::now()), Sensor::read(&message)) {
                (Ok(()), Ok(sensor)) => self.meet(sensor).await,
                (Err(too_often), _) => self.bad_message(&too_often),
                (_, Err(error)) => self.bad_message(&error),
            },
            // Late answers of a run that is over.
            Ok(_) => {}
            Err(error) => self.bad_message(&error),
        }
    }

    async fn of_session(&mut self, message: Vec<u8>) {
        let Some(session) = &mut self.session else { return };
        match session.handle(message).await {
            Ok(Happened::Nothing) => {}
            Ok(Happened::Live) => self.session_live().await,
            Ok(Happened::Proven { code }) => self.proven(code).await,
            Ok(Happened::Reply { id, status }) => self.replied(id, status).await,
            Err(end) => self.session_ended(&end),
        }
    }

    async fn replied(&mut self, id: u32, status: Status) {
        if let Some((_, answer, _)) = self.unpairing.take_if(|(command, _, _)| *command == id) {
            let _ = answer.send(status == Status::Ok);
            self.end_session();
        }
        self.window_command_replied(id, status).await;
    }

    /// A sensor said who it is.
    async fn meet(&mut self, mut sensor: Sensor) {
        self.unanswered = 0;
        let is_wanted = self.engine().has_live_codes() || self.waiting.is_some();
        self.next_probe = Instant::now() + if is_wanted { QUICK_PROBE } else { SLOW_PROBE };
        let known = match &self.session {
            Some(session) => {
                sensor.device = Some(session.device().clone());
                if let Some(before) = self.owner.view.sensor().filter(|_| sensor.name.is_empty()) {
                    sensor.name = before.name;
                }
                self.notice_restart(&sensor);
                None
            }
            None => self.find(&mut sensor).await,
        };
        self.owner.view.met(sensor.clone());
        for (answer, _) in self.meetings.drain(..) {
            let _ = answer.send(Ok(sensor.clone()));
        }
        self.pair_if_wanted(&sensor).await;
        if let Some((known, shown)) = known
            && self.session.is_none()
        {
            self.start_session(&known, Some(shown));
        }
    }

    /// A sensor that starts says so by an Ident that nobody asked for. Anybody on the wire can do that, so the
    /// session it had goes on until it answers a handshake, and it is believed only now and then.
    fn notice_restart(&mut self, sensor: &Sensor) {
        let now = Instant::now();
        let is_recent = |time: Option<Instant>| time.is_some_and(|time| now < time + UNASKED);
        if is_recent(self.probed) || is_recent(self.restarted) {
            return;
        }
        let Some(session) = &mut self.session else { return };
        if sensor.rotating.is_some_and(|rotating| session.is_shown_by(rotating)) {
            self.restarted = Some(now);
            if let Err(end) = session.renew() {
                self.session_ended(&end);
            }
        }
    }

    /// The device whose rotating id the sensor shows.
    async fn find(&self, sensor: &mut Sensor) -> Option<(Keyed, PairingId)> {
        let rotating = sensor.rotating?;
        let store = self.engine().parts().store.clone();
        let devices = match blocking(move || store.devices_with_keys()).await {
            Ok(devices) => devices,
            Err(error) => {
                tracing::error!(link = %self.owner.view.alias(), error = %error, "the registry cannot be read");
                return None;
            }
        };
        let found = devices.into_iter().find_map(|known| {
            let mut records = known.keys.iter().filter_map(record);
            let shown = records.find(|record| matches(&record.advertising_key, &rotating))?;
            Some((known, PairingId(shown.pairing_id)))
        });
        let (known, shown) = found?;
        sensor.device = Some(known.device.id.clone());
        if sensor.name.is_empty() {
            // A paired sensor does not say its name to everybody.
            sensor.name.clone_from(&known.device.info.sensor_name);
        }
        Some((known, shown))
    }

    pub(super) fn start_session(&mut self, known: &Keyed, shown: Option<PairingId>) {
        self.end_session();
        let parts = self.engine().parts();
        let parts = SessionParts {
            store: parts.store.clone(),
            spool: self.owner.spool.clone(),
            metrics: parts.metrics.clone(),
            clock: parts.clock.clone(),
            firsts: parts.firsts.clone(),
            codes: parts.codes.clone(),
        };
        match Session::start(known, shown, self.link.transport(), parts) {
            Ok(session) => self.session = Some(session),
            Err(error) => tracing::error!(device = %known.device.id, error = %error, "no session"),
        }
    }

    async fn session_live(&mut self) {
        let Some(session) = &self.session else { return };
        let device = session.device().clone();
        tracing::info!(device = %device, link = %self.owner.view.alias(), "session open");
        self.is_live = true;
        self.engine().parts().metrics.session.active.inc();
        self.owner.view.connected(Some(device.clone()));
        let (store, link) = (self.engine().parts().store.clone(), self.owner.view.link_name());
        if let Err(error) = blocking(move || store.device_seen(&device, &link)).await {
            tracing::warn!(error = %error, "not noted where a device was heard");
        }
    }

    fn session_ended(&mut self, end: &SessionEnd) {
        if let Some(session) = &self.session {
            tracing::info!(device = %session.device(), link = %self.owner.view.alias(), why = %end, "session over");
        }
        self.end_session();
        self.probe_by(FIRST_PROBE);
    }

    pub(super) fn end_session(&mut self) {
        self.session = None;
        self.owner.view.connected(None);
        if std::mem::take(&mut self.is_live) {
            self.engine().parts().metrics.session.active.dec();
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Meet(answer) => {
                self.meetings.push((answer, Instant::now() + MEETING));
                self.next_probe = Instant::now();
            }
            // Ends the link where it is taken from the queue.
            Order::Rest => {}
            Order::Identify(seconds, answer) => {
                let _ = answer.send(self.identify(seconds).await);
            }
            Order::Pair(job) => self.begin(*job).await,
            Order::Unpair(known, answer) => self.unpair(&known, answer),
            Order::Renew(device, answer) => {
                let session = self.session.as_mut().filter(|session| *session.device() == device);
                let renewed = session.map(Session::renew);
                let _ = answer.send(matches!(renewed, Some(Ok(()))));
                if let Some(Err(end)) = renewed {
                    self.session_ended(&end);
                }
            }
            Order::Renamed(old) => {
                if self.session.as_ref().is_some_and(|session| *session.device() == old) {
                    self.end_session();
                }
            }
        }
    }

    async fn identify(&mut self, seconds: u16) -> Result<(), String> {
        if let Some(session) = &mut self.session
            && session.command(Action::Identify { seconds }).is_some()
        {
            return Ok(());
        }
        let mut message = [0; 16];
        let length = encode_identify(seconds, &mut message).map_err(|error| error.to_string())?;
        self.link.send(message[..length].to_vec()).await.map_err(|end| end.to_string())
    }

    fn unpair(&mut self, known: &Device, answer: oneshot::Sender<bool>) {
        // Paired again meanwhile, its new key stays.
        let meant = |session: &&mut Session| {
            *session.device() == known.id && known.pairings().any(|pairing| pairing == session.pairing())
        };
        let command = self.session.as_mut().filter(meant).map(|session| session.command(Action::Unpair));
        if let Some(Some(id)) = command {
            self.unpairing = Some((id, answer, Instant::now() + UNPAIRING));
            return;
        }
        let _ = answer.send(false);
        if command.is_some() {
            self.end_session();
        }
    }

    fn bad_message(&mut self, error: &dyn std::error::Error) {
        let link = metrics::Link { link: self.owner.view.metrics_link().to_owned() };
        self.engine().parts().metrics.link.bad_messages.get_or_create(&link).inc();
        if let Some(unsaid) = self.bad_messages.hit(self.engine().parts().clock.boot()) {
            tracing::warn!(link = %link.link, error = %error, unsaid, "a message was dropped");
        }
    }
}

/// Ends when the session has something to acknowledge; never without one.
async fn progressed(session: &mut Option<Session>) {
    match session {
        Some(session) => session.progressed().await,
        None => std::future::pending().await,
    }
}
