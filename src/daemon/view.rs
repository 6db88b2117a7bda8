//! The gateway as it is now: for `status`, for systemd's status line, for the gauges of the metrics.

use std::sync::PoisonError;

use super::Gateway;
use super::commission::scopes_of;
use crate::alarm::LiveAlarm;
use crate::config::{CloudStatus, Mode};
use crate::control::api::{
    Alarm, Decision, Device, Health, Overlaid, Port, Problem, Radio, Relay, Spool, Status, Token,
};
use crate::ids::{DeviceId, PairingId};
use crate::link::{LineCondition, PortCondition, PortState, RadioState};
use crate::principal::Standing;
use crate::relay::RelayState;
use crate::store::{self, StoreError};
use crate::token::keeper::TokenStatus;

/// All of it. Reads the registry: call it where blocking is allowed.
///
/// # Errors
/// Where the registry cannot be read.
pub(crate) fn status(gateway: &Gateway) -> Result<Status, StoreError> {
    let config = gateway.config();
    let devices = devices(gateway)?;
    let ports: Vec<Port> = gateway.links().ports().into_iter().map(port).collect();
    let metrics = gateway.0.metrics_address.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let config_refused = gateway.config_refused();
    let spool = gateway.0.spool.status();
    let url = &gateway.0.broker;
    let broker = format!("{}://{}:{}", if url.tls { "mqtts" } else { "mqtt" }, url.host, url.port);
    let mut problems = problems(&ports, &devices, &broker);
    let radios = gateway.links().radios();
    let bad_radio = |radio: &&RadioState| radio.expected && !radio.works;
    problems.extend(radios.iter().filter(bad_radio).map(|radio| problem(&radio.id, &radio.explanation)));
    if let Some(trouble) = &spool.trouble {
        problems.push(problem("spool", trouble));
    }
    if let Some(missing) = gateway.audit().missing() {
        problems.push(problem("audit", &format!("{} lines could not be written: {}", missing.lines, missing.why)));
    }
    if let Some(error) = &config_refused {
        problems.push(problem("config", &format!("the last reload was refused: {error}")));
    }
    for key in gateway.restart_needed() {
        problems.push(problem("config", &format!("{key} is another in the files; restart clawgate for it")));
    }
    if let Some(trouble) = own_trouble(gateway) {
        problems.push(problem("cloud", &trouble));
    }
    problems.extend(gateway.key_problems().iter().map(|(part, words)| problem(part, words)));
    if let Err(error) = &metrics {
        problems.push(problem("metrics", error));
    }
    Ok(Status {
        health: if problems.is_empty() { Health::Ok } else { Health::Degraded },
        problems,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        gateway: config.gateway.id.to_string(),
        tenant: config.gateway.tenant.to_string(),
        mode: match config.mode {
            Mode::Relay => "relay".to_owned(),
            Mode::Standalone => "standalone".to_owned(),
        },
        broker,
        issuer: gateway.0.issuer_url.clone(),
        metrics: metrics.ok().flatten().map(|address| format!("http://{address}/metrics")),
        pid: std::process::id(),
        uptime_s: gateway.clock().boot().saturating_sub(gateway.0.started).as_secs(),
        ports,
        radios: radios.into_iter().map(radio).collect(),
        devices,
        spool: Spool {
            waiting: spool.depth,
            bytes: spool.lanes.iter().map(|lane| lane.bytes).sum(),
            disk_bytes: spool.disk_bytes,
            max_bytes: spool.max_bytes,
            dropped: spool.dropped,
            dead_letters: spool.dead_letters,
        },
        config_refused,
        restart_needed: gateway.restart_needed().into_iter().map(str::to_owned).collect(),
        stage: config.gateway.stage.to_string(),
        overlay: gateway.store().overlay()?.into_iter().map(overlaid).collect(),
        alarms: gateway.alarms().live().into_iter().map(alarm).collect(),
    })
}

fn alarm(live: LiveAlarm) -> Alarm {
    let LiveAlarm { alarm, since_ms, last_ms, count } = live;
    Alarm {
        kind: alarm.kind.as_str().to_owned(),
        subject: alarm.subject,
        words: alarm.words,
        next_step: alarm.next_step,
        since: rfc3339(since_ms),
        last: rfc3339(last_ms),
        count,
    }
}

/// Every paired device. Reads the registry: call it where blocking is allowed.
///
/// # Errors
/// Where the registry cannot be read.
pub(crate) fn devices(gateway: &Gateway) -> Result<Vec<Device>, StoreError> {
    let known = gateway.store().devices()?;
    Ok(known.iter().map(|known| device(gateway, known)).collect())
}

