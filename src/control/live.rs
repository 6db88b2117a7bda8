//! What changed between two pictures of the gateway, in words: the lines of `watch`.

use super::api::{Device, Health, Status};

/// Part and words of each change.
pub(super) fn changes(before: &Status, now: &Status) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    for port in &now.ports {
        let old = before.ports.iter().find(|old| old.id == port.id);
        if old.is_none_or(|old| (&old.state, &old.line) != (&port.state, &port.line)) {
            lines.push((port.id.clone(), port.explanation.clone()));
        }
        if let Some(old) = old
            && old.device != port.device
        {
            let words = port.device.as_ref().map_or("session ended".to_owned(), |d| format!("session of {d}"));
            lines.push((port.id.clone(), words));
        }
    }
    for device in &now.devices {
        match before.devices.iter().find(|old| old.id == device.id) {
            Some(old) => lines.extend(device_changes(old, device).into_iter().map(|words| (device.id.clone(), words))),
            None => lines.push((device.id.clone(), format!("paired, fingerprint {}", device.fingerprint))),
        }
    }
    for old in &before.devices {
        if now.devices.iter().all(|device| device.id != old.id) {
            lines.push((old.id.clone(), "no longer paired".to_owned()));
        }
    }
    if now.spool.dropped > before.spool.dropped {
        let count = now.spool.dropped - before.spool.dropped;
        lines.push(("spool".to_owned(), format!("full: {count} readings dropped")));
    }
    if now.spool.dead_letters > before.spool.dead_letters {
        let count = now.spool.dead_letters - before.spool.dead_letters;
        lines.push(("spool".to_owned(), format!("{count} messages refused for good: clawgate dead-letters ls")));
    }
    if before.health != now.health {
        let words = match now.health {
            Health::Ok => "all is well".to_owned(),
            Health::Degraded => {
                let problems: Vec<_> = now.problems.iter().map(|p| format!("{}: {}", p.part, p.message)).collect();
                format!("degraded: {}", problems.join("; "))
            }
        };
        lines.push(("gateway".to_owned(), words));
    }
    lines
}

fn device_changes(old: &Device, now: &Device) -> Vec<String> {
    let mut words = Vec::new();
    if old.relay.state != now.relay.state {
        let why = now.relay.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
        words.push(format!("cloud {}{why}", now.relay.state));
    }
    if old.token.state != now.token.state {
        let why = now.token.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        words.push(format!("token {}{why}", now.token.state));
    } else if now.token.refreshed > old.token.refreshed {
        words.push(format!("token refreshed, {} s to live", now.token.expires_in_s.unwrap_or_default()));
    }
    let confirmed = now.relay.confirmed.saturating_sub(old.relay.confirmed);
    if confirmed > 0 || now.waiting != old.waiting {
        words.push(format!("{confirmed} readings confirmed, {} waiting", now.waiting));
    }
    words
}
