//! Reads the main file and its drop-ins, merges them, and checks what no single value shows.
//!
//! Each file is first read alone, so that an error carries its file and line; then the tables are merged in
//! the order of the file names (tables merge, of anything else the later one wins).

use std::borrow::Cow;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::locate::{key_at, line_of, line_of_key, nearest};
use super::origin::Origins;
use super::{BrokerConfig, BrokerUrl, CloudStatus, Config, IssuerConfig, IssuerKind, Mode, default_audience};
use crate::http_client::{is_safe, is_url};
use crate::secret_source::SecretSource;
use crate::token::Stage;

/// Largest configuration file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is absent, not permitted, or too large.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line that is not TOML, a key that does not exist, or a value that is not allowed.
    #[error("{}:{line}: {}{message}", path.display(), prefix(key))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Dotted key, empty where there is none.
        key: String,
        /// What is wrong and what is allowed.
        message: String,
    },
    /// Keys that contradict or miss each other.
    #[error("{}: {}{message}", path.display(), prefix(key))]
    Incomplete {
        /// The main file (a drop-in may have said it).
        path: PathBuf,
        /// Dotted key.
        key: String,
        /// What is missing and what to write.
        message: String,
    },
}

fn prefix(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("{key}: ") }
}

/// Reads `main` and `conf.d/*.toml` beside it.
///
/// # Errors
/// The first refusal found, with its file, line and key.
pub fn load(main: &Path) -> Result<Config, ConfigError> {
    load_with_origins(main).map(|(config, _)| config)
}

/// The same, and which file said what.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_with_origins(main: &Path) -> Result<(Config, Origins), ConfigError> {
    let mut texts = vec![(main.to_owned(), read_one(main)?)];
    for drop_in in drop_ins(main)? {
        let text = read_one(&drop_in)?;
        texts.push((drop_in, text));
    }
    let (mut merged, mut origins) = (DeTable::new(), Origins::default());
    for (path, text) in &texts {
        let table = DeTable::parse(text).map_err(|e| invalid(path, text, &e))?.into_inner();
        origins.add(path, &table);
        merge(&mut merged, table);
    }
    let config = config_of(merged).map_err(|e| ConfigError::Incomplete {
        path: main.to_owned(),
        key: String::new(),
        message: e.message().to_owned(),
    })?;
    check(&config).map_err(|objection| located(objection, &texts, main))?;
    Ok((config, origins))
}

/// Everything at its default but one text in a table, read as if it stood in a file.
///
/// # Errors
/// What a file would be refused for.
pub(crate) fn with_text(table: &str, key: &str, value: &str) -> Result<Config, toml::de::Error> {
    let alone = |key: &str, value| DeTable::from_iter([(nowhere(Cow::Owned(key.to_owned())), nowhere(value))]);
    let inner = alone(key, DeValue::String(Cow::Owned(value.to_owned())));
    config_of(alone(table, DeValue::Table(inner)))
}

/// One way of reading alone: each further kind of source would have its own code for every type within.
fn config_of(table: DeTable<'_>) -> Result<Config, toml::de::Error> {
    Config::deserialize(toml::de::Deserializer::from(nowhere(table)))
}

fn nowhere<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

/// An objection with the line where its key stands, or where the table begins that it belongs into.
fn located((key, message): Objection, texts: &[(PathBuf, String)], main: &Path) -> ConfigError {
    let found = texts.iter().filter_map(|(path, text)| Some((line_of_key(text, &key)?, path)));
    // The later file wins, as when they were merged.
    match found.max_by_key(|((depth, _), _)| *depth) {
        Some(((_, line), path)) => ConfigError::Invalid { path: path.clone(), line, key, message },
        None => ConfigError::Incomplete { path: main.to_owned(), key, message },
    }
}

