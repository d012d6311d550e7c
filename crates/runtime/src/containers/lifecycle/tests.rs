use super::signal_number;

#[test]
fn signals_by_name() {
    for (name, expect) in [
        ("SIGTERM", Some(15)),
        ("term", Some(15)),
        ("9", Some(9)),
        ("SIGQUIT", Some(3)),
        ("SIGRTMIN+3", Some(37)),
        ("RTMIN", Some(34)),
        ("SIGRTMAX-1", Some(63)),
        ("", None),
        ("0", None),
        ("65", None),
        ("SIGRTMIN+99", None),
        ("SIGNOPE", None),
        ("SIGRTMIN+é", None),
    ] {
        assert_eq!(signal_number(name), expect, "{name}");
    }
}
