//! Tokens that change under load, over a long line: nothing lost, nothing twice, nothing out of order, whichever way the
//! broker takes a fresh token.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use clawgate::config::Reauth;
use clawgate::token::keeper::{Grant, KeeperOptions};
use clawgate::token::scope::Scope;
use clawgate::token::{Stage, TokenKeeper};

use super::line::Line;
use super::support::Mosquitto;
use super::*;

/// Each way.
const DELAY: Duration = Duration::from_millis(40);
/// Ten readings in each.
const TICK: Duration = Duration::from_millis(10);

enum Brokers {
    Embedded(Broker),
    Mosquitto(Mosquitto),
}

/// An issuer, a broker that knows it, and the line there.
struct LongSite {
    issuer: LocalIssuer,
    broker: Brokers,
    line: Line,
}

impl LongSite {
    async fn embedded() -> Self {
        let Site { issuer, broker } = Site::start().await;
        Self::of(issuer, Brokers::Embedded(broker)).await
    }

    async fn mosquitto() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let deny = DenyList::open(&folder.path().join("denylist")).unwrap();
        let key = SigningKey::generate().unwrap();
        let issuer = LocalIssuer::new("urn:clawgate:test", key, deny, Clock::system());
        std::fs::write(folder.path().join("jwks"), serde_json::to_string(&issuer.jwks()).unwrap()).unwrap();
        // Its default of 20 would be the bound of what a long line carries.
        let config = plugin::config("urn:clawgate:test") + "max_inflight_messages 200\n";
        let broker = Mosquitto::start_in(folder, &config);
        Self::of(issuer, Brokers::Mosquitto(broker)).await
    }

    async fn of(issuer: LocalIssuer, broker: Brokers) -> Self {
        let line = Line::to(Self::addr(&broker), DELAY).await;
        Self { issuer, broker, line }
    }

    fn addr(broker: &Brokers) -> SocketAddr {
        match broker {
            Brokers::Embedded(broker) => broker.addr(),
            Brokers::Mosquitto(broker) => broker.addr(),
        }
    }

    fn keeper(&self) -> TokenKeeper {
        let options =
            KeeperOptions { tenant: "default".to_owned(), gateway: "site-1".to_owned(), stage: Stage::default() };
        TokenKeeper::new(Arc::new(self.issuer.clone()), options, Clock::system())
    }
}

/// What a subscriber beside the broker saw.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    readings: usize,
    lost: usize,
    duplicated: usize,
    reordered: usize,
}

struct Measured {
    seen: Seen,
    longest_gap: Duration,
    renewals: u64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seen { readings, lost, duplicated, reordered } = self.seen;
        let (gap, renewals) = (self.longest_gap.as_millis(), self.renewals);
        write!(f, "{renewals} renewals, {readings} readings: {lost} lost, {duplicated} duplicated, ")?;
        write!(f, "{reordered} reordered, longest gap {gap} ms")
    }
}

fn judge(arrived: &[(Instant, u64)], readings: u64) -> (Seen, Duration) {
    let mut known = std::collections::HashSet::new();
    let fresh: Vec<u64> = arrived.iter().map(|(_, seq)| *seq).filter(|seq| known.insert(*seq)).collect();
    let seen = Seen {
        readings: usize::try_from(readings).unwrap(),
        lost: (1..=readings).filter(|seq| !known.contains(seq)).count(),
        duplicated: arrived.len() - fresh.len(),
        reordered: fresh.windows(2).filter(|pair| pair[1] < pair[0]).count(),
    };
    let gaps = arrived.windows(2).map(|pair| pair[1].0.duration_since(pair[0].0));
    (seen, gaps.max().unwrap_or_default())
}

