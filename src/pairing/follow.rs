//! What follows once the keys stand: token, relay, first reading. Runs beside the session that brings it.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::commission::{CommissionError, Wait};
use super::engine::Engine;
use super::event::{Cause, PairEvent, PairFailure, Stage};
use super::report::Report;
use super::run::Agreed;
use crate::session::Arrived;

/// Brings a freshly paired device into service, in a task of its own. The report is in [`Stage::Token`]; `first`
/// was asked for before the session under the new key could bring a reading.
pub(crate) fn bring_into_service(
    engine: Arc<Engine>,
    agreed: Agreed,
    mut report: Report,
    first: oneshot::Receiver<Arrived>,
) {
    report.is_about(agreed.device.as_str());
    tokio::spawn(async move {
        if let Err(failure) = serve(&engine, &agreed, &mut report, first).await {
            report.fail(failure).await;
        }
    });
}

async fn serve(
    engine: &Engine,
    agreed: &Agreed,
    report: &mut Report,
    first: oneshot::Receiver<Arrived>,
) -> Result<(), PairFailure> {
    let commission = &engine.parts().commission;
    let failed = |report: &Report, cause: Cause, error: CommissionError| {
        let text = format!("{} is paired, but not in service: {}.", agreed.device, error.message.trim_end_matches('.'));
        report.failure(cause, text, error.next_step)
    };
    let tell = |wait| {
        report.send(match wait {
            Wait::Approval(approval) => PairEvent::Approval(approval),
            Wait::Decision { within } => PairEvent::Decision { device: agreed.device.clone(), within },
        });
    };
    match commission.token(&agreed.device, &tell).await {
        Ok(granted) => report.passed(Stage::FirstReading, Some(granted)),
        Err(error) => return Err(failed(report, Cause::Token, error)),
    }
    if report.is_abandoned() {
        return Ok(());
    }
    let mut arrived = None;
    let comes = Box::pin(async {
        match first.await {
            Ok(first) => arrived = Some(first),
            // Whoever brings readings is gone.
            Err(_) => std::future::pending().await,
        }
    });
    commission.first_reading(&agreed.device, comes).await.map_err(|error| failed(report, Cause::Cloud, error))?;
    let confirmed_at = engine.parts().clock.boot();
    let confirmed_after = arrived.as_ref().map(|first| confirmed_at.saturating_sub(first.at)).unwrap_or_default();
    report.done(arrived.and_then(|first| first.summary));
    report.send(PairEvent::Paired {
        device: agreed.device.clone(),
        fingerprint: agreed.fingerprint(),
        confirmed_after,
    });
    Ok(())
}
