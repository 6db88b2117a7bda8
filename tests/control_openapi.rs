//! The description of the control API says what the program does: every route, its role, every field.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::collections::BTreeSet;

use clawgate::control::api;
use clawgate::control::routes::routes;
use clawgate::control::system::OPENAPI;
use serde_json::{Value, json};

fn description() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

#[test]
fn every_route_is_described_with_its_role_and_nothing_else_is() {
    let served: BTreeSet<_> = routes()
        .iter()
        .map(|route| (route.method.as_str().to_lowercase(), route.path.to_owned(), route.role.to_string()))
        .collect();
    let description = description();
    let paths = description["paths"].as_object().unwrap();
    let described: BTreeSet<_> = paths
        .iter()
        .flat_map(|(path, operations)| {
            operations.as_object().unwrap().iter().map(move |(method, it)| (path, method, it))
        })
        .map(|(path, method, it)| (method.clone(), path.clone(), it["x-role"].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(served, described);
}

/// The fields that `value` has on the wire, and those that its schema names.
fn assert_same_fields(schema: &str, value: &impl serde::Serialize) {
    let value = serde_json::to_value(value).unwrap();
    let fields: BTreeSet<_> = value.as_object().unwrap().keys().cloned().collect();
    let description = description();
    let properties = description["components"]["schemas"][schema]["properties"].as_object().unwrap();
    assert_eq!(fields, properties.keys().cloned().collect(), "{schema}");
}

#[test]
fn every_field_is_described() {
    let token = json!({"device": "a", "state": "valid", "jti": null, "scope": "", "expires_in_s": 1, "reason": null, "refreshed": 1,
        "refreshed_at": null, "refresh_in_s": 5, "failed": 0, "limits": "", "bound_to": null});
    let relay = json!({"state": "idle", "for_s": 0, "error": null, "published": 0, "confirmed": 0, "refused": 0});
    let decision = json!({"state": "approved", "at": "", "by": "uid 0", "why": "known"});
    assert_same_fields("Decision", &serde_json::from_value::<api::Decision>(decision.clone()).unwrap());
    let device = json!({
        "id": "a", "sensor": "s", "pairing": "p", "fingerprint": "f", "firmware": "1", "paired_at": "", "scopes": [],
        "token": token, "relay": relay, "waiting": 0, "stage": "prod", "addresses": [], "per_second": null, "decision": decision
    });
    let port = json!({
        "id": "a", "path": "/dev/a", "baud": 9600, "state": "open", "explanation": "open", "line": "good", "device": null
    });
    let spool = json!({"waiting": 0, "bytes": 0, "disk_bytes": 0, "max_bytes": 0, "dropped": 0, "dead_letters": 0});
    assert_same_fields("Token", &serde_json::from_value::<api::Token>(token).unwrap());
    assert_same_fields("Relay", &serde_json::from_value::<api::Relay>(relay).unwrap());
    let device: api::Device = serde_json::from_value(device).unwrap();
    assert_same_fields("Device", &device);
    let port: api::Port = serde_json::from_value(port).unwrap();
    assert_same_fields("Port", &port);
    let radio = json!({
        "id": "hci0", "state": "listening", "explanation": "listening", "links": 0, "max_links": 7, "heard": 0,
        "recoveries": 0, "last_recovery": null
    });
    let radio: api::Radio = serde_json::from_value(radio).unwrap();
    assert_same_fields("Radio", &radio);
    let alarm = json!({
        "kind": "expiry", "subject": "a", "words": "w", "next_step": "n", "since": "", "last": "", "count": 1
    });
    let alarm: api::Alarm = serde_json::from_value(alarm).unwrap();
    assert_same_fields("Alarm", &alarm);
    let spool: api::Spool = serde_json::from_value(spool).unwrap();
    assert_same_fields("Spool", &spool);
    let overlaid: api::Overlaid =
        serde_json::from_value(json!({"key": "log.level", "value": "debug", "by": "a", "at": "2026-01-01T00:00:00Z"}))
            .unwrap();
    assert_same_fields("Overlaid", &overlaid);
    assert_same_fields(
        "Status",
        &api::Status {
            health: api::Health::Ok,
            problems: Vec::new(),
            version: String::new(),
            gateway: String::new(),
            tenant: String::new(),
            mode: String::new(),
            broker: String::new(),
            issuer: String::new(),
            metrics: None,
            pid: 1,
            uptime_s: 0,
            ports: vec![port],
            radios: vec![radio],
            devices: vec![device],
            spool,
            config_refused: None,
            restart_needed: Vec::new(),
            stage: String::new(),
            alarms: vec![alarm],
            overlay: vec![overlaid],
        },
    );
    let letter = json!({"id": "a.b.1", "device": null, "kind": "gap", "bytes": 1, "reason": "0x95", "at": "2026-01-01T00:00:00Z"});
    assert_same_fields("DeadLetter", &serde_json::from_value::<api::DeadLetter>(letter).unwrap());
    assert_same_fields(
        "PairRequest",
        &api::PairRequest {
            target: "a".to_owned(),
            name: Some("b".to_owned()),
            code: Some("c".to_owned()),
            ttl_s: Some(1),
            scopes: vec!["telemetry:write".to_owned()],
            addresses: vec!["192.0.2.0/24".to_owned()],
            per_second: Some(1),
        },
    );
    let text = || Some("x".to_owned());
    assert_same_fields(
        "NewCodeRequest",
        &api::NewCodeRequest {
            device: text(),
            sensor: text(),
            stage: text(),
            label: text(),
            ttl_s: Some(1),
            scopes: vec!["command:read".to_owned()],
            idle_s: Some(1),
            addresses: vec!["192.0.2.0/24".to_owned()],
            per_second: Some(1),
            idempotency_key: text(),
        },
    );
    let code = json!({
        "id": "ocpc_", "state": "active", "label": null, "device": null, "sensor": null, "scopes": [], "made_by": "",
        "made_at": "", "left_s": 1, "attempts_taken": 0, "attempts": 3, "stage": "prod", "addresses": [],
        "per_second": null, "ttl_s": 60, "idle_s": null, "claimed_at": null, "ended_at": null, "ended_by": null,
        "ended_why": null
    });
    assert_same_fields("CodeRecord", &serde_json::from_value::<api::CodeRecord>(code.clone()).unwrap());
    let told = json!({"id": "ocpc_", "state": "active", "explanation": "", "next_step": "", "code": code});
    assert_same_fields("CodeExplanation", &serde_json::from_value::<api::CodeExplanation>(told).unwrap());
}

#[test]
fn every_field_of_the_gateways_own_keys_is_described() {
    let key = json!({
        "kind": "issuer", "id": "a", "state": "in_use", "made_at": null, "age_s": null, "rotates_in_s": null,
        "protection": "sealed", "note": ""
    });
    assert_same_fields("Key", &serde_json::from_value::<api::Key>(key).unwrap());
    let rotate = json!({"device": "a", "now": true});
    assert_same_fields("RotateKeyRequest", &serde_json::from_value::<api::RotateKeyRequest>(rotate).unwrap());
    let rotated = json!({"kind": "issuer", "id": "a", "done": "", "next_step": ""});
    assert_same_fields("KeyRotated", &serde_json::from_value::<api::KeyRotated>(rotated).unwrap());
}
