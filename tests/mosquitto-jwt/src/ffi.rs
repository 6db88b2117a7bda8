//! What mosquitto 2.0 and a plugin of interface version 5 call of each other, as far as this plugin needs it
//! (`mosquitto_broker.h`, `mosquitto_plugin.h`).

use std::ffi::{c_char, c_int, c_void};

/// The plugin interface that this plugin speaks.
pub(crate) const PLUGIN_VERSION: c_int = 5;

pub(crate) const ERR_SUCCESS: c_int = 0;
pub(crate) const ERR_INVAL: c_int = 3;
pub(crate) const ERR_NOT_SUPPORTED: c_int = 10;
pub(crate) const ERR_AUTH: c_int = 11;
pub(crate) const ERR_ACL_DENIED: c_int = 12;
/// Ends the connection: mosquitto 2.0 has no answer "quota exceeded" that a plugin could give.
pub(crate) const ERR_UNKNOWN: c_int = 13;

pub(crate) const EVT_RELOAD: c_int = 1;
pub(crate) const EVT_ACL_CHECK: c_int = 2;
pub(crate) const EVT_BASIC_AUTH: c_int = 3;
pub(crate) const EVT_EXT_AUTH_START: c_int = 4;
pub(crate) const EVT_MESSAGE: c_int = 7;
pub(crate) const EVT_TICK: c_int = 9;
pub(crate) const EVT_DISCONNECT: c_int = 10;

pub(crate) const ACL_READ: c_int = 1;
pub(crate) const ACL_WRITE: c_int = 2;
pub(crate) const ACL_SUBSCRIBE: c_int = 4;
pub(crate) const ACL_UNSUBSCRIBE: c_int = 8;

pub(crate) const LOG_NOTICE: c_int = 1 << 1;
pub(crate) const LOG_WARNING: c_int = 1 << 2;
pub(crate) const LOG_ERR: c_int = 1 << 3;

/// The broker's record of a client; only its address is of use here.
#[repr(C)]
pub(crate) struct Client {
    _opaque: [u8; 0],
}

/// A certificate of OpenSSL's.
#[repr(C)]
pub(crate) struct X509 {
    _opaque: [u8; 0],
}

/// A hash function of OpenSSL's.
#[repr(C)]
pub(crate) struct Digest {
    _opaque: [u8; 0],
}

/// `struct mosquitto_opt`.
#[repr(C)]
pub(crate) struct Opt {
    pub(crate) key: *mut c_char,
    pub(crate) value: *mut c_char,
}

/// `struct mosquitto_evt_acl_check`.
#[repr(C)]
pub(crate) struct AclCheck {
    future: *mut c_void,
    pub(crate) client: *mut Client,
    pub(crate) topic: *const c_char,
    payload: *const c_void,
    properties: *mut c_void,
    pub(crate) access: c_int,
    payloadlen: u32,
    qos: u8,
    retain: bool,
    future2: [*mut c_void; 4],
}

/// `struct mosquitto_evt_basic_auth`.
#[repr(C)]
pub(crate) struct BasicAuth {
    future: *mut c_void,
    pub(crate) client: *mut Client,
    username: *mut c_char,
    pub(crate) password: *mut c_char,
    future2: [*mut c_void; 4],
}

/// `struct mosquitto_evt_extended_auth`.
#[repr(C)]
pub(crate) struct ExtendedAuth {
    future: *mut c_void,
    pub(crate) client: *mut Client,
    pub(crate) data_in: *const c_void,
    data_out: *mut c_void,
    pub(crate) data_in_len: u16,
    data_out_len: u16,
    pub(crate) auth_method: *const c_char,
    future2: [*mut c_void; 3],
}

/// The beginning of `struct mosquitto_evt_message`; the message itself is of no use here.
#[repr(C)]
pub(crate) struct Message {
    future: *mut c_void,
    pub(crate) client: *mut Client,
}

/// `struct mosquitto_evt_disconnect`.
#[repr(C)]
pub(crate) struct Disconnect {
    future: *mut c_void,
    pub(crate) client: *mut Client,
    reason: c_int,
    future2: [*mut c_void; 4],
}

/// `MOSQ_FUNC_generic_callback`.
pub(crate) type Callback = extern "C" fn(event: c_int, data: *mut c_void, user: *mut c_void) -> c_int;

unsafe extern "C" {
    pub(crate) fn mosquitto_callback_register(
        identifier: *mut c_void,
        event: c_int,
        callback: Callback,
        event_data: *const c_void,
        user: *mut c_void,
    ) -> c_int;
    pub(crate) fn mosquitto_client_id(client: *const Client) -> *const c_char;
    pub(crate) fn mosquitto_client_protocol_version(client: *const Client) -> c_int;
    pub(crate) fn mosquitto_client_address(client: *const Client) -> *const c_char;
    pub(crate) fn mosquitto_client_certificate(client: *const Client) -> *mut X509;
    pub(crate) fn mosquitto_kick_client_by_clientid(client_id: *const c_char, with_will: bool) -> c_int;
    pub(crate) fn mosquitto_broker_publish_copy(
        client_id: *const c_char,
        topic: *const c_char,
        payload_length: c_int,
        payload: *const c_void,
        qos: c_int,
        retain: bool,
        properties: *mut c_void,
    ) -> c_int;
    pub(crate) fn mosquitto_log_printf(level: c_int, format: *const c_char, ...);
}

// OpenSSL's, which the broker is linked to.
unsafe extern "C" {
    pub(crate) fn X509_digest(
        certificate: *const X509,
        hash: *const Digest,
        out: *mut u8,
        length: *mut std::ffi::c_uint,
    ) -> c_int;
    pub(crate) fn X509_free(certificate: *mut X509);
    pub(crate) fn EVP_sha256() -> *const Digest;
}
