//! Codes at rest.
