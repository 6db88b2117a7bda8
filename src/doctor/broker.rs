//! Reaches for what stands elsewhere: the broker's port and certificate, the issuer's metadata. Bounded in time.

use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::certificate;
use crate::clock::Clock;
use crate::config::{BrokerUrl, Config};
use crate::relay::{ClientKey, Profile, TlsFiles};
use crate::secret_source::Secrets;
use crate::token::oauth;

/// For each step: to connect, to shake hands, to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How far the way to the broker goes.
#[derive(Debug)]
pub(super) enum Reached {
    /// The name has no address.
    NoAddress(String),
    /// Nobody takes the connection.
    NotConnected(String),
    /// Our own certificate files.
    BadFiles(String),
    /// TLS was refused, by them or by us.
    NoTls(String),
    /// It answers, without TLS; whether it is on this machine.
    Plain { here: bool },
    /// It answers; until when its certificate is valid, where that can be read.
    Tls(Option<Duration>),
}

pub(super) fn reach(config: &Config, url: &BrokerUrl) -> Reached {
    let addresses = match (url.host.as_str(), url.port).to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(error) => return Reached::NoAddress(error.to_string()),
    };
    let mut last = "the name has no address".to_owned();
    for address in addresses.take(3) {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) if url.tls => return shake_hands(config, url, stream),
            Ok(_) => return Reached::Plain { here: address.ip().is_loopback() },
            Err(error) => last = format!("{address}: {error}"),
        }
    }
    Reached::NotConnected(last)
}

fn shake_hands(config: &Config, url: &BrokerUrl, mut stream: TcpStream) -> Reached {
    let Some(ca) = config.broker.ca.clone() else { return Reached::BadFiles("broker.ca is not set".to_owned()) };
    let key = match &config.broker.client_key {
        Some(source) => match Secrets::new(&config.vault, Clock::system()).read(source) {
            Ok(pem) => Some(ClientKey { pem, from: source.to_string() }),
            Err(error) => return Reached::BadFiles(format!("broker.client_key, as this user sees it: {error}")),
        },
        None => None,
    };
    let client = config.broker.client_cert.clone().zip(key);
    let tls: Arc<ClientConfig> = match (TlsFiles { ca, client }).load(Profile::of(config.broker.profile).alpn()) {
        Ok(tls) => tls,
        Err(error) => return Reached::BadFiles(error.to_string()),
    };
    let begun = ServerName::try_from(url.host.clone())
        .map_err(|error| error.to_string())
        .and_then(|name| ClientConnection::new(tls, name).map_err(|error| error.to_string()));
    let mut connection = match begun {
        Ok(connection) => connection,
        Err(error) => return Reached::NoTls(error),
    };
    let shaken = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
        .and_then(|()| finish(&mut connection, &mut stream));
    match shaken {
        Ok(()) => {
            let own = connection.peer_certificates().and_then(|chain| chain.first());
            Reached::Tls(own.and_then(|der| certificate::not_after(der)))
        }
        Err(error) => Reached::NoTls(error.to_string()),
    }
}

/// Each step is bounded by the stream's time-outs; a peer that drips bytes, by the number of steps.
fn finish(connection: &mut ClientConnection, stream: &mut TcpStream) -> io::Result<()> {
    for _ in 0..64 {
        if !connection.is_handshaking() {
            return Ok(());
        }
        connection.complete_io(stream)?;
    }
    Err(io::Error::other("the handshake does not end"))
}

/// The issuer's metadata (RFC 8414): whether it can be had, and is what it should be.
pub(super) fn ask_issuer(config: &Config, url: &str) -> Result<(), String> {
    oauth::look(url, config.issuer.ca.as_deref()).map_err(|error| error.to_string())
}
