//! `/metrics`: upstream's names and labels for what an operator looks at first.

pub mod admission;
mod page;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Method;

use crate::kind::Kind;
use crate::nonresource::VERSION;
use crate::{Attributes, Server};
pub use page::{Histogram, Page};

const DURATIONS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];
const SIZES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Kinds come and go with their definitions: the table does not grow without end.
const SERIES_MAX: usize = 8192;

/// By what requests are told apart.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Key<'a> {
    verb: &'static str,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: &'a str,
    scope: &'static str,
    dry_run: &'static str,
}

impl<'a> Key<'a> {
    /// What is not served has no labels of its own: a client cannot make any.
    pub fn of(server: &Server, info: &'a Attributes, verb: &'static str, is_dry_run: bool) -> Key<'a> {
        let none = Key { verb, group: "", version: "", resource: "", subresource: "", scope: "", dry_run: "" };
        if !info.is_resource {
            const KNOWN: [&str; 4] = ["/healthz", "/livez", "/metrics", "/readyz"];
            let path = KNOWN.iter().find(|known| {
                info.path.strip_prefix(**known).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
            });
            return Key { subresource: path.copied().unwrap_or_default(), ..none };
        }
        let registry = server.registry();
        let Some(kind) = registry.get(&info.api_group, &info.api_version, &info.resource) else { return none };
        let scope = match (info.name.is_empty() && info.verb != "create", info.namespace.is_empty()) {
            (false, _) => "resource",
            (_, false) => "namespace",
            _ => "cluster",
        };
        let is_served = info.subresource.is_empty() || kind.subresource(&info.subresource).is_some();
        Key {
            verb,
            group: &info.api_group,
            version: &info.api_version,
            resource: &info.resource,
            subresource: if is_served { &info.subresource } else { "" },
            scope,
            dry_run: if is_dry_run { "All" } else { "" },
        }
    }
}

/// A request's verb as metrics have it.
pub fn verb(method: &Method, info: &Attributes, content_type: &str) -> &'static str {
    if matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy") {
        return "CONNECT";
    }
    match info.verb.as_str() {
        "list" => "LIST",
        "watch" => "WATCH",
        "proxy" => "CONNECT",
        "deletecollection" => "DELETECOLLECTION",
        "patch" if content_type == "application/apply-patch+yaml" => "APPLY",
        _ => match *method {
            Method::GET | Method::HEAD => "GET",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            _ => "other",
        },
    }
}

