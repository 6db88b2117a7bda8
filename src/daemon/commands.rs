//! Carries out signed commands from the cloud, one at a time: each once, each with its line in the audit log and its
//! answer on `up/reply/{jti}`.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::decide::Verdict;
use super::{Gateway, overlay, view};
use crate::alarm::{Alarm, AlarmKind};
use crate::audit::{Action, Actor, Event, Outcome};
use crate::blocking::blocking;
use crate::clock;
use crate::config::CommandClock;
use crate::control::api::NewCodeRequest;
use crate::control::failure::Failure;
use crate::control::{self, Name as _};
use crate::ids::DeviceId;
use crate::logging::{Burst, Share};
use crate::pairing::code::CodeId;
use crate::principal::Principal;
use crate::principal::command::{Claims, CommandName, Judged, Refused, Rules, encrypt, judge};
use crate::principal::hint::Hint;
use crate::relay::Received;
use crate::store::{Begun, CommandId};
use crate::token::key::Jwk;
use crate::token::local::IssuerTime;

/// A command that takes longer has failed: what it began goes on where it can.
const LIMIT: Duration = Duration::from_secs(60);

/// Takes commands until `stop`; one that is under way is ended first.
pub(super) async fn obey(
    gateway: Gateway,
    principal: Principal,
    mut commands: mpsc::Receiver<Received>,
    stop: CancellationToken,
) {
    let store = gateway.store().clone();
    // A clock that was set back must not make an old command good again.
    let floor = match blocking(move || store.latest_command()).await {
        Ok(floor) => floor,
        Err(error) => {
            tracing::error!(%error, "commands cannot be noted, so none is taken");
            return stop.cancelled().await;
        }
    };
    let time = IssuerTime::starting_at(floor, gateway.clock().clone());
    let mut desk = Desk { gateway, principal, time, shares: HashMap::new(), again: Burst::default() };
    while let Some(Some(command)) = stop.run_until_cancelled(commands.recv()).await {
        // An answer that finds no room would be lost; the broker keeps the command meanwhile.
        if stop.run_until_cancelled(desk.principal.has_room()).await.is_none() {
            return;
        }
        if command.topic.ends_with("/_gateway/up/alarm") {
            desk.hears(&command.payload);
        } else {
            desk.take(&command).await;
        }
        // Only now: what was not answered here comes again, after a kill too.
        command.acknowledge();
    }
}

struct Desk {
    gateway: Gateway,
    principal: Principal,
    time: IssuerTime,
    /// Of refusals that are written down and answered. By key; without a name, of those who signed with none.
    shares: HashMap<String, Share>,
    /// Commands that came again.
    again: Burst,
}

impl Desk {
    async fn take(&mut self, Received { topic, payload, .. }: &Received) {
        let leaf = topic.rsplit('/').next().unwrap_or_default();
        let config = self.gateway.config();
        let audience = format!("{}/{}", config.gateway.tenant, config.gateway.id);
        let keys = self.gateway.0.command_keys.load_full();
        let clock_is_right = config.cloud.clock == CommandClock::Any || clock::is_synchronised();
        let rules = Rules { keys: &keys, audience: &audience, now_s: self.time.now(), clock_is_right };
        match judge(&rules, leaf, payload) {
            Ok(Judged { claims }) => self.admit(claims, digest(payload)).await,
            Err(Refused { why, signed }) => self.refuse(signed, &why.to_string()).await,
        }
    }

    /// Takes in what the broker tells by itself. Whoever may publish there can have this alarm raised, once in a while and
    /// of a device that there is, and do nothing else.
    fn hears(&self, payload: &[u8]) {
        let Some(Hint { device, words }) = Hint::read(payload).filter(|_| self.gateway.config().cloud.broker_alarms)
        else {
            return;
        };
        if !self.gateway.keeper().list().iter().any(|token| token.device == device) {
            return tracing::debug!(%device, "the broker tells of a token of none of this gateway's devices");
        }
        self.gateway.alarms().raise(Alarm {
            kind: AlarmKind::OffAllowList,
            subject: device.to_string(),
            words: format!("the broker says: {words}"),
            next_step: format!(
                "If that is not where this gateway is, somebody has the token: clawgate token revoke {device}; if it is, \
                 pair {device} again with another --allow-address"
            ),
        });
    }

