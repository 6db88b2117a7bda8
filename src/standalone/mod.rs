//! standalone.
