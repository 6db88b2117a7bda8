//! What the bytes of one line say about it: counts, the line's condition, and a log that noise cannot flood.

use std::sync::Mutex;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use clawgate_protocol::frame::uart::FrameError;

use crate::link::state::LineCondition;
use crate::metrics::{self, LinkMetrics};

/// So many bad frames and not one good one mean another baud rate, not a disturbance.
const WRONG_BAUD_AFTER: u64 = 16;

/// As many bytes without any frame mean the same: at some wrong rates a delimiter hardly ever appears.
const WRONG_BAUD_BYTES: u64 = 4096;

/// A burst of noise is over when this long nothing bad came; its end is logged with the count.
const BURST_ENDS: Duration = Duration::from_secs(10);

/// Counts of one port, kept over its openings, and its present condition.
#[derive(Debug)]
pub(crate) struct Meter {
    alias: String,
    bytes_in: Counter,
    bytes_out: Counter,
    frames_in: Counter,
    frames_bad: Counter,
    line: Mutex<Line>,
}

/// What was seen since the port was opened.
#[derive(Debug, Default)]
struct Line {
    bytes: u64,
    good: u64,
    bad: u64,
    echoes: u64,
    burst: Option<Burst>,
    said_wrong_baud: bool,
}

/// Bad frames that belong together: one line in the log at the first, one after the last.
#[derive(Debug)]
struct Burst {
    count: u64,
    last: Instant,
}

impl Meter {
    pub(crate) fn new(alias: String, metrics: &LinkMetrics) -> Self {
        let link = metrics::Link { link: alias.clone() };
        Self {
            alias,
            bytes_in: metrics.received_bytes.get_or_create(&link).clone(),
            bytes_out: Counter::default(),
            frames_in: metrics.frames.get_or_create(&link).clone(),
            frames_bad: metrics.bad_frames.get_or_create(&link).clone(),
            line: Mutex::default(),
        }
    }

    /// The port was opened: what was learnt of the line before is void.
    pub(crate) fn opened(&self) {
        *self.line() = Line::default();
    }

    pub(crate) fn received(&self, bytes: usize) {
        let bytes = count(bytes);
        self.bytes_in.inc_by(bytes);
        let mut line = self.line();
        line.bytes = line.bytes.saturating_add(bytes);
        self.end_burst(&mut line);
        self.judge(&mut line);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.bytes_out.inc_by(count(bytes));
    }

    pub(crate) fn good_frame(&self) {
        self.frames_in.inc();
        let mut line = self.line();
        line.good += 1;
        line.echoes = 0;
    }

    pub(crate) fn bad_frame(&self, error: FrameError) {
        self.frames_bad.inc();
        let mut line = self.line();
        line.bad += 1;
        if let Some(burst) = &mut line.burst {
            burst.count += 1;
            burst.last = Instant::now();
        } else {
            tracing::warn!(link = %self.alias, error = %error, "bytes that are no frame; more of them are only counted");
            line.burst = Some(Burst { count: 1, last: Instant::now() });
        }
        self.judge(&mut line);
    }

    /// One of our own messages came back.
    pub(crate) fn echo(&self) {
        let mut line = self.line();
        line.echoes += 1;
        if line.echoes == 1 {
            tracing::warn!(link = %self.alias, "our own frames come back: check that TX and RX are not bridged");
        }
    }

    pub(crate) fn condition(&self) -> LineCondition {
        let line = self.line();
        if line.echoes > 0 {
            LineCondition::Echo
        } else if line.good > 0 {
            LineCondition::Good
        } else if line.is_wrong_baud() {
            LineCondition::WrongBaudRate
        } else {
            LineCondition::Silent
        }
    }

    pub(crate) fn bytes_in(&self) -> u64 {
        self.bytes_in.get()
    }

    pub(crate) fn bytes_out(&self) -> u64 {
        self.bytes_out.get()
    }

    pub(crate) fn frames_in(&self) -> u64 {
        self.frames_in.get()
    }

    pub(crate) fn frames_bad(&self) -> u64 {
        self.frames_bad.get()
    }

    fn judge(&self, line: &mut Line) {
        if line.is_wrong_baud() && !line.said_wrong_baud {
            line.said_wrong_baud = true;
            tracing::warn!(link = %self.alias, bytes = line.bytes, bad_frames = line.bad, "{}", LineCondition::WrongBaudRate);
        }
    }

    fn end_burst(&self, line: &mut Line) {
        if let Some(burst) = line.burst.take_if(|burst| burst.last.elapsed() >= BURST_ENDS)
            && burst.count > 1
        {
            tracing::info!(link = %self.alias, count = burst.count, "bytes that were no frame: over");
        }
    }

    fn line(&self) -> std::sync::MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Line {
    fn is_wrong_baud(&self) -> bool {
        self.good == 0 && self.echoes == 0 && (self.bad >= WRONG_BAUD_AFTER || self.bytes >= WRONG_BAUD_BYTES)
    }
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_without_one_good_frame_is_a_wrong_baud_rate() {
        let meter = Meter::new("usb1".to_owned(), &LinkMetrics::default());
        for _ in 0..WRONG_BAUD_AFTER {
            assert_eq!(meter.condition(), LineCondition::Silent);
            meter.bad_frame(FrameError::BadCrc);
        }
        assert_eq!(meter.condition(), LineCondition::WrongBaudRate);
        meter.good_frame();
        assert_eq!(meter.condition(), LineCondition::Good);
        meter.opened();
        assert_eq!((meter.condition(), meter.frames_bad()), (LineCondition::Silent, WRONG_BAUD_AFTER));
    }

    #[test]
    fn a_stream_without_any_delimiter_is_a_wrong_baud_rate_too() {
        let meter = Meter::new("usb1".to_owned(), &LinkMetrics::default());
        meter.received(5000);
        assert_eq!(meter.condition(), LineCondition::WrongBaudRate);
    }
}
