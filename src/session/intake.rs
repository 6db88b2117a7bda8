//! Readings of a session into the spool, in order and once; progress of the spool back to the sensor.
//!
//! Go-back-N: what is not the next reading is dropped and answered with what is. When an acknowledgement goes out,
//! [`Cadence`] says.

use std::time::Duration;

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;
use tokio::time::Instant;

use clawgate_protocol::app::{Ack, Gap, GapReason, Hello, Reading, Readings};
use clawgate_protocol::senml;

use super::SessionParts;
use super::cadence::Cadence;
use crate::blocking::blocking;
use crate::ids::PairingId;
use crate::metrics;
use crate::spool::{Capture, Incoming, Kind, Lane, Progress, SpoolError, Submitted};

/// The least time between two answers to readings that are not the next: one loss makes a whole window of
/// them, and the sensor goes back once.
const NAK_GAP: Duration = Duration::from_millis(200);

/// While the spool is full the sensor is not asked to send again sooner than this.
const FULL_PAUSE: Duration = Duration::from_secs(2);

/// What is taken in of one sensor.
pub(super) struct Intake {
    parts: SessionParts,
    lane: Option<(Lane, watch::Receiver<Progress>)>,
    epoch: Option<Epoch>,
    acknowledged: Option<Ack>,
    cadence: Cadence,
    not_before: Option<Instant>,
    /// The answer to a loss is given twice: the sensor goes back when it hears the same again.
    twice: bool,
    full: bool,
    /// The first reading of this session was seen by whoever waited for it.
    first_told: bool,
    taken: Counter,
    repeated: Counter,
}

/// The run of numbers the sensor is in.
#[derive(Debug, Clone, Copy)]
struct Epoch {
    number: u64,
    next: u64,
    /// Unix time at which the sensor's uptime was 0.
    zero_unix_ms: i64,
}

impl Intake {
    pub(super) fn new(label: &metrics::Device, parts: &SessionParts) -> Self {
        Self {
            taken: parts.metrics.session.readings.get_or_create(label).clone(),
            repeated: parts.metrics.session.repeated.get_or_create(label).clone(),
            parts: parts.clone(),
            lane: None,
            epoch: None,
            acknowledged: None,
            cadence: Cadence::default(),
            not_before: None,
            twice: false,
            full: false,
            first_told: false,
        }
    }

    /// Readings belong to this pairing from now on.
    pub(super) fn serve(&mut self, pairing: PairingId) {
        if self.lane.as_ref().is_none_or(|(lane, _)| lane.pairing() != pairing) {
            let lane = self.parts.spool.lane(pairing);
            let progress = lane.progress();
            self.lane = Some((lane, progress));
            self.epoch = None;
            self.first_told = false;
        }
    }

    /// The sensor says where it stands. An acknowledgement of what is here already is due now.
    pub(super) async fn hello(&mut self, hello: &Hello<'_>) {
        let Some((lane, _)) = &self.lane else { return };
        let (store, pairing) = (self.parts.store.clone(), lane.pairing());
        let (number, uptime, synced) = (hello.epoch, Duration::from_millis(hello.uptime_ms), hello.synced);
        let progress = lane.hello(number, hello.lowest);
        // Kept for a sensor without a clock: its readings get the same times after a restart of ours.
        let anchor = blocking(move || {
            if synced { store.anchor(pairing, number) } else { store.set_anchor(pairing, number, uptime).map(Some) }
        });
        let anchor = anchor.await.unwrap_or_else(|error| {
            tracing::warn!(error = %error, "readings that come after a restart of clawgate may get a time of their own");
            None
        });
        let now = || milliseconds(self.parts.clock.wall()).saturating_sub(milliseconds(uptime));
        let zero_unix_ms = anchor.map_or_else(now, |anchor| anchor.zero_unix_ms);
        self.epoch = Some(Epoch { number, next: progress.next, zero_unix_ms });
        self.acknowledged = None;
        self.cadence.want(Instant::now());
    }

    /// Takes what comes next; the rest is dropped.
    pub(super) fn readings(&mut self, readings: &Readings<'_>, record: &Bytes) {
        let Some(mut epoch) = self.epoch.filter(|epoch| epoch.number == readings.epoch) else { return };
        if readings.first_seq > epoch.next {
            self.answer_again(true);
            return;
        }
        let Epoch { number, next: expected, zero_unix_ms } = epoch;
        let repeated = readings.iter().take_while(|reading| reading.seq < expected).count();
        // What is here already would be kept with it, uncounted: such a record is not shared.
        let shared = (repeated == 0).then_some(record);
        let entries = readings.iter().skip(repeated).map(|reading| {
            let (content, captured) = capture(&reading, shared, zero_unix_ms);
            Incoming { epoch: number, seq: reading.seq, kind: Kind::Telemetry, content, captured }
        });
        let taken = self.submit(entries, &mut epoch);
        if taken > 0
            && !self.first_told
            && let Some(first) = readings.iter().find(|reading| reading.seq == expected)
        {
            self.tell_first(first.pack);
        }
        self.epoch = Some(epoch);
        self.cadence.came(taken);
        self.taken.inc_by(taken);
        self.repeated.inc_by(repeated as u64);
        if taken == 0 && repeated > 0 {
            self.answer_again(false);
        }
    }

