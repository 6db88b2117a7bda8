//! Whether this gateway's own clock may be offered to others.

use std::path::Path;

/// Made by systemd-timesyncd at its first synchronisation, gone with a reboot.
const TIMESYNCD: &str = "/run/systemd/timesync/synchronized";

/// Whether the clock is known to be right. Where another program keeps it nobody tells, and it is not
/// offered: sensors without a clock then state their uptime, and the gateway maps it.
pub(super) fn is_synchronised() -> bool {
    Path::new(TIMESYNCD).exists()
}