fn drop_ins(main: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let dir = main.with_file_name("conf.d");
    let unreadable = |source| ConfigError::Unreadable { path: dir.clone(), source };
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(unreadable(e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The text of a file that is good by itself.
fn read_one(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let mut text = String::new();
    // A device has no size, and no end.
    fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
        .map_err(unreadable)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(unreadable(io::Error::other(format!("it is longer than {MAX_FILE_BYTES} bytes"))));
    }
    toml::from_str::<Config>(&text).map_err(|e| invalid(path, &text, &e))?;
    Ok(text)
}

fn invalid(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let span = error.span().unwrap_or(0..0);
    ConfigError::Invalid {
        path: path.to_owned(),
        line: line_of(text, span.start),
        key: key_at(text, &span),
        message: explain(error.message()),
    }
}

/// Turns serde's "unknown field" into what is allowed, and adds the key that was probably meant.
fn explain(message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field ") else {
        return message.trim_end().replace('\n', "; ");
    };
    let mut quoted = rest.split('`').skip(1).step_by(2);
    let Some(written) = quoted.next() else { return message.to_owned() };
    let allowed: Vec<&str> = quoted.collect();
    let meant =
        nearest(written, allowed.iter().copied()).map_or(String::new(), |key| format!(" Did you mean {key:?}?"));
    format!("there is no key {written:?} here.{meant} Allowed: {}", allowed.join(", "))
}

fn merge<'a>(into: &mut DeTable<'a>, from: DeTable<'a>) {
    for (key, value) in from {
        match (into.get_mut(&key).map(Spanned::get_mut), value.into_inner()) {
            (Some(DeValue::Table(old)), DeValue::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, nowhere(value));
            }
        }
    }
}

/// A key, and what is wrong with it.
pub(super) type Objection = (String, String);

/// What no single value shows: keys that need each other.
fn check(config: &Config) -> Result<(), Objection> {
    for (name, port) in &config.uart.ports {
        if !port.path.is_absolute() {
            let text = "is missing or relative; write the device node, best /dev/serial/by-id/...";
            return Err((format!("uart.ports.{name}.path"), text.to_owned()));
        }
    }
    for (name, subscriber) in &config.standalone.subscribers {
        if subscriber.public_key.as_os_str().is_empty() {
            let text = "is missing; write the file that holds the subscriber's ES256 public key (PEM)";
            return Err((format!("standalone.subscribers.{name}.public_key"), text.to_owned()));
        }
        if *name == config.gateway.id {
            let text =
                "has the gateway's name: it could take the MQTT connections of its devices over; call it otherwise";
            return Err((format!("standalone.subscribers.{name}"), text.to_owned()));
        }
    }
    if let Some(audience) = &config.issuer.audience {
        check_word("issuer.audience", audience)?;
        let own = config.gateway.stage;
        let others = [Stage::Dev, Stage::Staging, Stage::Prod].into_iter().filter(|other| *other != own);
        if let Some(other) = others.into_iter().find(|other| default_audience(*other) == audience) {
            let text = format!(
                "{audience:?} is the audience of the stage {other}, and gateway.stage is {own}: leave it out for {:?}, or write \
                 another",
                default_audience(own)
            );
            return Err(("issuer.audience".to_owned(), text));
        }
    }
    if let Some(url) = config.issuer.url.as_ref().filter(|url| config.issuer.kind == IssuerKind::Local && !is_url(url))
    {
        let text = format!("{url:?}: it stands in every token, and keys are fetched there: http(s)://HOST is wanted");
        return Err(objection("issuer.url", &text));
    }
    config.vault.check().map_err(|(key, text)| (key.to_owned(), text))?;
    check_secrets(config)?;
    check_commands(config)?;
    super::together::check(config)?;
    match config.mode {
        Mode::Standalone if !cfg!(feature = "standalone") => {
            Err(objection("mode", "this build has no standalone mode; write a [broker] and mode = \"relay\""))
        }
        Mode::Standalone if config.broker.url.is_some() => {
            Err(objection("broker.url", "contradicts mode = \"standalone\"; remove one of them"))
        }
        Mode::Standalone if config.issuer.kind == IssuerKind::Oauth => Err(objection(
            "issuer.kind",
            "is \"local\" with mode = \"standalone\": the broker inside checks its own issuer's tokens",
        )),
        Mode::Standalone => super::profile::check_standalone(config),
        Mode::Relay => {
            let url = check_broker(&config.broker)?;
            check_issuer(&config.issuer)?;
            super::profile::check(config, url)
        }
    }
}

