//! Cuts connections whose token has expired or was revoked, while they live.

use std::sync::Arc;

use mqtt5::broker::router::MessageRouter;
use tracing::info;

use super::admission::Admission;

/// For ever: waits for an expiry or a revocation and disconnects whom it concerns, and nobody else.
pub(super) async fn cut_off(admission: Arc<Admission>, router: Arc<MessageRouter>) {
    let mut revocations = admission.revocations();
    loop {
        for cut in admission.cut_off() {
            // A client that had left already says nothing any more.
            if !router.is_connected(&cut.client_id).await {
                continue;
            }
            router.disconnect_client(&cut.client_id).await;
            info!(client = cut.client_id, subject = cut.subject, error = cut.why, "embedded broker cut a client off");
            if let Some(will) = cut.will {
                router.route_message(&will, None).await;
            }
        }
        admission.wait(&mut revocations).await;
    }
}
