//! What the parts refuse, as the control socket says it: whose matter it is, and what to do.

use super::failure::Failure;
use crate::audit::AuditError;
use crate::cli::exit::Exit;
use crate::link::TargetError;
use crate::pairing::code_book::CodeError;
use crate::spool::SpoolError;
use crate::store::StoreError;
use crate::token::keeper::KeeperError;

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
            CodeError::Ttl(_) | CodeError::Idle { .. } | CodeError::Attempts(_) | CodeError::TooMany => {
                Self::usage(format!("{error}."), "")
            }
            CodeError::OtherStage { .. } => Self::usage(
                format!("{error}."),
                "The stage of this gateway: clawgate status; gateway.stage in clawgate.toml.",
            ),
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
