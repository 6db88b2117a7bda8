//! `status`: the gateway at a glance; exit code 8 when something is not well.

use std::fmt::Write as _;

use super::client::Client;
use super::exit::Exit;
use super::terminal::{Terminal, clean, size, span};
use crate::control::api::{Device, Health, Port, Radio, Spool, Status};
use crate::control::failure::Failure;

pub(super) async fn status(terminal: &Terminal, client: &Client) -> Result<Exit, Failure> {
    let status: Status = client.get("/v1/status").await?;
    let exit = match status.health {
        Health::Ok => Exit::Ok,
        Health::Degraded => Exit::Degraded,
    };
    terminal.result(&status, |status| words(terminal, status));
    Ok(exit)
}

fn words(terminal: &Terminal, status: &Status) -> String {
    let mut text = head(terminal, status);
    for (name, value) in [("stage", &status.stage), ("broker", &status.broker), ("issuer", &status.issuer)] {
        let _ = writeln!(text, "{name:<8} {}", clean(value));
    }
    if let Some(address) = &status.metrics {
        let _ = writeln!(text, "metrics  {}", clean(address));
    }
    for one in &status.overlay {
        let value = one.value.to_string();
        let _ = writeln!(text, "changed  {} = {} by {} at {}", clean(&one.key), clean(&value), clean(&one.by), one.at);
    }
    text.extend(status.ports.iter().map(port));
    text.extend(status.radios.iter().map(radio));
    text.extend(status.devices.iter().map(device));
    text + &spool(&status.spool)
}

/// How it is in all, and what is not well.
fn head(terminal: &Terminal, status: &Status) -> String {
    let health = match status.health {
        Health::Ok => terminal.good("ok"),
        Health::Degraded => terminal.bad("degraded"),
    };
    let (gateway, version, mode) = (clean(&status.gateway), clean(&status.version), clean(&status.mode));
    let mut text = format!("{health}  {gateway} {version} ({mode}), up {}\n", span(status.uptime_s));
    for problem in &status.problems {
        let _ = writeln!(text, "  {}: {}", clean(&problem.part), clean(&problem.message));
    }
    for alarm in &status.alarms {
        let again = if alarm.count > 1 { format!(" ({} times)", alarm.count) } else { String::new() };
        let (subject, words, next_step) = (clean(&alarm.subject), clean(&alarm.words), clean(&alarm.next_step));
        let _ = writeln!(text, "alarm    {subject}: {words}{again}\n           {next_step}");
    }
    text
}

fn port(port: &Port) -> String {
    let device = port.device.as_deref().map(|device| format!(", session of {}", clean(device))).unwrap_or_default();
    let (id, path, explanation) = (clean(&port.id), clean(&port.path), clean(&port.explanation));
    format!("port     {id} {path} at {}: {explanation}{device}\n", port.baud)
}

fn radio(radio: &Radio) -> String {
    let links = match radio.max_links {
        0 => String::new(),
        most => format!(", {} of {most} links, {} heard", radio.links, radio.heard),
    };
    let last = radio.last_recovery.as_deref().map(|step| format!("; last recovery: {}", clean(step)));
    let last = last.unwrap_or_default();
    format!("ble      {}: {}{links}{last}\n", clean(&radio.id), clean(&radio.explanation))
}

fn device(device: &Device) -> String {
    let left = device.token.expires_in_s.map(|left| format!(" {}", span(left))).unwrap_or_default();
    let (id, cloud, token) = (clean(&device.id), clean(&device.relay.state), clean(&device.token.state));
    let (confirmed, waiting) = (device.relay.confirmed, device.waiting);
    format!("device   {id}: cloud {cloud}, token {token}{left}, {confirmed} confirmed, {waiting} waiting\n")
}

fn spool(spool: &Spool) -> String {
    let dead = if spool.dead_letters > 0 { " (clawgate dead-letters ls)" } else { "" };
    let (bytes, most) = (size(spool.bytes), size(spool.max_bytes));
    format!(
        "spool    {} waiting, {bytes} of {most}; {} dropped, {} dead letters{dead}\n",
        spool.waiting, spool.dropped, spool.dead_letters
    )
}
