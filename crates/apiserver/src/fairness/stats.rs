//! What is counted of a flow schema's requests in a level.

use std::collections::BTreeMap;

use crate::metrics::Histogram;

pub struct Stats {
    pub waiting: u64,
    pub seats_waiting: u64,
    pub executing: u64,
    pub seats_in_use: u64,
    pub dispatched: u64,
    /// By upstream's word for the reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Seconds in queues, of those that gave up and of those that were executed.
    pub waits: [Histogram; 2],
    /// Seconds with seats, of watches the second.
    pub execution: [Histogram; 2],
    pub seats: Histogram,
    /// Of the queue, with the request that came.
    pub length: Histogram,
}

impl Default for Stats {
    fn default() -> Self {
        const SECONDS: &[f64] = &[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
        Stats {
            waiting: 0,
            seats_waiting: 0,
            executing: 0,
            seats_in_use: 0,
            dispatched: 0,
            rejected: BTreeMap::new(),
            waits: [Histogram::new(SECONDS), Histogram::new(SECONDS)],
            execution: [Histogram::new(SECONDS), Histogram::new(SECONDS)],
            seats: Histogram::new(&[1.0, 2.0, 4.0, 10.0]),
            length: Histogram::new(&[0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0]),
        }
    }
}
