//! What was begun is done to its end.
//!
//! A request is dropped with its connection. One that changes something must not be: whoever asks and hangs up would
//! leave a token that is revoked here and alive at its issuer, or a device approved without a line in the audit log.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::broken_off::broken_off_for;
use super::failure::Failure;
use super::{ANSWER_TIME, Seat};
use crate::cli::exit::Exit;
use crate::metrics::{Metrics, Reason};

/// Where the work of requests goes on, and what counts those that took too long.
#[derive(Clone)]
pub(super) struct Ending {
    pub(super) tasks: TaskTracker,
    pub(super) metrics: Metrics,
}

/// Answers within the time that a request may take. What only looks ends with its connection or with that time; what
/// changes something goes on, keeps its seat meanwhile, and writes its lines.
pub(super) async fn to_its_end(
    State(Ending { tasks, metrics }): State<Ending>,
    request: Request,
    next: Next,
) -> Response {
    let changes = request.method() != Method::GET;
    let seat = request.extensions().get::<Arc<Seat>>().cloned();
    let late = CancellationToken::new();
    let answered = if changes {
        // Half a request is not waited for.
        let mut over = Box::pin(late.clone().cancelled_owned());
        let request = request.map(|body| {
            broken_off_for(body, move |context| {
                over.as_mut().poll(context).is_ready().then_some("it did not come in time")
            })
        });
        let work = next.run(request);
        let work = tasks.spawn(async move {
            let response = work.await;
            drop(seat);
            response
        });
        tokio::time::timeout(ANSWER_TIME, work).await.map(|ended| match ended {
            Ok(response) => response,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => Failure::internal(&error).into_response(),
            },
        })
    } else {
        tokio::time::timeout(ANSWER_TIME, next.run(request)).await
    };
    answered.unwrap_or_else(|_| {
        late.cancel();
        metrics.control.refused.get_or_create(&Reason { reason: "too_slow" }).inc();
        let text = format!("The request was not complete, or not answered, within {} s.", ANSWER_TIME.as_secs());
        let next =
            if changes { "What it began goes on: see how things are before you ask again." } else { "Try again." };
        Failure::new(Exit::TimeOut, "too_slow", text, next).into_response()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::any;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;
    use tokio::sync::Notify;

    use super::*;
    use crate::control::role::Caller;
    use crate::control::{Seats, connection};

    /// Asks by this method, hangs up while the work is under way, and lets it go on; whether it came to its end, and
    /// how many seats were taken while nobody was connected any more.
    async fn hung_up(method: &str) -> (bool, usize) {
        let (begun, go, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let handler = {
            let (begun, go, done) = (Arc::clone(&begun), Arc::clone(&go), Arc::clone(&done));
            move || async move {
                begun.notify_one();
                go.notified().await;
                done.store(true, Ordering::SeqCst);
            }
        };
        let ending = Ending { tasks: TaskTracker::new(), metrics: Metrics::new() };
        let seats = Seats { metrics: Metrics::new(), taken: Arc::default() };
        let router = Router::new().route("/", any(handler)).layer(from_fn_with_state(ending.clone(), to_its_end));
        let (mut client, server) = UnixStream::pair().unwrap();
        let (caller, seat) = (Caller::of(70_001, 70_001), seats.take(70_001).unwrap());
        let exchange = tokio::spawn(connection(server, router, caller, seat, CancellationToken::new()));
        let request = format!("{method} / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        begun.notified().await;
        drop(client);
        tokio::time::timeout(Duration::from_secs(60), exchange).await.expect("the connection ends").unwrap();
        let held = seats.taken.lock().unwrap().len();
        go.notify_one();
        ending.tasks.close();
        ending.tasks.wait().await;
        assert_eq!(seats.taken.lock().unwrap().len(), 0, "the seat is given back");
        (done.load(Ordering::SeqCst), held)
    }

    #[tokio::test]
    async fn who_asks_for_a_change_and_hangs_up_cannot_stop_it_half_way() {
        for method in ["POST", "DELETE"] {
            assert_eq!(hung_up(method).await, (true, 1), "{method}");
        }
        assert_eq!(hung_up("GET").await, (false, 0), "a look ends with who looks");
    }

    /// Sends half a body to a handler that wants all of it.
    async fn half(hangs_up: bool) -> String {
        let ending = Ending { tasks: TaskTracker::new(), metrics: Metrics::new() };
        let seats = Seats { metrics: Metrics::new(), taken: Arc::default() };
        let router = Router::new().route("/", any(async |body: String| body));
        let router = router.layer(from_fn_with_state(ending.clone(), to_its_end));
        let (mut client, server) = UnixStream::pair().unwrap();
        let (caller, seat) = (Caller::of(70_001, 70_001), seats.take(70_001).unwrap());
        let exchange = tokio::spawn(connection(server, router, caller, seat, CancellationToken::new()));
        client.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
        let mut answer = Vec::new();
        if hangs_up {
            drop(client);
        } else {
            // A reset is an end, too.
            let _ = client.read_to_end(&mut answer).await;
        }
        exchange.await.unwrap();
        ending.tasks.close();
        ending.tasks.wait().await;
        assert!(seats.taken.lock().unwrap().is_empty());
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_request_is_not_waited_for() {
        let answer = half(false).await;
        assert!(answer.contains("too_slow"), "{answer}");
        half(true).await;
    }
}
