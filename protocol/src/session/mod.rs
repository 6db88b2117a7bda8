//! Sessions of both ends.
