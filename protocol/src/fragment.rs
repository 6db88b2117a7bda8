//! Splitting a message.
