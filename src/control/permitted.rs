//! An answer that goes on may outlive its user's role: a reload takes that away. It ends then.

use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use tokio::time::{MissedTickBehavior, interval};

use super::broken_off::broken_off_for;
use super::stream::NDJSON;

/// How soon an answer with nothing to say ends; one that has something says nothing more.
const LOOK: Duration = Duration::from_secs(1);

/// The same answer, broken off once its user may not have it any more. Only those that go on are looked after.
pub(super) fn while_allowed(response: Response, allowed: impl Fn() -> bool + Send + 'static) -> Response {
    if response.headers().get(CONTENT_TYPE).is_none_or(|kind| kind != NDJSON) {
        return response;
    }
    response.map(|body| {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        broken_off_for(body, move |context| {
            // Until it is pending: only then does it wake us.
            while look.poll_tick(context).is_ready() {}
            (!allowed()).then_some("the user's role was withdrawn")
        })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use http_body_util::BodyExt as _;

    use super::*;
    use crate::control::stream::ndjson;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_goes_on_ends_with_its_users_role_and_says_nothing_after_it() {
        for has_news in [false, true] {
            let allowed = Arc::new(AtomicBool::new(true));
            let may = Arc::clone(&allowed);
            let (lines, response) = ndjson();
            let mut body = while_allowed(response, move || may.load(Ordering::SeqCst)).into_body();
            lines.send(&1).await.unwrap();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "1\n");
            allowed.store(false, Ordering::SeqCst);
            if has_news {
                lines.send(&2).await.unwrap();
            }
            let ended = tokio::time::timeout(Duration::from_secs(3600), body.frame()).await;
            assert!(ended.expect("it ends").unwrap().is_err(), "news {has_news}");
            drop(body);
            lines.gone().await;
        }
    }
}
