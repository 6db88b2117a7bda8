//! Time: a monotonic clock that counts suspend, and the wall clock. Injected, so that tests own it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clawgate_kernel_clock as kernel_clock;

/// Reads both clocks; cheap to clone.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Manual(Arc<ManualTime>),
}

struct ManualTime {
    boot_ms: AtomicU64,
    wall_ms: AtomicU64,
}

impl Clock {
    /// The machine's own clocks.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// Clocks that move only when told: boot time 0 and the given wall time.
    #[must_use]
    pub fn manual(wall: Duration) -> Self {
        Self(Source::Manual(Arc::new(ManualTime { boot_ms: AtomicU64::new(0), wall_ms: AtomicU64::new(as_ms(wall)) })))
    }

    /// Time since boot, suspend included (`CLOCK_BOOTTIME`). Lives, expiries and time-outs count on it.
    #[must_use]
    pub(crate) fn boot(&self) -> Duration {
        match &self.0 {
            Source::System => {
                let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
            }
            Source::Manual(time) => Duration::from_millis(time.boot_ms.load(Ordering::Relaxed)),
        }
    }

    /// Wall time since 1970 UTC. For people and for tokens; never for a life.
    #[must_use]
    pub fn wall(&self) -> Duration {
        match &self.0 {
            Source::System => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            Source::Manual(time) => Duration::from_millis(time.wall_ms.load(Ordering::Relaxed)),
        }
    }

    /// [`boot`](Self::boot) in milliseconds.
    #[must_use]
    pub(crate) fn boot_ms(&self) -> u64 {
        as_ms(self.boot())
    }

    /// [`wall`](Self::wall) in milliseconds, as the registry and the audit log keep times.
    #[must_use]
    pub(crate) fn wall_ms(&self) -> i64 {
        i64::try_from(self.wall().as_millis()).unwrap_or(i64::MAX)
    }

    /// Names this start of the machine in 32 hexadecimal digits: boot times of different starts do not compare. Where a
    /// sandbox hides the kernel's word for it, systemd's counts; empty where neither is known.
    #[must_use]
    pub(crate) fn boot_id(&self) -> String {
        match &self.0 {
            Source::System => {
                let kernel = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
                kernel.or_else(|| std::env::var(BOOT_ID).ok()).as_deref().and_then(plain_id).unwrap_or_default()
            }
            Source::Manual(_) => "0".repeat(32),
        }
    }

    /// Moves a manual clock, boot and wall together; nothing on the system's.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(time) = &self.0 {
            time.boot_ms.fetch_add(as_ms(by), Ordering::Relaxed);
            time.wall_ms.fetch_add(as_ms(by), Ordering::Relaxed);
        }
    }

    /// Sets only the wall time of a manual clock: somebody turned the clock.
    #[cfg(test)]
    pub(crate) fn set_wall(&self, wall: Duration) {
        if let Source::Manual(time) = &self.0 {
            time.wall_ms.store(as_ms(wall), Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock(boot {:?})", self.boot())
    }
}

/// The unit says the boot id here: `ProcSubset=pid` hides the file.
const BOOT_ID: &str = "CLAWGATE_BOOT_ID";

/// An id with or without hyphens, as 32 digits; nothing else.
fn plain_id(text: &str) -> Option<String> {
    let id: String = text.trim().chars().filter(|c| *c != '-').collect();
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_ascii_lowercase())
}

/// Made by systemd-timesyncd at its first synchronisation, gone with a reboot.
const TIMESYNCD: &str = "/run/systemd/timesync/synchronized";

/// The kernel's bound of its own error while nobody disciplines its clock.
const UNKNOWN_ERROR: Duration = Duration::from_secs(16);

/// Whether the wall clock is known to be right, by whichever program keeps it: the kernel is asked. Where a sandbox
/// forbids the question, only the word of systemd-timesyncd counts.
#[must_use]
pub fn is_synchronised() -> bool {
    judge(kernel_clock::max_error().ok(), timesyncd_synchronised)
}

/// The kernel's word for it, whichever program keeps the clock; none where it may not be asked.
pub(crate) fn kernel_says_synchronised() -> Option<bool> {
    kernel_clock::max_error().ok().map(|error| judge(Some(error), || false))
}

/// Whether systemd-timesyncd has synchronised the clock since the boot.
pub(crate) fn timesyncd_synchronised() -> bool {
    Path::new(TIMESYNCD).exists()
}

/// The kernel's own flag is not looked at: some clients leave it unset so that the kernel does not touch the hardware
/// clock. The bound of the error is what each of them keeps small.
fn judge(kernel: Option<Duration>, timesyncd: impl FnOnce() -> bool) -> bool {
    kernel.map_or_else(timesyncd, |error| error < UNKNOWN_ERROR)
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::testing;

    #[test]
    fn the_kernel_says_whether_the_clock_is_right_and_timesyncd_where_it_may_not_be_asked() {
        assert!(judge(Some(Duration::from_millis(40)), || false));
        assert!(!judge(Some(UNKNOWN_ERROR), || true), "a marker of long ago says nothing");
        assert!(judge(None, || true) && !judge(None, || false));
    }

    #[test]
    fn a_start_of_the_machine_has_one_name() {
        assert_eq!(Clock::system().boot_id(), Clock::system().boot_id());
        assert_eq!(plain_id("0F6b5d5a-1111-2222-3333-444455556666\n").unwrap(), "0f6b5d5a111122223333444455556666");
        assert!(plain_id("").is_none() && plain_id("../../../etc/passwd-0123456789abcd").is_none());
    }

    /// Not a test of its own: what the one below compares.
    #[test]
    fn time_since_boot() {
        println!("boot={}", Clock::system().boot().as_secs());
    }

    #[test]
    fn time_in_suspend_counts() {
        const DAY: u64 = 86_400;
        let seconds = |wrapper: &[&str]| {
            let own = std::env::current_exe().unwrap();
            let words = wrapper.iter().map(Into::into).chain([own.into_os_string()]).collect::<Vec<_>>();
            let mut child = Command::new(&words[0]);
            child.args(&words[1..]).args(["--exact", "clock::tests::time_since_boot", "--nocapture"]);
            let text = String::from_utf8(testing::output(&mut child).ok()?.stdout).ok()?;
            text.split_once("boot=")?.1.lines().next()?.parse::<u64>().ok()
        };
        // A time namespace whose boot clock alone is ahead, as after a day of suspend.
        let day = DAY.to_string();
        let suspended = ["unshare", "--user", "--map-root-user", "--time", "--boottime", &day, "--fork"];
        let before = seconds(&[]).unwrap();
        let Some(after) = seconds(&suspended) else { return eprintln!("not run: this user may not unshare time") };
        assert!((DAY..DAY + 3600).contains(&(after - before)), "{before} s, then {after} s");
    }
}