/// What stands in every token, or in every request for one.
fn check_word(key: &str, text: &str) -> Result<(), Objection> {
    if !text.is_empty() && text.len() <= 512 && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(objection(key, &format!("{text:?}: 1 to 512 plain characters without blanks are wanted; or leave it out")))
}

/// Who may command needs a key, something to command, and a connection to command over.
fn check_commands(config: &Config) -> Result<(), Objection> {
    for (name, key) in &config.cloud.command_keys {
        let at = format!("cloud.command_keys.{name}");
        if key.public_key.as_os_str().is_empty() {
            let text = "is missing; write the file that holds the ES256 public key (PEM, JWK or JWK set)";
            return Err((format!("{at}.public_key"), text.to_owned()));
        }
        if key.commands.is_empty() {
            return Err((
                format!("{at}.commands"),
                "is missing; write what it may command: revoke, approve, code, config".to_owned(),
            ));
        }
    }
    if config.cloud.status == CloudStatus::Off && !config.cloud.command_keys.is_empty() {
        return Err(objection(
            "cloud.status",
            "is \"off\": then no command is heard; remove cloud.command_keys, or write \"auto\"",
        ));
    }
    if config.cloud.status == CloudStatus::Off && config.cloud.broker_alarms {
        return Err(objection(
            "cloud.status",
            "is \"off\": then no alarm of the broker's is heard; remove cloud.broker_alarms, or write \"auto\"",
        ));
    }
    Ok(())
}

fn check_broker(broker: &BrokerConfig) -> Result<&BrokerUrl, Objection> {
    let Some(url) = &broker.url else {
        let text = "is missing; write the broker (url = \"mqtts://host\"), or mode = \"standalone\" to run one inside";
        return Err(objection("broker.url", text));
    };
    if url.tls && broker.ca.is_none() {
        return Err(objection(
            "broker.ca",
            "is missing; mqtts:// needs the CA (PEM) that the broker's certificate comes from",
        ));
    }
    if broker.client_cert.is_some() != broker.client_key.is_some() {
        return Err(objection("broker.client_cert", "and broker.client_key need each other; write both or none"));
    }
    Ok(url)
}

fn check_issuer(issuer: &IssuerConfig) -> Result<(), Objection> {
    if issuer.publish_dir.is_some() && issuer.kind != IssuerKind::Local {
        return Err(objection("issuer.publish_dir", "is for kind = \"local\": other issuers' keys are not here"));
    }
    issuer.client_id.as_deref().map_or(Ok(()), |id| check_word("issuer.client_id", id))?;
    if issuer.kind != IssuerKind::Oauth {
        return Ok(());
    }
    let Some(url) = issuer.url.as_deref().filter(|_| issuer.client_key.is_some()) else {
        return Err(objection("issuer.url", "and issuer.client_key are needed with kind = \"oauth\""));
    };
    if !is_safe(url) {
        let text = format!("{url:?}: an https URL is wanted (http only for an issuer on this machine)");
        return Err(objection("issuer.url", &text));
    }
    Ok(())
}

/// A secret in a vault needs a vault.
fn check_secrets(config: &Config) -> Result<(), Objection> {
    let named = [("issuer.client_key", &config.issuer.client_key), ("broker.client_key", &config.broker.client_key)];
    for (key, source) in named {
        if let (Some(source @ SecretSource::Vault { .. }), None) = (source, &config.vault.url) {
            let text =
                format!("{source} is in a vault, and none is named: write vault.url, and vault.token or vault.role_id");
            return Err(objection(key, &text));
        }
    }
    Ok(())
}

