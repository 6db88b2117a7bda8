//! `pair --issue`: makes a code for one sensor, shows it, and waits until a person has entered it there. The
//! run itself begins at the port, when the sensor shows its window.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::code::{CodeId, CodeRequest, CodeState};
use super::event::{Cause, PairEvent, PairFailure, PairRequest};
use super::report::Report;
use super::{Port, unreached, words};
use crate::audit::Actor;
use crate::blocking::blocking;
use crate::link::Links;

/// A run that began just before the code's end may still end, and its device come into service.
const GRACE: Duration = Duration::from_secs(60);

/// How soon an operator who waits learns that his code was revoked.
const LOOK: Duration = Duration::from_secs(1);

/// What ends a code whose maker went away.
const WITHDRAWN: &str = "whoever asked for it waits no more";

/// Makes the code and waits.
pub(super) async fn issue(
    links: Links,
    port: Port,
    request: PairRequest,
    ttl: Duration,
    events: mpsc::Sender<PairEvent>,
    report: Report,
) {
    let actor = request.actor.clone();
    match make(&links, &port, request, ttl, events, &report).await {
        Ok(id) => wait(&links, &id, ttl, &report, actor).await,
        Err(failure) => report.fail(failure).await,
    }
}

async fn make(
    links: &Links,
    port: &Port,
    request: PairRequest,
    ttl: Duration,
    events: mpsc::Sender<PairEvent>,
    report: &Report,
) -> Result<CodeId, PairFailure> {
    // A code for a sensor that is not there would be shown for nothing.
    let sensor = port.meet().await.map_err(|error| unreached(report, &error))?;
    let engine = links.engine();
    let hardware_id = match (&sensor.id, &sensor.device) {
        (Some(id), _) => Some(id.as_str().to_owned()),
        (None, Some(device)) => {
            let (store, device) = (engine.parts().store.clone(), device.clone());
            let known = blocking(move || store.device(&device)).await.map_err(|error| words::store(report, &error))?;
            known.map(|device| device.hardware_id)
        }
        (None, None) => None,
    };
    let Some(hardware_id) = hardware_id else {
        let text = "The sensor is paired with another gateway and does not say who it is.";
        let next = "Reset it by its button, or unpair it there, then try again.";
        return Err(report.failure(Cause::Refused, text, next));
    };
    if let Ok(id) = hardware_id.parse() {
        // A name that is taken is said now, not after the code was entered.
        engine.name(request.name.clone(), id, report).await?;
    }
    let codes = engine.parts().codes.clone();
    let asked = CodeRequest {
        label: None,
        stage: engine.parts().stage,
        hardware_id: Some(hardware_id),
        device: request.name,
        scopes: request.scopes,
        limits: request.limits,
        ttl,
        idle: None,
        max_attempts: engine.policy().attempts,
    };
    let made = blocking(move || codes.new_code(asked, request.actor)).await;
    let (record, code) = made.map_err(|error| words::code(report, &error))?;
    engine.watch_code(record.id.clone(), events);
    report.send(PairEvent::Code { id: record.id.as_str().to_owned(), code, ttl });
    Ok(record.id)
}

/// Until the code is dead and nobody can have got further with it.
async fn wait(links: &Links, id: &CodeId, ttl: Duration, report: &Report, actor: Actor) {
    let engine = links.engine();
    let end = Instant::now() + ttl;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(end) => break,
            () = report.abandoned() => {
                if !engine.has_begun(id) {
                    withdraw(links, id, actor).await;
                }
                return engine.forget_code(id);
            }
            () = tokio::time::sleep(LOOK) => {
                if engine.has_begun(id) {
                    continue;
                }
                if let Some(failure) = revoked(links, id, report).await {
                    report.fail(failure).await;
                    return engine.forget_code(id);
                }
            }
        }
    }
    if engine.has_begun(id) {
        let _ = tokio::time::timeout(GRACE, report.abandoned()).await;
    } else {
        let text = format!("The code was not entered at the sensor within {} s.", ttl.as_secs());
        let failure = report.failure(Cause::CodeNotEntered, text, "Run the command again for a new one.");
        report.fail(failure).await;
    }
    engine.forget_code(id);
}

/// Ends a code that nobody waits for and that no sensor has tried.
async fn withdraw(links: &Links, id: &CodeId, actor: Actor) {
    let (codes, id) = (links.engine().parts().codes.clone(), id.clone());
    if let Err(error) = blocking(move || codes.revoke(&id, actor, WITHDRAWN)).await {
        tracing::debug!(%error, "a code that nobody waits for was over already");
    }
}

/// Why the code cannot be entered any more, if somebody ended it.
async fn revoked(links: &Links, id: &CodeId, report: &Report) -> Option<PairFailure> {
    let (codes, wanted) = (links.engine().parts().codes.clone(), id.clone());
    let listed = blocking(move || codes.list()).await.ok()?;
    let record = listed.into_iter().find(|record| record.id == wanted)?;
    if record.state != CodeState::Revoked {
        return None;
    }
    let why = record.ending.map(|ending| format!(" by {}: {}", ending.by, ending.why)).unwrap_or_default();
    Some(report.failure(Cause::CodeDead, format!("The code was revoked{why}."), "Run the command again for a new one."))
}
