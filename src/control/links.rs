//! Sensors in reach: scan, identify, pair.

use std::num::NonZeroU32;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use clawgate_protocol::code::Code;

use super::api::{Done, Found, IdentifyRequest, PairLine, PairRequest};
use super::devices::new_id;
use super::exchange::{Answer, Body, By, Query, done, number};
use super::failure::Failure;
use super::stream::{Lines, ndjson};
use crate::audit::{Action, Event};
use crate::cli::exit::Exit;
use crate::daemon::Gateway;
use crate::link::{self, FoundState};
use crate::pairing::{self, Ceremony, PairEvent};
use crate::token::scope::Scope;
use crate::token::{Approval, LimitError, Limits};

/// Longest scan.
const MAX_SCAN_MS: u64 = 600_000;
/// How often a long scan asks again.
const SCAN_STEP: Duration = Duration::from_secs(2);
/// Time for a sensor to say that it blinks.
const IDENTIFY_TIME: Duration = Duration::from_secs(3);

pub(super) async fn scan(State(gateway): State<Gateway>, query: Query) -> Result<Response, Failure> {
    let time = Duration::from_millis(number(&query, "for_ms", 2000, MAX_SCAN_MS)?);
    let (lines, response) = ndjson();
    tokio::spawn(scanning(gateway, time, lines));
    Ok(response)
}

/// Sensors that one scan tells of: who fills the air with more fills no memory.
const MOST_TOLD: usize = 1024;

/// Asks step by step, and sends a sensor when it is new or has changed.
async fn scanning(gateway: Gateway, time: Duration, lines: Lines) {
    let end = gateway.clock().boot() + time;
    let mut sent: Vec<Found> = Vec::new();
    loop {
        let step = end.saturating_sub(gateway.clock().boot()).min(SCAN_STEP);
        let found = tokio::select! {
            found = gateway.unless_stopping(gateway.links().scan(step)) => found.unwrap_or_default(),
            () = lines.gone() => return,
        };
        for sensor in found.into_iter().map(found_line) {
            let sent_count = sent.len();
            let known = sent.iter_mut().find(|old| (&old.id, &old.link) == (&sensor.id, &sensor.link));
            let news = known.as_ref().is_none_or(|old| old.state != sensor.state || old.device != sensor.device);
            let has_room = known.is_some() || sent_count < MOST_TOLD;
            if news && has_room && lines.send(&sensor).await.is_err() {
                return;
            }
            match known {
                Some(old) => *old = sensor,
                None if has_room => sent.push(sensor),
                None => {}
            }
        }
        if gateway.clock().boot() >= end || gateway.is_stopping() {
            return;
        }
    }
}

fn found_line(found: link::Found) -> Found {
    let mut window_left_s = None;
    let mut ceremonies = Vec::new();
    let mut device = None;
    let state = match found.state {
        FoundState::Pairable { left, label, issued } => {
            window_left_s = Some(left.as_secs());
            let takes = [("label", label), ("issued", issued)];
            ceremonies = takes.into_iter().filter(|(_, takes)| *takes).map(|(name, _)| name.to_owned()).collect();
            "pairable"
        }
        FoundState::Closed => "closed",
        FoundState::Paired { device: known, .. } => {
            device = Some(known.to_string());
            "paired"
        }
        FoundState::PairedElsewhere => "paired_elsewhere",
    };
    Found {
        id: found.id,
        name: found.name,
        link: found.link,
        rssi_dbm: found.rssi_dbm,
        state: state.to_owned(),
        window_left_s,
        ceremonies,
        device,
        note: found.note,
    }
}

pub(super) async fn identify(
    State(gateway): State<Gateway>,
    By(actor): By,
    Body(request): Body<IdentifyRequest>,
) -> Answer<Done> {
    gateway.links().identify(&request.target, IDENTIFY_TIME).await?;
    gateway.record(Event::done(actor, Action::DeviceIdentify, &request.target)).await;
    Ok(done(format!("{} is told to blink; a sensor does that once in 10 seconds.", request.target)))
}

