//! How the API's port treats its clients, in kube-apiserver's flags and defaults.

use std::str::FromStr;

pub struct Manners {
    /// Requests that are worked on at a time.
    pub seats: u64,
}

impl Manners {
    /// `get` gives a flag's value, if it was given. Fails in upstream's words.
    pub fn parse<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Manners, String> {
        let seats = number(&get, "max-requests-inflight", 400u32)?;
        let more = number(&get, "max-mutating-requests-inflight", 200u32)?;
        if seats == 0 && more == 0 {
            return Err(
                "--max-requests-inflight and --max-mutating-requests-inflight must add up to more than 0".into()
            );
        }
        Ok(Manners { seats: u64::from(seats) + u64::from(more) })
    }
}

fn number<'a, T: FromStr>(get: &impl Fn(&str) -> Option<&'a str>, name: &str, default: T) -> Result<T, String> {
    let Some(text) = get(name) else { return Ok(default) };
    if text.starts_with('-') {
        return Err(format!("--{name} can not be negative value"));
    }
    text.parse().map_err(|_| format!("invalid argument {text:?} for \"--{name}\" flag: expected a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_upstreams() {
        let parse = |flags: &[(&'static str, &'static str)]| {
            Manners::parse(|name| flags.iter().find(|(known, _)| *known == name).map(|(_, value)| *value))
        };
        assert_eq!(parse(&[]).map(|manners| manners.seats), Ok(600));
        let few = [("max-requests-inflight", "10"), ("max-mutating-requests-inflight", "0")];
        assert_eq!(parse(&few).map(|manners| manners.seats), Ok(10));
        for (flags, why) in [
            (&[("max-requests-inflight", "0"), few[1]][..], "add up"),
            (&[("max-requests-inflight", "-1")], "can not be negative value"),
            (&[("max-requests-inflight", "many")], "invalid argument"),
        ] {
            assert!(parse(flags).is_err_and(|error| error.contains(why)), "{flags:?}");
        }
    }
}
