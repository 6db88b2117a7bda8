//! What the gateway says of itself on `up/status`: the picture of `clawgate status`, cut to what fits.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::control::api::{Health, Status};
use crate::relay::RelayOptions;

/// A status is never larger: brokers in the cloud take at least so much.
pub(super) const MAX_BYTES: usize = 32 * 1024;
/// Problems that are listed.
const MOST_PROBLEMS: usize = 32;
/// Of a problem's words, so many characters.
const MAX_WORDS: usize = 300;

/// The last will: the broker says it in the gateway's place.
pub(super) fn offline(options: &RelayOptions) -> String {
    absent(options, "offline")
}

/// The farewell of a stop in order.
pub(super) fn stopped(options: &RelayOptions) -> Bytes {
    absent(options, "stopped").into()
}

fn absent(options: &RelayOptions, state: &str) -> String {
    json!({ "state": state, "gateway": options.gateway, "tenant": options.tenant }).to_string()
}

/// The gateway as it is. `at` is RFC 3339.
pub(super) fn online(status: &Status, at: &str, commands: &[String], unsaid: u64) -> Bytes {
    let mut said = facts(status);
    said["state"] = json!("online");
    said["at"] = json!(at);
    said["uptime_s"] = json!(status.uptime_s);
    said["commands"] = json!(commands);
    // Alarms and replies of the gateway's own that found no room.
    said["unsaid"] = json!(unsaid);
    let spool = &status.spool;
    said["spool"] = json!({
        "waiting": spool.waiting, "bytes": spool.bytes, "max_bytes": spool.max_bytes,
        "dropped": spool.dropped, "dead_letters": spool.dead_letters,
    });
    let text = said.to_string();
    if text.len() <= MAX_BYTES {
        return text.into();
    }
    // More devices than fit: their number stands for them.
    said["devices_omitted"] = json!(status.devices.len());
    said["devices"] = json!([]);
    let text = said.to_string();
    if text.len() <= MAX_BYTES {
        return text.into();
    }
    said["links"] = json!([]);
    said.to_string().into()
}

/// What makes a change worth telling at once: not the figures that always move.
pub(super) fn facts(status: &Status) -> Value {
    let words = |text: &str| text.chars().take(MAX_WORDS).collect::<String>();
    let problems: Vec<_> = status
        .problems
        .iter()
        .take(MOST_PROBLEMS)
        .map(|problem| json!({ "part": problem.part, "message": words(&problem.message) }))
        .collect();
    let devices: Vec<_> = status
        .devices
        .iter()
        .map(|device| {
            let mut said = json!({ "id": device.id, "cloud": device.relay.state, "token": device.token.state });
            if let Some(decision) = device.decision.as_ref().filter(|decision| decision.state == "waiting") {
                // What whoever decides compares.
                said["decision"] = json!(decision.state);
                said["sensor"] = json!(device.sensor);
                said["fingerprint"] = json!(device.fingerprint);
            }
            said
        })
        .collect();
    let ports = status.ports.iter().map(|port| json!({ "id": port.id, "kind": "uart", "state": port.state }));
    let radios = status.radios.iter().map(|radio| json!({ "id": radio.id, "kind": "ble", "state": radio.state }));
    json!({
        "version": status.version,
        "gateway": status.gateway,
        "tenant": status.tenant,
        "mode": status.mode,
        "stage": status.stage,
        "health": match status.health { Health::Ok => "ok", Health::Degraded => "degraded" },
        "problems": problems,
        "problems_omitted": status.problems.len().saturating_sub(MOST_PROBLEMS),
        "alarms": status.alarms.iter().take(MOST_PROBLEMS).map(|alarm| json!({
            "kind": alarm.kind, "subject": alarm.subject, "words": words(&alarm.words),
        })).collect::<Vec<_>>(),
        "devices": devices,
        "links": ports.chain(radios).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::{Device, Problem, Relay, Spool, Token};

    fn status(devices: usize, problems: usize) -> Status {
        let device = |n: usize| Device {
            id: format!("a-device-with-a-long-name-{n:05}"),
            token: Token { state: "valid".to_owned(), ..Token::default() },
            relay: Relay { state: "connected".to_owned(), ..Relay::default() },
            ..Device::default()
        };
        let problem = |n: usize| Problem { part: format!("p{n}"), message: "x".repeat(2000) };
        Status {
            health: Health::Degraded,
            problems: (0..problems).map(problem).collect(),
            version: "1".to_owned(),
            gateway: "g".to_owned(),
            tenant: "t".to_owned(),
            mode: "relay".to_owned(),
            broker: String::new(),
            issuer: String::new(),
            metrics: None,
            stage: String::new(),
            alarms: vec![],
            overlay: vec![],
            pid: 1,
            uptime_s: 7,
            ports: vec![],
            radios: vec![],
            devices: (0..devices).map(device).collect(),
            spool: Spool::default(),
            config_refused: None,
            restart_needed: vec![],
        }
    }

    #[test]
    fn a_status_fits_however_much_there_is_to_say() {
        let said = online(&status(5_000, 5_000), "now", &[], 0);
        assert!(said.len() <= MAX_BYTES, "{}", said.len());
        let said: Value = serde_json::from_slice(&said).unwrap();
        assert_eq!(
            (&said["devices_omitted"], &said["problems_omitted"]),
            (&json!(5_000), &json!(5_000 - MOST_PROBLEMS))
        );
        let said: Value = serde_json::from_slice(&online(&status(2, 0), "now", &[], 0)).unwrap();
        assert_eq!(said["devices"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn time_that_passes_is_no_change_and_a_lost_connection_is_one() {
        let (before, mut after) = (status(1, 0), status(1, 0));
        after.uptime_s += 10;
        after.spool.waiting += 1;
        assert_eq!(facts(&before), facts(&after));
        after.devices[0].relay.state = "backing_off".to_owned();
        assert_ne!(facts(&before), facts(&after));
    }
}
