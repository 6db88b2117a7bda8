//! Attempt counters as plain data: how often a code may be guessed at, and how fast.

/// After this many of our own tags that no valid tag answered, an entered code is forgotten.
pub const ENTERED_CODE_TAGS: u8 = 3;

/// A code that a person entered at this end, and how many of our tags under it stayed unanswered.
///
/// Each own tag lets whoever stands between test one guess, so it is counted before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EnteredCode {
    unanswered: u8,
}

impl EnteredCode {
    /// Counts a tag that is about to be sent; false when the code must be forgotten instead.
    #[must_use]
    pub fn count(&mut self) -> bool {
        if self.unanswered >= ENTERED_CODE_TAGS {
            return false;
        }
        self.unanswered = self.unanswered.saturating_add(1);
        true
    }

    /// Whether no further run may start under this code.
    #[must_use]
    pub const fn is_spent(&self) -> bool {
        self.unanswered >= ENTERED_CODE_TAGS
    }

    /// The peer answered with a valid tag: it knows the code.
    pub fn answered(&mut self) {
        self.unanswered = 0;
    }
}

/// How a sensor slows guesses at its label down. Never locks for ever; a physical act clears it.
///
/// The count must survive a reboot ([`Self::attempts`], [`Self::restore`]); the waiting time starts anew at
/// the reboot, so that pulling the plug gains nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LabelBackoff {
    attempts: u32,
    not_before_ms: u64,
}

impl LabelBackoff {
    /// The shortest time between two attempts.
    pub const MIN_DELAY_MS: u64 = 1_000;
    /// The longest time between two attempts.
    pub const MAX_DELAY_MS: u64 = 300_000;
    /// From this many attempts on the delay doubles.
    pub const DOUBLE_AFTER: u32 = 5;

    /// The state after a reboot at `now_ms` with the count that was persisted.
    #[must_use]
    pub fn restore(attempts: u32, now_ms: u64) -> Self {
        let wait = if attempts == 0 { 0 } else { Self::delay_ms(attempts) };
        Self { attempts, not_before_ms: now_ms.saturating_add(wait) }
    }

    /// The count to persist.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether a run may start now.
    #[must_use]
    pub const fn allows(&self, now_ms: u64) -> bool {
        now_ms >= self.not_before_ms
    }

    /// When the next run may start.
    #[must_use]
    pub const fn not_before_ms(&self) -> u64 {
        self.not_before_ms
    }

    /// Counts an attempt; persist [`Self::attempts`] before the tag is verified.
    pub fn count(&mut self, now_ms: u64) {
        self.attempts = self.attempts.saturating_add(1);
        self.not_before_ms = now_ms.saturating_add(Self::delay_ms(self.attempts));
    }

    /// A right code or a physical act clears the count.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn delay_ms(attempts: u32) -> u64 {
        let doublings = attempts.saturating_sub(Self::DOUBLE_AFTER).min(16);
        Self::MIN_DELAY_MS.saturating_mul(1 << doublings).min(Self::MAX_DELAY_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entered_code_allows_three_unanswered_tags() {
        let mut code = EnteredCode::default();
        assert!(code.count() && code.count() && code.count());
        assert!(code.is_spent());
        assert!(!code.count());
    }

    #[test]
    fn an_answer_gives_an_entered_code_its_tags_back() {
        let mut code = EnteredCode::default();
        assert!(code.count() && code.count());
        code.answered();
        assert!(code.count() && code.count() && code.count());
    }

    #[test]
    fn a_label_waits_a_second_then_doubles_and_never_locks_for_ever() {
        let mut label = LabelBackoff::default();
        let mut delays = [0; 20];
        for delay in &mut delays {
            label.count(0);
            *delay = label.not_before_ms();
        }
        assert_eq!(delays[..8], [1_000, 1_000, 1_000, 1_000, 1_000, 2_000, 4_000, 8_000]);
        assert_eq!(delays[19], LabelBackoff::MAX_DELAY_MS);
        assert!(label.allows(LabelBackoff::MAX_DELAY_MS));
        label.clear();
        assert!(label.allows(0));
    }

    #[test]
    fn a_reboot_does_not_shorten_the_wait() {
        let mut label = LabelBackoff::default();
        for _ in 0..8 {
            label.count(0);
        }
        let again = LabelBackoff::restore(label.attempts(), 5);
        assert!(!again.allows(5));
        assert!(again.allows(8_005));
        assert!(LabelBackoff::restore(0, 5).allows(5));
    }

    #[test]
    fn any_number_of_attempts_is_counted_without_overflow() {
        let mut label = LabelBackoff::restore(u32::MAX, u64::MAX);
        label.count(u64::MAX);
        assert_eq!(label.attempts(), u32::MAX);
    }
}
