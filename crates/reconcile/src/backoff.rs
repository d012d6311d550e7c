//! Exponential back-off per key, as client-go's item failure limiter: base × 2ⁿ up to a ceiling.

use std::{collections::HashMap, hash::Hash, time::Duration};

/// Counts failures by key.
#[derive(Debug)]
pub struct Backoff<K> {
    base: Duration,
    ceiling: Duration,
    failures: HashMap<K, u32>,
}

impl<K: Eq + Hash> Backoff<K> {
    pub fn new(base: Duration, ceiling: Duration) -> Self {
        Self { base, ceiling, failures: HashMap::new() }
    }

    /// Counts one more failure of `key` and says how long to wait before its next try.
    pub fn next(&mut self, key: K) -> Duration {
        let failures = self.failures.entry(key).or_insert(0);
        let delay = self.base.saturating_mul(1u32.checked_shl(*failures).unwrap_or(u32::MAX)).min(self.ceiling);
        *failures = failures.saturating_add(1);
        delay
    }

    pub fn forget(&mut self, key: &K) {
        self.failures.remove(key);
    }
}

#[cfg(test)]
mod tests;
