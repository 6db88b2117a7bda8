//! `dead-letters`: readings that the broker refused for good.

use clap::Subcommand;
use hyper::Method;

use super::args::Why;
use super::client::Client;
use super::exit::Exit;
use super::terminal::{Terminal, clean, table};
use super::{name, order, path};
use crate::control::api::{DeadLetter, WhyRequest};
use crate::control::failure::Failure;

/// The verbs below `dead-letters`.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List them, the newest first
    Ls {
        /// Only those of this device
        device: Option<String>,
        /// So many
        #[arg(long, short = 'n', default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        lines: u16,
    },
    /// Send a device's to the broker again, after the cause was mended
    Replay {
        /// The device
        device: String,
    },
    /// Forget a device's for good
    Drop {
        /// The device
        device: String,
        /// Why it is done
        #[command(flatten)]
        why: Why,
    },
}

pub(super) async fn dead_letters(terminal: &Terminal, client: &Client, verb: Verb) -> Result<Exit, Failure> {
    match verb {
        Verb::Ls { device, lines } => {
            let mut asked = format!("/v1/dead-letters?most={lines}");
            if let Some(device) = &device {
                asked = asked + "&device=" + name(device)?;
            }
            let letters: Vec<DeadLetter> = client.get(&asked).await?;
            terminal.result(&letters, |letters| list(letters));
        }
        Verb::Replay { device } => {
            order(terminal, client, Method::POST, &path("/v1/dead-letters", &device, "/replay")?, &()).await?;
        }
        Verb::Drop { device, why } => {
            let path = path("/v1/dead-letters", &device, "/drop")?;
            order(terminal, client, Method::POST, &path, &WhyRequest::from(why)).await?;
        }
    }
    Ok(Exit::Ok)
}

fn list(letters: &[DeadLetter]) -> String {
    if letters.is_empty() {
        return "The broker has refused nothing for good.".to_owned();
    }
    let row = |letter: &DeadLetter| {
        vec![
            letter.at.clone(),
            letter.device.clone().unwrap_or_else(|| "-".to_owned()),
            letter.id.clone(),
            letter.kind.clone(),
            letter.bytes.to_string(),
            letter.reason.clone(),
        ]
    };
    let rows: Vec<_> = letters.iter().map(row).collect();
    let devices: Vec<&str> = letters.iter().filter_map(|letter| letter.device.as_deref()).collect();
    let next = devices.first().map(|device| {
        format!(
            "Mend the cause, then: clawgate dead-letters replay {0}; or: clawgate dead-letters drop {0}",
            clean(device)
        )
    });
    table(&["AT", "DEVICE", "READING", "KIND", "BYTES", "REASON"], &rows) + &next.unwrap_or_default()
}
