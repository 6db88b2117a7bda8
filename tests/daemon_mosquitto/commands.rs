//! Signed commands to the gateway itself, each once, with its answer and its line in the audit log.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clawgate::token::key::SigningKey;
use p256::ecdsa::Signature;
use serde_json::{Value as Json, json};

use super::daemon::{Daemon, Sensor, quoted};
use super::mqtt_client::{Connect, MqttClient};
use super::principal::{hears, listener};
use super::{Site, goes_on, support};

const TYPE: &str = "claw-cmd+jwt";

/// Who may command: `ops` may revoke, make codes and change the configuration; `other` may only approve.
pub(crate) struct Commanders {
    ops: SigningKey,
    other: SigningKey,
}

impl Commanders {
    pub(crate) fn new(folder: &Path) -> Self {
        let key = |name: &str| {
            let key = SigningKey::generate().unwrap();
            std::fs::write(folder.join(format!("{name}.cmd.pem")), key.public_pem().unwrap()).unwrap();
            key
        };
        Self { ops: key("ops"), other: key("other") }
    }

    /// The daemon's configuration for them. The clock of a test machine may be kept by nobody.
    pub(crate) fn config(folder: &Path) -> String {
        let key = |name: &str, commands: &str| {
            let file = quoted(&folder.join(format!("{name}.cmd.pem")));
            format!("[cloud.command_keys.{name}]\npublic_key = {file}\ncommands = {commands}\n")
        };
        let ops = key("ops", r#"["revoke", "code", "config"]"#);
        format!("[cloud]\nclock = \"any\"\n{ops}{}", key("other", r#"["approve"]"#))
    }
}

/// A backend that sends commands: a client of the issuer and the broker beside the gateway.
struct Backend {
    client: MqttClient,
    heard: MqttClient,
}

impl Backend {
    async fn start(site: &Site) -> Self {
        let token = site.client("backend").own_token("claw").await.unwrap();
        let client = site.connect("backend", &token).await.unwrap();
        Self { client, heard: listener(site).await }
    }

    /// Publishes to the topic of a command and says what the broker answered.
    async fn sends(&self, command: &str, text: &str) -> String {
        self.client.publish(&format!("claw/v1/default/gw-1/_gateway/down/cmd/{command}"), text).await
    }

    /// Sends what a key signs until the gateway hears it; the bytes.
    async fn commands(&self, key: &SigningKey, claims: &Json) -> String {
        let (text, command) = (key.sign(TYPE, claims).unwrap(), claims["cmd"].as_str().unwrap());
        self.repeats(command, &text).await;
        text
    }

    /// Sends these bytes until the gateway hears them.
    async fn repeats(&self, command: &str, text: &str) {
        let heard = async {
            while self.sends(command, text).await != "Success" {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        support::within("the gateway hears commands", heard).await;
    }

    async fn answer(&mut self, jti: &str) -> Json {
        hears(&mut self.heard, &format!("reply/{jti}"), |_| true).await
    }
}

/// What an implementation that is not ours reads in a JWE: Node's own cryptography.
fn read_by_node(jwe: &str, recipient: &SigningKey) -> String {
    const SCRIPT: &str = r#"
        const c = require("crypto"), [jwe, pkcs8] = process.argv.slice(1);
        const b = (t) => Buffer.from(t, "base64url"), n = (x) => { const o = Buffer.alloc(4); o.writeUInt32BE(x); return o; };
        const [header, , nonce, content, tag] = jwe.split(".");
        const publicKey = c.createPublicKey({ key: JSON.parse(b(header)).epk, format: "jwk" });
        const privateKey = c.createPrivateKey({ key: b(pkcs8), format: "der", type: "pkcs8" });
        const shared = c.diffieHellman({ privateKey, publicKey });
        const info = Buffer.concat([n(1), shared, n(4), Buffer.from("C20P"), n(0), n(0), n(256)]);
        const key = c.createHash("sha256").update(info).digest();
        const d = c.createDecipheriv("chacha20-poly1305", key, b(nonce), { authTagLength: 16 });
        d.setAAD(Buffer.from(header)); d.setAuthTag(b(tag));
        process.stdout.write(Buffer.concat([d.update(b(content)), d.final()]));
    "#;
    let key = URL_SAFE_NO_PAD.encode(recipient.to_pkcs8().unwrap().expose());
    let done = std::process::Command::new("node").args(["-e", SCRIPT, jwe, &key]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims(iss: &str, jti: &str, command: &str, args: &Json) -> Json {
    let now = now_s();
    json!({
        "iss": iss, "aud": "default/gw-1", "iat": now, "exp": now + 300, "jti": jti, "cmd": command, "args": args,
    })
}

/// The same command under the other signature that anybody can make of a good one without its key (n - s for s).
fn signed_otherwise(command: &str) -> String {
    let (signed, signature) = command.rsplit_once('.').unwrap();
    let signature = Signature::from_slice(&URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    let (r, s) = signature.split_scalars();
    let other = Signature::from_scalars(r, -s).unwrap();
    assert_ne!(other, signature);
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(other.to_bytes()))
}

/// The lines of the audit log with this action.
fn audited(daemon: &Daemon, action: &str) -> Vec<Json> {
    daemon.json(&["audit", "export"]).into_iter().filter(|line| line["action"] == action).collect()
}

/// That this command stands in the audit log once, as done by the holder of that key.
fn carried_out(daemon: &Daemon, action: &str, jti: &str, key: &str) {
    let lines: Vec<Json> = audited(daemon, action).into_iter().filter(|line| line["subject"] == jti).collect();
    assert_eq!(lines.len(), 1, "{action} {jti}: {lines:?}");
    assert_eq!(
        (&lines[0]["outcome"], &lines[0]["actor"]),
        (&json!("ok"), &json!({ "kind": "cloud", "key": key })),
        "{lines:?}"
    );
    assert!(lines[0]["boot_id"].is_string() && lines[0]["boot_ms"].is_u64() && lines[0]["time"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_revocation_cuts_a_device_once_and_what_is_not_good_does_nothing_and_is_written_down() {
    let site = Site::start().await;
    let folder = site.folder.path();
    let keys = Commanders::new(folder);
    let mut sensors: Vec<Sensor> =
        ["a", "b"].iter().map(|name| Sensor::start(&folder.join(name), &["--rate", "20"])).collect();
    let mut daemon = site.daemon_with(&[("p1", &sensors[0]), ("p2", &sensors[1])], &Commanders::config(folder));
    daemon.pair("p1", &mut sensors[0], "pump-3");
    daemon.pair("p2", &mut sensors[1], "pump-4");
    goes_on(&site, &daemon, "pump-4", 5);
    let mut backend = Backend::start(&site).await;
    let status =
        hears(&mut backend.heard, "status", |said| said["devices"].as_array().is_some_and(|all| all.len() == 2)).await;
    assert_eq!(status["commands"], json!(["revoke", "approve", "code", "config"]), "{status}");

    // None of these does anything. What no configured key has signed gets no answer either.
    let on = |jti: &str| claims("ops", jti, "revoke", &json!({ "device": "pump-4" }));
    let with = |jti: &str, name: &str, value: Json| {
        let mut claims = on(jti);
        claims[name] = value;
        claims
    };
    let good = keys.ops.sign(TYPE, &on("bad-0")).unwrap();
    let [_, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let header = |alg: &str| URL_SAFE_NO_PAD.encode(json!({ "alg": alg, "typ": TYPE }).to_string());
    let unsigned = [
        format!("{}.{payload}.", header("none")),
        format!("{}.{payload}.{signature}", header("HS256")),
        on("bad-1").to_string(),
        keys.other.sign(TYPE, &on("bad-2")).unwrap(),
        keys.ops.sign("at+jwt", &on("bad-3")).unwrap(),
        "x".repeat(20_000),
    ];
    for text in &unsigned {
        backend.repeats("revoke", text).await;
    }
    let now = now_s();
    // Whoever looks after the gateway hears of it without asking.
    let alarm = hears(&mut backend.heard, "alarm", |said| said["kind"] == "command").await;
    assert_eq!(alarm["subject"], "unsigned", "{alarm}");
    let mut long = with("bad-6", "exp", json!(now + 7200));
    long["iat"] = json!(now);
    let signed = [
        ("bad-4", with("bad-4", "aud", json!("default/gw-2")), "it is for"),
        (
            "bad-5",
            {
                let mut old = with("bad-5", "exp", json!(now - 1));
                old["iat"] = json!(now - 100);
                old
            },
            "expired",
        ),
        ("bad-6", long, "lives longer"),
    ];
    for (jti, claims, why) in &signed {
        backend.commands(&keys.ops, claims).await;
        let answer = backend.answer(jti).await;
        assert_eq!(answer["status"], "refused", "{answer}");
        assert!(answer["why"].as_str().unwrap().contains(why), "{answer}");
    }
    // A good key that may only approve.
    backend.commands(&keys.other, &claims("other", "bad-7", "revoke", &json!({ "device": "pump-4" }))).await;
    assert!(backend.answer("bad-7").await["why"].as_str().unwrap().contains("may not command"));
    daemon.wait("every refusal is written down", |daemon| {
        audited(daemon, "command.refuse").len() > unsigned.len() + signed.len()
    });
    for line in audited(&daemon, "command.refuse") {
        assert_eq!((&line["outcome"], &line["actor"]["kind"]), (&json!("refused"), &json!("cloud")), "{line}");
    }
    assert!(audited(&daemon, "token.revoke").is_empty(), "nothing was done");
    goes_on(&site, &daemon, "pump-4", 10);

    // A good one; its id is used up, also after a restart.
    let revoke = claims("ops", "cut-1", "revoke", &json!({ "device": "pump-4", "why": "stolen" }));
    let bytes = backend.commands(&keys.ops, &revoke).await;
    let first = backend.answer("cut-1").await;
    assert_eq!((&first["status"], &first["result"]["revoked"]), (&json!("done"), &json!("pump-4")), "{first}");
    site.loses(&daemon, "pump-4");
    let at_rest = site.arrived("pump-4");
    goes_on(&site, &daemon, "pump-3", 40);
    assert_eq!(site.arrived("pump-4"), at_rest, "nothing more of the revoked device");
    daemon.kill();
    daemon.resume();
    // The same bytes: the same answer to the letter, and nothing is done.
    for same in [&bytes, &signed_otherwise(&bytes)] {
        backend.repeats("revoke", same).await;
        assert_eq!(backend.answer("cut-1").await, first);
    }
    let again = claims("ops", "cut-1", "revoke", &json!({ "device": "pump-3" }));
    backend.commands(&keys.ops, &again).await;
    // What was not confirmed when it was killed comes once more.
    let refused = hears(&mut backend.heard, "reply/cut-1", |said| *said != first).await;
    assert!(refused["why"].as_str().unwrap().contains("used for another command"), "{refused}");
    goes_on(&site, &daemon, "pump-3", 10);
    let lines = audited(&daemon, "token.revoke");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((&lines[0]["actor"]["key"], &lines[0]["reason"]), (&json!("ops"), &json!("stolen")), "{lines:?}");
    carried_out(&daemon, "command.revoke", "cut-1", "ops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_burst_of_commands_none_is_lost_while_the_gateway_is_away_or_killed() {
    let site = Site::start().await;
    let folder = site.folder.path();
    let keys = Commanders::new(folder);
    let mut daemon = site.daemon_with(&[], &Commanders::config(folder));
    let mut backend = Backend::start(&site).await;
    daemon.wait("commands are heard", |daemon| daemon.log().contains("commands from the cloud are heard"));
    // The cheapest that leaves a line: there is no such device.
    let burst = async |backend: &Backend, name: &str, count: usize| {
        for n in 0..count {
            let claims = claims("ops", &format!("{name}-{n}"), "revoke", &json!({ "device": "nobody" }));
            let text = keys.ops.sign(TYPE, &claims).unwrap();
            assert_eq!(backend.sends("revoke", &text).await, "Success", "somebody is there, or the broker keeps it");
        }
    };
    daemon.kill();
    hears(&mut backend.heard, "status", |said| said["state"] == "offline").await;
    burst(&backend, "away", 48).await;
    daemon.resume();
    for n in 0..48 {
        let answer = backend.answer(&format!("away-{n}")).await;
        assert_eq!((&answer["status"], &answer["code"]), (&json!("failed"), &json!("not_found")), "{answer}");
    }

    // What was handed out and not answered comes again.
    burst(&backend, "killed", 24).await;
    backend.answer("killed-0").await;
    daemon.kill();
    daemon.resume();
    daemon.wait("each is written down", |daemon| {
        let lines = audited(daemon, "command.revoke");
        (0..24).all(|n| lines.iter().any(|line| line["subject"] == format!("killed-{n}")))
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_makes_a_code_that_only_who_asked_can_read_once_and_changes_a_few_keys_over_restarts() {
    let site = Site::start().await;
    let folder = site.folder.path();
    let keys = Commanders::new(folder);
    let mut daemon = site.daemon_with(&[], &Commanders::config(folder));
    let mut backend = Backend::start(&site).await;
    let recipient = SigningKey::generate().unwrap();
    let mint = claims(
        "ops",
        "code-1",
        "code",
        &json!({
            "label": "pump house", "device": "pump-9", "ttl_s": 600, "encrypt_to": recipient.public(),
        }),
    );
    let text = keys.ops.sign(TYPE, &mint).unwrap();
    let mut answers = Vec::new();
    for _ in 0..2 {
        backend.repeats("code", &text).await;
        answers.push(backend.answer("code-1").await);
    }
    assert_eq!(answers[0], answers[1], "the same answer, and no second code");
    let codes = daemon.json(&["code", "ls"])[0].as_array().unwrap().clone();
    assert_eq!((codes.len(), &codes[0]["id"]), (1, &answers[0]["result"]["id"]), "{codes:?}");
    let jwe = answers[0]["result"]["code_jwe"].as_str().unwrap();
    let code = read_by_node(jwe, &recipient);
    assert!(clawgate_protocol::code::Code::parse(&code).is_ok(), "{code}");
    assert!(!daemon.log().contains(&code), "it stands in no log");
    // A restart forgets the code, not the command: its bytes make no second one.
    daemon.kill();
    daemon.resume();
    backend.repeats("code", &text).await;
    assert_eq!(backend.answer("code-1").await, answers[0]);
    assert_eq!(daemon.json(&["code", "ls"])[0].as_array().unwrap().len(), 1);
    assert_eq!((audited(&daemon, "code.new").len(), audited(&daemon, "command.code").len()), (1, 1));
    let clear = claims("ops", "code-2", "code", &json!({ "label": "in clear" }));
    backend.commands(&keys.ops, &clear).await;
    let refused = backend.answer("code-2").await;
    assert!(refused["why"].as_str().unwrap().contains("never travels in clear"), "{refused}");

    // Refused in the words of the control socket.
    for (jti, args) in [
        ("cut-1", json!({ "device": "nobody" })),
        ("cut-2", json!({ "device": "No Body" })),
        ("cut-3", json!({ "code": "ocpc_01J00000000000000000000000" })),
        ("cut-4", json!({ "code": "none" })),
    ] {
        backend.commands(&keys.ops, &claims("ops", jti, "revoke", &args)).await;
        let answer = backend.answer(jti).await;
        assert_eq!((&answer["status"], &answer["code"]), (&json!("failed"), &json!("not_found")), "{answer}");
        assert!(answer["next_step"].as_str().unwrap().contains(" ls"), "{answer}");
    }

    let patch = |jti: &str, patch: Json| claims("ops", jti, "config", &json!({ "patch": patch }));
    backend.commands(&keys.ops, &patch("config-1", json!({ "pairing.ttl": "7m", "log.level": "debug" }))).await;
    assert_eq!(backend.answer("config-1").await["status"], "done");
    for (jti, bad) in
        [("config-2", json!({ "broker.url": "mqtt://evil" })), ("config-3", json!({ "pairing.ttl": "9d" }))]
    {
        backend.commands(&keys.ops, &patch(jti, bad)).await;
        assert_eq!(backend.answer(jti).await["status"], "failed");
    }
    let overlay = |daemon: &Daemon| daemon.json(&["status"])[0]["overlay"].clone();
    assert_eq!(overlay(&daemon).as_array().unwrap().len(), 2, "{}", overlay(&daemon));
    daemon.kill();
    daemon.resume();
    assert_eq!(overlay(&daemon)[1]["value"], "7m", "{}", overlay(&daemon));
    let by = overlay(&daemon)[1]["by"].clone();
    assert_eq!(by, "the cloud (key ops), command config-1");
    backend.commands(&keys.ops, &patch("config-4", json!({ "pairing.ttl": null, "log.level": null }))).await;
    assert_eq!(backend.answer("config-4").await["status"], "done");
    assert_eq!(overlay(&daemon), json!([]));
    carried_out(&daemon, "command.code", "code-1", "ops");
    carried_out(&daemon, "command.config", "config-1", "ops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pairing_that_waits_for_the_backend_is_let_in_by_a_signed_approval() {
    let site = Site::start().await;
    let folder = site.folder.path();
    let keys = Commanders::new(folder);
    let mut sensor = Sensor::start(&folder.join("a"), &["--rate", "20"]);
    let extra = format!("[pairing]\napproval = \"backend\"\n{}", Commanders::config(folder));
    let daemon = site.daemon_with(&[("p1", &sensor)], &extra);
    let pairing = daemon.pairing("p1", &mut sensor, "pump-3");
    let mut backend = Backend::start(&site).await;
    // Whoever decides reads in the status who waits.
    let waits = |said: &Json| said["devices"][0]["decision"] == "waiting";
    hears(&mut backend.heard, "status", waits).await;
    assert_eq!(site.arrived("pump-3"), 0, "a device that nobody let in sends nothing");

    let approve =
        claims("other", "yes-1", "approve", &json!({ "device": "pump-3", "decision": "yes", "why": "order 17" }));
    backend.commands(&keys.other, &approve).await;
    let answer = backend.answer("yes-1").await;
    assert_eq!((&answer["status"], &answer["result"]["approved"]), (&json!("done"), &json!("pump-3")), "{answer}");
    let done = pairing.wait_with_output().unwrap();
    assert!(done.status.success(), "{}{}", String::from_utf8_lossy(&done.stderr), daemon.log());
    goes_on(&site, &daemon, "pump-3", 5);
    carried_out(&daemon, "command.approve", "yes-1", "other");
    let line = &audited(&daemon, "device.approve")[0];
    assert_eq!((&line["actor"]["key"], &line["reason"]), (&json!("other"), &json!("order 17")), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_outage_the_newest_is_said_and_a_command_that_expired_meanwhile_is_refused() {
    let mut site = Site::start().await;
    let folder = site.folder.path().to_owned();
    let keys = Commanders::new(&folder);
    let mut sensor = Sensor::start(&folder.join("a"), &["--rate", "20"]);
    let more = format!("[alarms]\nfailed_attempts = 1\n{}", Commanders::config(&folder));
    let mut daemon = site.daemon_with(&[("p1", &sensor)], &more);
    daemon.pair("p1", &mut sensor, "pump-3");
    goes_on(&site, &daemon, "pump-3", 5);
    // A listener that misses nothing: the broker keeps what comes while it is away too.
    let token = site.client("dash").own_token("claw").await.unwrap();
    let kept = async |site: &Site| {
        let how = Connect::to(site.broker.addr(), "dash.kept", token.bearer());
        let how = Connect { tls: Some(std::sync::Arc::clone(&site.tls)), keeps_session: true, ..how };
        MqttClient::connect(how).await.unwrap()
    };
    let mut heard = kept(&site).await;
    assert_eq!(heard.subscribe("claw/v1/default/gw-1/_gateway/up/#").await, "Success(AtLeastOnce)");
    hears(&mut heard, "status", |said| said["state"] == "online" && said["devices"][0]["id"] == "pump-3").await;

    // A command that is good for a moment waits at the broker, retained, while the gateway is away; then the broker is.
    daemon.kill();
    hears(&mut heard, "status", |said| said["state"] == "offline").await;
    let backend = Backend::start(&site).await;
    let mut late = claims("ops", "late-1", "revoke", &json!({ "device": "pump-3" }));
    late["exp"] = json!(now_s() + 5);
    let text = keys.ops.sign(TYPE, &late).unwrap();
    backend.client.retain("claw/v1/default/gw-1/_gateway/down/cmd/revoke", &text).await;
    drop((backend, heard));
    site.broker.stop();
    daemon.resume();
    let label = std::mem::replace(&mut sensor.label, "F45D-K12Z".to_owned());
    let failed = daemon.tries_to_pair("p1", &mut sensor, "pump-3");
    assert!(!failed.status.success() && label != sensor.label);
    daemon.wait("a wrong code is an alarm", |daemon| {
        // It is degraded now, and says so by its exit code.
        let status: Json = serde_json::from_slice(&daemon.cli(&["status", "--json"]).stdout).unwrap();
        status["alarms"].as_array().is_some_and(|alarms| !alarms.is_empty())
    });
    daemon.wait("the command has expired", |_| now_s() > late["exp"].as_u64().unwrap());

    site.broker.resume();
    let mut heard = kept(&site).await;
    let is_it = |alarm: &Json| alarm["kind"] == "failed_attempts";
    // The same message may come twice, where the connection ended before it was confirmed.
    let (mut alarms, mut answers, mut alarmed) = (BTreeSet::new(), Vec::new(), false);
    let all = async {
        while alarms.is_empty() || answers.is_empty() || !alarmed {
            let message = heard.next().await;
            let said: Json = serde_json::from_slice(&message.payload).unwrap();
            match std::str::from_utf8(&message.topic).unwrap().rsplit('/').next().unwrap() {
                "alarm" if is_it(&said) => drop(alarms.insert(said.to_string())),
                "status" => alarmed |= said["alarms"].as_array().is_some_and(|all| all.iter().any(is_it)),
                "late-1" => answers.push(said),
                _ => {}
            }
        }
    };
    support::within("what happened meanwhile is said", all).await;
    assert_eq!((alarms.len(), &answers[0]["status"]), (1, &json!("refused")), "{answers:?}");
    assert!(answers[0]["why"].as_str().unwrap().contains("expired"), "{answers:?}");
    let refused = audited(&daemon, "command.refuse");
    assert!(refused.iter().any(|line| line["subject"] == "late-1"), "{refused:?}");
    assert!(audited(&daemon, "token.revoke").is_empty(), "nothing was done");
    goes_on(&site, &daemon, "pump-3", 5);
}
