//! Finding a sensor.
