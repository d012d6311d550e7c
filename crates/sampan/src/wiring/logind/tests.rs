//! A bus that answers as the system's does.

use std::io::{IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::follow;

/// A message without a destination: kind, fields as code, kind and text, and a body.
fn message(kind: u8, fields: &[(u8, u8, &str)], answers: u32, body: &[u8]) -> Vec<u8> {
    let mut list = Vec::new();
    if answers > 0 {
        list.extend([5, 1, b'u', 0]);
        list.extend(answers.to_le_bytes());
    }
    for (code, kind, text) in fields {
        super::align(&mut list, 8);
        list.extend([*code, 1, *kind, 0]);
        super::string(&mut list, text);
    }
    let mut out = vec![b'l', kind, 0, 1];
    for number in [body.len() as u32, 7, list.len() as u32] {
        out.extend(number.to_le_bytes());
    }
    out.extend(list);
    super::align(&mut out, 8);
    out.extend(body);
    out
}

fn read_until(stream: &mut UnixStream, mark: &str) {
    let mut seen = Vec::new();
    let mut byte = [0; 1];
    while !seen.ends_with(mark.as_bytes()) {
        stream.read_exact(&mut byte).expect("more");
        seen.push(byte[0]);
    }
}

#[test]
fn a_shutdown_waits_for_its_lock() {
    let dir = std::env::temp_dir().join(format!("sampan-logind-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let listener = UnixListener::bind(dir.join("bus")).expect("a socket");
    let (mut down, release) = follow(&dir.join("bus"), std::time::Duration::ZERO).expect("a thread");
    let (mut bus, _) = listener.accept().expect("a client");
    read_until(&mut bus, "\r\n");
    bus.write_all(b"OK 1234\r\n").expect("sent");
    read_until(&mut bus, "NEGOTIATE_UNIX_FD\r\n");
    bus.write_all(b"AGREE_UNIX_FD\r\n").expect("sent");
    read_until(&mut bus, "BEGIN\r\n");
    read_until(&mut bus, "Kubelet needs time to handle node shutdown\0");
    read_until(&mut bus, "delay\0");
    // The answer to the third call brings the lock, whose other end tells when it is given back.
    bus.write_all(&message(2, &[], 1, b"")).expect("sent");
    let (ours, lock) = UnixStream::pair().expect("a pair");
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [lock.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let answer = message(2, &[], 3, &[0; 4]);
    sendmsg(&bus, &[IoSlice::new(&answer)], &mut ancillary, SendFlags::empty()).expect("sent");
    drop(lock);
    let signal = |is: u32| {
        message(4, &[(3, b's', "PrepareForShutdown"), (1, b'o', "/org/freedesktop/login1")], 0, &is.to_le_bytes())
    };
    bus.write_all(&signal(1)).expect("sent");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let mut wait = |is: bool| {
        let told =
            async { tokio::time::timeout(Duration::from_secs(10), down.wait_for(|down| *down == is)).await.is_ok() };
        assert!(runtime.block_on(told), "{is}");
    };
    wait(true);
    ours.set_nonblocking(true).expect("set");
    let mut byte = [0; 1];
    let error = (&ours).read(&mut byte).expect_err("the lock is held");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    release();
    assert_eq!((&ours).read(&mut byte).expect("an end"), 0, "it is given back");
    bus.write_all(&signal(0)).expect("sent");
    wait(false);
    read_until(&mut bus, "delay\0");
    std::fs::remove_dir_all(&dir).expect("removed");
}
