//! Mosquitto plugin.
