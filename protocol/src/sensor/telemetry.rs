//! Which readings are sent, sent again, forgotten. A reading stays until the gateway says it is safe.

use super::queue::{Held, Place, Queue};
use crate::app::{self, Ack, App, Gap, GapReason, Hello};
use crate::cbor;
use crate::message::MessageError;

/// How long sent readings (or a `Hello`) may stay unanswered before they are sent again.
const ANSWER_MS: u64 = 3_000;
/// The wait doubles up to this while nothing is answered at all.
const MAX_ANSWER_MS: u64 = 30_000;
/// How often a gateway may send us back to one and the same reading.
const BACK_MS: u64 = 1_000;

/// How far a session's telemetry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// No session.
    Closed,
    /// A session began: say `Hello`.
    Greet,
    /// `Hello` is out; readings wait for its answer.
    Greeted,
    /// Readings flow.
    Open,
}

#[derive(Debug)]
pub(super) struct Telemetry<'a> {
    queue: Queue<'a>,
    epoch: u64,
    /// The number of the oldest held reading; with none held, of the next one.
    lowest: u64,
    /// The number to be sent next, and where it stands if that is known.
    next: u64,
    cursor: Option<Place>,
    flow: Flow,
    last_ack: (u64, u64),
    /// When something unanswered is sent again, and how long the wait was.
    again_at_ms: Option<u64>,
    wait_ms: u64,
    /// Nothing is answered: send one record at a time until something is.
    probing: bool,
    went_back: Option<(u64, u64)>,
    /// Readings that one record may carry: fewer after a loss, since on a bad link the long ones are lost most.
    most: usize,
    /// What the last one carried.
    carried: usize,
}

impl<'a> Telemetry<'a> {
    pub(super) fn new(memory: &'a mut [u8], epoch: u64) -> Self {
        Self {
            queue: Queue::new(memory),
            epoch,
            lowest: 1,
            next: 1,
            cursor: None,
            flow: Flow::Closed,
            last_ack: (0, 1),
            again_at_ms: None,
            wait_ms: ANSWER_MS,
            probing: false,
            went_back: None,
            most: usize::MAX,
            carried: 0,
        }
    }

    pub(super) const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many readings are held.
    pub(super) const fn held(&self) -> usize {
        self.queue.len()
    }

    /// Takes a reading. Returns its number, and the last of the older ones that it displaced.
    pub(super) fn push(&mut self, pack: &[u8], uptime_ms: Option<u64>) -> Option<(u64, Option<Gap>)> {
        let seq = self.end();
        let from = self.lowest;
        let dropped = self.queue.push(pack, uptime_ms)?;
        if dropped == 0 {
            return Some((seq, None));
        }
        self.lowest = from.saturating_add(u64::try_from(dropped).unwrap_or(0));
        self.cursor = None;
        let to = self.lowest.saturating_sub(1);
        Some((seq, Some(Gap { epoch: self.epoch, from, to, reason: GapReason::Overflow })))
    }

    /// Forgets every reading and begins a new run of numbers.
    pub(super) fn restart(&mut self, epoch: u64) {
        *self = Self::new(self.queue.take_memory(), epoch);
    }

    /// A session began: everything starts with a `Hello`.
    pub(super) fn open(&mut self) {
        self.flow = Flow::Greet;
        self.wait_ms = ANSWER_MS;
        self.again_at_ms = None;
        self.probing = false;
        self.most = usize::MAX;
    }

    /// The session ended.
    pub(super) fn close(&mut self) {
        self.flow = Flow::Closed;
        self.again_at_ms = None;
    }