pub(super) async fn pair(
    State(gateway): State<Gateway>,
    By(actor): By,
    Body(request): Body<PairRequest>,
) -> Result<Response, Failure> {
    let ceremony = match &request.code {
        Some(code) => Ceremony::Label(Code::parse(code).map_err(|error| {
            let text = format!("The code is mistyped: {error}. No attempt was used.");
            Failure::new(Exit::WrongCode, "code_mistyped", text, "Read the label again.")
        })?),
        None => Ceremony::Issued { ttl: ttl(&gateway, request.ttl_s)? },
    };
    let request = pairing::PairRequest {
        target: request.target,
        name: request.name.as_deref().map(new_id).transpose()?,
        ceremony,
        scopes: scopes(&gateway, &request.scopes)?,
        limits: limits(&request.addresses, request.per_second)?,
        actor,
    };
    let mut events = gateway.pairing().pair(request);
    let (lines, response) = ndjson();
    tokio::spawn(async move {
        // Where nobody reads any more the receiver is dropped: a code that waits to be entered ends with it.
        loop {
            let event = tokio::select! {
                biased;
                event = gateway.unless_stopping(events.recv()) => event.flatten(),
                () = lines.gone() => None,
            };
            let Some(event) = event else { return };
            let last = matches!(event, PairEvent::Paired { .. } | PairEvent::Failed(_));
            if lines.send(&pair_line(event)).await.is_err() || last {
                return;
            }
        }
    });
    Ok(response)
}

/// The life of a code that is asked for, within its bounds.
pub(super) fn ttl(gateway: &Gateway, asked_s: Option<u64>) -> Result<Duration, Failure> {
    match asked_s {
        None => Ok(gateway.config().pairing.ttl),
        Some(s @ 1..=86_400) => Ok(Duration::from_secs(s)),
        Some(s) => Err(Failure::usage(
            format!("A code lives 1 s to 1 day (86400 s), not {s} s."),
            "Choose --ttl in that range.",
        )),
    }
}

/// Scopes that a device may have, as they are asked for; each once.
pub(super) fn scopes(gateway: &Gateway, asked: &[String]) -> Result<Vec<Scope>, Failure> {
    let config = gateway.config();
    let parse = |scope: &String| match Scope::asked(scope, config.audience()) {
        Ok(Scope::StatusWrite | Scope::AlarmRead) => {
            Err(Failure::usage(format!("{scope:?} is the gateway's own: no device has it."), ""))
        }
        other => other.map_err(|error| Failure::usage(format!("{error}."), "")),
    };
    let mut scopes: Vec<Scope> = Vec::new();
    for scope in asked {
        let scope = parse(scope)?;
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    if scopes.is_empty() || scopes.contains(&Scope::TelemetryWrite) {
        return Ok(scopes);
    }
    Err(Failure::usage(
        "A device without telemetry:write can send nothing, and cannot say that it is there.",
        "Ask for telemetry:write beside it.",
    ))
}

/// What a device's token shall be limited to.
pub(super) fn limits(addresses: &[String], per_second: Option<u32>) -> Result<Limits, Failure> {
    let refused = |error: LimitError| {
        let text = error.to_string();
        Failure::usage(if text.ends_with('?') { text } else { text + "." }, "")
    };
    let ranges = addresses.iter().map(|range| range.parse().map_err(refused)).collect::<Result<_, _>>()?;
    let rate = match per_second.map(NonZeroU32::new) {
        Some(None) => {
            return Err(Failure::usage("A rate is at least 1 publish a second.", "Leave it out for no limit."));
        }
        rate => rate.flatten(),
    };
    Limits::new(ranges, rate).map_err(refused)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn pair_line(event: PairEvent) -> PairLine {
    match event {
        PairEvent::Code { id, code, ttl } => {
            PairLine::Code { id, code: code.to_string(), qr: code.qr(None).to_string(), ttl_s: ttl.as_secs() }
        }
        PairEvent::Stage { stage, elapsed, detail } => {
            PairLine::Stage { stage: stage.name().to_owned(), elapsed_ms: millis(elapsed), detail }
        }
        PairEvent::Approval(Approval { url, complete_url, code, left_s }) => {
            PairLine::Approval { url, complete_url, code, left_s }
        }
        PairEvent::Decision { device, within } => {
            PairLine::Decision { device: device.to_string(), within_s: within.as_secs() }
        }
        PairEvent::Failed(failure) => PairLine::Failed {
            stage: failure.stage.name().to_owned(),
            cause: failure.cause.name().to_owned(),
            message: failure.message,
            next_step: failure.next_step,
            exit_code: failure.exit_code,
        },
        PairEvent::Paired { device, fingerprint, confirmed_after } => PairLine::Paired {
            device: device.to_string(),
            fingerprint,
            confirmed_after_ms: millis(confirmed_after).max(1),
        },
    }
}
