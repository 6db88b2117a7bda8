//! The audit log: who did what, when and why, so that a later change of it shows.
//!
//! JSON lines, each with the hash of the one before; an RFC 6962 tree over all of them, its root in a signed
//! checkpoint. Calls are synchronous and reach the disk before they return. docs/audit.md is the format; a verifier
//! written from it alone is tests/audit-verifier.

mod action;
mod checkpoint;
mod digest;
mod event;
mod line;
mod log;
mod retention;
mod rotation;
mod segment;
mod verify;

pub use action::Action;
pub use checkpoint::Checkpoint;
pub use digest::{Digest, NotADigest};
pub use event::{Actor, Event, Outcome};
pub use line::Entry;
pub use log::{Audit, AuditError, AuditKeys, Cursor, Missing, Selection};
pub use retention::Retention;
pub use verify::{Finding, Report, Trust, verify};
