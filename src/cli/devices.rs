//! `devices` and `unpair`.

use clap::Subcommand;
use hyper::Method;

use super::args::Why;
use super::client::Client;
use super::exit::Exit;
use super::terminal::{Terminal, clean, span, table};
use super::token::{holder, reason};
use super::{order, path};
use crate::control::api::{Decision, Device, RenameRequest, WhyRequest};
use crate::control::failure::Failure;

/// The verbs below `devices`.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List them
    Ls,
    /// Show one
    Show {
        /// The device
        device: String,
    },
    /// Let one into service that waits for the backend's yes
    Approve {
        /// The device
        device: String,
        /// Why it is done
        #[command(flatten)]
        why: Why,
    },
    /// Say no to one that waits for the backend's yes: it is unpaired
    Reject {
        /// The device
        device: String,
        /// Why it is done
        #[command(flatten)]
        why: Why,
    },
    /// Give one another name: its topics and its token change with it
    Rename {
        /// The device
        device: String,
        /// The new name
        name: String,
    },
}

pub(super) async fn devices(terminal: &Terminal, client: &Client, verb: Verb) -> Result<Exit, Failure> {
    match verb {
        Verb::Ls => {
            let devices: Vec<Device> = client.get("/v1/devices").await?;
            terminal.result(&devices, |devices| list(devices));
        }
        Verb::Show { device } => {
            let device: Device = client.get(&path("/v1/devices", &device, "")?).await?;
            terminal.result(&device, show);
        }
        Verb::Approve { device, why } => {
            let path = path("/v1/devices", &device, "/approve")?;
            order(terminal, client, Method::POST, &path, &WhyRequest::from(why)).await?;
        }
        Verb::Reject { device, why } => {
            let path = path("/v1/devices", &device, "/reject")?;
            order(terminal, client, Method::POST, &path, &WhyRequest::from(why)).await?;
        }
        Verb::Rename { device, name } => {
            let path = path("/v1/devices", &device, "/rename")?;
            order(terminal, client, Method::POST, &path, &RenameRequest { name }).await?;
        }
    }
    Ok(Exit::Ok)
}

pub(super) async fn unpair(terminal: &Terminal, client: &Client, device: &str) -> Result<Exit, Failure> {
    order(terminal, client, Method::DELETE, &path("/v1/devices", device, "")?, &()).await?;
    Ok(Exit::Ok)
}

fn list(devices: &[Device]) -> String {
    if devices.is_empty() {
        return "No device is paired. Sensors in reach: clawgate scan".to_owned();
    }
    let row = |d: &Device| {
        let waits = d.decision.as_ref().is_some_and(|decision| decision.state == "waiting");
        let token = match d.token.expires_in_s {
            None if waits => "awaits approval".to_owned(),
            Some(left) => format!("{} {}", d.token.state, span(left)),
            None => d.token.state.clone(),
        };
        vec![d.id.clone(), d.sensor.clone(), d.relay.state.clone(), token, d.waiting.to_string(), d.firmware.clone()]
    };
    let rows: Vec<_> = devices.iter().map(row).collect();
    table(&["DEVICE", "SENSOR", "CLOUD", "TOKEN", "WAITING", "FIRMWARE"], &rows)
}

fn approval(decision: &Decision) -> String {
    match (&decision.by, &decision.why) {
        (Some(by), Some(why)) => format!("{} at {} by {by}: {why}", decision.state, decision.at),
        _ => format!("{} since {}", decision.state, decision.at),
    }
}

fn show(device: &Device) -> String {
    let mut rows = vec![
        ("device", device.id.clone()),
        ("sensor", device.sensor.clone()),
        ("firmware", device.firmware.clone()),
        ("paired", device.paired_at.clone()),
        ("fingerprint", device.fingerprint.clone()),
        ("pairing", device.pairing.clone()),
        ("scopes", device.scopes.join(" ")),
        ("token", device.token.state.clone()),
        ("cloud", device.relay.state.clone()),
        ("published", device.relay.published.to_string()),
        ("confirmed", device.relay.confirmed.to_string()),
        ("refused", device.relay.refused.to_string()),
        ("waiting", device.waiting.to_string()),
        ("stage", device.stage.clone()),
    ];
    if !device.addresses.is_empty() {
        rows.push(("addresses", device.addresses.join(" ")));
    }
    rows.extend(device.token.jti.is_some().then(|| ("token holder", holder(&device.token))));
    rows.extend(device.token.expires_in_s.map(|left| ("token left", span(left))));
    rows.extend(device.token.refreshed_at.clone().map(|at| ("token renewed", at)));
    rows.extend(device.per_second.map(|rate| ("rate", format!("{rate} publishes a second"))));
    rows.extend(device.decision.as_ref().map(|decision| ("approval", approval(decision))));
    let token_reason = device.token.reason.as_ref().map(|_| reason(&device.token));
    let reasons = [("token reason", &token_reason), ("cloud error", &device.relay.error)];
    rows.extend(reasons.into_iter().filter_map(|(name, reason)| Some((name, reason.clone()?))));
    let lines: Vec<_> = rows.iter().map(|(name, value)| format!("{name:<13} {}", clean(value))).collect();
    lines.join("\n")
}
