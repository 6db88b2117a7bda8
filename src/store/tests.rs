//! The state as a whole: first start, refusals, rules of the key slots.