    /// Takes the sensor's word that readings are gone.
    pub(super) fn gap(&mut self, gap: Gap) {
        let Some(mut epoch) = self.epoch.filter(|epoch| epoch.number == gap.epoch) else { return };
        if gap.from > epoch.next || gap.to < epoch.next {
            self.answer_again(gap.from > epoch.next);
            return;
        }
        let reason = match gap.reason {
            GapReason::Overflow => "the sensor's memory was full",
            _ => "the sensor lost them",
        };
        let entry = Incoming {
            epoch: gap.epoch,
            seq: gap.from,
            kind: Kind::Gap { to: gap.to },
            content: Bytes::from_static(reason.as_bytes()),
            captured: Capture::Exact,
        };
        self.submit([entry], &mut epoch);
        self.epoch = Some(epoch);
    }

    /// Ends when the spool has made more of it safe.
    pub(super) async fn progressed(&mut self) {
        let changed = match &mut self.lane {
            // What becomes safe until the acknowledgement goes out is in it.
            Some((_, progress)) if !self.cadence.is_wanted() => progress.changed().await.is_ok(),
            _ => false,
        };
        if changed {
            self.cadence.want(Instant::now());
        } else {
            std::future::pending::<()>().await;
        }
    }

    /// When an acknowledgement wants to be sent.
    pub(super) fn ack_due(&self) -> Option<Instant> {
        self.cadence.due()
    }

    /// How far we are, once the sensor said where it stands.
    pub(super) fn position(&self) -> Option<Ack> {
        let (epoch, (_, progress)) = self.epoch.zip(self.lane.as_ref())?;
        let progress = *progress.borrow();
        let safe = if progress.epoch == epoch.number { progress.safe } else { 0 };
        Some(Ack { epoch: epoch.number, safe: safe.min(epoch.next - 1), next: epoch.next })
    }

    /// The acknowledgement that is due, if it would tell the sensor anything.
    pub(super) fn take_ack(&mut self, now: Instant) -> Option<Ack> {
        self.cadence.forgo();
        let ack = self.position()?;
        if self.acknowledged.is_some_and(|last| last.epoch == ack.epoch && last.safe == ack.safe) {
            return None;
        }
        self.cadence.said(now);
        self.acknowledged = Some(ack);
        if std::mem::take(&mut self.twice) {
            self.acknowledged = None;
            self.cadence.want_soon(now);
        }
        Some(ack)
    }

    fn tell_first(&mut self, pack: &[u8]) {
        if let Some((lane, _)) = &self.lane {
            self.parts.firsts.came(lane.pairing(), pack, self.parts.clock.boot());
            self.first_told = true;
        }
    }

    /// Hands entries in, in order; how many were taken, now or before.
    fn submit(&mut self, entries: impl IntoIterator<Item = Incoming>, epoch: &mut Epoch) -> u64 {
        let Some((lane, _)) = &self.lane else { return 0 };
        let mut taken = 0;
        let refused = lane.submit_all(entries, |last, submitted| match submitted {
            // A duplicate only where the lane knows better: another session of this sensor ended just before.
            Submitted::Accepted | Submitted::Duplicate => {
                epoch.next = epoch.next.max(last + 1);
                taken += 1;
            }
            Submitted::OutOfOrder { next } => epoch.next = next,
        });
        match refused {
            Ok(()) => self.full = self.full && taken == 0,
            Err(error) => self.pause(&error),
        }
        taken
    }

    fn pause(&mut self, error: &SpoolError) {
        self.not_before = Some(Instant::now() + FULL_PAUSE);
        if !std::mem::replace(&mut self.full, true) {
            tracing::warn!(error = %error, "readings are left with their sensor");
        }
    }

    /// Says once more where we are, though nothing became safe.
    fn answer_again(&mut self, twice: bool) {
        let now = Instant::now();
        if self.not_before.is_none_or(|time| now >= time) {
            self.not_before = Some(now + NAK_GAP);
            self.twice = twice;
            self.acknowledged = None;
            self.cadence.want_soon(now);
        }
    }
}

/// A reading's content with its absolute time, and how it came about. It shares the memory of `record`, if given.
fn capture(reading: &Reading<'_>, record: Option<&Bytes>, zero_unix_ms: i64) -> (Bytes, Capture) {
    let as_it_is =
        || record.map_or_else(|| Bytes::copy_from_slice(reading.pack), |record| record.slice_ref(reading.pack));
    let Some(uptime_ms) = reading.uptime_ms else {
        return (as_it_is(), Capture::Exact);
    };
    let unix_ms = u64::try_from(zero_unix_ms.saturating_add_unsigned(uptime_ms)).unwrap_or(0);
    let mut pack = vec![0; reading.pack.len() + 16];
    match senml::with_base_time(reading.pack, unix_ms, &mut pack) {
        Ok(length) => {
            pack.truncate(length);
            (pack.into(), Capture::Mapped)
        }
        // No SenML: passed on as it is, so that it ends among the dead letters with the reason.
        Err(_) => (as_it_is(), Capture::Mapped),
    }
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
