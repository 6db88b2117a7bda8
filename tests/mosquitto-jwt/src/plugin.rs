//! The plugin's entry points: turns the broker's pointers into values, asks [`Decisions`], answers the broker.
//!
//! The broker is one thread, and its calls nest: cutting a client off makes it ask about that client's will before the
//! cut returns. So no decision is held while the broker is called.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::certificate;
use crate::decisions::{Access, Decisions, Overdue};
use crate::ffi;
use crate::notice::Notice;
use crate::options::Options;
use crate::peer::{self, Peer};

/// The one authentication method.
const METHOD: &CStr = c"OAUTH2-JWT";
/// How often expiries, the keys and the deny list are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What the broker hands back with every call.
struct Plugin {
    decisions: Mutex<Decisions>,
    looked: Mutex<Option<Instant>>,
}

impl Plugin {
    fn decisions(&self) -> MutexGuard<'_, Decisions> {
        self.decisions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn basic_auth(&self, event: &ffi::BasicAuth) -> c_int {
        // SAFETY: the broker hands over the client that is connecting.
        let version = unsafe { ffi::mosquitto_client_protocol_version(event.client) };
        if version != 5 {
            // 3.1.1 has no answer for a refused publish: the broker would confirm and drop it.
            log(ffi::LOG_WARNING, "clawgate: client refused: it speaks no MQTT v5");
            return ffi::ERR_AUTH;
        }
        self.admit(event.client, text(event.password).unwrap_or_default().as_bytes(), false)
    }

    fn extended_auth(&self, event: &ffi::ExtendedAuth) -> c_int {
        if event.auth_method.is_null() || event.data_in.is_null() {
            return ffi::ERR_AUTH;
        }
        // SAFETY: checked above; the broker's strings end with a zero and live through the call.
        if unsafe { CStr::from_ptr(event.auth_method) } != METHOD {
            return ffi::ERR_NOT_SUPPORTED;
        }
        // SAFETY: the broker hands over `data_in_len` bytes at `data_in`, not null, that live through the call.
        let token = unsafe { std::slice::from_raw_parts(event.data_in.cast::<u8>(), usize::from(event.data_in_len)) };
        // The event of re-authentication is the same one: it comes from a client that is admitted already.
        let again = self.decisions().is_live(event.client.addr());
        self.admit(event.client, token, again)
    }

    fn admit(&self, client: *mut ffi::Client, token: &[u8], again: bool) -> c_int {
        // SAFETY: the broker hands over the client that is connecting.
        let id = unsafe { ffi::mosquitto_client_id(client) };
        let Some(mqtt_id) = text(id) else { return ffi::ERR_AUTH };
        // SAFETY: as above.
        let address = unsafe { ffi::mosquitto_client_address(client) };
        let address = text(address).and_then(peer::address);
        let peer = Peer { mqtt_id, address, certificate: certificate::thumbprint(client) };
        // Between two ticks somebody may have been revoked, or the issuer have a new key.
        self.read_files();
        let admitted = self.decisions().admit(client.addr(), &peer, token, again);
        match admitted {
            Ok(()) => ffi::ERR_SUCCESS,
            Err((refusal, notice)) => {
                log(ffi::LOG_WARNING, &format!("clawgate: client {mqtt_id:?} refused: {refusal}"));
                if let Some(notice) = notice {
                    publish(&notice);
                }
                ffi::ERR_AUTH
            }
        }
    }

    fn acl_check(&self, event: &ffi::AclCheck) -> c_int {
        let access = match event.access {
            ffi::ACL_WRITE => Access::Publish,
            ffi::ACL_READ => Access::Read,
            ffi::ACL_SUBSCRIBE => Access::Subscribe,
            ffi::ACL_UNSUBSCRIBE => return ffi::ERR_SUCCESS,
            _ => return ffi::ERR_ACL_DENIED,
        };
        let allowed =
            text(event.topic).is_some_and(|topic| self.decisions().allows(event.client.addr(), topic, access));
        if !allowed {
            return ffi::ERR_ACL_DENIED;
        }
        if access == Access::Publish && !self.decisions().within_rate(event.client.addr()) {
            // SAFETY: the broker hands over the client that publishes.
            let id = unsafe { ffi::mosquitto_client_id(event.client) };
            log(ffi::LOG_WARNING, &format!("clawgate: client {:?} publishes faster than its token allows", text(id)));
            return ffi::ERR_UNKNOWN;
        }
        ffi::ERR_SUCCESS
    }

