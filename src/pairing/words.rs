//! Failures of a pairing in words: what happened and why, and what a person does now.

use std::time::Duration;

use clawgate_protocol::pairing::Failure;

use super::code_book::CodeError;
use super::event::{Cause, PairFailure, Stage};
use super::report::Report;
use crate::link::{LineCondition, LinkEnd};
use crate::store::StoreError;

const READ_AGAIN: &str = "Check the label again; 0/O and 1/I/L are taken as the same.";

pub(crate) fn wrong_label(report: &Report, wait: Duration) -> PairFailure {
    let text = format!("The code does not match. The sensor takes the next try in {} s.", seconds(wait));
    report.failure(Cause::WrongCode, text, READ_AGAIN)
}

pub(crate) fn refused_label(report: &Report, wait: Duration) -> PairFailure {
    if wait.is_zero() {
        let text = "The sensor refused to begin: its window closed, or it waits after a wrong code.";
        return report.failure(Cause::Refused, text, "Press its button, wait some seconds, and try again.");
    }
    let text =
        format!("The sensor takes no code yet, after a wrong one. It takes the next try in {} s.", seconds(wait));
    report.failure(Cause::Refused, text, "Wait, then try again.")
}

pub(crate) fn wrong_issued(report: &Report, left: u8) -> PairFailure {
    let text = "The code that was entered at the sensor does not match.";
    match left {
        0 => report.failure(
            Cause::WrongCode,
            format!("{text} Its attempts are used up."),
            "Make a new one: clawgate code new",
        ),
        _ => report.failure(
            Cause::WrongCode,
            format!("{text} It survives {left} more."),
            "Enter it at the sensor again, while it lives.",
        ),
    }
}

pub(crate) fn code(report: &Report, error: &CodeError) -> PairFailure {
    let cause = match error {
        CodeError::Store(_) | CodeError::Audit(_) | CodeError::Random(_) => Cause::Store,
        _ => Cause::CodeDead,
    };
    report.failure(cause, sentence(error), "")
}

pub(crate) fn store(report: &Report, error: &StoreError) -> PairFailure {
    let cause = match error {
        StoreError::NameTaken { .. } | StoreError::SensorTaken { .. } => Cause::NameTaken,
        _ => Cause::Store,
    };
    report.failure(cause, sentence(error), "")
}

pub(crate) fn link(report: &Report, end: &LinkEnd) -> PairFailure {
    report.failure(Cause::Port, format!("The line was lost: {end}."), "Check the plug and try again.")
}

pub(crate) fn window_closed(report: &Report, other_ceremony: bool) -> PairFailure {
    if other_ceremony {
        let text = "The sensor's window is open for a code that was entered at it, not for the one on its label.";
        return report.failure(Cause::WindowClosed, text, "Press the sensor's button, then try again.");
    }
    let text = "The sensor's pairing window is closed.";
    report.failure(Cause::WindowClosed, text, "Press the sensor's button, then try again within five minutes.")
}

pub(crate) fn no_answer(report: &Report, line: LineCondition) -> PairFailure {
    let next = match line {
        LineCondition::WrongBaudRate | LineCondition::Echo => String::new(),
        _ => "Check its power and the wiring, then try again.".to_owned(),
    };
    let why = match line {
        LineCondition::WrongBaudRate | LineCondition::Echo => format!(" The line: {line}."),
        _ => String::new(),
    };
    report.failure(Cause::NoAnswer, format!("No sensor answers there.{why}"), next)
}

pub(crate) fn not_confirmed(report: &Report, first: &PairFailure) -> PairFailure {
    let text = format!("The sensor did not confirm the new key. {}", first.message);
    let next = "Nothing is lost: an older pairing goes on, and if the sensor took the key it comes by itself. \
                Else try again.";
    PairFailure::new(report.stage(), first.cause, text, next)
}

pub(crate) fn protocol(report: &Report, failure: Failure) -> PairFailure {
    let (cause, text, next) = match failure {
        Failure::Version => (
            Cause::Unsupported,
            "The sensor speaks another protocol version.",
            "Update the sensor's firmware, or this gateway.",
        ),
        Failure::Suite => (
            Cause::Unsupported,
            "The sensor has no suite that the policy allows.",
            "Update its firmware, or lower pairing.min_suite.",
        ),
        Failure::PeerTooSmall => (
            Cause::Unsupported,
            "The sensor cannot take a message of this length.",
            "Update its firmware, or lower pairing.min_suite.",
        ),
        Failure::WrongDevice => {
            (Cause::Tampered, "Another sensor answered than the one that was picked.", "Scan again.")
        }
        Failure::Refused if report.stage() == Stage::Confirm => {
            (Cause::Refused, "The sensor refused this gateway's proof.", "Enter a new code: clawgate code new")
        }
        Failure::Refused => (
            Cause::Refused,
            "The sensor refused; by its nature it does not say why. Most likely its window closed.",
            "Open its window and try again.",
        ),
        Failure::TimedOut => {
            (Cause::TimeOut, "The sensor stopped answering; a run takes at most 10 s.", "Check the line and try again.")
        }
        Failure::SecondMessage | Failure::WeakPoint | Failure::Unauthentic | Failure::OwnKey => (
            Cause::Tampered,
            "A message was forged or changed on its way, or the sensor is broken.",
            "Find out who else is on this line before you try again.",
        ),
        Failure::Malformed => {
            (Cause::Tampered, "The sensor sent a message that cannot be read.", "Update its firmware, then try again.")
        }
        _ => (Cause::Refused, "The run ended.", "Try again."),
    };
    report.failure(cause, text, next)
}

/// An error of another part as a sentence: it says the next step by itself.
fn sentence(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>() + ".").unwrap_or_default()
}

fn seconds(wait: Duration) -> u64 {
    // Rounded up: who comes back when he was told is not refused.
    u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u64::MAX)
}
