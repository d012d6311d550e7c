use std::{ffi::OsString, io::Write};

use super::parse;
use crate::cli::{Cli, Command};

fn parse_with(file: &str, words: &[&str]) -> Result<Cli, String> {
    let mut config = tempfile::NamedTempFile::new().expect("a file");
    config.write_all(file.as_bytes()).expect("writes");
    let name = config.path().as_os_str().to_owned();
    let mut all: Vec<OsString> = vec!["sampan".into()];
    all.extend(words.iter().map(OsString::from));
    parse(all, |_| Some(name.clone())).map_err(|error| error.to_string())
}

fn server(file: &str, words: &[&str]) -> crate::cli::ServerArgs {
    match parse_with(file, &[&["server"], words].concat()).expect("parses").command {
        Command::Server(server) => *server,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_file_sets_flags_and_the_command_line_replaces_them() {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let file = "node-name: a\nnode-label: [x=1, y=2]\nhttps-listen-port: 7443\ndisable-agent: true\ndebug: false\n";
    let args = server(file, &[]);
    assert_eq!((args.node.node_name.as_deref(), args.https_listen_port, args.disable_agent), (Some("a"), 7443, true));
    assert_eq!(args.node.node_label, [pair("x", "1"), pair("y", "2")]);
    let args = server(file, &["--node-name=b", "--node-label", "z=3"]);
    assert_eq!(args.node.node_name.as_deref(), Some("b"));
    assert_eq!(args.node.node_label, [pair("z", "3")]);
    let args = server("node-label+: [x=1]\n", &["--node-label", "z=3"]);
    assert_eq!(args.node.node_label, [pair("x", "1"), pair("z", "3")]);
}

#[test]
fn mistakes_are_named_all_at_once() {
    for (file, words, expected) in [
        ("colour: red\nshape: round\n", &[][..], "unknown flag `colour`; unknown flag `shape`"),
        ("node-name: {a: b}\n", &[], "`node-name` must be a string"),
        ("- a\n", &[], "expected `flag: value` lines"),
        ("node-name: [a\n", &[], "line"),
        ("", &["--https-listen-port=x"], "--https-listen-port"),
        ("", &["--no-such-flag"], "--no-such-flag"),
    ] {
        let error = parse_with(file, &[&["server"], words].concat()).expect_err("a mistake");
        assert!(error.contains(expected), "{file:?} {words:?}: {error}");
    }
}

#[test]
fn a_named_file_must_be_there() {
    let words = ["sampan", "server", "--config", "/nonexistent/config.yaml"].map(OsString::from).to_vec();
    let error = parse(words, |_| None).expect_err("a mistake").to_string();
    assert!(error.contains("/nonexistent/config.yaml"), "{error}");
}
