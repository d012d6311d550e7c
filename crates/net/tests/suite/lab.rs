//! Network namespaces for tests: a node with pods, and clients outside of it. Everything goes with the value.

use std::fs::File;
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use net::io::netns::Netns;

/// Tests of the kernel need root; without it they say so and pass.
pub fn root() -> bool {
    // SAFETY: no arguments.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// A directory that is removed at the end.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sampan-net-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A network namespace pinned by a bind mount.
pub struct Space {
    pub path: PathBuf,
    netns: Netns,
}

impl Space {
    pub fn new(directory: &Directory, name: &str) -> Self {
        let path = directory.0.join(name);
        File::create(&path).unwrap();
        let target = path.clone();
        std::thread::spawn(move || {
            let cstring = |p: &Path| std::ffi::CString::new(p.to_str().unwrap()).unwrap();
            let (from, to) = (cstring(Path::new("/proc/thread-self/ns/net")), cstring(&target));
            // SAFETY: the strings live past the calls; the thread ends right after.
            unsafe {
                assert_eq!(libc::unshare(libc::CLONE_NEWNET), 0, "unshare");
                let none = std::ptr::null();
                let mounted = libc::mount(from.as_ptr(), to.as_ptr(), none, libc::MS_BIND, none.cast());
                assert_eq!(mounted, 0, "bind mount");
            }
        })
        .join()
        .unwrap();
        let netns = Netns::open(&path).unwrap();
        Space { path, netns }
    }

    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.run(|| Ok(work())).unwrap()
    }

    /// A command inside, as `ip` or `nft`; its output.
    pub fn command(&self, line: &str) -> String {
        self.run(|| {
            let output = Command::new("sh").args(["-c", line]).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{line}: {}{text}", String::from_utf8_lossy(&output.stderr));
            text
        })
    }

    /// Repeats a command until it succeeds.
    pub fn wait_for(&self, line: &str) {
        let done = || self.run(|| Command::new("sh").args(["-c", line]).status().unwrap().success());
        let tried = (0..200).find(|_| {
            let done = done();
            if !done {
                std::thread::sleep(Duration::from_millis(20));
            }
            done
        });
        assert!(tried.is_some(), "{line}");
    }

    /// A TCP server that answers every connection with `name` and the client's address.
    pub fn serve_tcp(&self, at: (IpAddr, u16), name: &str) {
        let name = name.to_owned();
        let listener = self.run(|| TcpListener::bind(at).unwrap());
        std::thread::spawn(move || {
            use std::io::Write;
            for mut stream in listener.incoming().flatten() {
                let peer = stream.peer_addr().unwrap().ip();
                let _ = write!(stream, "{name} {peer}");
            }
        });
    }

    pub fn serve_udp(&self, at: (IpAddr, u16), name: &str) {
        let name = name.to_owned();
        let socket = self.run(|| UdpSocket::bind(at).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
            }
        });
    }

    /// What a TCP server says, or why not: `refused`, `timeout`, …
    pub fn tcp(&self, to: (IpAddr, u16)) -> String {
        self.run(|| {
            use std::io::Read;
            match TcpStream::connect_timeout(&to.into(), Duration::from_millis(700)) {
                Ok(mut stream) => {
                    let mut text = String::new();
                    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                    stream.read_to_string(&mut text).map_or_else(|e| reason(&e), |_| text)
                }
                Err(e) => reason(&e),
            }
        })
    }

    pub fn udp_socket(&self) -> UdpSocket {
        self.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
            socket
        })
    }
}

pub fn ask(socket: &UdpSocket, to: (IpAddr, u16)) -> String {
    let mut buffer = [0; 64];
    let answer = socket.send_to(b"?", to).and_then(|_| socket.recv_from(&mut buffer));
    answer.map_or_else(|e| reason(&e), |(n, _)| String::from_utf8_lossy(&buffer[..n]).into_owned())
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "refused".into(),
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => "timeout".into(),
        _ => error.to_string(),
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let path = std::ffi::CString::new(self.path.to_str().unwrap()).unwrap();
        // SAFETY: the string lives past the call.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}