    /// Takes an acknowledgement. Returns the highest number that became safe, if any did.
    pub(super) fn handle_ack(&mut self, ack: Ack, now_ms: u64) -> Option<u64> {
        // Nothing can be safe or expected that was never made: such an answer is a broken gateway's.
        if ack.epoch != self.epoch || ack.next > self.end() || matches!(self.flow, Flow::Closed | Flow::Greet) {
            return None;
        }
        let news = (ack.safe, ack.next) != self.last_ack;
        let greeted = self.flow == Flow::Greeted;
        self.last_ack = (ack.safe, ack.next);
        self.flow = Flow::Open;
        let mut safe = None;
        while self.lowest <= ack.safe && self.queue.len() > 0 {
            self.queue.pop();
            safe = Some(self.lowest);
            self.lowest = self.lowest.saturating_add(1);
        }
        if self.queue.len() == 0 {
            self.cursor = None;
        }
        let lags = ack.next < self.next;
        if greeted || self.probing || ack.next > self.next {
            self.go_to(ack.next);
        } else if lags && !news && self.may_go_back(ack.next, now_ms) {
            // The same answer twice: it dropped what came after a loss.
            self.lost();
            self.go_to(ack.next);
        }
        self.probing = false;
        if news {
            self.most = self.most.saturating_add(self.most / 4).saturating_add(1);
        }
        if news || greeted {
            self.wait_ms = ANSWER_MS;
            self.again_at_ms = (self.lowest < self.end()).then(|| now_ms.saturating_add(ANSWER_MS));
        }
        safe
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(super) const fn poll_timeout(&self) -> Option<u64> {
        self.again_at_ms
    }

    /// What stayed unanswered is sent again, from the lowest reading on.
    pub(super) fn handle_timeout(&mut self, now_ms: u64) {
        if self.again_at_ms.is_none_or(|at| now_ms < at) {
            return;
        }
        self.again_at_ms = None;
        self.wait_ms = self.wait_ms.saturating_mul(2).min(MAX_ANSWER_MS);
        match self.flow {
            Flow::Greeted => self.flow = Flow::Greet,
            Flow::Open => {
                self.probing = true;
                self.lost();
                let (safe, _) = self.last_ack;
                self.go_to(safe.saturating_add(1));
            }
            Flow::Closed | Flow::Greet => (),
        }
    }

    /// Writes the next message for the gateway into `out`, if there is one; `hello` fills the rest of a `Hello`.
    pub(super) fn poll(
        &mut self,
        now_ms: u64,
        out: &mut [u8],
        hello: impl FnOnce(u64, u64) -> Hello<'a>,
    ) -> Result<Option<usize>, MessageError> {
        match self.flow {
            Flow::Greet => {
                // What was dropped and not yet reported is owed too: the gateway must ask for it to hear of the gap.
                let (safe, _) = self.last_ack;
                let owed = self.lowest.min(safe.saturating_add(1));
                let len = App::Hello(hello(self.epoch, owed)).encode(out)?;
                self.flow = Flow::Greeted;
                self.again_at_ms = Some(now_ms.saturating_add(self.wait_ms));
                return Ok(Some(len));
            }
            Flow::Closed | Flow::Greeted => return Ok(None),
            Flow::Open => (),
        }
        let waiting = self.probing && self.again_at_ms.is_some();
        if waiting || self.next >= self.end() {
            return Ok(None);
        }
        let len = if self.next < self.lowest {
            let gap = Gap {
                epoch: self.epoch,
                from: self.next,
                to: self.lowest.saturating_sub(1),
                reason: GapReason::Overflow,
            };
            let len = App::Gap(gap).encode(out)?;
            self.go_to(self.lowest);
            len
        } else {
            self.readings(out)?
        };
        if self.again_at_ms.is_none() {
            self.again_at_ms = Some(now_ms.saturating_add(self.wait_ms));
        }
        Ok(Some(len))
    }

    /// As many readings as fit, from the next one on.
    fn readings(&mut self, out: &mut [u8]) -> Result<usize, MessageError> {
        let index = usize::try_from(self.next.saturating_sub(self.lowest)).unwrap_or(usize::MAX);
        let first = self.cursor.unwrap_or_else(|| self.queue.place(index));
        let left = self.queue.len().saturating_sub(index);
        // The map, the numbers and two counts take at most 32 bytes.
        let mut room = out.len().saturating_sub(32);
        let with_uptime = self.queue.run(first, left).next().is_some_and(|held| held.uptime_ms.is_some());
        let mut before = 0;
        let fits = |held: &Held<'_>| {
            // Uptimes of one message do not go back; a sensor whose clock was turned back begins another.
            let uptime = match (with_uptime, held.uptime_ms) {
                (true, Some(uptime_ms)) => uptime_ms.checked_sub(before).map(cbor::head_len),
                (false, None) => Some(0),
                _ => None,
            };
            before = held.uptime_ms.unwrap_or(0);
            let len = held.pack.len();
            let own = cbor::head_len(u64::try_from(len).unwrap_or(u64::MAX));
            let left = uptime.and_then(|uptime| room.checked_sub(len.checked_add(own)?.checked_add(uptime)?));
            room = left.unwrap_or(0);
            left.is_some()
        };
        let count = self.queue.run(first, left.min(self.most)).take_while(fits).count();
        let mut run = self.queue.run(first, count);
        let items = run.clone().map(|held| (held.pack, held.uptime_ms));
        let len = app::encode_readings(self.epoch, self.next, items, out)?;
        run.by_ref().for_each(drop);
        self.cursor = Some(run.place());
        self.carried = count;
        self.next = self.next.saturating_add(u64::try_from(count).unwrap_or(0));
        Ok(len)
    }

    /// A record did not arrive: the next ones carry half of what it did.
    fn lost(&mut self) {
        self.most = (self.carried / 2).max(1);
    }

    /// One above the highest number that was given.
    fn end(&self) -> u64 {
        self.lowest.saturating_add(u64::try_from(self.queue.len()).unwrap_or(u64::MAX))
    }

    fn go_to(&mut self, seq: u64) {
        self.next = seq;
        self.cursor = None;
    }

    fn may_go_back(&mut self, to: u64, now_ms: u64) -> bool {
        let recently = self.went_back.is_some_and(|(seq, at)| seq == to && now_ms < at.saturating_add(BACK_MS));
        if !recently {
            self.went_back = Some((to, now_ms));
        }
        !recently
    }
}
