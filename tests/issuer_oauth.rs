//! The issuer is a standard OAuth server (npm's oidc-provider): every way to ask it for a device's token, and every
//! answer it gives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test says where by panicking")]

#[path = "issuer_oauth/answers.rs"]
mod answers;
#[path = "issuer_oauth/approval.rs"]
mod approval;
#[path = "support/authority.rs"]
mod authority;
#[path = "issuer_oauth/binding.rs"]
mod binding;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "issuer_oauth/enrolment.rs"]
mod enrolment;
#[path = "support/fixtures.rs"]
mod fixtures;
#[path = "issuer_oauth/grants.rs"]
mod grants;
#[path = "issuer_oauth/keeping.rs"]
mod keeping;
#[path = "support/plugin.rs"]
mod plugin;
#[path = "issuer_oauth/revocation.rs"]
mod revocation;
#[path = "issuer_oauth/server.rs"]
mod server;
mod support;
#[path = "issuer_oauth/whole.rs"]
mod whole;
