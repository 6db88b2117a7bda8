//! Answers that go on: one JSON object a line (NDJSON), until the source ends or the client stops reading.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame};
use serde::Serialize;
use tokio::sync::mpsc;

/// Lines on their way to a client that reads slowly.
const LINES: usize = 64;
/// Time a client may leave a full queue unread.
const READ_TIME: Duration = Duration::from_secs(10);

/// The media type of such an answer.
pub(super) const NDJSON: &str = "application/x-ndjson";

/// The sending end of a streamed answer.
pub struct Lines(mpsc::Sender<Bytes>);

/// The client went away, or does not read.
#[derive(Debug)]
pub struct Gone;

/// A streamed answer and the end that feeds it.
pub(super) fn ndjson() -> (Lines, Response) {
    let (sender, receiver) = mpsc::channel(LINES);
    let body = Body::new(LineBody(receiver).boxed());
    (Lines(sender), ([(CONTENT_TYPE, NDJSON)], body).into_response())
}

impl Lines {
    /// Sends one line.
    ///
    /// # Errors
    /// [`Gone`] where nobody reads any more: the source should end too.
    pub(crate) async fn send(&self, line: &impl Serialize) -> Result<(), Gone> {
        let mut bytes = serde_json::to_vec(line).map_err(|_| Gone)?;
        bytes.push(b'\n');
        match tokio::time::timeout(READ_TIME, self.0.send(bytes.into())).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }

    /// Ends when the client is gone.
    pub(crate) async fn gone(&self) {
        self.0.closed().await;
    }
}

/// A streamed answer that a thread writes; the thread waits where the client reads slowly.
pub(super) fn written() -> (Written, Response) {
    let (sender, receiver) = mpsc::channel(LINES);
    let body = Body::new(LineBody(receiver).boxed());
    (Written(sender), ([(CONTENT_TYPE, NDJSON)], body).into_response())
}

/// The writing end of [`written`].
pub(super) struct Written(mpsc::Sender<Bytes>);

impl Written {
    /// Ends when the client is gone.
    pub(super) async fn gone(&self) {
        self.0.closed().await;
    }
}

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.blocking_send(Bytes::copy_from_slice(bytes)).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct LineBody(mpsc::Receiver<Bytes>);

impl HttpBody for LineBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|line| line.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_given_up_after_a_bound() {
        let (lines, response) = ndjson();
        for _ in 0..LINES {
            lines.send(&1).await.unwrap();
        }
        assert!(lines.send(&1).await.is_err());
        drop(response);
        lines.gone().await;
    }
}
