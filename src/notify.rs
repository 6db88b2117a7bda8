//! What systemd is told: ready, status, watchdog, stopping. Silent where systemd does not listen.

use std::time::Duration;

use sd_notify::NotifyState;

/// The daemon is up; `systemctl start` returns.
pub(crate) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line for `systemctl status`.
pub(crate) fn status(text: &str) {
    send(&[NotifyState::Status(text)]);
}

/// A reload begins; [`ready`] ends it.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// The orderly stop has begun.
pub(crate) fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// The daemon made progress.
pub(crate) fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// How long systemd waits for progress; `None` where it does not.
#[must_use]
pub(crate) fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}