    /// Cuts off who has no good token any more.
    fn tick(&self) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_some_and(|at| at.elapsed() < LOOK) {
            return;
        }
        *looked = Some(Instant::now());
        drop(looked);
        self.read_files();
        let overdue = self.decisions().overdue();
        self.cut_off(overdue);
    }

    /// A client's message is about to be handed out. Whose token has ended since the last tick is cut off first: it is
    /// refused the message as it must be, and for a session that is kept it waits, instead of being lost.
    fn message(&self, event: &ffi::Message) {
        let overdue = self.decisions().overdue_at_message_of(event.client.addr());
        self.cut_off(overdue);
    }

    fn cut_off(&self, clients: Vec<Overdue>) {
        for client in clients {
            log(ffi::LOG_NOTICE, &format!("clawgate: client {:?} cut off: {}", client.mqtt_id, client.refusal));
            let Ok(id) = CString::new(client.mqtt_id.as_str()) else { continue };
            self.decisions().cutting(Some(client));
            // SAFETY: the string ends with a zero and outlives the call.
            unsafe { ffi::mosquitto_kick_client_by_clientid(id.as_ptr(), true) };
            self.decisions().cutting(None);
        }
    }

    fn read_files(&self) {
        let keys = self.decisions().read_keys();
        match keys {
            Ok(true) => log(ffi::LOG_NOTICE, "clawgate: the key file changed: its keys are in use"),
            Ok(false) => {}
            Err(problem) => log(ffi::LOG_ERR, &format!("clawgate: the old keys stay: {problem}")),
        }
        let read = self.decisions().read_deny_list();
        if let Err(problem) = read {
            log(ffi::LOG_ERR, &format!("clawgate: the old deny list stays: {problem}"));
        }
    }

    fn reload(&self) {
        match self.decisions().reload_keys() {
            Ok(()) => log(ffi::LOG_NOTICE, "clawgate: keys read again"),
            Err(problem) => log(ffi::LOG_ERR, &format!("clawgate: the old keys stay: {problem}")),
        }
    }
}

/// Which of the interface versions on offer is spoken.
#[unsafe(no_mangle)]
extern "C" fn mosquitto_plugin_version(count: c_int, versions: *const c_int) -> c_int {
    let count = usize::try_from(count).unwrap_or(0);
    if versions.is_null() {
        return -1;
    }
    // SAFETY: the broker hands over `count` numbers, and the pointer is not null.
    let versions = unsafe { std::slice::from_raw_parts(versions, count) };
    if versions.contains(&ffi::PLUGIN_VERSION) { ffi::PLUGIN_VERSION } else { -1 }
}

/// Starts the plugin; the broker does not start when this fails.
#[unsafe(no_mangle)]
extern "C" fn mosquitto_plugin_init(
    identifier: *mut c_void,
    user: *mut *mut c_void,
    options: *mut ffi::Opt,
    count: c_int,
) -> c_int {
    let started = Options::from_pairs(pairs(options, count)).and_then(Decisions::new);
    let decisions = match started {
        Ok(decisions) => decisions,
        Err(problem) => {
            log(ffi::LOG_ERR, &format!("clawgate: {problem}"));
            return ffi::ERR_INVAL;
        }
    };
    let plugin = Box::new(Plugin { decisions: Mutex::new(decisions), looked: Mutex::new(None) });
    let plugin = Box::into_raw(plugin).cast::<c_void>();
    // SAFETY: the broker hands over where the plugin's data is to be stored.
    unsafe { *user = plugin };
    let events = [
        ffi::EVT_RELOAD,
        ffi::EVT_ACL_CHECK,
        ffi::EVT_BASIC_AUTH,
        ffi::EVT_EXT_AUTH_START,
        ffi::EVT_MESSAGE,
        ffi::EVT_TICK,
        ffi::EVT_DISCONNECT,
    ];
    for event in events {
        // SAFETY: the identifier is the one that the broker handed over for this.
        let registered =
            unsafe { ffi::mosquitto_callback_register(identifier, event, callback, std::ptr::null(), plugin) };
        if registered != ffi::ERR_SUCCESS {
            return registered;
        }
    }
    ffi::ERR_SUCCESS
}

/// Ends the plugin; the broker has removed its callbacks.
#[unsafe(no_mangle)]
extern "C" fn mosquitto_plugin_cleanup(user: *mut c_void, _options: *mut ffi::Opt, _count: c_int) -> c_int {
    if !user.is_null() {
        // SAFETY: it is the pointer of `mosquitto_plugin_init`, and the broker hands it over here for the last time.
        drop(unsafe { Box::from_raw(user.cast::<Plugin>()) });
    }
    ffi::ERR_SUCCESS
}

