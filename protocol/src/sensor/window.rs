//! The pairing window and the runs in it: who may start one, what each attempt costs.

use heapless::Vec;

use super::{Answer, Event, Sensor, Storage, StorageFailed, WindowError};
use crate::Random;
use crate::code::Code;
use crate::discovery;
use crate::keys::PairingRecord;
use crate::message::Kind;
use crate::pairing::{self, Ceremony, EnteredCode, Failure, LabelBackoff, Prs, SensorOptions, SensorStep, Suite};

/// The longest a window stays open.
const WINDOW_S: u16 = 300;

/// The pairing window and what slows guesses down.
#[derive(Debug, Default)]
pub(super) struct Window {
    open: Option<Open>,
    backoff: LabelBackoff,
}

#[derive(Debug)]
struct Open {
    code: Entered,
    closes_ms: u64,
    id: u32,
}

/// What the code of an open window is.
#[derive(Debug)]
enum Entered {
    Label,
    Issued(Code, EnteredCode),
}

impl Window {
    /// After a start: closed, and as slow with the label as before.
    pub(super) fn restore(attempts: u32, now_ms: u64) -> Self {
        Self { open: None, backoff: LabelBackoff::restore(attempts, now_ms) }
    }

    pub(super) fn closes_at(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.closes_ms)
    }

    /// The window as `Ident` shows it.
    pub(super) fn shown(&self, now_ms: u64) -> Option<discovery::Window> {
        let open = self.open.as_ref()?;
        let left = open.closes_ms.saturating_sub(now_ms).div_ceil(1000);
        let seconds_left = u16::try_from(left).unwrap_or(WINDOW_S);
        Some(discovery::Window { ceremony: open.code.ceremony(), seconds_left, id: open.id })
    }
}

impl Entered {
    const fn ceremony(&self) -> Ceremony {
        match self {
            Self::Label => Ceremony::Label,
            Self::Issued(..) => Ceremony::Issued,
        }
    }
}

/// A step of the pairing machine that owns what it carries.
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack; there is no allocator to box it with")]
enum Next {
    Wait,
    Send,
    Count,
    Store { record: PairingRecord, config: Vec<u8, 64> },
    Failed { failure: Failure, refuse: bool },
}

impl From<SensorStep<'_>> for Next {
    fn from(step: SensorStep<'_>) -> Self {
        match step {
            SensorStep::Wait => Self::Wait,
            SensorStep::Send(_) => Self::Send,
            SensorStep::CountAttempt => Self::Count,
            SensorStep::StorePending { record, config } => {
                Self::Store { record: record.clone(), config: Vec::from_slice(config).unwrap_or_default() }
            }
            SensorStep::Failed { failure, refuse } => Self::Failed { failure, refuse },
        }
    }
}

