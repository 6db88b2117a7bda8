//! The subscriber: a process of its own with a key of its own. It fetches its token from the issuer (RFC 7523),
//! subscribes, keeps the token fresh on the live connection, and logs the name of every reading that comes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use rumqttc::mqttbytes::v5::{AuthProperties, SubscribeReasonCode};
use rumqttc::{AsyncClient, Event, EventLoop, Incoming, MqttOptions, Publish, QoS};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::received::{Field, Line};
use crate::clock::Clock;
use crate::token::key::{KeyError, SigningKey};
use crate::token::oauth::{OauthIssuer, OauthOptions, OauthSetupError};
use crate::token::{AccessToken, IssuerError};

/// The authentication method under which a broker takes tokens.
const METHOD: &str = "OAUTH2-JWT";
/// The broker keeps our messages so long while we are away.
const SESSION: Duration = Duration::from_secs(60);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(300);

/// What the subscriber is told.
#[derive(Debug, Clone, clap::Args)]
pub struct SubscriberOptions {
    /// URL of the issuer
    #[arg(long)]
    pub issuer: String,
    /// Address of the broker
    #[arg(long)]
    pub broker: std::net::SocketAddr,
    /// Client id at the issuer and the broker
    #[arg(long)]
    pub client: String,
    /// Private key (PEM)
    #[arg(long)]
    pub key: PathBuf,
    /// Audience of the token
    #[arg(long)]
    pub audience: String,
    /// Topic filter
    #[arg(long)]
    pub filter: String,
    /// Log, JSON lines
    #[arg(long)]
    pub log: PathBuf,
}