/// Every event. A panic must not unwind into the broker: what cannot be decided is refused.
extern "C" fn callback(event: c_int, data: *mut c_void, user: *mut c_void) -> c_int {
    if data.is_null() || user.is_null() {
        return ffi::ERR_INVAL;
    }
    catch_unwind(AssertUnwindSafe(|| handle(event, data, user))).unwrap_or_else(|_| {
        log(ffi::LOG_ERR, "clawgate: a decision failed; it is taken as a refusal");
        ffi::ERR_ACL_DENIED
    })
}

fn handle(event: c_int, data: *mut c_void, user: *mut c_void) -> c_int {
    // SAFETY: `user` is the pointer of `mosquitto_plugin_init`, alive until `mosquitto_plugin_cleanup`.
    let plugin = unsafe { &*user.cast::<Plugin>() };
    match event {
        ffi::EVT_BASIC_AUTH => {
            // SAFETY: the data of this event is of this type and lives through the call.
            plugin.basic_auth(unsafe { &*data.cast::<ffi::BasicAuth>() })
        }
        ffi::EVT_EXT_AUTH_START => {
            // SAFETY: the data of this event is of this type and lives through the call.
            plugin.extended_auth(unsafe { &*data.cast::<ffi::ExtendedAuth>() })
        }
        ffi::EVT_ACL_CHECK => {
            // SAFETY: the data of this event is of this type and lives through the call.
            plugin.acl_check(unsafe { &*data.cast::<ffi::AclCheck>() })
        }
        ffi::EVT_DISCONNECT => {
            // SAFETY: the data of this event is of this type and lives through the call.
            let client = unsafe { &*data.cast::<ffi::Disconnect>() }.client;
            plugin.decisions().closed(client.addr());
            ffi::ERR_SUCCESS
        }
        ffi::EVT_MESSAGE => {
            // SAFETY: the data of this event begins with this type and lives through the call.
            plugin.message(unsafe { &*data.cast::<ffi::Message>() });
            ffi::ERR_SUCCESS
        }
        ffi::EVT_TICK => {
            plugin.tick();
            ffi::ERR_SUCCESS
        }
        ffi::EVT_RELOAD => {
            plugin.reload();
            ffi::ERR_SUCCESS
        }
        _ => ffi::ERR_SUCCESS,
    }
}

/// The options as text; those that are none are left out, and missed later.
fn pairs<'a>(options: *mut ffi::Opt, count: c_int) -> impl Iterator<Item = (&'a str, &'a str)> {
    let count = usize::try_from(count).unwrap_or(0);
    let options = if options.is_null() || count == 0 {
        &[]
    } else {
        // SAFETY: the broker hands over `count` options, not null, that live through the start.
        unsafe { std::slice::from_raw_parts(options, count) }
    };
    options.iter().filter_map(|option| Some((text(option.key)?, text(option.value)?)))
}

/// A string of the broker; `None` where it is null or not UTF-8.
fn text<'a>(pointer: *const c_char) -> Option<&'a str> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: not null; the broker's strings end with a zero and live through the call that hands them over.
    unsafe { CStr::from_ptr(pointer) }.to_str().ok()
}

/// Hands a message to the broker, which sends it when this call is over.
fn publish(notice: &Notice) {
    let Ok(topic) = CString::new(notice.topic.as_str()) else { return };
    let payload = notice.payload.as_bytes();
    let Ok(length) = c_int::try_from(payload.len()) else { return };
    // SAFETY: the topic ends with a zero, the payload has `length` bytes, the broker copies both; no client means all
    // subscribers, and there are no properties.
    let sent = unsafe {
        ffi::mosquitto_broker_publish_copy(
            std::ptr::null(),
            topic.as_ptr(),
            length,
            payload.as_ptr().cast(),
            1,
            false,
            std::ptr::null_mut(),
        )
    };
    if sent != ffi::ERR_SUCCESS {
        log(ffi::LOG_WARNING, "clawgate: subscribers were not told of that");
    }
}

fn log(level: c_int, message: &str) {
    let Ok(message) = CString::new(message.replace('\0', "")) else { return };
    // SAFETY: both strings end with a zero, and the format takes exactly one string.
    unsafe { ffi::mosquitto_log_printf(level, c"%s".as_ptr(), message.as_ptr()) };
}
