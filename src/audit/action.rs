//! Every action that the log knows. docs/audit.md lists the same; a test compares them.

use std::fmt;

macro_rules! actions {
    ($($(#[$says:meta])+ $name:ident = $text:literal,)+) => {
        /// What was done, as `area.verb`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Action {
            $($(#[$says])+ $name,)+
        }

        impl Action {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// As it stands in a line.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

actions! {
    /// The daemon is up.
    DaemonStart = "daemon.start",
    /// It ends, in order.
    DaemonStop = "daemon.stop",
    /// The configuration was read again, or refused.
    ConfigReload = "config.reload",
    /// What a command had laid over the files was taken away here.
    ConfigUnset = "config.unset",
    /// A pairing code was made.
    CodeNew = "code.new",
    /// A sensor is to try it.
    CodeClaim = "code.claim",
    /// An attempt was counted, before it was judged.
    CodeAttempt = "code.attempt",
    /// It was wrong.
    CodeAttemptFailed = "code.attempt_failed",
    /// A device was paired with it.
    CodeUsed = "code.used",
    /// Its time is over.
    CodeExpire = "code.expire",
    /// Its attempts are.
    CodeExhaust = "code.exhaust",
    /// Somebody ended it, or was refused that.
    CodeRevoke = "code.revoke",
    /// A restart ended it.
    CodeVoid = "code.void",
    /// A device was paired, or was not.
    DevicePair = "device.pair",
    /// A paired device did not go into service.
    DeviceCommission = "device.commission",
    /// A device that waited may have a token.
    DeviceApprove = "device.approve",
    /// It may not, and is forgotten.
    DeviceReject = "device.reject",
    /// A device is forgotten.
    DeviceUnpair = "device.unpair",
    /// It has another name.
    DeviceRename = "device.rename",
    /// A sensor was asked to blink.
    DeviceIdentify = "device.identify",
    /// The first token of a pairing.
    TokenIssue = "token.issue",
    /// Tokens that came, or did not, since the last such line.
    TokenRefresh = "token.refresh",
    /// A new token, asked for by hand.
    TokenRotate = "token.rotate",
    /// A device is cut off.
    TokenRevoke = "token.revoke",
    /// A device is paused until an operator acts.
    TokenQuarantine = "token.quarantine",
    /// A key was changed, or could not be.
    KeyRotate = "key.rotate",
    /// A key that was published before signs now.
    KeyInUse = "key.in_use",
    /// A command from the cloud was not carried out.
    CommandRefuse = "command.refuse",
    /// One that ends a token or a code was.
    CommandRevoke = "command.revoke",
    /// One that decides about a device was.
    CommandApprove = "command.approve",
    /// One that makes a pairing code was.
    CommandCode = "command.code",
    /// One that changes the configuration was.
    CommandConfig = "command.config",
    /// Somebody should look at something.
    AlarmRaise = "alarm.raise",
    /// A control call came to nothing.
    ControlCall = "control.call",
    /// Control calls that only looked, since the last such line.
    ControlRead = "control.read",
    /// Refused messages are sent again.
    DeadLettersReplay = "dead_letters.replay",
    /// They are dropped.
    DeadLettersDrop = "dead_letters.drop",
    /// The log was given out.
    AuditExport = "audit.export",
    /// Its oldest lines went.
    AuditDrop = "audit.drop",
    /// It was not whole at the start.
    AuditDamaged = "audit.damaged",
    /// A crash left its end open.
    AuditRecovered = "audit.recovered",
    /// Lines could not be written.
    AuditMissing = "audit.missing",
    /// Another key signs it.
    AuditKey = "audit.key",
    /// The state of this gateway went into a file.
    BackupCreate = "backup.create",
    /// It came from one.
    BackupRestore = "backup.restore",
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_lists_every_action_and_no_other() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/audit.md")).unwrap();
        let table = page.split_once("| `action` | when |\n|---|---|\n").unwrap().1;
        let rows = table.lines().take_while(|line| line.starts_with('|'));
        let cells = rows.map(|row| row.split('|').nth(1).unwrap());
        let mut listed: Vec<&str> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        let mut known: Vec<&str> = Action::ALL.iter().map(|action| action.as_str()).collect();
        listed.sort_unstable();
        known.sort_unstable();
        assert_eq!(listed, known);
    }
}
