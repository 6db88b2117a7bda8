//! The keeper of tokens with this server behind it.

use std::time::Duration;

use clawgate::token::TokenState;
use clawgate::token::keeper;
use clawgate::token::oauth::Grant;

use super::server::{SOON, Site, grant, keeper, pump, until};

#[tokio::test]
async fn the_keeper_shows_what_a_person_must_do_and_goes_on_when_it_is_done() {
    let site = Site::start();
    let keeper = keeper(&site, Grant::DeviceCode);
    let handle = keeper.add(&pump(), grant()).unwrap();
    let waiting = until(&handle, |state| matches!(state, TokenState::Waiting { approval: Some(_), .. })).await;
    let TokenState::Waiting { approval: Some(asked), .. } = waiting else { panic!("{waiting:?}") };
    let status = keeper.status(&pump()).unwrap();
    assert_eq!((status.state.as_str(), status.failures), ("waiting", 0), "waiting for a person is no failure");
    assert!(status.reason.unwrap().contains(&asked.code), "token ls says what to do");
    site.person(&format!("approve?user_code={}", asked.code)).await;
    until(&handle, |state| matches!(state, TokenState::Valid(_))).await;
}

#[tokio::test]
async fn a_device_that_the_site_takes_away_is_paused_and_its_neighbour_goes_on() {
    let site = Site::with_life(5);
    let keeper = keeper(&site, Grant::ClientCredentials);
    let short = || keeper::Grant { life: Duration::from_secs(5), ..grant() };
    let neighbour = "pump-4".parse().unwrap();
    let pump_3 = keeper.add(&pump(), short()).unwrap();
    let pump_4 = keeper.add(&neighbour, short()).unwrap();
    for handle in [&pump_3, &pump_4] {
        until(handle, |state| matches!(state, TokenState::Valid(_))).await;
    }
    site.person("forget?device=pump-3").await;
    let paused = until(&pump_3, |state| matches!(state, TokenState::Quarantined { .. })).await;
    let TokenState::Quarantined { reason } = paused else { panic!("{paused:?}") };
    assert!(reason.contains("gw-1 has no device pump-3") && reason.contains(&site.url), "{reason}");
    let before = keeper.status(&neighbour).unwrap().refreshes;
    let refreshed = async {
        while keeper.status(&neighbour).unwrap().refreshes < before + 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, refreshed).await.expect("the neighbour's token was not refreshed");
}