/// What arrives, and when, until this reading, and whatever comes again.
async fn arrivals(mut subscriber: MqttClient, readings: u64) -> Vec<(Instant, u64)> {
    let mut arrived = Vec::new();
    let mut highest = 0;
    let reading = |message: rumqttc::Publish| -> u64 {
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        text.rsplit_once("\"v\":").unwrap().1.trim_end_matches(['}', ']']).parse().unwrap()
    };
    while highest < readings {
        let seq = reading(subscriber.next().await);
        highest = highest.max(seq);
        arrived.push((Instant::now(), seq));
    }
    // What would come twice comes now.
    while let Some(message) = subscriber.try_next(Duration::from_millis(500)).await {
        arrived.push((Instant::now(), reading(message)));
    }
    arrived
}

/// A thousand readings a second over the line for so many seconds, in each of which the token is replaced.
async fn stream(site: &LongSite, reauth: Reauth, seconds: u64) -> Measured {
    let subscriber = subscriber(&site.issuer, LongSite::addr(&site.broker)).await;
    let keeper = site.keeper();
    let device = "pump-3".parse().unwrap();
    let grant = Grant {
        scope: vec![Scope::TelemetryWrite],
        life: Duration::from_secs(600),
        audience: "claw".to_owned(),
        limits: Limits::default(),
    };
    let handle = keeper.add(&device, grant).unwrap();
    let gateway = Gateway::start(site.line.port(), |options| options.reauth = reauth);
    let lane = gateway.attach_with("pump-3", handle);
    until("it is connected", || gateway.state() == RelayState::Connected).await;
    let readings = seconds * 1000;
    let arriving = tokio::spawn(arrivals(subscriber, readings));
    let renewals = || {
        let status = &gateway.relay.status()[0];
        if reauth == Reauth::Never { status.connects - 1 } else { status.reauths }
    };
    let mut rotations = 0;
    let mut ticks = tokio::time::interval(TICK);
    for tick in 0..seconds * 100 {
        ticks.tick().await;
        submit(&lane, tick * 10 + 1..=tick * 10 + 10);
        if tick % 100 == 50 {
            // Of two that come together only the newer is shown.
            until("the token before is taken", || renewals() == rotations).await;
            keeper.rotate(&device).await.unwrap();
            rotations += 1;
        }
    }
    until("the last token is taken", || renewals() == rotations).await;
    let arrived = within("all arrive", arriving).await.unwrap();
    until("all is confirmed", || gateway.spool.status().depth == 0).await;
    let renewals = renewals();
    let (seen, longest_gap) = judge(&arrived[..], readings);
    gateway.stop().await;
    keeper.shutdown().await;
    Measured { seen, longest_gap, renewals }
}

async fn holds(site: LongSite, reauth: Reauth) {
    let measured = stream(&site, reauth, 3).await;
    assert_eq!(measured.seen, Seen { readings: 3000, lost: 0, duplicated: 0, reordered: 0 });
    assert_eq!(measured.renewals, 3, "{measured}");
}

#[tokio::test]
async fn re_authentication_at_the_embedded_broker_loses_doubles_and_reorders_nothing() {
    holds(LongSite::embedded().await, Reauth::Auto).await;
}

#[tokio::test]
async fn drain_and_reconnect_at_the_embedded_broker_loses_doubles_and_reorders_nothing() {
    holds(LongSite::embedded().await, Reauth::Never).await;
}

#[tokio::test]
async fn re_authentication_at_mosquitto_loses_doubles_and_reorders_nothing() {
    holds(LongSite::mosquitto().await, Reauth::Auto).await;
}

#[tokio::test]
async fn drain_and_reconnect_at_mosquitto_loses_doubles_and_reorders_nothing() {
    holds(LongSite::mosquitto().await, Reauth::Never).await;
}

/// The issuer's next token comes after the broker would have cut the connection of the first, which the gateway left
/// before. How long before goes with the life of the token: a slow machine needs a longer one.
async fn outlasts_a_late_issuer(site: LongSite) {
    before_it_ends(async |life_s| leaves_in_order(&site, life_s).await.then_some(())).await;
}

