//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser};
use clawgate_protocol::code::Code;
use clawgate_protocol::id::Id;

/// A simulated sensor that speaks the clawgate protocol over a serial line, or over BLE.
#[derive(Debug, Parser)]
#[command(
    name = "clawgate-simulator",
    version,
    after_help = "Commands on stdin, one a line:
  code K7QF-3M9X   enter a code that the gateway issued
  button           open the pairing window for the label's code
  power-cycle      start anew with the keys, without the readings held in memory
  reset            factory reset: erase the keys
  read N           make N readings now
  silence          make no more readings; those made are still sent
  status           print the state as one line of JSON
  quit             end"
)]
#[command(group(ArgGroup::new("line").required(true)), group(ArgGroup::new("source")))]
pub(crate) struct Options {
    /// Serial port to speak on
    #[arg(group = "line", value_name = "PATH")]
    pub(crate) port: Option<PathBuf>,
    /// Make a pseudo terminal and put a symbolic link to it here
    #[arg(long, group = "line", value_name = "LINK")]
    pub(crate) pty: Option<PathBuf>,
    /// Speak BLE: listen on this unix socket for a radio (a GATT peripheral such as hardware/ble-bridge)
    #[arg(long, group = "line", value_name = "PATH")]
    pub(crate) ble_socket: Option<PathBuf>,
    /// Baud rate of a serial port
    #[arg(long, default_value_t = 115_200)]
    pub(crate) baud: u32,

    /// File for the sensor's keys, id and label code; made at the first start, readable by the owner only.
    /// Without it they live in memory
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
    /// Hardware id, 1 to 32 of a-z, 0-9, '_' and '-' [default: sim- and four random digits, kept in the key file]
    #[arg(long)]
    pub(crate) device: Option<Id>,
    /// Name for people, at most 32 bytes
    #[arg(long, default_value = "simulator", value_parser = name)]
    pub(crate) name: String,
    /// Label code of the unit: a code, or `random` for one that is kept in the key file
    #[arg(long, value_name = "CODE|random")]
    pub(crate) label: Option<Label>,
    /// Do suite 1 only, without the post-quantum part
    #[arg(long)]
    pub(crate) suite1: bool,

    /// Time between two readings of this machine, such as 500ms, 2s or 1m
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub(crate) every: Duration,
    /// Send the rows of this file, one each `--every`, then fall silent. Its first line names the columns,
    /// such as `temperature:Cel,humidity:%RH,door`
    #[arg(long, group = "source", value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Send so many small readings a second
    #[arg(long, group = "source", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: Option<u32>,
    /// Send small readings as fast as the line and the gateway take them
    #[arg(long, group = "source")]
    pub(crate) flood: bool,
    /// Fill those small readings up to so many bytes
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=900))]
    pub(crate) size: u16,
    /// Make no more than so many readings, then fall silent
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,

    /// KiB of memory for readings that are not yet safe
    #[arg(long, default_value_t = 4096, value_name = "KIB", value_parser = clap::value_parser!(u32).range(4..=1_048_576))]
    pub(crate) memory: u32,
    /// Log every reading made and every acknowledgement here, as lines of JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Quit when stdin ends
    #[arg(long)]
    pub(crate) until_eof: bool,
}

/// The label code that was asked for.
#[derive(Debug, Clone)]
pub(crate) enum Label {
    Random,
    Fixed(Code),
}

impl std::str::FromStr for Label {
    type Err = clawgate_protocol::code::CodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "random" { Ok(Self::Random) } else { Code::parse(text).map(Self::Fixed) }
    }
}

/// Control characters are let through: a gateway has to withstand the name of a sensor that means harm.
fn name(text: &str) -> Result<String, &'static str> {
    if text.len() <= 32 { Ok(text.to_owned()) } else { Err("use at most 32 bytes") }
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a time: use a number and ms, s or m"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(format!("{text:?} is not a time: use a number and ms, s or m")),
    }
    .and_then(|time| if time.is_zero() { Err("use at least 1ms, or --flood".to_owned()) } else { Ok(time) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Options::command().debug_assert();
    }

    #[test]
    fn times_are_read_with_their_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "1", "s", "0s", "1h", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