/// One device.
pub(crate) fn device(gateway: &Gateway, known: &store::Device) -> Device {
    let pairing = known.pairing();
    Device {
        id: known.id.to_string(),
        sensor: known.hardware_id.clone(),
        pairing: pairing.map(|pairing| pairing.to_string()).unwrap_or_default(),
        fingerprint: pairing.map(PairingId::fingerprint).unwrap_or_default(),
        firmware: known.info.firmware.clone(),
        paired_at: rfc3339(known.confirmed_ms.unwrap_or(known.created_ms)),
        scopes: scopes_of(known).iter().map(ToString::to_string).collect(),
        token: gateway.keeper().status(&known.id).map_or_else(|| no_token(known), token),
        relay: relay(gateway, &known.id),
        waiting: pairing.map_or(0, |pairing| gateway.0.spool.waiting(pairing)),
        stage: known.info.stage.to_string(),
        addresses: known.info.limits.addresses.iter().map(ToString::to_string).collect(),
        per_second: known.info.limits.per_second.map(Into::into),
        decision: decision(&known.info.decision),
    }
}

fn decision(decision: &store::Decision) -> Option<Decision> {
    match decision {
        store::Decision::NotNeeded => None,
        store::Decision::Waiting { since_ms } => {
            Some(Decision { state: "waiting".to_owned(), at: rfc3339(*since_ms), by: None, why: None })
        }
        store::Decision::Approved { at_ms, by, why } => Some(Decision {
            state: "approved".to_owned(),
            at: rfc3339(*at_ms),
            by: Some(by.to_string()),
            why: Some(why.clone()),
        }),
    }
}

/// The connection of one device.
fn relay(gateway: &Gateway, id: &DeviceId) -> Relay {
    let none = Relay { state: "none".to_owned(), ..Relay::default() };
    gateway.0.relay.device_status(id).map_or(none, |status| Relay {
        state: match status.state {
            RelayState::Starting => "starting",
            RelayState::WaitingForToken => "waiting_for_token",
            RelayState::Queued => "queued",
            RelayState::Connecting => "connecting",
            RelayState::Connected => "connected",
            RelayState::Idle => "idle",
            RelayState::BackingOff => "backing_off",
            RelayState::Paused => "paused",
        }
        .to_owned(),
        for_s: status.for_ms / 1000,
        error: status.last_error,
        published: status.published,
        confirmed: status.confirmed,
        refused: status.refused,
    })
}

/// Every token.
pub(crate) fn tokens(gateway: &Gateway) -> Vec<Token> {
    gateway.keeper().list().into_iter().map(token).collect()
}

fn token(status: TokenStatus) -> Token {
    Token {
        next_step: next_step(&status),
        device: status.device.to_string(),
        state: status.state,
        jti: status.jti,
        scope: status.scope.unwrap_or_default(),
        expires_in_s: status.expires_in_s,
        reason: status.reason,
        refreshed: status.refreshes,
        refreshed_at: status.refreshed_at.map(|at| rfc3339(i64::try_from(at.saturating_mul(1000)).unwrap_or(i64::MAX))),
        refresh_in_s: status.next_request_in_s,
        failed: status.failures,
        limits: status.limits.unwrap_or_default(),
        bound_to: status.bound_to,
    }
}

/// What clawgate does next about a token that is not there, or not renewed, and what a person should do.
pub(super) fn next_step(status: &TokenStatus) -> String {
    let (device, is_own) = (&status.device, status.device == DeviceId::gateway());
    let kept = if is_own { "" } else { ", and its readings are kept" };
    match status.state.as_str() {
        "waiting" if status.reason.is_some() => format!("It is asked for again by itself{kept} meanwhile."),
        "valid" if status.reason.is_some() => {
            "The one there is stays good until it expires; another is asked for by itself.".to_owned()
        }
        "quarantined" => format!("It is paused{kept}: mend the cause, then clawgate token rotate {device}."),
        "revoked" => {
            format!("It is cut off{kept}: clawgate pair {device} lets it back in, clawgate unpair {device} forgets it.")
        }
        _ => String::new(),
    }
}

fn no_token(known: &store::Device) -> Token {
    Token { device: known.id.to_string(), state: "none".to_owned(), ..Token::default() }
}

fn port(state: PortState) -> Port {
    let explanation = match (&state.condition, state.line) {
        (PortCondition::Open, line) => format!("open, {line}"),
        (condition, _) => condition.to_string(),
    };
    Port {
        id: state.alias,
        path: state.path.display().to_string(),
        baud: state.baud,
        state: match state.condition {
            PortCondition::Open => "open",
            PortCondition::Absent => "absent",
            PortCondition::Busy { .. } => "busy",
            PortCondition::NoPermission { .. } => "no_permission",
            PortCondition::NotATty => "not_a_tty",
            PortCondition::Failed { .. } => "failed",
        }
        .to_owned(),
        explanation,
        line: match state.line {
            LineCondition::Silent => "silent",
            LineCondition::Good => "good",
            LineCondition::WrongBaudRate => "wrong_baud_rate",
            LineCondition::Echo => "echo",
        }
        .to_owned(),
        device: state.device.map(|device| device.to_string()),
    }
}

