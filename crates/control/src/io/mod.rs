//! What works on every kind there is and so cannot be a row: each of these tasks runs until it is dropped.

mod discovery;
pub mod garbage;
pub mod namespaces;

use std::time::{Duration, SystemTime};

use schema::api::Time;

/// First wait after a failure, and the longest.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(1000);

fn backoff(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX)).min(LAST_RETRY)
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX) }
}
