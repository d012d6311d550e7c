use super::*;

#[test]
fn flags_are_upstreams() {
    let parse = |flags: &[(&'static str, &'static str)]| {
        Manners::parse(|name| flags.iter().find(|(known, _)| *known == name).map(|(_, value)| *value))
    };
    let Manners { seats, request_timeout, shutdown_delay, .. } = parse(&[]).expect("defaults");
    assert_eq!((seats, request_timeout.as_secs(), shutdown_delay.as_secs()), (600, 60, 0));
    let few = [("max-requests-inflight", "10"), ("max-mutating-requests-inflight", "0")];
    assert_eq!(parse(&few).expect("few").seats, 10);
    let other = [("shutdown-delay-duration", "1m30s"), ("shutdown-send-retry-after", "true")];
    let Manners { shutdown_delay, send_retry_after, .. } = parse(&other).expect("others");
    assert_eq!((shutdown_delay.as_secs(), send_retry_after), (90, true));
    for (flags, why) in [
        (&[("max-requests-inflight", "0"), few[1]][..], "add up"),
        (&[("max-requests-inflight", "-1")], "can not be negative value"),
        (&[("max-requests-inflight", "many")], "invalid argument"),
        (&[("request-timeout", "-1s")], "can not be negative value"),
        (&[("request-timeout", "soon")], "invalid duration"),
        (&[("goaway-chance", "0.5")], "greater than 0.02"),
    ] {
        assert!(parse(flags).is_err_and(|error| error.contains(why)), "{flags:?}");
    }
}