fn radio(state: RadioState) -> Radio {
    Radio {
        id: state.id,
        state: if state.works { "listening" } else { "failed" }.to_owned(),
        explanation: state.explanation,
        links: state.links,
        max_links: state.max_links,
        heard: state.heard,
        recoveries: state.recoveries,
        last_recovery: state.last_recovery,
    }
}

/// What is wrong with the gateway's own connection, where the operator insists on one.
fn own_trouble(gateway: &Gateway) -> Option<String> {
    let principal = gateway.0.principal.as_ref().filter(|_| gateway.config().cloud.status == CloudStatus::On)?;
    match principal.standing() {
        Standing::Up | Standing::Waiting(_) => None,
        Standing::Down(why) => Some(format!("the gateway's own connection is down: {why}")),
        Standing::Refused(why) => {
            Some(format!("the gateway itself is refused: {why}; then: clawgate token rotate _gateway"))
        }
    }
}

fn overlaid(one: store::Overlaid) -> Overlaid {
    let value = serde_json::from_str(&one.value).unwrap_or_default();
    Overlaid { key: one.key, value, by: one.by, at: rfc3339(one.made_ms) }
}

fn problem(part: &str, message: &str) -> Problem {
    Problem { part: part.to_owned(), message: message.to_owned() }
}

/// What is not well with ports and devices.
fn problems(ports: &[Port], devices: &[Device], broker: &str) -> Vec<Problem> {
    let bad_port = |port: &Port| port.state != "open" || port.line == "wrong_baud_rate" || port.line == "echo";
    let ports = ports.iter().filter(|port| bad_port(port)).map(|port| problem(&port.id, &port.explanation));
    let bad_token = |device: &&Device| device.token.state != "valid" && device.token.reason.is_some();
    let tokens = devices.iter().filter(bad_token).map(|device| {
        let reason = device.token.reason.as_deref().unwrap_or_default();
        let words = format!("token {}: {reason}. {}", device.token.state, device.token.next_step);
        problem(&device.id, words.trim_end())
    });
    let bad_relay = |device: &&Device| matches!(device.relay.state.as_str(), "backing_off" | "paused" | "queued");
    let relays = devices.iter().filter(bad_relay).map(|device| {
        let reason = device.relay.error.as_deref().unwrap_or("no reason is known");
        // One that is paused waits for its token, of which the same is said.
        let next = match device.relay.state.as_str() {
            "backing_off" => format!(" ({broker}); it is tried again by itself, and readings are kept meanwhile"),
            _ => String::new(),
        };
        problem(&device.id, &format!("cloud {}: {reason}{next}", device.relay.state.replace('_', " ")))
    });
    ports.chain(tokens).chain(relays).collect()
}

/// The gateway in one line, for `systemctl status`.
pub(super) fn one_line(gateway: &Gateway) -> String {
    match status(gateway) {
        Ok(status) => {
            let open = status.ports.iter().filter(|port| port.state == "open").count();
            format!(
                "{}: {} devices, {open}/{} ports, {} readings waiting",
                match status.health {
                    Health::Ok => "ok",
                    Health::Degraded => "degraded",
                },
                status.devices.len(),
                status.ports.len(),
                status.spool.waiting
            )
        }
        Err(error) => error.to_string(),
    }
}

/// Milliseconds since 1970 as RFC 3339.
pub(crate) fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map(|time| format!("{time:.0}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_next_is_said_of_each_token_with_a_reason_and_of_no_other() {
        let said = |device: &str, state: &str, reason: Option<&str>| {
            let status = serde_json::json!({
                "device": device, "state": state, "reason": reason, "refreshes": 0, "failures": 0, "limited_refusals": 0,
            });
            next_step(&serde_json::from_value(status).unwrap())
        };
        assert_eq!((said("pump", "valid", None), said("pump", "waiting", None)), (String::new(), String::new()));
        assert!(said("pump", "waiting", Some("503")).contains("by itself, and its readings are kept"));
        assert!(said("pump", "valid", Some("503")).contains("stays good"));
        assert!(said("pump", "quarantined", Some("400")).contains("clawgate token rotate pump"));
        assert!(said("pump", "revoked", Some("lost")).contains("clawgate unpair pump"));
    }
}
