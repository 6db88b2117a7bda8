//! How often an owner of tokens may publish.

use std::collections::HashMap;
use std::time::Instant;

/// Owners that are remembered; who has not published for a while is forgotten first.
const MAX_OWNERS: usize = 10_000;
/// A burst of so many seconds' worth is taken at once: what a line held up arrives together.
const BURST_S: f64 = 2.0;
/// And of at least so many messages.
const BURST: f64 = 10.0;

/// Client and subject of a token.
pub(crate) type Owner = (String, String);

/// What is left for each owner. It outlives connections: who is cut off and comes back has not more.
#[derive(Default)]
pub(crate) struct Rates {
    left: HashMap<Owner, (f64, Instant)>,
}

impl Rates {
    /// Whether one more publish is within `per_second`.
    pub(crate) fn take(&mut self, owner: &Owner, per_second: u32, now: Instant) -> bool {
        let per_second = f64::from(per_second);
        let most = (per_second * BURST_S).max(BURST);
        if self.left.len() >= MAX_OWNERS && !self.left.contains_key(owner) {
            // Whose time to be full again has passed is as good as unknown.
            self.left.retain(|_, (_, at)| now.duration_since(*at).as_secs_f64() < BURST);
        }
        let (left, at) = self.left.get(owner).copied().unwrap_or((most, now));
        let left = (left + now.duration_since(at).as_secs_f64() * per_second).min(most);
        let taken = left >= 1.0;
        self.left.insert(owner.clone(), (if taken { left - 1.0 } else { left }, now));
        taken
    }
}
