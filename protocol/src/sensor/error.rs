//! Why a sensor did not start, take a reading or open its window.

use core::fmt;

/// Why a sensor did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartError {
    /// The stored state is damaged: reset the sensor and pair again.
    Damaged,
    /// The storage failed.
    Storage,
}

/// Why a reading was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushError {
    /// It has no record, or is larger than a record or the memory can hold.
    TooLarge,
}

/// Why no window opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WindowError {
    /// The unit has no label code.
    NoLabel,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Damaged => "the stored keys are damaged or of a newer version: reset the sensor and pair it again",
            Self::Storage => "the storage failed: the sensor cannot keep its keys",
        })
    }
}

impl core::error::Error for StartError {}

impl fmt::Display for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the reading is empty or larger than the sensor can hold or send",
        })
    }
}

impl core::error::Error for PushError {}

impl fmt::Display for WindowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoLabel => "this unit has no label code: enter a code of the gateway instead",
        })
    }
}

impl core::error::Error for WindowError {}