pub(super) fn objection(key: &str, message: &str) -> Objection {
    (key.to_owned(), message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Principal;

    fn load_text(main: &str, drop_in: Option<&str>) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clawgate.toml");
        fs::write(&path, main).unwrap();
        if let Some(text) = drop_in {
            fs::create_dir(dir.path().join("conf.d")).unwrap();
            fs::write(dir.path().join("conf.d/10-site.toml"), text).unwrap();
        }
        load(&path)
    }

    fn refusal(text: &str) -> String {
        load_text(text, None).unwrap_err().to_string()
    }

    #[test]
    fn a_role_by_name_is_looked_up_and_one_for_nobody_is_refused_where_it_stands() {
        let roles = |whom: &str| format!("mode = \"standalone\"\n[control.roles]\nadmin = [\"{whom}\"]\n");
        let taken = load_text(&roles("group:root"), None).unwrap();
        assert_eq!(taken.control.roles.admin, [Principal::Gid(0)]);
        let said = refusal(&roles("user:nobody here"));
        assert!(said.contains("line 3") || said.contains("toml:3"), "{said}");
        assert!(said.contains("/etc/passwd has no user \"nobody here\""), "{said}");
    }

    #[test]
    fn no_broker_is_refused_unless_standalone_is_said() {
        assert!(refusal("").contains("mode = \"standalone\""));
        assert_eq!(load_text("mode = \"standalone\"", None).unwrap().mode, Mode::Standalone);
    }

    #[test]
    fn an_unknown_key_is_named_with_line_neighbour_and_what_is_allowed() {
        let text = refusal("mode = \"standalone\"\n[spool]\ncomit_ms = 5\n");
        assert!(text.contains("clawgate.toml:3: "), "{text}");
        assert!(text.contains("Did you mean \"commit_ms\"?"), "{text}");
        assert!(text.contains("Allowed: commit_ms, max_bytes"), "{text}");
    }

    #[test]
    fn a_value_out_of_range_says_the_range_and_its_key() {
        let text = refusal("mode = \"standalone\"\n[pairing]\nttl = \"2d\"\n");
        assert!(text.contains(":3: pairing.ttl: "), "{text}");
        assert!(text.contains("1s to 1d"), "{text}");
        assert!(refusal("[pairing]\nattempts = 0\n").contains("1 to 10"));
        assert!(refusal("[gateway]\nid = \"a/b\"\n").contains("gateway.id"));
        assert!(refusal("mode = \"cloud\"\n").contains("relay"));
    }

    #[test]
    fn a_subscriber_has_not_the_gateways_name_which_its_devices_connections_begin_with() {
        let subscriber = |name: &str| {
            let subscriber = format!("[standalone.subscribers.{name}]\npublic_key = \"/k\"\ntopics = [\"a\"]\n");
            let text = format!("mode = \"standalone\"\n[gateway]\nid = \"gw-1\"\n{subscriber}");
            check(&toml::from_str(&text).unwrap())
        };
        assert_eq!(subscriber("gw-1").unwrap_err().0, "standalone.subscribers.gw-1");
        assert_eq!(subscriber("gw-2"), Ok(()));
    }

    #[test]
    fn a_drop_in_merges_tables_and_wins() {
        let main = "mode = \"standalone\"\n[spool]\ncommit_ms = 20\n[uart.ports.a]\npath = \"/dev/a\"\n";
        let drop_in = "[spool]\nmax_bytes = \"2MiB\"\n[uart.ports.a]\nbaud = 9600\n[uart.ports.b]\npath = \"/dev/b\"\n";
        let config = load_text(main, Some(drop_in)).unwrap();
        assert_eq!((config.spool.commit_ms, config.spool.max_bytes), (20, 2 << 20));
        let ports: Vec<_> = config.uart.ports.values().map(|p| (p.path.to_str().unwrap(), p.baud)).collect();
        assert_eq!(ports, [("/dev/a", 9600), ("/dev/b", 115_200)]);
    }

    #[test]
    fn an_error_in_a_drop_in_names_the_drop_in() {
        let text = load_text("mode = \"standalone\"", Some("[log]\nlevel = \"loud\"\n")).unwrap_err().to_string();
        assert!(text.contains("conf.d/10-site.toml:2: log.level: "), "{text}");
    }

    #[test]
    fn tls_without_a_pinned_ca_is_refused() {
        assert!(refusal("[broker]\nurl = \"mqtts://b\"\n").contains("broker.ca"));
        let half = "[broker]\nurl = \"mqtts://b\"\nca = \"/ca\"\nclient_cert = \"/c\"\n";
        assert!(refusal(half).contains("client_key"));
    }

    #[test]
    fn keys_that_contradict_each_other_are_named_with_file_and_line() {
        let text = refusal("mode = \"standalone\"\n[broker]\nurl = \"mqtt://b\"\n");
        assert!(text.contains("clawgate.toml:3: broker.url: contradicts"), "{text}");
        // A key that is missing belongs into a table that is there.
        let text = refusal("[broker]\nurl = \"mqtts://b\"\n");
        assert!(text.contains("clawgate.toml:1: broker.ca: is missing"), "{text}");
        let relay = "[broker]\nurl = \"mqtt://b\"\n";
        let text = load_text(relay, Some("[uart.ports.a]\npath = \"dev/x\"\n")).unwrap_err().to_string();
        assert!(text.contains("conf.d/10-site.toml:2: uart.ports.a.path: "), "{text}");
        assert!(refusal("").contains("clawgate.toml: broker.url: is missing"));
    }

    #[test]
    fn what_speaks_no_tls_is_kept_on_this_machine() {
        for (table, key) in [("standalone", "standalone.listen"), ("issuer", "issuer.listen")] {
            let text = refusal(&format!("mode = \"standalone\"\n[{table}]\nlisten = \"0.0.0.0:1\"\n"));
            assert!(text.contains(&format!("clawgate.toml:3: {key}: 0.0.0.0:1 is not a loopback")), "{text}");
        }
    }

    #[test]
    fn the_audience_of_another_stage_is_refused() {
        let text = refusal("mode = \"standalone\"\n[gateway]\nstage = \"dev\"\n[issuer]\naudience = \"claw\"\n");
        assert!(
            text.contains("clawgate.toml:5: issuer.audience: \"claw\" is the audience of the stage prod"),
            "{text}"
        );
        assert!(text.contains("\"claw-dev\""), "{text}");
        let dev = load_text("mode = \"standalone\"\n[gateway]\nstage = \"dev\"\n", None).unwrap();
        assert_eq!(dev.audience(), "claw-dev");
        assert!(refusal("mode = \"standalone\"\n[gateway]\nstage = \"test\"\n").contains(":3: gateway.stage: "));
    }

    #[test]
    fn an_audience_a_client_id_or_an_issuers_name_that_can_be_none_is_refused_with_its_line() {
        for bad in ["", "  ", "a b", "claw\\u001b", "gär"] {
            let text = refusal(&format!("mode = \"standalone\"\n[issuer]\naudience = \"{bad}\"\n"));
            assert!(text.contains("clawgate.toml:3: issuer.audience: ") && !text.contains(char::is_control), "{text}");
        }
        let oauth =
            "[broker]\nurl = \"mqtt://b\"\n[issuer]\nkind = \"oauth\"\nurl = \"https://i\"\nclient_key = \"/k\"\n";
        assert!(refusal(&format!("{oauth}client_id = \"\"\n")).contains(":7: issuer.client_id: "));
        for bad in ["", "issuer", "ftp://i", "https://"] {
            let text = refusal(&format!("mode = \"standalone\"\n[issuer]\nurl = \"{bad}\"\n"));
            assert!(text.contains("clawgate.toml:3: issuer.url: "), "{text}");
        }
        load_text("mode = \"standalone\"\n[issuer]\nurl = \"http://issuer.lan/dev\"\naudience = \"urn:claw\"\n", None)
            .unwrap();
    }

    #[test]
    fn what_the_brokers_profile_cannot_do_is_named_with_its_line() {
        let text = refusal("[broker]\nurl = \"mqtt://b\"\nprofile = \"azure-iot-hub\"\n");
        assert!(text.contains("clawgate.toml:2: broker.url: is mqtts://"), "{text}");
        let text = refusal("mode = \"standalone\"\n[broker]\nprofile = \"emqx\"\n");
        assert!(text.contains("clawgate.toml:3: broker.profile: "), "{text}");
    }

    #[test]
    fn a_file_without_an_end_and_a_folder_are_refused_by_name() {
        for bad in ["/dev/zero", "/"] {
            let text = load(Path::new(bad)).unwrap_err().to_string();
            assert!(text.starts_with(&format!("{bad}: cannot be read: ")), "{text}");
        }
    }

    #[test]
    fn broken_toml_is_named_with_its_line() {
        let text = refusal("mode = \"standalone\"\n[spool\n");
        assert!(text.contains("clawgate.toml:2: "), "{text}");
    }
}
