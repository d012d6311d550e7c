//! `/metrics`: upstream's names for what an operator looks at first.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

mod page;
pub use page::{Histogram, Page};

use crate::{Attributes, Server};

const BUCKETS_SECONDS: [f64; 8] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    code: u16,
}

#[derive(Default)]
struct Durations {
    buckets: [u64; BUCKETS_SECONDS.len()],
    count: u64,
    sum: f64,
}

#[derive(Default)]
struct State {
    requests: BTreeMap<Row, u64>,
    durations: BTreeMap<(String, String), Durations>,
}

#[derive(Default)]
pub struct Metrics {
    state: Mutex<State>,
    in_flight: AtomicI64,
}

/// Unknown resources share a row, so that a client cannot grow the table without end.
const ROWS_MAX: usize = 4096;

impl Metrics {
    pub fn start(&self) -> Instant {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Instant::now()
    }

    pub fn finish(&self, info: &Attributes, code: u16, started: Instant) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let seconds = started.elapsed().as_secs_f64();
        let scope = match (info.is_resource, info.name.is_empty(), info.namespace.is_empty()) {
            (false, ..) => "",
            (_, false, _) => "resource",
            (_, _, false) => "namespace",
            _ => "cluster",
        };
        let verb = info.verb.to_ascii_uppercase();
        let row = Row {
            verb: verb.clone(),
            group: info.api_group.clone(),
            version: info.api_version.clone(),
            resource: if info.is_resource { info.resource.clone() } else { String::new() },
            subresource: info.subresource.clone(),
            scope,
            code,
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.requests.len() >= ROWS_MAX && !state.requests.contains_key(&row) {
            return;
        }
        let resource = row.resource.clone();
        *state.requests.entry(row).or_default() += 1;
        if info.is_resource && verb != "WATCH" {
            let durations = state.durations.entry((verb, resource)).or_default();
            durations.count += 1;
            durations.sum += seconds;
            for (bucket, limit) in durations.buckets.iter_mut().zip(BUCKETS_SECONDS) {
                *bucket += u64::from(seconds <= limit);
            }
        }
    }

    pub fn text(&self, server: &Server) -> String {
        let mut out = String::new();
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        out.push_str("# HELP apiserver_request_total Counter of apiserver requests broken out for each verb, resource and HTTP response code.\n# TYPE apiserver_request_total counter\n");
        for (row, count) in &state.requests {
            let Row { verb, group, version, resource, subresource, scope, code } = row;
            let _ = writeln!(
                out,
                "apiserver_request_total{{code=\"{code}\",component=\"apiserver\",dry_run=\"\",group={group:?},resource={resource:?},scope=\"{scope}\",subresource={subresource:?},verb={verb:?},version={version:?}}} {count}"
            );
        }
        out.push_str("# HELP apiserver_request_duration_seconds Response latency in seconds for each verb and resource.\n# TYPE apiserver_request_duration_seconds histogram\n");
        for ((verb, resource), d) in &state.durations {
            for (count, limit) in d.buckets.iter().zip(BUCKETS_SECONDS) {
                let _ = writeln!(
                    out,
                    "apiserver_request_duration_seconds_bucket{{resource={resource:?},verb={verb:?},le=\"{limit}\"}} {count}"
                );
            }
            let _ = writeln!(
                out,
                "apiserver_request_duration_seconds_bucket{{resource={resource:?},verb={verb:?},le=\"+Inf\"}} {}",
                d.count
            );
            let _ = writeln!(
                out,
                "apiserver_request_duration_seconds_sum{{resource={resource:?},verb={verb:?}}} {}",
                d.sum
            );
            let _ = writeln!(
                out,
                "apiserver_request_duration_seconds_count{{resource={resource:?},verb={verb:?}}} {}",
                d.count
            );
        }
        drop(state);
        out.push_str("# HELP apiserver_current_inflight_requests Requests being served now.\n# TYPE apiserver_current_inflight_requests gauge\n");
        let _ = writeln!(out, "apiserver_current_inflight_requests {}", self.in_flight.load(Ordering::Relaxed));
        out.push_str("# HELP apiserver_storage_objects Number of stored objects by kind.\n# TYPE apiserver_storage_objects gauge\n");
        let registry = server.registry();
        let mut rows: Vec<(String, u64)> = registry
            .kinds()
            .filter_map(|k| Some((k.group_resource().to_string(), k.storage.as_ref()?.len())))
            .collect();
        rows.sort();
        rows.dedup();
        for (resource, count) in rows {
            let _ = writeln!(out, "apiserver_storage_objects{{resource={resource:?}}} {count}");
        }
        let mut page = Page::default();
        page.text = out;
        page.text.extend(server.config().audit.iter().map(|audit| audit.metrics()));
        server.inner.fairness.metrics(&mut page);
        page.text
    }
}
