//! Containers on the real kernel: each test is a pod or several, made by the runtime as Sampan makes them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests

mod basics;
mod bench;
mod escapes;
mod isolation;
mod restart;
mod streams;
mod users;

/// `server DIR` is the process that the restart tests kill: it starts a pod and waits.
#[test]
#[ignore = "started by the tests in restart.rs"]
fn server() {
    restart::serve();
}
