//! `status`: the gateway at a glance; exit code 8 when something is not well.

use std::fmt::Write as _;

use super::client::Client;
use super::exit::Exit;
use super::terminal::{Terminal, clean, size, span};
use crate::control::api::{Health, Status};
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
    let mut text = String::new();
    let health = match status.health {
        Health::Ok => terminal.good("ok"),
        Health::Degraded => terminal.bad("degraded"),
    };
    let _ = writeln!(
        text,
        "{health}  {} {} ({}), up {}",
        clean(&status.gateway),
        clean(&status.version),
        clean(&status.mode),
        span(status.uptime_s)
    );
    for problem in &status.problems {
        let _ = writeln!(text, "  {}: {}", clean(&problem.part), clean(&problem.message));
    }
    for alarm in &status.alarms {
        let again = if alarm.count > 1 { format!(" ({} times)", alarm.count) } else { String::new() };
        let _ = writeln!(
            text,
            "alarm    {}: {}{again}\n           {}",
            clean(&alarm.subject),
            clean(&alarm.words),
            clean(&alarm.next_step)
        );
    }
    let _ = writeln!(text, "stage    {}", clean(&status.stage));
    let _ = writeln!(text, "broker   {}", clean(&status.broker));
    let _ = writeln!(text, "issuer   {}", clean(&status.issuer));
    if let Some(address) = &status.metrics {
        let _ = writeln!(text, "metrics  {}", clean(address));
    }
    for one in &status.overlay {
        let value = one.value.to_string();
        let _ = writeln!(text, "changed  {} = {} by {} at {}", clean(&one.key), clean(&value), clean(&one.by), one.at);
    }
    for port in &status.ports {
        let device = port.device.as_deref().map(|d| format!(", session of {}", clean(d))).unwrap_or_default();
        let _ = writeln!(
            text,
            "port     {} {} at {}: {}{device}",
            clean(&port.id),
            clean(&port.path),
            port.baud,
            clean(&port.explanation)
        );
    }
    for radio in &status.radios {
        let links = if radio.max_links == 0 {
            String::new()
        } else {
            format!(", {} of {} links, {} heard", radio.links, radio.max_links, radio.heard)
        };
        let last = radio.last_recovery.as_deref().map(|step| format!("; last recovery: {}", clean(step)));
        let _ = writeln!(
            text,
            "ble      {}: {}{links}{}",
            clean(&radio.id),
            clean(&radio.explanation),
            last.unwrap_or_default()
        );
    }
    for device in &status.devices {
        let left = device.token.expires_in_s.map(|left| format!(" {}", span(left))).unwrap_or_default();
        let _ = writeln!(
            text,
            "device   {}: cloud {}, token {}{left}, {} confirmed, {} waiting",
            clean(&device.id),
            clean(&device.relay.state),
            clean(&device.token.state),
            device.relay.confirmed,
            device.waiting
        );
    }
    let spool = &status.spool;
    let dead = if spool.dead_letters > 0 { " (clawgate dead-letters ls)" } else { "" };
    let _ = writeln!(
        text,
        "spool    {} waiting, {} of {}; {} dropped, {} dead letters{dead}",
        spool.waiting,
        size(spool.bytes),
        size(spool.max_bytes),
        spool.dropped,
        spool.dead_letters
    );
    text
}
