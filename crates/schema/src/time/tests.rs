use super::*;

#[test]
fn times_go_both_ways() {
    for (text, seconds, nanos, printed) in [
        ("1970-01-01T00:00:00Z", 0, 0, "1970-01-01T00:00:00Z"),
        ("2026-11-22T17:46:12Z", 1_795_369_572, 0, "2026-11-22T17:46:12Z"),
        ("2000-02-29T23:59:59.25+01:30", 951_863_399, 250_000_000, "2000-02-29T22:29:59Z"),
        ("1969-12-31T23:59:59-00:01", 59, 0, "1970-01-01T00:00:59Z"),
        ("0001-01-01T00:00:00Z", ZERO, 0, "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59Z", 253_402_300_799, 0, "9999-12-31T23:59:59Z"),
    ] {
        assert_eq!(parse(text), Some((seconds, nanos)), "{text}");
        assert_eq!(format(seconds), printed, "{text}");
    }
    assert_eq!(format_micro(0, 1_500), "1970-01-01T00:00:00.000001Z");
    for bad in [
        "", "2026-11-22", "2026-02-29T00:00:00Z", "2026-11-22T24:00:00Z", "2026-11-22T00:00:00",
        "2026-11-22t00:00:00Z", "2026-11-22T00:00:00.Z", "2026-11-22T00:00:00Zx",
    ] {
        assert_eq!(parse(bad), None, "{bad}");
    }
}

#[test]
fn durations_go_both_ways() {
    for (text, nanos, printed) in [
        ("0", 0, "0s"),
        ("1h2m3.5s", 3_723_500_000_000, "1h2m3.5s"),
        ("90s", 90_000_000_000, "1m30s"),
        ("-1.5h", -5_400_000_000_000, "-1h30m0s"),
        ("1500us", 1_500_000, "1.5ms"),
        ("7ns", 7, "7ns"),
        ("2µs", 2_000, "2µs"),
        (".5s", 500_000_000, "500ms"),
    ] {
        assert_eq!(parse_duration(text), Some(nanos), "{text}");
        assert_eq!(format_duration(nanos), printed, "{text}");
    }
    for bad in ["", "1", "s", "1x", ".s", "1.2.3s", "9999999999h", "+", "1h-2m"] {
        assert_eq!(parse_duration(bad), None, "{bad}");
    }
}
