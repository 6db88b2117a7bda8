//! `code`: made here, entered at a sensor. Shown once, as text and as a QR.

use std::time::Duration;

use clap::{Args, Subcommand};
use hyper::Method;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

use super::args::{Limits, Why, whole_seconds};
use super::client::Client;
use super::exit::Exit;
use super::terminal::{Terminal, clean, span, table};
use super::{order, path};
use crate::control::api::{CodeExplanation, CodeRecord, NewCode, NewCodeRequest, WhyRequest};
use crate::control::failure::Failure;

/// The verbs below `code`.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a code, to be entered at a sensor; shown once
    New(NewArgs),
    /// Show one: what it grants, who made it, what became of it; never the code itself
    Show {
        /// Its id, ocpc_...
        id: String,
    },
    /// List them; never the codes themselves
    Ls,
    /// End one now
    Revoke {
        /// Its id, ocpc_...
        id: String,
        /// Why it is done
        #[command(flatten)]
        why: Why,
    },
    /// Say what became of one, and how to go on
    Explain {
        /// Its id, ocpc_...
        id: String,
    },
}

/// `code new`.
#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// One code for one key: asked again with it, the same id comes, and no other code is made
    #[arg(long, value_name = "KEY", env = "OPENCLAW_IDEMPOTENCY_KEY")]
    idempotency_key: Option<String>,
    /// The name that the sensor gets
    #[arg(long, value_name = "NAME", env = "OPENCLAW_DEVICE")]
    device: Option<String>,
    /// The one sensor it is for, by its own id; without it the first to claim it
    #[arg(long, value_name = "SENSOR", env = "OPENCLAW_SENSOR")]
    sensor: Option<String>,
    /// Where the device will serve: dev, staging or prod; must be this gateway's stage
    #[arg(long, value_name = "STAGE", env = "OPENCLAW_STAGE")]
    stage: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT", env = "OPENCLAW_LABEL")]
    label: Option<String>,
    /// Its life
    #[arg(long, value_name = "DURATION", value_parser = whole_seconds, env = "OPENCLAW_TTL")]
    ttl: Option<Duration>,
    /// Void when no sensor has claimed it within this time
    #[arg(long, value_name = "DURATION", value_parser = whole_seconds, env = "OPENCLAW_IDLE")]
    idle: Option<Duration>,
    /// What the device's token grants (telemetry:write, command:read), if wanted with the service before it
    /// (claw/telemetry:write); may be given again
    #[arg(long = "scope", value_name = "SCOPE", env = "OPENCLAW_SCOPES", value_delimiter = ',')]
    scopes: Vec<String>,
    /// What the device's token is limited to
    #[command(flatten)]
    limits: Limits,
}

pub(super) async fn code(terminal: &Terminal, client: &Client, verb: Verb) -> Result<Exit, Failure> {
    match verb {
        Verb::New(NewArgs { idempotency_key, device, sensor, stage, label, ttl, idle, scopes, limits }) => {
            let (ttl_s, idle_s) = (ttl.map(|ttl| ttl.as_secs()), idle.map(|idle| idle.as_secs()));
            let Limits { addresses, per_second } = limits;
            let request = NewCodeRequest {
                device,
                sensor,
                stage,
                label,
                ttl_s,
                scopes,
                idle_s,
                addresses,
                per_second,
                idempotency_key,
            };
            let code: NewCode = client.send(Method::POST, "/v1/codes", &request).await?;
            terminal.result(&code, made);
        }
        Verb::Ls => {
            let codes: Vec<CodeRecord> = client.get("/v1/codes").await?;
            terminal.result(&codes, |codes| list(codes));
        }
        Verb::Show { id } => {
            let told: CodeExplanation = client.get(&path("/v1/codes", &id, "")?).await?;
            terminal.result(&told.code, show);
        }
        Verb::Revoke { id, why } => {
            let path = path("/v1/codes", &id, "/revoke")?;
            order(terminal, client, Method::POST, &path, &WhyRequest::from(why)).await?;
        }
        Verb::Explain { id } => {
            let told: CodeExplanation = client.get(&path("/v1/codes", &id, "")?).await?;
            terminal.result(&told, |told| format!("{}\n  {}", clean(&told.explanation), clean(&told.next_step)));
        }
    }
    Ok(Exit::Ok)
}

