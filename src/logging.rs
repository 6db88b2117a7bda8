//! The log: text on a terminal or a pipe, fields in the journal under systemd. The level follows the configuration.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::LogLevel;

/// How long a burst of one event is silent after its first line.
const BURST_SILENCE: Duration = Duration::from_secs(60);

/// The running log; its level can be changed.
pub struct Log {
    level: reload::Handle<Targets, Registry>,
}

/// Starts the log of this process. Only the first call has an effect.
#[must_use]
pub(crate) fn start(level: LogLevel) -> Log {
    let (filter, handle) = reload::Layer::new(filter_of(level));
    let registry = tracing_subscriber::registry().with(filter);
    // A second log in one process is a test's; the first one stays.
    let _ = if let Some(journal) = journal() {
        registry.with(journal).try_init()
    } else {
        let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        registry.with(fmt::layer().with_writer(io::stderr).with_ansi(colour).with_target(false)).try_init()
    };
    Log { level: handle }
}

impl Log {
    /// Changes the level from now on.
    pub(crate) fn set_level(&self, level: LogLevel) {
        // Fails only where another log won the start; then there is nothing to change.
        let _ = self.level.modify(|filter| *filter = filter_of(level));
    }
}

/// Our own lines at the level; those of libraries only where they warn.
fn filter_of(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("clawgate", level)
}

/// The journal's layer, where standard error leads into the journal (`$JOURNAL_STREAM` names its device and inode).
fn journal() -> Option<tracing_journald::Layer> {
    let stream = std::env::var("JOURNAL_STREAM").ok()?;
    let stat = rustix::fs::fstat(io::stderr().as_fd()).ok()?;
    if stream != format!("{}:{}", stat.st_dev, stat.st_ino) {
        return None;
    }
    tracing_journald::layer().ok()
}

/// Keeps an event that a peer can trigger from filling the log: the first is said, then once a minute how many.
#[derive(Debug, Default)]
pub struct Burst {
    said_at: Option<Duration>,
    unsaid: u64,
}

impl Burst {
    /// Notes the event at boot time `now`; `Some(n)` where a line is due, n events having passed unsaid before it.
    pub(crate) fn hit(&mut self, now: Duration) -> Option<u64> {
        if self.said_at.is_some_and(|at| now.saturating_sub(at) < BURST_SILENCE) {
            self.unsaid += 1;
            return None;
        }
        self.said_at = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// Lines of one asker within [`SHARE_PERIOD`].
const SHARE: u32 = 10;
/// After this time an asker has lines again.
const SHARE_PERIOD: Duration = Duration::from_secs(60);

/// As [`Burst`], where each line says something of its own: an asker has some lines a minute, the others are counted.
#[derive(Debug, Default)]
pub struct Share {
    since: Duration,
    said: u32,
    unsaid: u64,
}

impl Share {
    /// Takes one line at boot time `now`; `Some(n)` where there was one, n having found none before it.
    pub(crate) fn charge(&mut self, now: Duration) -> Option<u64> {
        if self.said == 0 || now.saturating_sub(self.since) >= SHARE_PERIOD {
            (self.since, self.said) = (now, 0);
        }
        if self.said >= SHARE {
            self.unsaid += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.unsaid))
    }

    /// Whether there is nothing in it that a new one would not have.
    #[must_use]
    pub(crate) fn is_over(&self, now: Duration) -> bool {
        self.unsaid == 0 && now.saturating_sub(self.since) >= SHARE_PERIOD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_said_up_to_a_share_and_then_counted() {
        let mut share = Share::default();
        let second = Duration::from_secs;
        let said: Vec<_> = (0..100).filter_map(|_| share.charge(second(1))).collect();
        assert_eq!(said, [0; 10]);
        assert!(!share.is_over(second(61)), "the next line has to tell of 90");
        assert_eq!((share.charge(second(61)), share.charge(second(61))), (Some(90), Some(0)));
        assert!(!share.is_over(second(120)) && share.is_over(second(121)));
    }

    #[test]
    fn a_burst_is_said_first_and_then_once_a_minute_with_its_count() {
        let mut burst = Burst::default();
        let said: Vec<_> = (0..200).filter_map(|s| burst.hit(Duration::from_secs(s)).map(|n| (s, n))).collect();
        assert_eq!(said, [(0, 0), (60, 59), (120, 59), (180, 59)]);
    }
}
