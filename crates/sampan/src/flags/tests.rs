//! What flags take and what they refuse.

use super::{api_server_arg, cidr, label, log, mode, part, port_range, taint};

#[test]
fn values_are_what_they_say() {
    assert_eq!(api_server_arg("--anonymous-auth=false"), Ok(("anonymous-auth".to_owned(), "false".to_owned())));
    assert_eq!(api_server_arg("anonymous-auth"), Ok(("anonymous-auth".to_owned(), "true".to_owned())));
    assert_eq!(label("a/b=c=d"), Ok(("a/b".to_owned(), "c=d".to_owned())));
    let taint = taint("a:NoExecute").expect("a taint");
    assert_eq!((&*taint.key, &*taint.value, &*taint.effect), ("a", "", "NoExecute"));
    assert_eq!(port_range("1-5"), Ok(1..=5));
    assert_eq!(mode("644"), Ok(0o644));
    assert_eq!(part("coredns").as_deref(), Ok("dns"));
}

#[test]
fn others_are_refused() {
    type Parser = fn(&str) -> bool;
    let parsers: [(Parser, &[&str]); 8] = [
        (|text| api_server_arg(text).is_err(), &["", "no-such=1"]),
        (|text| label(text).is_err(), &["a", "=b"]),
        (|text| taint(text).is_err(), &["a", "a=b", "a=b:Never"]),
        (|text| cidr(text).is_err(), &["10.42", "10.42.0.0/33", "everything"]),
        (|text| port_range(text).is_err(), &["5", "0-5", "7-5", "1-70000"]),
        (|text| mode(text).is_err(), &["999", "7777", "rw"]),
        (|text| part(text).is_err(), &["servicelbb", ""]),
        (|text| log(text).is_err(), &["a=b=c"]),
    ];
    for (refuses, texts) in parsers {
        texts.iter().for_each(|text| assert!(refuses(text), "{text}"));
    }
}
