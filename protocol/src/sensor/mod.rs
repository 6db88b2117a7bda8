//! A whole sensor as one machine.
