//! A body that is broken off: once there is a reason, it ends in an error and says nothing more.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};

/// The same body until `reason` gives one. It is asked before every frame, and wakes the task itself when it would
/// answer differently.
pub(super) fn broken_off_for(
    body: Body,
    reason: impl FnMut(&mut Context<'_>) -> Option<&'static str> + Send + 'static,
) -> Body {
    Body::new(BrokenOff { body, reason })
}

struct BrokenOff<F> {
    body: Body,
    reason: F,
}

// Nothing in it is pinned.
impl<F> Unpin for BrokenOff<F> {}

impl<F: FnMut(&mut Context<'_>) -> Option<&'static str>> HttpBody for BrokenOff<F> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(reason) = (self.reason)(context) {
            return Poll::Ready(Some(Err(axum::Error::new(reason))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