/// A code that was made, now or before.
fn made(code: &NewCode) -> String {
    let id = clean(&code.id);
    let story = format!("What became of it: clawgate code explain {id}");
    match (&code.code, &code.qr) {
        (Some(text), Some(qr)) => {
            let (picture, life) = (picture(text, qr), span(code.ttl_s));
            let idle = code.idle_s.map(|idle| format!(" (void after {} if no sensor claims it)", span(idle)));
            format!(
                "{picture}\n{id}  lives {life}{}, {} attempts, for one sensor. It is shown this once.\n{story}",
                idle.unwrap_or_default(),
                code.attempts
            )
        }
        _ => format!("{id} was made before under this key, and shown then.\n{story}"),
    }
}

/// The code as text and as a QR of half blocks.
pub(super) fn picture(code: &str, qr: &str) -> String {
    // Drawn for a dark terminal: its background is the ink.
    let draw = |qr: QrCode| qr.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    let image = QrCode::new(qr).map(draw).unwrap_or_default();
    format!("{image}\n\n    {}\n", clean(code))
}

fn show(code: &CodeRecord) -> String {
    let time = |seconds: Option<u64>| seconds.map(span);
    let rows = [
        ("code", Some(code.id.clone())),
        ("state", Some(code.state.clone())),
        ("label", code.label.clone()),
        ("stage", Some(code.stage.clone())),
        ("sensor", Some(code.sensor.clone().unwrap_or_else(|| "the first to claim it".to_owned()))),
        ("device", code.device.clone()),
        ("scopes", Some(code.scopes.join(" "))),
        ("addresses", (!code.addresses.is_empty()).then(|| code.addresses.join(" "))),
        ("rate", code.per_second.map(|rate| format!("{rate} publishes a second"))),
        ("made", Some(format!("{} by {}", code.made_at, code.made_by))),
        ("life", time(Some(code.ttl_s))),
        ("idle", time(code.idle_s)),
        ("left", time(code.left_s)),
        ("attempts", Some(format!("{} of {}", code.attempts_taken, code.attempts))),
        ("claimed", code.claimed_at.clone()),
        (
            "ended",
            code.ended_at.as_ref().map(|at| {
                let (by, why) =
                    (code.ended_by.as_deref().unwrap_or_default(), code.ended_why.as_deref().unwrap_or_default());
                format!("{at} by {by}: {why}")
            }),
        ),
    ];
    let line = |(name, value): (&str, Option<String>)| value.map(|value| format!("{name:<10} {}", clean(&value)));
    rows.into_iter().filter_map(line).collect::<Vec<_>>().join("\n")
}

fn list(codes: &[CodeRecord]) -> String {
    if codes.is_empty() {
        return "No code was made. Make one: clawgate code new".to_owned();
    }
    let row = |code: &CodeRecord| {
        vec![
            code.id.clone(),
            code.state.clone(),
            code.left_s.map_or_else(|| "-".to_owned(), span),
            format!("{}/{}", code.attempts_taken, code.attempts),
            code.sensor.clone().unwrap_or_else(|| "any".to_owned()),
            code.device.clone().unwrap_or_default(),
            code.made_by.clone(),
            code.label.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = codes.iter().map(row).collect();
    table(&["CODE", "STATE", "LEFT", "ATTEMPTS", "SENSOR", "DEVICE", "MADE BY", "LABEL"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_shown_as_text_and_as_a_qr() {
        let text = picture("K7QF-3M9X", "CLAWGATE:1::K7QF-3M9X");
        assert!(text.contains("    K7QF-3M9X"));
        assert!(text.lines().filter(|line| line.contains('▀') || line.contains('█')).count() > 10, "{text}");
    }
}
