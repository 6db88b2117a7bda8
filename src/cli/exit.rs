//! Exit codes: a script knows from them what to do.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok,
    /// Failed in a way no other code names.
    Failed,
    /// The command line or the request is wrong.
    Usage,
    /// Nothing goes by that name.
    NotFound,
    /// The code is wrong, or its life is over.
    WrongCode,
    /// Nothing came in time.
    TimeOut,
    /// A radio or a serial port.
    Link,
    /// The cloud or a token.
    Cloud,
    /// It works, but not all of it.
    Degraded,
    /// The configuration.
    Config,
}

impl Exit {
    /// The number.
    #[must_use]
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::WrongCode => 4,
            Self::TimeOut => 5,
            Self::Link => 6,
            Self::Cloud => 7,
            Self::Degraded => 8,
            Self::Config => 78,
        }
    }

    /// The meaning of a number; an unknown one is a failure.
    #[must_use]
    pub(crate) fn of(code: u8) -> Self {
        match code {
            0 => Self::Ok,
            2 => Self::Usage,
            3 => Self::NotFound,
            4 => Self::WrongCode,
            5 => Self::TimeOut,
            6 => Self::Link,
            7 => Self::Cloud,
            8 => Self::Degraded,
            78 => Self::Config,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
