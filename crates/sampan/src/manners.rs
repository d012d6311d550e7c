//! How the API's port treats its clients, in kube-apiserver's flags and defaults.

use std::str::FromStr;
use std::time::Duration;

use crate::listen;

#[derive(Debug)]
pub struct Manners {
    /// Requests that are worked on at a time.
    pub seats: u64,
    pub request_timeout: Duration,
    /// So many of all HTTP/2 requests end their connection, for a balancer's sake.
    pub goaway_chance: f64,
    pub streams: u32,
    /// From the wish to stop until requests are refused.
    pub shutdown_delay: Duration,
    /// Until all is done, clients are told to come again instead of being turned away.
    pub send_retry_after: bool,
}

impl Manners {
    /// `get` gives a flag's value, if it was given. Fails in upstream's words.
    pub fn parse<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Manners, String> {
        let reading = number(&get, "max-requests-inflight", 400u32)?;
        let writing = number(&get, "max-mutating-requests-inflight", 200u32)?;
        let goaway_chance = number(&get, "goaway-chance", 0.0)?;
        if !(0.0..=0.02).contains(&goaway_chance) {
            return Err("--goaway-chance can not be less than 0 or greater than 0.02".into());
        }
        if reading == 0 && writing == 0 {
            return Err(
                "--max-requests-inflight and --max-mutating-requests-inflight must add up to more than 0".into()
            );
        }
        Ok(Manners {
            seats: u64::from(reading) + u64::from(writing),
            request_timeout: duration(&get, "request-timeout", Duration::from_secs(60))?,
            goaway_chance,
            streams: match number(&get, "http2-max-streams-per-connection", 0)? {
                0 => listen::STREAMS,
                streams => streams,
            },
            shutdown_delay: duration(&get, "shutdown-delay-duration", Duration::ZERO)?,
            send_retry_after: number(&get, "shutdown-send-retry-after", false)?,
        })
    }
}

fn number<'a, T: FromStr>(get: &impl Fn(&str) -> Option<&'a str>, name: &str, default: T) -> Result<T, String> {
    let Some(text) = get(name) else { return Ok(default) };
    if text.starts_with('-') && name != "goaway-chance" {
        return Err(format!("--{name} can not be negative value"));
    }
    text.parse().map_err(|_| format!("invalid argument {text:?} for \"--{name}\" flag"))
}

fn duration<'a>(get: &impl Fn(&str) -> Option<&'a str>, name: &str, default: Duration) -> Result<Duration, String> {
    let Some(text) = get(name) else { return Ok(default) };
    let nanos = schema::time::parse_duration(text)
        .ok_or_else(|| format!("invalid argument {text:?} for \"--{name}\" flag: time: invalid duration {text:?}"))?;
    let nanos = u64::try_from(nanos).map_err(|_| format!("--{name} can not be negative value"))?;
    Ok(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests;
