//! Mosquitto plugin that enforces clawgate's tokens: who connects, what for, and for how long.
//!
//! A client brings its access token (RFC 9068 JWT, ES256) as the data of MQTT v5 enhanced authentication with method
//! `OAUTH2-JWT`, or as its password. The topics come from the `claw_aif` claim. A connection is cut when its token
//! expires or is revoked; re-authentication gives it a fresh one. A token may say who alone may show it
//! (`cnf`, a certificate by its `x5t#S256`), from where (`claw_addresses`), and how often it publishes (`claw_rate`): who
//! is faster is cut off. Both files are read again when they changed: the next key of the issuer is known before it
//! signs, and who stands on a key that is gone from the file is cut off. Certificates are asked for by a listener with
//! `require_certificate true`. A good token from a wrong address is told where the token's gateway tells its alarms.
//! Options of the plugin:
//!
//! ```text
//! plugin /usr/lib/clawgate/libclawgate_mosquitto_jwt.so
//! plugin_opt_key_file /etc/mosquitto/issuer.jwks     (JWKS, or a public key as PEM)
//! plugin_opt_issuer https://issuer.site.example
//! plugin_opt_audience claw
//! plugin_opt_denylist_file /var/lib/clawgate-issuer/denylist
//! ```
//!
//! Mosquitto 2.0.11 calls a plugin's timer only when the plugin is global: never set `per_listener_settings true`, or
//! expiry and revocation would wait for the client's next message.

mod certificate;
mod decisions;
mod deny;
mod ffi;
mod notice;
mod options;
mod peer;
mod plugin;
mod rate;
mod token;
mod topics;
mod watched;
