//! Standalone mode: the broker inside this process, in front of it the local issuer's verifier.

use std::net::SocketAddr;

use super::StartError;
use super::tasks::Tasks;
use crate::config::Config;
use crate::standalone::{Broker, BrokerOptions};
use crate::token::local::LocalIssuer;

/// Devices and subscribers at a time.
const MAX_CLIENTS: usize = 2048;

/// Starts the broker; where it listens.
pub(super) async fn broker(config: &Config, issuer: &LocalIssuer, tasks: &mut Tasks) -> Result<SocketAddr, StartError> {
    let options = BrokerOptions { listen: config.standalone.listen, tls: None, max_clients: MAX_CLIENTS };
    let broker = Broker::start(options, issuer.verifier(config.audience())?).await?;
    let address = broker.addr();
    tasks.spawn("broker", |stop| async move {
        tokio::select! {
            () = stop.cancelled() => broker.stop().await,
            () = broker.ended() => {}
        }
    });
    Ok(address)
}