/// What is counted of requests with the same labels.
struct Series {
    labels: [(&'static str, String); 8],
    codes: BTreeMap<u16, u64>,
    duration: Histogram,
    /// Without the time in queues.
    sli: Histogram,
    sizes: Histogram,
    long_running: i64,
}

impl Series {
    fn new(key: &Key<'_>) -> Series {
        let component = if key.version.is_empty() { "" } else { "apiserver" };
        Series {
            labels: [
                ("component", component),
                ("dry_run", key.dry_run),
                ("group", key.group),
                ("resource", key.resource),
                ("scope", key.scope),
                ("subresource", key.subresource),
                ("verb", key.verb),
                ("version", key.version),
            ]
            .map(|(name, value)| (name, value.to_owned())),
            codes: BTreeMap::new(),
            duration: Histogram::new(DURATIONS),
            sli: Histogram::new(DURATIONS),
            sizes: Histogram::new(SIZES),
            long_running: 0,
        }
    }

    /// Some metrics do not tell dry runs apart.
    fn labels(&self, dry_run: bool) -> Vec<(&str, &str)> {
        let all = self.labels.iter().map(|(name, value)| (*name, value.as_str()));
        all.filter(|(name, _)| dry_run || *name != "dry_run").collect()
    }
}

#[derive(Default)]
pub struct Metrics {
    hasher: RandomState,
    series: Mutex<HashMap<u64, Series>>,
    /// Reading ones, and changing ones.
    in_flight: [AtomicI64; 2],
    pub admission: admission::Admission,
    /// Group, resource, subresource and version.
    deprecated: Mutex<BTreeSet<[String; 4]>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that is being worked on.
pub struct InFlight<'a>(&'a AtomicI64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that lasts.
pub struct LongRunning {
    metrics: Arc<Metrics>,
    key: u64,
}

impl Drop for LongRunning {
    fn drop(&mut self) {
        if let Some(series) = lock(&self.metrics.series).get_mut(&self.key) {
            series.long_running -= 1;
        }
    }
}

impl Metrics {
    pub fn enter(&self, info: &Attributes) -> InFlight<'_> {
        let is_changing = !matches!(info.verb.as_str(), "get" | "list" | "watch" | "head");
        let count = &self.in_flight[usize::from(is_changing)];
        count.fetch_add(1, Ordering::Relaxed);
        InFlight(count)
    }

    fn with<T>(&self, key: &Key<'_>, change: impl FnOnce(&mut Series) -> T) -> Option<(u64, T)> {
        let hash = self.hasher.hash_one(key);
        let mut all = lock(&self.series);
        if all.len() >= SERIES_MAX && !all.contains_key(&hash) {
            return None;
        }
        Some((hash, change(all.entry(hash).or_insert_with(|| Series::new(key)))))
    }

    /// A request was answered.
    pub fn finish(&self, key: &Key<'_>, code: u16, size: Option<u64>, took: Duration, waited: Duration) {
        self.with(key, |series| {
            *series.codes.entry(code).or_default() += 1;
            if !matches!(key.verb, "WATCH" | "CONNECT") {
                series.duration.observe(took.as_secs_f64());
                series.sli.observe(took.saturating_sub(waited).as_secs_f64());
            }
            if let Some(size) = size {
                series.sizes.observe(size as f64);
            }
        });
    }

    pub fn long_running(self: &Arc<Self>, key: &Key<'_>) -> Option<LongRunning> {
        let (key, ()) = self.with(key, |series| series.long_running += 1)?;
        Some(LongRunning { metrics: self.clone(), key })
    }

    pub fn deprecated(&self, kind: &Kind, subresource: &str) {
        let r = &kind.resource;
        let key = [&*r.group, &*r.plural, subresource, &*r.version].map(str::to_owned);
        lock(&self.deprecated).insert(key);
    }

    pub fn text(&self, server: &Server) -> String {
        let mut page = Page::default();
        self.requests(&mut page);
        let help = "[STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last second.";
        page.family("apiserver_current_inflight_requests", "gauge", help);
        for (kind, count) in ["readOnly", "mutating"].iter().zip(&self.in_flight) {
            page.sample(&[("request_kind", kind)], count.load(Ordering::Relaxed));
        }
        self.admission.write(&mut page);
        let help = "[STABLE] Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release.";
        page.family("apiserver_requested_deprecated_apis", "gauge", help);
        for [group, resource, subresource, version] in &*lock(&self.deprecated) {
            let removed = ("removed_release", "");
            let (group, resource) = (("group", group.as_str()), ("resource", resource.as_str()));
            page.sample(&[group, removed, resource, ("subresource", subresource), ("version", version)], 1);
        }
        stored(&mut page, server);
        server.inner.fairness.metrics(&mut page);
        let help = "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.";
        let labels = [("git_version", VERSION), ("major", "1"), ("minor", "37")];
        page.family("kubernetes_build_info", "gauge", help);
        page.sample(&labels, 1);
        page.text.extend(server.config().audit.iter().map(|audit| audit.metrics()));
        (server.config().metrics)(&mut page);
        page.text
    }

    fn requests(&self, page: &mut Page) {
        let series = lock(&self.series);
        let mut all: Vec<_> = series.values().collect();
        all.sort_by(|a, b| a.labels.cmp(&b.labels));
        let help = "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.";
        page.family("apiserver_request_total", "counter", help);
        for one in &all {
            for (code, count) in &one.codes {
                let code = code.to_string();
                page.sample(&[vec![("code", code.as_str())], one.labels(true)].concat(), count);
            }
        }
        let help = "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.";
        page.family("apiserver_longrunning_requests", "gauge", help);
        for one in all.iter().filter(|one| one.long_running > 0) {
            page.sample(&one.labels(false), one.long_running);
        }
        /// Name, help, whether dry runs are told apart, and which of a series it is.
        type Row = (&'static str, &'static str, bool, fn(&Series) -> &Histogram);
        let rows: [Row; 3] = [
            (
                "apiserver_request_duration_seconds",
                "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
                true,
                |one| &one.duration,
            ),
            (
                "apiserver_request_sli_duration_seconds",
                "[ALPHA] Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component.",
                false,
                |one| &one.sli,
            ),
            (
                "apiserver_response_sizes",
                "[STABLE] Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
                false,
                |one| &one.sizes,
            ),
        ];
        for (name, help, dry_run, histogram) in rows {
            page.family(name, "histogram", help);
            for one in all.iter().filter(|one| histogram(one).count() > 0) {
                page.histogram(&one.labels(dry_run), histogram(one));
            }
        }
    }
}

/// Objects and what is sent of their changes.
fn stored(page: &mut Page, server: &Server) {
    let registry = server.registry();
    let mut rows = BTreeMap::new();
    for kind in registry.kinds() {
        let r = &kind.resource;
        if let Some(storage) = &kind.storage {
            rows.entry((r.group.to_string(), r.plural.to_string())).or_insert((r.version.to_string(), storage));
        }
    }
    let help = "[ALPHA] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.";
    page.family("apiserver_resource_objects", "gauge", help);
    for ((group, resource), (_, storage)) in &rows {
        page.sample(&[("group", group), ("resource", resource)], storage.size().0);
    }
    let help = "[ALPHA] Estimated size of stored objects in database. Estimate is based on sum of last observed sizes of serialized objects. In case of a fetching error, the value will be -1.";
    page.family("apiserver_resource_size_estimate_bytes", "gauge", help);
    for ((group, resource), (_, storage)) in &rows {
        page.sample(&[("group", group), ("resource", resource)], storage.size().1);
    }
    page.family("apiserver_watch_events_total", "counter", "[BETA] Number of events sent in watch clients");
    for ((group, resource), (version, storage)) in &rows {
        let sent = storage.sent.load(Ordering::Relaxed);
        if sent > 0 {
            page.sample(&[("group", group), ("resource", resource), ("version", version)], sent);
        }
    }
}
