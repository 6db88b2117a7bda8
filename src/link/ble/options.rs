//! Whether and how the gateway uses BLE.

/// What is asked of BLE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BleUse {
    /// Where there is an adapter; without one that is no trouble.
    #[default]
    Auto,
    /// Always: without an adapter the gateway is degraded.
    On,
    /// Never.
    Off,
}

/// How the gateway uses BLE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BleOptions {
    /// Whether at all.
    pub usage: BleUse,
    /// The adapters, such as `hci0`; all if none is named.
    pub adapters: Vec<String>,
    /// Links that an adapter can have at once, 1 to 32; one of them is kept for pairing.
    pub links: usize,
}

impl Default for BleOptions {
    fn default() -> Self {
        Self { usage: BleUse::default(), adapters: Vec::new(), links: 7 }
    }
}

impl BleOptions {
    /// Whether an adapter is ours to use.
    pub(crate) fn takes(&self, adapter: &str) -> bool {
        self.adapters.is_empty() || self.adapters.iter().any(|name| name == adapter)
    }
}
