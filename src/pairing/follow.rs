//! What follows once the keys stand: token, relay, first reading. Runs beside the session that brings it.

use std::sync::Arc;

use super::commission::CommissionError;
use super::engine::Engine;
use super::event::{Cause, PairEvent, PairFailure, Stage};
use super::report::Report;
use super::run::Agreed;

/// Brings a freshly paired device into service, in a task of its own. The report is in [`Stage::Token`].
pub(crate) fn bring_into_service(engine: Arc<Engine>, agreed: Agreed, mut report: Report) {
    tokio::spawn(async move {
        if let Err(failure) = serve(&engine, &agreed, &mut report).await {
            tracing::warn!(device = %agreed.device, stage = %failure.stage, "{}", failure.message);
            report.fail(failure);
        }
    });
}

async fn serve(engine: &Engine, agreed: &Agreed, report: &mut Report) -> Result<(), PairFailure> {
    let commission = &engine.parts().commission;
    let failed = |report: &Report, cause: Cause, error: CommissionError| {
        let text = format!("{} is paired, but not in service: {}.", agreed.device, error.message.trim_end_matches('.'));
        report.failure(cause, text, error.next_step)
    };
    match commission.token(&agreed.device).await {
        Ok(granted) => report.passed(Stage::FirstReading, Some(granted)),
        Err(error) => return Err(failed(report, Cause::Token, error)),
    }
    if report.is_abandoned() {
        return Ok(());
    }
    let first = commission.first_reading(&agreed.device).await.map_err(|error| failed(report, Cause::Cloud, error))?;
    report.done(first.summary);
    report.send(PairEvent::Paired {
        device: agreed.device.clone(),
        fingerprint: agreed.fingerprint(),
        confirmed_after: first.confirmed_after,
    });
    Ok(())
}
