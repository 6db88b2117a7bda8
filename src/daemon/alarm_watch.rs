//! Looks for alarms that no part sees by itself: rates above a device's own baseline, tokens that the broker refuses, for
//! their addresses or for good. Looks, too, whether the audit log can be written again.

use std::collections::HashMap;

use tokio_util::sync::CancellationToken;

use super::Gateway;
use crate::alarm::rate::{Baselines, LOOK, Spike};
use crate::alarm::{Alarm, AlarmKind};
use crate::blocking::blocking;
use crate::ids::DeviceId;
use crate::metrics::Device as Label;
use crate::store::Device;
use crate::token::keeper::TokenStatus;

/// Looks until `stop`.
pub(super) async fn watch(gateway: Gateway, stop: CancellationToken) {
    let (mut baselines, mut refusals) = (Baselines::default(), Refusals::default());
    while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        // Whoever wrote in vain may not write again for long.
        let audit = gateway.audit().clone();
        let missing = blocking(move || audit.heal()).await;
        gateway.tell_missing(missing.as_ref());
        let store = gateway.store().clone();
        let devices = match blocking(move || store.devices()).await {
            Ok(devices) => devices,
            Err(error) => {
                tracing::error!(%error, "the registry cannot be read; no alarm is looked for");
                continue;
            }
        };
        let readings = &gateway.metrics().session.readings;
        let counts = devices.iter().map(|device| {
            let count = readings.get_or_create(&Label::of(&device.id)).get();
            (device.id.clone(), count)
        });
        for spike in baselines.look(gateway.clock().boot(), &gateway.alarms().policy(), counts) {
            gateway.alarms().raise(of_spike(&spike));
        }
        let tokens = gateway.keeper().list();
        for device in refusals.mended(&tokens) {
            gateway.alarms().clear(AlarmKind::Quarantine, device.as_str());
        }
        let broker = &gateway.0.broker;
        for alarm in refusals.look(&tokens, &devices, &format!("{}:{}", broker.host, broker.port)) {
            gateway.alarms().raise(alarm);
        }
    }
}

fn of_spike(spike: &Spike) -> Alarm {
    let Spike { device, rate, usual } = spike;
    Alarm {
        kind: AlarmKind::RateSpike,
        subject: device.to_string(),
        words: format!("it sends {rate:.1} readings a second; it used to send {usual:.1}"),
        next_step: format!("Look at the sensor. To cut it off: clawgate token revoke {device}"),
    }
}

/// What was seen of each device's refusals.
#[derive(Debug, Default)]
struct Refusals(HashMap<DeviceId, (u64, bool)>);

impl Refusals {
    /// Devices that were paused at the last look, and are not any more.
    fn mended<'a>(&self, tokens: &'a [TokenStatus]) -> Vec<&'a DeviceId> {
        let was_paused = |device: &DeviceId| self.0.get(device).is_some_and(|(_, was_paused)| *was_paused);
        let mended = |token: &&TokenStatus| token.state != "quarantined" && was_paused(&token.device);
        tokens.iter().filter(mended).map(|token| &token.device).collect()
    }

    fn look(&mut self, tokens: &[TokenStatus], devices: &[Device], broker: &str) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        let mut seen = HashMap::with_capacity(tokens.len());
        for token in tokens {
            let (refusals, was_paused) = self.0.get(&token.device).copied().unwrap_or_default();
            if token.limited_refusals > refusals {
                let known = devices.iter().find(|device| device.id == token.device);
                alarms.push(off_allow_list(token, known, broker));
            }
            let is_paused = token.state == "quarantined";
            if is_paused && !was_paused {
                alarms.push(Alarm {
                    kind: AlarmKind::Quarantine,
                    subject: token.device.to_string(),
                    words: token.reason.clone().unwrap_or_else(|| "its token needs an operator".to_owned()),
                    next_step: format!("Mend that, then: clawgate token rotate {}", token.device),
                });
            }
            seen.insert(token.device.clone(), (token.limited_refusals, is_paused));
        }
        self.0 = seen;
        alarms
    }
}

/// The broker does not say why it refused; that the token is limited makes one reason likely.
fn off_allow_list(token: &TokenStatus, known: Option<&Device>, broker: &str) -> Alarm {
    let device = &token.device;
    let allowed = known.map(|known| known.info.limits.in_words()).unwrap_or_default();
    Alarm {
        kind: AlarmKind::OffAllowList,
        subject: device.to_string(),
        words: format!("the broker {broker} refused (0x87) its token, which may be used {allowed}"),
        next_step: format!(
            "See in the broker's log from where this gateway comes to it; if the address is right, pair {device} again \
             with another --allow-address; if it is not, somebody else has the token: clawgate token revoke {device}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(state: &str, limited_refusals: u64) -> TokenStatus {
        TokenStatus {
            device: "pump-3".parse().unwrap(),
            state: state.to_owned(),
            reason: Some("refused twice".to_owned()),
            jti: None,
            scope: None,
            limits: None,
            bound_to: None,
            expires_in_s: None,
            refreshed_at: None,
            next_request_in_s: None,
            refreshes: 0,
            failures: 0,
            limited_refusals,
        }
    }

    fn kinds(refusals: &mut Refusals, token: TokenStatus) -> Vec<AlarmKind> {
        refusals.look(&[token], &[], "broker:8883").into_iter().map(|alarm| alarm.kind).collect()
    }

    #[test]
    fn a_refusal_of_a_limited_token_and_a_pause_are_an_alarm_once_each() {
        let mut refusals = Refusals::default();
        assert_eq!(kinds(&mut refusals, token("valid", 0)), []);
        assert_eq!(kinds(&mut refusals, token("valid", 1)), [AlarmKind::OffAllowList]);
        assert_eq!(kinds(&mut refusals, token("valid", 1)), []);
        assert_eq!(kinds(&mut refusals, token("quarantined", 2)), [AlarmKind::OffAllowList, AlarmKind::Quarantine]);
        assert_eq!(kinds(&mut refusals, token("quarantined", 2)), []);
        assert!(refusals.mended(&[token("quarantined", 2)]).is_empty());
        assert_eq!(refusals.mended(&[token("valid", 2)]), [&token("valid", 2).device]);
    }
}