/// Why the subscriber could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscriberError {
    /// Its key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The issuer's address.
    #[error(transparent)]
    Setup(#[from] OauthSetupError),
    /// Its log.
    #[error("the subscriber's log: {0}")]
    Log(#[from] io::Error),
    /// The broker refused the subscription.
    #[error("the broker refused the subscription: {0}")]
    Refused(String),
}

/// Runs until standard input ends.
///
/// # Errors
/// [`SubscriberError`] when it cannot begin, or the broker refuses the subscription for good.
pub(crate) async fn run(options: SubscriberOptions) -> Result<(), SubscriberError> {
    let log = Log(OpenOptions::new().create(true).append(true).open(&options.log)?);
    let key = SigningKey::load(&options.key)?;
    let client_id = options.client.clone();
    let oauth = OauthOptions { url: options.issuer.clone(), client_id, key, ca: None, certificate: None };
    let clock = Clock::system();
    let subscriber = Subscriber { issuer: OauthIssuer::new(oauth, clock.clone())?, options, clock, log };
    tokio::select! {
        ended = subscriber.stay() => ended,
        _ = tokio::task::spawn_blocking(until_eof) => Ok(()),
    }
}

/// Our parent holds the other end: when it is gone, so are we.
fn until_eof() {
    let mut stdin = io::stdin().lock();
    let mut buffer = [0; 64];
    while matches!(stdin.read(&mut buffer), Ok(1..)) {}
}

struct Log(File);

impl Log {
    fn add(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.0.write_all(text.as_bytes())
    }
}

struct Subscriber {
    options: SubscriberOptions,
    issuer: OauthIssuer,
    clock: Clock,
    log: Log,
}

impl Subscriber {
    /// Connects again and again, each time with a fresh token.
    async fn stay(mut self) -> Result<(), SubscriberError> {
        loop {
            let why = match self.token().await {
                Ok(token) => self.connection(token).await?,
                Err(error) => error.to_string(),
            };
            self.log.add(&Line::Lost { why })?;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn token(&mut self) -> Result<AccessToken, IssuerError> {
        self.issuer.own_token(&self.options.audience).await
    }

    fn note(&mut self, token: &AccessToken) -> io::Result<()> {
        self.log.add(&Line::Token { jti: token.jti().to_owned(), life_s: token.life().as_secs() })
    }

    /// One connection; why it ended.
    async fn connection(&mut self, token: AccessToken) -> Result<String, SubscriberError> {
        let (client, events) = self.connect(&token);
        let mut events = pump(events);
        let mut refresh = Box::pin(tokio::time::sleep(refresh_in(&token, &self.clock)));
        self.note(&token)?;
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(Ok(Incoming::ConnAck(_))) => {
                        if let Err(error) = client.try_subscribe(&self.options.filter, QoS::AtLeastOnce) {
                            return Ok(error.to_string());
                        }
                    }
                    Some(Ok(Incoming::SubAck(ack))) => {
                        let refused = ack.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_)));
                        if let Some(refused) = refused {
                            return Err(SubscriberError::Refused(format!("{refused:?}")));
                        }
                        self.log.add(&Line::Subscribed)?;
                    }
                    Some(Ok(Incoming::Publish(publish))) => {
                        if let Some(line) = reading(&publish) {
                            self.log.add(&line)?;
                        }
                    }
                    Some(Ok(_)) => {}
                    Some(Err(why)) => return Ok(why),
                    None => return Ok("the connection's task ended".to_owned()),
                },
                () = &mut refresh => {
                    let next = match self.issuer.own_token(&self.options.audience).await {
                        Ok(next) => next,
                        Err(error) => return Ok(error.to_string()),
                    };
                    let properties = AuthProperties {
                        method: Some(METHOD.to_owned()),
                        data: Some(next.bearer().to_owned().into()),
                        reason: None,
                        user_properties: Vec::new(),
                    };
                    if let Err(error) = client.try_reauth(Some(properties)) {
                        return Ok(error.to_string());
                    }
                    self.note(&next)?;
                    refresh.set(tokio::time::sleep(refresh_in(&next, &self.clock)));
                }
            }
        }
    }

    fn connect(&self, token: &AccessToken) -> (AsyncClient, EventLoop) {
        let SubscriberOptions { broker, client, .. } = &self.options;
        let mut options = MqttOptions::new(client, (broker.ip().to_string(), broker.port()));
        options.set_keep_alive(10);
        options.set_clean_start(false);
        options.set_session_expiry_interval(Some(u32::try_from(SESSION.as_secs()).unwrap_or(u32::MAX)));
        options.set_authentication_method(Some(METHOD.to_owned()));
        options.set_authentication_data(Some(token.bearer().to_owned().into()));
        AsyncClient::builder(options).capacity(64).build()
    }
}

/// Three quarters of what is left.
fn refresh_in(token: &AccessToken, clock: &Clock) -> Duration {
    token.left(clock) * 3 / 4
}

/// Drives the connection on a task of its own, because a dropped poll loses what it was doing. Gives what comes
/// in, at last why it ended; a slow reader slows the broker down.
fn pump(mut events: EventLoop) -> mpsc::Receiver<Result<Incoming, String>> {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        loop {
            let event = match events.poll().await {
                Ok(Event::Incoming(incoming)) => Ok(incoming),
                Ok(_) => continue,
                Err(error) => Err(error.to_string()),
            };
            let is_last = event.is_err();
            if sender.send(event).await.is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

/// A SenML record, as far as it is shown.
#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    n: String,
    #[serde(default)]
    u: String,
    v: Option<f64>,
}

/// The log line of a reading; none for a message that is no reading of ours.
fn reading(publish: &Publish) -> Option<Line> {
    let topic = std::str::from_utf8(&publish.topic).ok()?;
    let device = topic.split('/').nth(4)?.to_owned();
    let properties = &publish.properties.as_ref()?.user_properties;
    let id = properties.iter().find(|(name, _)| name == "id")?.1.clone();
    let records: Vec<Record> = serde_json::from_slice(&publish.payload).unwrap_or_default();
    let fields = records
        .into_iter()
        .filter_map(|record| Some(Field { value: record.v?, name: record.n, unit: record.u }))
        .collect();
    Some(Line::Reading { id, device, fields })
}
