//! What an operator can see of the adapters. Plain data behind one lock.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bus::BusError;
use super::ladder::Step;
use crate::link::Handle;

/// How an adapter is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RadioCondition {
    /// Not yet looked at.
    Starting,
    /// It listens, and makes links.
    Listening,
    /// There is none; whether the configuration names it.
    NoAdapter,
    /// Something is missing.
    Failed(BusError),
}

impl fmt::Display for RadioCondition {
    /// What is the matter, and what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::Listening => f.write_str("listening"),
            Self::NoAdapter => f.write_str("no adapter: plug one in; list them: bluetoothctl list"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// One adapter, or BLE as a whole while there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RadioState {
    /// `hci0`; `ble` while there is no adapter.
    pub id: String,
    /// Whether it can be used.
    pub works: bool,
    /// Whether it is asked for, or was there before: then not to work is a problem.
    pub expected: bool,
    /// How it is, and what to do.
    pub explanation: String,
    /// Sensors that are connected.
    pub links: usize,
    /// Links it can have.
    pub max_links: usize,
    /// Sensors heard.
    pub heard: usize,
    /// Steps taken because expected data was missing, since the start.
    pub recoveries: u64,
    /// The last of them.
    pub last_recovery: Option<String>,
}

#[derive(Debug)]
struct Now {
    condition: RadioCondition,
    links: usize,
    max_links: usize,
    heard: usize,
    recoveries: u64,
    last_recovery: Option<String>,
    handles: Vec<Handle>,
}

impl Default for Now {
    fn default() -> Self {
        Self {
            condition: RadioCondition::Starting,
            links: 0,
            max_links: 0,
            heard: 0,
            recoveries: 0,
            last_recovery: None,
            handles: Vec::new(),
        }
    }
}

/// What is known of all adapters. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status(Arc<Mutex<Parts>>);

#[derive(Debug, Default)]
struct Parts {
    /// What keeps BLE as a whole from working.
    trouble: Option<RadioCondition>,
    is_required: bool,
    adapters: BTreeMap<String, Now>,
}

impl Status {
    /// Whether the configuration insists on BLE, and on which adapters.
    pub(super) fn required(&self, is_required: bool, adapters: &[String]) {
        let mut parts = self.parts();
        parts.is_required = is_required;
        for adapter in adapters {
            parts
                .adapters
                .entry(adapter.clone())
                .or_insert_with(|| Now { condition: RadioCondition::NoAdapter, ..Now::default() });
        }
    }

    /// What keeps BLE as a whole from working; nothing, if nothing does. Said once in the log.
    pub(super) fn trouble(&self, trouble: Option<RadioCondition>) {
        let mut parts = self.parts();
        if parts.trouble == trouble {
            return;
        }
        match (&trouble, parts.is_required || !parts.adapters.is_empty()) {
            (Some(trouble), true) => tracing::warn!("no BLE: {trouble}"),
            (Some(trouble), false) => tracing::info!("no BLE: {trouble}"),
            (None, _) => tracing::info!("BlueZ is there"),
        }
        parts.trouble = trouble;
    }

    pub(super) fn condition(&self, adapter: &str, condition: RadioCondition) {
        let mut parts = self.parts();
        let now = parts.adapters.entry(adapter.to_owned()).or_default();
        if now.condition != condition {
            if let RadioCondition::Failed(_) = condition {
                tracing::warn!(adapter, "{condition}");
            } else {
                tracing::info!(adapter, "{condition}");
            }
        }
        now.condition = condition;
    }

    pub(super) fn adapter_gone(&self, adapter: &str) {
        let mut parts = self.parts();
        if let Some(now) = parts.adapters.get_mut(adapter) {
            *now = Now {
                condition: RadioCondition::NoAdapter,
                recoveries: now.recoveries,
                last_recovery: now.last_recovery.take(),
                ..Now::default()
            };
        }
    }

    pub(super) fn counts(&self, adapter: &str, links: usize, max_links: usize, heard: usize) {
        let mut parts = self.parts();
        let now = parts.adapters.entry(adapter.to_owned()).or_default();
        (now.links, now.max_links, now.heard) = (links, max_links, heard);
    }

    pub(super) fn step(&self, adapter: &str, step: Step, link: &str) {
        let mut parts = self.parts();
        let now = parts.adapters.entry(adapter.to_owned()).or_default();
        now.recoveries = now.recoveries.saturating_add(1);
        now.last_recovery = Some(format!("{link}: {}", step.done()));
    }

    pub(super) fn handles(&self, adapter: &str, handles: Vec<Handle>) {
        self.parts().adapters.entry(adapter.to_owned()).or_default().handles = handles;
    }

    /// Every sensor that is heard.
    pub(crate) fn all_handles(&self) -> Vec<Handle> {
        self.parts().adapters.values().flat_map(|now| now.handles.iter().cloned()).collect()
    }

    /// Every adapter that is there or should be.
    pub(crate) fn radios(&self) -> Vec<RadioState> {
        let parts = self.parts();
        let state = |(id, now): (&String, &Now)| RadioState {
            id: id.clone(),
            works: now.condition == RadioCondition::Listening && parts.trouble.is_none(),
            // It was there, or the configuration names it.
            expected: true,
            explanation: parts.trouble.as_ref().unwrap_or(&now.condition).to_string(),
            links: now.links,
            max_links: now.max_links,
            heard: now.heard,
            recoveries: now.recoveries,
            last_recovery: now.last_recovery.clone(),
        };
        let mut radios: Vec<RadioState> = parts.adapters.iter().map(state).collect();
        if let (true, Some(trouble)) = (radios.is_empty(), &parts.trouble) {
            // An adapter that may not be used is there.
            let refused = matches!(trouble, RadioCondition::Failed(BusError::NoRights(_)));
            radios.push(RadioState {
                id: "ble".to_owned(),
                works: false,
                expected: parts.is_required || refused,
                explanation: trouble.to_string(),
                links: 0,
                max_links: 0,
                heard: 0,
                recoveries: 0,
                last_recovery: None,
            });
        }
        radios
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
