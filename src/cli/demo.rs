//! `demo`, and the processes that it starts from this same executable.

use std::time::Duration;

use clap::Args;

use super::args::duration;
use super::exit::Exit;
use super::terminal::Terminal;
use crate::control::failure::Failure;
use crate::demo::subscriber::SubscriberOptions;
use crate::demo::{self, DemoError, DemoOptions, Outcome, Tally};

/// `demo`.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// End by itself so long after the first pairing, and count what arrived
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    time: Option<Duration>,
    /// So many sensors
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=32))]
    sensors: u8,
}

/// Becomes the demonstration's subscriber.
pub(super) async fn subscriber(options: SubscriberOptions) -> Result<Exit, Failure> {
    demo::subscriber::run(options).await.map(|()| Exit::Ok).map_err(|error| Failure::internal(&error))
}

/// Runs the demonstration; the figures are its result.
pub(super) async fn demo(terminal: &Terminal, asked: &DemoArgs) -> Result<Exit, Failure> {
    let options = DemoOptions { time: asked.time, sensors: usize::from(asked.sensors), json: terminal.is_json() };
    match demo::run(options).await {
        Ok(Outcome { tally, troubles }) => {
            for trouble in &troubles {
                terminal.progress(&terminal.bad(trouble));
            }
            let is_whole = troubles.is_empty() && tally.lost == 0 && tally.paired == u64::from(asked.sensors);
            terminal.result(&tally, words);
            Ok(if is_whole { Exit::Ok } else { Exit::Degraded })
        }
        Err(DemoError::Interrupted) => {
            terminal.progress("Ended before a sensor was paired.");
            Ok(Exit::Failed)
        }
        Err(error) => Err(Failure::new(Exit::Failed, "no_demo", error.to_string(), "")),
    }
}

fn words(tally: &Tally) -> String {
    format!(
        "{} sensors paired. {} readings made, {} acknowledged, {} received by the subscriber: {} lost, {} duplicates. \
         {} tokens refreshed.",
        tally.paired,
        tally.sent,
        tally.acknowledged,
        tally.received,
        tally.lost,
        tally.duplicates,
        tally.tokens_refreshed
    )
}