    /// Carries an authentic command out, or answers as before.
    async fn admit(&mut self, claims: Claims, digest: [u8; 32]) {
        let store = self.gateway.store().clone();
        let (key, jti, iat_s, exp_s) = (claims.iss.clone(), claims.jti.clone(), claims.iat, claims.exp);
        let now_s = self.time.now();
        let begun =
            blocking(move || store.begin_command(CommandId { key: &key, jti: &jti, digest, iat_s, exp_s }, now_s))
                .await;
        let signed = Some((claims.iss.clone(), claims.jti.clone(), claims.cmd));
        let reply = match begun {
            Ok(Begun::New) => self.carry_out(&claims).await,
            Ok(Begun::Before(Some(reply))) => {
                if let Some(unsaid) = self.again.hit(self.gateway.clock().boot()) {
                    let (key, jti) = (&claims.iss, &claims.jti);
                    tracing::info!(key, jti, unsaid, "a command came again and is answered as before");
                }
                return self.principal.reply(&claims.jti, reply.into());
            }
            Ok(Begun::Before(None)) => {
                let why =
                    "the gateway stopped while it carried this out: look how things are, and send another command";
                self.note(&claims, Outcome::Failed, Some(why), Value::Null).await;
                self.answer(&claims, json!({ "status": "unclear", "why": why }))
            }
            Ok(Begun::Other) => return self.refuse(signed, "its id was used for another command").await,
            Ok(Begun::Full) => return self.refuse(signed, "too many commands live; send fewer, or shorter ones").await,
            Err(error) => return self.refuse(signed, &format!("it could not be noted: {error}")).await,
        };
        let (store, key, jti, kept) =
            (self.gateway.store().clone(), claims.iss.clone(), claims.jti.clone(), reply.clone());
        if let Err(error) = blocking(move || store.end_command(&key, &jti, &kept)).await {
            tracing::error!(%error, "the answer to a command could not be kept");
        }
        self.principal.reply(&claims.jti, reply.into());
    }

    async fn carry_out(&self, claims: &Claims) -> String {
        tracing::info!(key = claims.iss, jti = claims.jti, command = claims.cmd.as_str(), "a command is carried out");
        let done = within(LIMIT, execute(self.gateway.clone(), claims.clone())).await;
        let done = done.unwrap_or_else(|| Err(Failure::not_done_within(LIMIT)));
        match done {
            Ok(result) => {
                self.note(claims, Outcome::Ok, None, Value::Null).await;
                self.answer(claims, json!({ "status": "done", "result": result }))
            }
            Err(failure) => {
                self.note(claims, Outcome::Failed, Some(&failure.message), json!({ "code": failure.code })).await;
                self.answer(
                    claims,
                    json!({
                        "status": "failed", "code": failure.code, "why": failure.message,
                        "next_step": failure.next_step,
                    }),
                )
            }
        }
    }

    /// An answer; the same bytes for every repetition.
    fn answer(&self, claims: &Claims, mut said: Value) -> String {
        said["iss"] = json!(claims.iss);
        said["jti"] = json!(claims.jti);
        said["cmd"] = json!(claims.cmd);
        said["at"] = json!(self.at());
        said.to_string()
    }

    fn at(&self) -> String {
        view::rfc3339(self.gateway.clock().wall_ms())
    }

    /// A command that is not carried out: written down, and answered where its signature was good.
    async fn refuse(&mut self, signed: Option<(String, String, CommandName)>, why: &str) {
        let key = signed.as_ref().map(|(key, ..)| key.clone());
        let share = self.shares.entry(key.clone().unwrap_or_default()).or_default();
        let Some(unsaid) = share.charge(self.gateway.clock().boot()) else { return };
        let subject = signed.as_ref().map_or("unsigned", |(_, jti, _)| jti.as_str());
        let details = json!({
            "cmd": signed.as_ref().map(|(_, _, command)| command), "unsaid_before": unsaid,
        });
        let event = Event::done(Actor::Cloud { key: key.clone() }, Action::CommandRefuse, subject);
        self.gateway.record(event.ended(Outcome::Refused).because(why).with(details)).await;
        self.gateway.alarms().raise(Alarm {
            kind: AlarmKind::Command,
            subject: key.unwrap_or_else(|| "unsigned".to_owned()),
            words: format!("a command was refused: {why}"),
            next_step: "Whoever sent it must mend it; if nobody of yours did, see who may publish below down/cmd."
                .to_owned(),
        });
        // What anybody can send gets no answer.
        if let Some((iss, jti, cmd)) = signed {
            let said = json!({ "status": "refused", "why": why, "iss": iss, "jti": jti, "cmd": cmd, "at": self.at() });
            self.principal.reply(&jti, said.to_string().into());
        }
    }

    async fn note(&self, claims: &Claims, outcome: Outcome, why: Option<&str>, details: Value) {
        let action = match claims.cmd {
            CommandName::Revoke => Action::CommandRevoke,
            CommandName::Approve => Action::CommandApprove,
            CommandName::Code => Action::CommandCode,
            CommandName::Config => Action::CommandConfig,
        };
        let mut event = Event::done(Actor::Cloud { key: Some(claims.iss.clone()) }, action, claims.jti.as_str());
        event.reason = why.map(str::to_owned);
        self.gateway.record(event.ended(outcome).with(details)).await;
    }
}

