//! What kube-apiserver's `--audit-*` flags ask for.

mod log;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apiserver::audit::{Audit, Backend, Backends, Mode, Policy, Webhook};
use apiserver::outside::Endpoint;

use crate::cli::ServerArgs;
use log::{Log, Rotation};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("--kube-apiserver-arg {name}={value}: {why}")]
    Flag { name: String, value: String, why: String },
    #[error("loading audit policy file: failed to read file path {path:?}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("loading audit policy file: {why}: from file {}", path.display())]
    Policy { path: PathBuf, why: String },
    #[error("initializing audit webhook: {0}")]
    Webhook(String),
    #[error("cannot write the audit log {path}: {source}")]
    Log { path: String, source: std::io::Error },
}

/// A flag's value, or its default.
fn flag<T: FromStr>(args: &ServerArgs, name: &str, default: T, wanted: &str) -> Result<T, Error> {
    let Some(value) = args.api_server_arg(name) else { return Ok(default) };
    let why = || format!("expected {wanted}");
    value.parse().map_err(|_| Error::Flag { name: name.to_owned(), value: value.to_owned(), why: why() })
}

fn number(args: &ServerArgs, name: &str, default: u64) -> Result<u64, Error> {
    flag(args, name, default, "a number that is not negative")
}

fn duration(args: &ServerArgs, name: &str, default: Duration) -> Result<Duration, Error> {
    let Some(value) = args.api_server_arg(name) else { return Ok(default) };
    let nanos = schema::time::parse_duration(value).and_then(|nanos| u64::try_from(nanos).ok());
    let why = || "expected a duration, such as 30s".to_owned();
    let wrong = || Error::Flag { name: name.to_owned(), value: value.to_owned(), why: why() };
    nanos.map(Duration::from_nanos).ok_or_else(wrong)
}

/// One of several words.
fn word<T: Copy>(args: &ServerArgs, name: &str, words: &[(&str, T)], default: T) -> Result<T, Error> {
    let Some(value) = args.api_server_arg(name) else { return Ok(default) };
    let found = words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning);
    found.ok_or_else(|| {
        let known = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        Error::Flag { name: name.to_owned(), value: value.to_owned(), why: format!("known are {known}") }
    })
}

const SWITCH: [(&str, bool); 2] = [("true", true), ("false", false)];
const MODES: [(&str, Mode); 3] =
    [("batch", Mode::Batch), ("blocking", Mode::Blocking), ("blocking-strict", Mode::BlockingStrict)];
const MEBIBYTE: u64 = 1 << 20;

/// What `--audit-PLUGIN-*` says of how events wait: mode, the most bytes of one, and room for them.
fn waiting(args: &ServerArgs, plugin: &str, default: Mode) -> Result<(Mode, Option<u64>, usize), Error> {
    let named = |rest: &str| format!("audit-{plugin}-{rest}");
    word(args, &named("version"), &[("audit.k8s.io/v1", ())], ())?;
    let mode = word(args, &named("mode"), &MODES, default)?;
    let buffer = number(args, &named("batch-buffer-size"), 10_000)?.max(1) as usize;
    let event = number(args, &named("truncate-max-event-size"), 100 << 10)?;
    let batch = number(args, &named("truncate-max-batch-size"), 10 << 20)?;
    if batch < event {
        let why = format!("must be greater than the event size ({event})");
        return Err(Error::Flag { name: named("truncate-max-batch-size"), value: batch.to_string(), why });
    }
    let truncates = word(args, &named("truncate-enabled"), &SWITCH, false)?;
    Ok((mode, truncates.then_some(event), buffer))
}

fn webhook(args: &ServerArgs, path: &str) -> Result<Webhook, Error> {
    let read =
        |path: &Path| std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    let throttles = word(args, "audit-webhook-batch-throttle-enable", &SWITCH, true)?;
    let positive = |name: &str, default: f64| match flag(args, name, default, "a number")? {
        value if value > 0.0 || !throttles => Ok(value),
        value => Err(Error::Flag {
            name: name.to_owned(),
            value: value.to_string(),
            why: "must be a positive number".to_owned(),
        }),
    };
    let rate = positive("audit-webhook-batch-throttle-qps", 10.0)?;
    let burst = positive("audit-webhook-batch-throttle-burst", 15.0)?;
    Ok(Webhook {
        endpoint: Endpoint::from_kubeconfig(Path::new(path), &read).map_err(Error::Webhook)?,
        batch_size_max: number(args, "audit-webhook-batch-max-size", 400)?.max(1) as usize,
        batch_wait: duration(args, "audit-webhook-batch-max-wait", Duration::from_secs(30))?,
        throttle: throttles.then_some((rate, burst)),
        initial_backoff: duration(args, "audit-webhook-initial-backoff", Duration::from_secs(10))?,
    })
}

/// The audit log that is asked for. Without a policy or somewhere to write there is none.
pub fn audit(args: &ServerArgs) -> Result<Option<Arc<Audit>>, Error> {
    let Some(path) = args.api_server_arg("audit-policy-file") else { return Ok(None) };
    let path = PathBuf::from(path);
    let text = std::fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let policy = Policy::parse(&text).map_err(|why| Error::Policy { path, why })?;
    let mut backends = Vec::new();
    if let Some(path) = args.api_server_arg("audit-log-path") {
        let rotation = Rotation {
            bytes_max: number(args, "audit-log-maxsize", 100)? * MEBIBYTE,
            days_max: number(args, "audit-log-maxage", 366)?,
            backups_max: number(args, "audit-log-maxbackup", 100)? as usize,
            compress: word(args, "audit-log-compress", &SWITCH, false)?,
        };
        let legacy = word(args, "audit-log-format", &[("json", false), ("legacy", true)], false)?;
        let (mode, most, buffer) = waiting(args, "log", Mode::Blocking)?;
        let failed = |source| Error::Log { path: path.to_owned(), source };
        let log = Log::open(path, legacy, rotation, SystemTime::now).map_err(failed)?;
        let (backend, jobs, lost) = Backend::new("log", mode, most, buffer);
        let thread = std::thread::Builder::new().name("audit".into());
        thread.spawn(move || log.run(jobs, &lost)).map_err(failed)?;
        backends.push(backend);
    }
    if let Some(path) = args.api_server_arg("audit-webhook-config-file") {
        let (mode, most, buffer) = waiting(args, "webhook", Mode::Batch)?;
        backends.push(Backend::webhook(mode, most, buffer, webhook(args, path)?));
    }
    if backends.is_empty() {
        tracing::warn!("there is an audit policy, but neither a log nor a webhook to tell");
        return Ok(None);
    }
    Ok(Some(Arc::new(Audit::new(policy, Arc::new(Backends(backends))))))
}
