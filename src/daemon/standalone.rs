//! Standalone mode: the broker inside this process, in front of it the local issuer's verifier.

use std::net::SocketAddr;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::StartError;
use super::tasks::Tasks;
use crate::alarm::{Alarm, AlarmKind, Alarms};
use crate::config::Config;
use crate::standalone::{Broker, BrokerOptions, OffList};
use crate::token::local::LocalIssuer;

/// Devices and subscribers at a time.
const MAX_CLIENTS: usize = 2048;

/// Starts the broker; where it listens.
pub(super) async fn broker(
    config: &Config,
    issuer: &LocalIssuer,
    alarms: &Alarms,
    tasks: &mut Tasks,
) -> Result<SocketAddr, StartError> {
    let options = BrokerOptions { listen: config.standalone.listen, tls: None, max_clients: MAX_CLIENTS };
    let broker = Broker::start(options, issuer.verifier(config.audience())?).await?;
    let address = broker.addr();
    let telling = tell_off_list(broker.off_list(), alarms.clone());
    tasks.spawn("broker", |stop| async move {
        tokio::select! {
            () = stop.cancelled() => broker.stop().await,
            () = broker.ended() => {}
            () = telling => {}
        }
    });
    Ok(address)
}

/// Until the broker ends.
async fn tell_off_list(mut seen: broadcast::Receiver<OffList>, alarms: Alarms) {
    loop {
        match seen.recv().await {
            Ok(seen) => alarms.raise(of_off_list(&seen)),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Here the broker is ours: what it saw is no guess.
fn of_off_list(seen: &OffList) -> Alarm {
    let OffList { device, client_id, address, limits } = seen;
    let (client_id, allowed) = (client_id.escape_default(), limits.in_words());
    Alarm {
        kind: AlarmKind::OffAllowList,
        subject: device.clone(),
        words: format!(
            "a client at {address} that calls itself {client_id} showed its token, which may be used {allowed}; it was \
             refused"
        ),
        next_step: format!(
            "If that is not where this gateway is, somebody has the token: clawgate token revoke {device}; if it is, \
             pair {device} again with another --allow-address"
        ),
    }
}