/// What tells one command from another: all of it but the signature, for a good one can be made into another good one
/// without the key, and who signs the same twice means the same.
fn digest(command: &[u8]) -> [u8; 32] {
    let end = command.iter().rposition(|byte| *byte == b'.').unwrap_or(command.len());
    Sha256::digest(&command[..end]).into()
}

/// What comes of the work within so long. It goes on after that: a device must not be left half unpaired.
async fn within<T: Send + 'static>(limit: Duration, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    match tokio::time::timeout(limit, tokio::spawn(work)).await {
        Ok(Ok(done)) => Some(done),
        // It panicked: the log says where.
        Ok(Err(_)) | Err(_) => None,
    }
}

async fn execute(gateway: Gateway, claims: Claims) -> Result<Value, Failure> {
    let actor = Actor::Cloud { key: Some(claims.iss) };
    let args = claims.args;
    match claims.cmd {
        CommandName::Revoke => revoke(&gateway, args_of(args)?, actor).await,
        CommandName::Code => mint(&gateway, args, actor).await,
        CommandName::Config => {
            let patch = args_of::<Patch>(args)?.patch;
            let changed = overlay::change(&gateway, patch, format!("{actor}, command {}", claims.jti)).await?;
            Ok(json!({ "changed": changed }))
        }
        CommandName::Approve => approve(&gateway, args_of(args)?, actor).await,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeArgs {
    device: Option<String>,
    code: Option<String>,
    #[serde(default)]
    why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApproveArgs {
    device: String,
    decision: Decision,
    #[serde(default)]
    why: String,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Decision {
    Yes,
    No,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    patch: serde_json::Map<String, Value>,
}

fn args_of<T: serde::de::DeserializeOwned>(args: Value) -> Result<T, Failure> {
    serde_json::from_value(args).map_err(Failure::args)
}

async fn approve(gateway: &Gateway, args: ApproveArgs, actor: Actor) -> Result<Value, Failure> {
    let id = DeviceId::named(&args.device)?;
    let (verdict, word) = match args.decision {
        Decision::Yes => (Verdict::Approve, "approved"),
        Decision::No => (Verdict::Reject, "rejected"),
    };
    gateway.decide(&id, verdict, &args.why, actor).await?;
    Ok(json!({ word: id }))
}

async fn revoke(gateway: &Gateway, args: RevokeArgs, actor: Actor) -> Result<Value, Failure> {
    let why = if args.why.is_empty() { "by a command from the cloud".to_owned() } else { args.why };
    match (args.device, args.code) {
        (Some(name), None) => {
            let id = DeviceId::named(&name)?;
            gateway.revoke_token(&id, &why, actor).await?;
            Ok(json!({ "revoked": id }))
        }
        (None, Some(code)) => {
            let id = CodeId::named(&code)?;
            let codes = gateway.codes().clone();
            let record = blocking(move || codes.revoke(&id, actor, &why)).await?;
            Ok(json!({ "revoked": record.id }))
        }
        _ => Err(Failure::args("device or code, one of them")),
    }
}

/// Makes a code. It leaves encrypted to the key in the command, or not at all.
async fn mint(gateway: &Gateway, mut args: Value, actor: Actor) -> Result<Value, Failure> {
    let recipient = args.as_object_mut().and_then(|args| args.remove("encrypt_to"));
    let recipient = recipient
        .ok_or_else(|| Failure::args("encrypt_to is missing: a P-256 public JWK; a code never travels in clear"))?;
    let recipient: Jwk = args_of(recipient)?;
    // Before the code is made: one that nobody can read would only replace another.
    encrypt(&recipient, b"").map_err(Failure::args)?;
    let asked: NewCodeRequest = args_of(args)?;
    let (record, code) = control::mint(gateway, asked, actor).await?;
    let sealed = encrypt(&recipient, code.to_string().as_bytes()).map_err(|error| Failure::internal(&error))?;
    Ok(json!({ "id": record.id, "ttl_s": record.request.ttl.as_secs(), "code_jwe": sealed }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_signature_makes_no_other_command_and_other_claims_do() {
        assert_eq!(digest(b"header.claims.one"), digest(b"header.claims.another"));
        assert_ne!(digest(b"header.claims.one"), digest(b"header.others.one"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_command_began_is_done_to_its_end() {
        let (told, hears) = tokio::sync::oneshot::channel();
        let work = async move {
            tokio::time::sleep(LIMIT * 2).await;
            told.send(()).unwrap();
        };
        assert!(within(LIMIT, work).await.is_none(), "the answer comes in time");
        hears.await.expect("the work went on");
        assert_eq!(within(LIMIT, async { 7 }).await, Some(7));
    }
}