/// Whether it does under a first token that lives so long; it loses nothing in any case.
async fn leaves_in_order(site: &LongSite, life_s: u64) -> bool {
    const READINGS: u64 = 4_000;
    let cuts = || match &site.broker {
        Brokers::Embedded(_) => 0,
        Brokers::Mosquitto(broker) => broker.log().matches("cut off").count(),
    };
    let before = cuts();
    let (feed, handle) = TokenFeed::new(no_token());
    let gateway = Gateway::start(site.line.port(), |_| ());
    let lane = gateway.attach_with("pump-3", handle);
    let Some(expiry) = is_connected_under(life_s, &gateway, &feed, &site.issuer).await else { return false };
    let subscriber = subscriber(&site.issuer, LongSite::addr(&site.broker)).await;
    let arriving = tokio::spawn(arrivals(subscriber, READINGS));
    let mut ticks = tokio::time::interval(TICK);
    for tick in 0..READINGS / 10 {
        ticks.tick().await;
        submit(&lane, tick * 10 + 1..=tick * 10 + 10);
    }
    until("the first token is over", || Clock::system().wall() > expiry).await;
    // Where the gateway is slow, the broker has refused it before.
    let waits = || matches!(gateway.state(), RelayState::WaitingForToken | RelayState::Paused);
    until("it waits", waits).await;
    let was_under_way = gateway.relay.status()[0].confirmed > 0;
    let next = token_of(&site.issuer, "pump-3", 600, Limits::default()).await;
    feed.state.send_replace(TokenState::Valid(Arc::new(next)));
    let arrived = within("all arrive", arriving).await.unwrap();
    until("all is confirmed", || gateway.spool.status().depth == 0).await;
    let (seen, _) = judge(&arrived, READINGS);
    let status = gateway.relay.status().remove(0);
    gateway.stop().await;
    assert_eq!((seen.lost, seen.reordered), (0, 0), "{seen:?} {status:?}");
    let in_order = (seen.duplicated, status.connects, status.refused, cuts() - before) == (0, 2, 0, 0);
    eprintln!("under a token of {life_s} s: {seen:?} {status:?}, {} cut off", cuts() - before);
    was_under_way && in_order
}

#[tokio::test]
async fn a_token_that_ends_before_another_comes_loses_doubles_and_reorders_nothing_at_the_embedded_broker() {
    outlasts_a_late_issuer(LongSite::embedded().await).await;
}

#[tokio::test]
async fn a_token_that_ends_before_another_comes_loses_doubles_and_reorders_nothing_at_mosquitto() {
    outlasts_a_late_issuer(LongSite::mosquitto().await).await;
}

/// The figures of docs/cloud.md: `cargo test --test relay_tokens measures -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "measures, a minute long"]
async fn measures_refresh_over_a_long_line_and_revocation() {
    for (name, reauth) in [("re-authentication", Reauth::Auto), ("drain and reconnect", Reauth::Never)] {
        for (broker, site) in [("embedded", LongSite::embedded().await), ("mosquitto", LongSite::mosquitto().await)] {
            let measured = stream(&site, reauth, 8).await;
            println!("{broker}, {name}: {measured}");
        }
    }
    for (broker, site) in [("embedded", LongSite::embedded().await), ("mosquitto", LongSite::mosquitto().await)] {
        let mut slowest = Duration::ZERO;
        for round in 0..10 {
            let device = format!("pump-{round}");
            let token = token_of(&site.issuer, &device, 600, Limits::default()).await;
            let client_id = format!("site-1.{device}");
            let how = Connect::to(LongSite::addr(&site.broker), &client_id, token.bearer());
            let mut client = MqttClient::connect(how).await.unwrap();
            let begun = Instant::now();
            site.issuer.revoke(&request(&device, 600, Limits::default()), Some(&token), "test").await.unwrap();
            client.ended().await;
            slowest = slowest.max(begun.elapsed());
        }
        println!("{broker}, revoked to cut, slowest of 10: {} ms", slowest.as_millis());
    }
}
