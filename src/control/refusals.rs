//! What the parts refuse, in the words of the control socket, which are those of the answers to signed commands too:
//! whose matter it is, and what to do.

use std::fmt::Display;
use std::time::Duration;

use super::failure::Failure;
use crate::audit::{AuditError, Outcome};
use crate::cli::exit::Exit;
use crate::link::TargetError;
use crate::pairing::code_book::CodeError;
use crate::spool::SpoolError;
use crate::store::StoreError;
use crate::token::keeper::KeeperError;
use crate::token::local::RingError;

impl Failure {
    /// No device goes by that name.
    pub(crate) fn unknown_device(name: &str) -> Self {
        Self::not_found(format!("There is no device {name:?}."), "List them: clawgate devices ls")
    }

    /// No pairing code has that id.
    pub(super) fn unknown_code(id: &str) -> Self {
        Self::not_found(format!("There is no code {id:?}."), "List them: clawgate code ls")
    }

    /// As the audit log has it: not allowed or not possible as asked, or tried in vain.
    pub(crate) fn outcome(&self) -> Outcome {
        match self.code.as_str() {
            "forbidden"
            | "bad_request"
            | "not_found"
            | "no_route"
            | "too_large"
            | "too_many_connections"
            | "code_not_usable"
            | "under_way"
            | "held" => Outcome::Refused,
            _ => Outcome::Failed,
        }
    }

    /// What a signed command has under `args` cannot be taken.
    pub(crate) fn args(why: impl Display) -> Self {
        Self::usage(format!("args: {why}."), "")
    }

    /// What a signed command asks for takes longer than it may; it may come about yet.
    pub(crate) fn not_done_within(limit: Duration) -> Self {
        Self::new(Exit::TimeOut, "too_slow", format!("It was not done within {} s.", limit.as_secs()), "")
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::UnknownDevice(id) => Self::unknown_device(&id),
            StoreError::NameTaken { .. } => Self::usage(format!("{error}."), ""),
            StoreError::KeyKept { .. } => Self::new(Exit::Failed, "kept_elsewhere", format!("{error}."), ""),
            _ => Self::internal(&error),
        }
    }
}

impl From<SpoolError> for Failure {
    fn from(error: SpoolError) -> Self {
        Self::internal(&error)
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        Self::internal(&error)
    }
}

impl From<KeeperError> for Failure {
    fn from(error: KeeperError) -> Self {
        match error {
            KeeperError::Unknown(id) => Self::unknown_device(id.as_str()),
            KeeperError::Revoked(_) | KeeperError::Busy(_) => Self::usage(format!("{error}."), ""),
            KeeperError::Held { .. } => Self::new(Exit::Cloud, "held", format!("{error}."), ""),
            _ => Self::new(Exit::Cloud, "token", format!("{error}."), "See clawgate token ls."),
        }
    }
}

impl From<CodeError> for Failure {
    fn from(error: CodeError) -> Self {
        match error {
            CodeError::Unknown(id) => Self::unknown_code(id.as_str()),
            CodeError::NotUsable(told) => {
                Self::new(Exit::WrongCode, "code_not_usable", told.sentence, told.next_step.unwrap_or_default())
            }
            CodeError::Ttl(_)
            | CodeError::Idle { .. }
            | CodeError::Attempts(_)
            | CodeError::OtherName { .. }
            | CodeError::NameTaken { .. }
            | CodeError::TooMany => Self::usage(format!("{error}."), ""),
            CodeError::OtherStage { .. } => Self::usage(
                format!("{error}."),
                "The stage of this gateway: clawgate status; gateway.stage in clawgate.toml.",
            ),
            _ => Self::internal(&error),
        }
    }
}

impl From<RingError> for Failure {
    fn from(error: RingError) -> Self {
        match error {
            RingError::UnderWay { .. } | RingError::TooMany => {
                Self::new(Exit::Failed, "under_way", format!("{error}."), "See clawgate key ls.")
            }
            RingError::Unpublished(_) => {
                let next_step = "Make issuer.publish_dir writable for clawgate (keys.md), and try again.";
                Self::new(Exit::Failed, "unpublished", format!("{error}."), next_step)
            }
            _ => Self::internal(&error),
        }
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Self {
        match error {
            TargetError::NotFound(target) => {
                Self::not_found(format!("No sensor, port or device goes by {target:?}."), "List them: clawgate scan")
            }
            TargetError::Unreachable { target, reason } => {
                Self::new(Exit::Link, "unreachable", format!("{target}: {reason}."), "See clawgate status.")
            }
            _ => Self::usage(format!("{error}."), "List them: clawgate scan"),
        }
    }
}
