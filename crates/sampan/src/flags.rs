//! Values of flags that are more than words: parsed before anything else happens; clap says which flag a mistake is in.

use std::ops::RangeInclusive;

use net::ruleset::Cidr;
use schema::api::core::v1::Taint;

/// What `--kube-apiserver-arg` takes of kube-apiserver's flags besides those of [`crate::who`].
#[rustfmt::skip]
const API_SERVER_ARGS: &[&str] = &[
    "audit-log-batch-buffer-size", "audit-log-compress", "audit-log-format", "audit-log-maxage",
    "audit-log-maxbackup", "audit-log-maxsize", "audit-log-mode", "audit-log-path", "audit-log-truncate-enabled",
    "audit-log-truncate-max-batch-size", "audit-log-truncate-max-event-size", "audit-log-version",
    "audit-policy-file", "audit-webhook-batch-buffer-size", "audit-webhook-batch-max-size",
    "audit-webhook-batch-max-wait", "audit-webhook-batch-throttle-burst", "audit-webhook-batch-throttle-enable",
    "audit-webhook-batch-throttle-qps", "audit-webhook-config-file", "audit-webhook-initial-backoff",
    "audit-webhook-mode", "audit-webhook-truncate-enabled", "audit-webhook-truncate-max-batch-size",
    "audit-webhook-truncate-max-event-size", "audit-webhook-version", "encryption-provider-config",
    "encryption-provider-config-automatic-reload", "goaway-chance", "http2-max-streams-per-connection",
    "max-mutating-requests-inflight", "max-requests-inflight", "request-timeout", "shutdown-delay-duration",
    "shutdown-send-retry-after",
];

/// One of kube-apiserver's flags: `NAME=VALUE`; a name alone is a switch that is on.
pub fn api_server_arg(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.trim_start_matches('-').split_once('=').unwrap_or((text.trim_start_matches('-'), "true"));
    if !crate::who::FLAGS.contains(&name) && !API_SERVER_ARGS.contains(&name) {
        return Err(format!("known are {}, {}", crate::who::FLAGS.join(", "), API_SERVER_ARGS.join(", ")));
    }
    Ok((name.to_owned(), value.to_owned()))
}

pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| "expected KEY=VALUE".to_owned())?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `KEY=VALUE:EFFECT` or `KEY:EFFECT`.
pub fn taint(text: &str) -> Result<Taint, String> {
    let known = |effect: &&str| matches!(*effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute");
    let (pair, effect) = text.rsplit_once(':').filter(|(_, effect)| known(effect)).ok_or_else(|| {
        "expected KEY=VALUE:EFFECT with the effect NoSchedule, PreferNoSchedule or NoExecute".to_owned()
    })?;
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    Ok(Taint { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned(), ..Taint::default() })
}

/// Kept as it was written.
pub fn cidr(text: &str) -> Result<String, String> {
    let parsed: Result<Cidr, _> = text.parse();
    parsed.map(|_| text.to_owned()).map_err(|_| "expected ADDRESS/BITS, such as 10.42.0.0/16".to_owned())
}

/// `30000-32767`.
pub fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let range = text.split_once('-').and_then(|(first, last)| Some(first.parse().ok()?..=last.parse().ok()?));
    let range = range.filter(|range: &RangeInclusive<u16>| *range.start() > 0 && !range.is_empty());
    range.ok_or_else(|| "expected FIRST-LAST, such as 30000-32767".to_owned())
}

/// `unix:///run/some.sock`, or its path alone.
pub fn socket(text: &str) -> Result<std::path::PathBuf, String> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if path.starts_with('/') { Ok(path.into()) } else { Err("expected unix:///PATH".to_owned()) }
}

/// An octal mode: `0600`, `644`.
pub fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "expected an octal mode, such as 0600".to_owned())
}

/// A part that can be left out, or one of k3s's that is not there anyway.
pub fn part(text: &str) -> Result<String, String> {
    match text {
        "coredns" => Ok("dns".to_owned()),
        "servicelb" | "dns" | "network-policy" => Ok(text.to_owned()),
        "traefik" | "local-storage" | "metrics-server" | "runtimes" => Ok(text.to_owned()),
        _ => Err("known are servicelb, dns and network-policy".to_owned()),
    }
}

pub fn log(text: &str) -> Result<String, String> {
    let filter = tracing_subscriber::EnvFilter::try_new(text);
    filter.map(|_| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
