//! Readings that the broker refused for good: list them, send them again, or drop them.

use axum::Json;
use axum::extract::State;

use super::api::{DeadLetter, Done};
use super::exchange::{Answer, By, Name as _, Named, Query, Why, done, number};
use crate::daemon::{Gateway, view};
use crate::ids::DeviceId;
use crate::spool::{self, Kind};

/// Most of one answer; the spool keeps no more.
const MAX_LETTERS: u64 = 10_000;

pub(super) async fn list(State(gateway): State<Gateway>, query: Query) -> Answer<Vec<DeadLetter>> {
    let most = usize::try_from(number(&query, "most", 100, MAX_LETTERS)?).unwrap_or(usize::MAX);
    let device = query.get("device").map(|text| DeviceId::named(text)).transpose()?;
    // One device's are looked for among all of them.
    let asked = if device.is_some() { usize::MAX } else { most };
    let letters = gateway.dead_letters(asked).await?;
    let wanted = letters.into_iter().filter(|letter| device.is_none() || letter.device == device);
    Ok(Json(wanted.take(most).map(line).collect()))
}

pub(super) async fn replay(State(gateway): State<Gateway>, Named(id): Named<DeviceId>, By(actor): By) -> Answer<Done> {
    let count = gateway.replay_dead_letters(&id, actor).await?;
    Ok(done(told(count, &format!("of {id} wait for the broker again"))))
}

pub(super) async fn discard(
    State(gateway): State<Gateway>,
    Named(id): Named<DeviceId>,
    By(actor): By,
    Why(why): Why,
) -> Answer<Done> {
    let count = gateway.drop_dead_letters(&id, &why, actor).await?;
    Ok(done(told(count, &format!("of {id} are dropped"))))
}

fn told(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 dead letter {}.", what.replacen(" are ", " is ", 1).replacen(" wait ", " waits ", 1)),
        _ => format!("{count} dead letters {what}."),
    }
}

fn line(letter: spool::DeadLetter) -> DeadLetter {
    DeadLetter {
        id: letter.id.to_string(),
        device: letter.device.as_ref().map(ToString::to_string),
        kind: match letter.kind {
            Kind::Telemetry => "telemetry".to_owned(),
            Kind::Gap { .. } => "gap".to_owned(),
        },
        bytes: letter.content.len(),
        reason: letter.reason,
        at: view::rfc3339(i64::try_from(letter.at_unix_ms).unwrap_or(i64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        assert_eq!(told(1, "of a are dropped"), "1 dead letter of a is dropped.");
        assert_eq!(told(2, "of a wait for the broker again"), "2 dead letters of a wait for the broker again.");
    }
}
