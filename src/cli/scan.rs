//! `scan` and `identify`: which sensors are there, and which one is which.

use std::time::Duration;

use hyper::Method;

use super::client::Client;
use super::exit::Exit;
use super::order;
use super::terminal::{Terminal, span, table};
use crate::control::api::{Found, IdentifyRequest};
use crate::control::failure::Failure;

pub(super) async fn scan(terminal: &Terminal, client: &Client, time: Duration) -> Result<Exit, Failure> {
    terminal.progress(&format!("Looking for {} ...", span(time.as_secs().max(1))));
    let path = format!("/v1/scan?for_ms={}", time.as_millis());
    let mut lines = client.stream(Method::GET, &path, None::<&()>).await?;
    let mut found: Vec<Found> = Vec::new();
    while let Some(sensor) = lines.next_as::<Found>().await? {
        if terminal.is_json() {
            terminal.result(&sensor, |_| String::new());
        }
        match found.iter_mut().find(|known| known.id == sensor.id && known.link == sensor.link) {
            Some(known) => *known = sensor,
            None => found.push(sensor),
        }
    }
    if terminal.is_json() {
        return Ok(Exit::Ok);
    }
    if found.is_empty() {
        terminal.progress("No sensor answered. Ports and their state: clawgate status");
        return Ok(Exit::Ok);
    }
    let rows: Vec<_> = found.iter().map(row).collect();
    terminal.line(&table(&["ID", "NAME", "LINK", "SIGNAL", "STATE"], &rows));
    Ok(Exit::Ok)
}

fn row(sensor: &Found) -> Vec<String> {
    let signal = sensor.rssi_dbm.map_or_else(|| "-".to_owned(), |dbm| format!("{dbm} dBm"));
    let state = match (sensor.state.as_str(), &sensor.device, sensor.window_left_s) {
        ("pairable", _, Some(left)) => format!("pairable {} ({})", span(left), sensor.ceremonies.join(", ")),
        ("paired", Some(device), _) => format!("paired as {device}"),
        ("paired_elsewhere", ..) => "paired elsewhere".to_owned(),
        ("closed", ..) => "closed: its button opens it".to_owned(),
        (state, ..) => state.to_owned(),
    };
    let state = match &sensor.note {
        Some(note) => format!("{state}; {note}"),
        None => state,
    };
    // A paired sensor tells its name only inside a session.
    let name = if sensor.name.is_empty() { "-".to_owned() } else { sensor.name.clone() };
    vec![sensor.id.clone(), name, sensor.link.clone(), signal, state]
}

pub(super) async fn identify(terminal: &Terminal, client: &Client, target: String) -> Result<Exit, Failure> {
    order(terminal, client, Method::POST, "/v1/identify", &IdentifyRequest { target }).await?;
    Ok(Exit::Ok)
}