impl<P: Random + Storage, const EVENTS: usize> Sensor<'_, P, EVENTS> {
    /// Opens the window for the label's code for 5 minutes: a physical act, such as a button. It also clears
    /// the waiting time after wrong codes.
    ///
    /// # Errors
    /// [`WindowError::NoLabel`] if the unit has no label code.
    pub fn open_label_window(&mut self, now_ms: u64) -> Result<(), WindowError> {
        self.open_label(WINDOW_S, now_ms)?;
        self.window.backoff.clear();
        self.keep_attempts();
        Ok(())
    }

    /// Opens the window for the code that a person just entered, for 5 minutes. The code is forgotten when
    /// the window closes.
    pub fn enter_code(&mut self, code: Code, now_ms: u64) {
        self.open_window(Entered::Issued(code, EnteredCode::default()), WINDOW_S, now_ms);
    }

    pub(super) fn open_label(&mut self, seconds: u16, now_ms: u64) -> Result<(), WindowError> {
        if self.options.label.is_none() {
            return Err(WindowError::NoLabel);
        }
        self.open_window(Entered::Label, seconds.min(WINDOW_S), now_ms);
        Ok(())
    }

    fn open_window(&mut self, code: Entered, seconds: u16, now_ms: u64) {
        let mut id = [0; 4];
        self.platform.fill(&mut id);
        let ceremony = code.ceremony();
        let closes_ms = now_ms.saturating_add(u64::from(seconds).saturating_mul(1000));
        // A run of the window before goes no further: its code may be another.
        self.run = None;
        self.window.open = Some(Open { code, closes_ms, id: u32::from_be_bytes(id) });
        self.event(Event::WindowOpened(ceremony));
    }

    pub(super) fn close_window(&mut self) {
        if self.window.open.take().is_some() {
            self.event(Event::WindowClosed);
        }
    }

    pub(super) fn time_pairing(&mut self, now_ms: u64) {
        if self.run.as_ref().and_then(pairing::Sensor::poll_timeout).is_some_and(|at| now_ms >= at)
            && let Some(run) = &mut self.run
        {
            let next = run.handle_timeout(now_ms).into();
            self.advance(next, now_ms);
        }
        // Over without a failure: M6 was sent, and nobody needs it again.
        if self.run.as_ref().is_some_and(|run| run.poll_timeout().is_none()) {
            self.run = None;
        }
        if self.window.closes_at().is_some_and(|at| now_ms >= at) {
            self.run = None;
            self.close_window();
        }
    }

    pub(super) fn handle_pairing(&mut self, kind: Kind, message: &[u8], now_ms: u64) {
        if kind == Kind::M1 && (self.run.is_none() || self.window.open.is_none()) {
            return self.accept(message, now_ms);
        }
        if let Some(run) = &mut self.run {
            let next = run.handle(message, now_ms).into();
            self.advance(next, now_ms);
        }
    }

    /// A new run, if the window is open and the label's waiting time is over.
    fn accept(&mut self, m1: &[u8], now_ms: u64) {
        let Some(open) = &self.window.open else { return };
        let prs: Prs = match (&open.code, &self.options.label) {
            (Entered::Issued(code, _), _) => code.prs(),
            (Entered::Label, Some(label)) if self.window.backoff.allows(now_ms) => label.prs(),
            (Entered::Label, _) => {
                self.due.answer = Some(Answer::Refuse);
                return;
            }
        };
        let options = SensorOptions {
            device: self.options.device,
            ceremony: open.code.ceremony(),
            transport: self.options.transport,
            max_suite: self.options.max_suite,
            min_suite: Suite::One,
            max_message: self.options.max_message,
            profile: self.options.profile,
        };
        match pairing::Sensor::accept(options, &prs, &self.state.own_static, m1, now_ms, &mut self.platform) {
            Ok(run) => {
                self.run = Some(run);
                self.due.answer = Some(Answer::Message);
            }
            Err(failure) => {
                self.due.answer = Some(Answer::Refuse);
                self.event(Event::PairingFailed(failure));
            }
        }
    }

    fn advance(&mut self, mut next: Next, now_ms: u64) {
        loop {
            next = match next {
                Next::Wait => break,
                Next::Send => {
                    self.due.answer = Some(Answer::Message);
                    break;
                }
                Next::Count if self.count_attempt(now_ms) => match &mut self.run {
                    Some(run) => run.attempt_counted().into(),
                    None => break,
                },
                Next::Count => Next::Failed { failure: Failure::Refused, refuse: true },
                Next::Store { record, config } => {
                    let gateway = record.gateway;
                    if self.run.as_ref().is_some_and(pairing::Sensor::gateway_confirmed)
                        && let Some(Open { code: Entered::Issued(_, tags), .. }) = &mut self.window.open
                    {
                        tags.answered();
                    }
                    match self.store(record) {
                        Ok(()) => {
                            self.close_window();
                            self.event(Event::Paired { gateway, config });
                            match &mut self.run {
                                Some(run) => run.pending_stored().into(),
                                None => break,
                            }
                        }
                        Err(StorageFailed) => Next::Failed { failure: Failure::Refused, refuse: true },
                    }
                }
                Next::Failed { failure, refuse } => {
                    self.fail(failure, refuse);
                    break;
                }
            };
        }
    }

    /// Counts an attempt where it survives; false if it could not be counted or none is left.
    fn count_attempt(&mut self, now_ms: u64) -> bool {
        match self.window.open.as_mut().map(|open| &mut open.code) {
            Some(Entered::Issued(_, tags)) => tags.count(),
            Some(Entered::Label) => {
                self.window.backoff.count(now_ms);
                self.keep_attempts()
            }
            None => false,
        }
    }

    /// Keeps the new key beside the old one, and the label's count cleared.
    fn store(&mut self, record: PairingRecord) -> Result<(), StorageFailed> {
        let mut state = self.state.clone();
        state.slots.store_pending(record);
        state.attempts = 0;
        if let Err(failed) = self.platform.save(&state.to_bytes()) {
            self.event(Event::StorageFailed);
            return Err(failed);
        }
        self.state = state;
        self.window.backoff.clear();
        Ok(())
    }

    fn fail(&mut self, failure: Failure, refuse: bool) {
        let confirmed = self.run.take().is_some_and(|run| run.gateway_confirmed());
        self.due.answer = refuse.then_some(Answer::Refuse);
        if let Some(Open { code: Entered::Issued(_, tags), .. }) = &mut self.window.open {
            if confirmed {
                tags.answered();
            }
            if tags.is_spent() {
                self.close_window();
            }
        }
        self.event(Event::PairingFailed(failure));
    }

    /// Persists the label's count; false if that failed.
    fn keep_attempts(&mut self) -> bool {
        self.state.attempts = self.window.backoff.attempts();
        let kept = self.platform.save(&self.state.to_bytes()).is_ok();
        if !kept {
            self.event(Event::StorageFailed);
        }
        kept
    }
}
