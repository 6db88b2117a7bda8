//! SenML in CBOR.
