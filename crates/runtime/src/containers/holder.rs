//! A pod's keeper as seen from here: started, asked, listened to.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::error::{At, Error, Result};
use super::packets::{receive_packet, send_packet};
use super::wire;
use crate::lock;

/// The keeper itself, built by this crate's build script.
pub const KEEPER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/keeper"));
const SOCKET: &str = "keeper.sock";

/// The keeper's program as a descriptor that no container can write through: it is opened on a read-only mount that
/// exists nowhere (a container can reach its own `/proc/self/exe`, CVE-2019-5736).
pub struct Program(OwnedFd);

impl Program {
    /// Puts the program into `dir`, unless it is there, and opens it.
    pub fn install(dir: &Path) -> Result<Program> {
        let name = format!("keeper-{:016x}", fnv(KEEPER));
        let path = dir.join(&name);
        if std::fs::metadata(&path).map(|m| m.len()).unwrap_or(0) != KEEPER.len() as u64 {
            let part = dir.join(format!("{name}.{}", std::process::id()));
            std::fs::write(&part, KEEPER).at("write the keeper to", &part)?;
            set_executable(&part).at("make executable", &part)?;
            std::fs::rename(&part, &path).at("install the keeper as", &path)?;
        }
        for old in std::fs::read_dir(dir).at("list", dir)?.flatten() {
            if old.file_name().to_string_lossy().starts_with("keeper-") && old.file_name() != name.as_str() {
                let _ = std::fs::remove_file(old.path()); // running ones keep their file
            }
        }
        open_read_only(dir, &name).at("open the keeper in", path).map(Program)
    }

    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ *b as u64).wrapping_mul(0x100_0000_01b3))
}

fn set_executable(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

fn open_read_only(dir: &Path, name: &str) -> io::Result<OwnedFd> {
    let cstring =
        |bytes: &[u8]| std::ffi::CString::new(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let (dir, name) = (cstring(dir.as_os_str().as_encoded_bytes())?, cstring(name.as_bytes())?);
    let fd = |result: libc::c_long| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) };
    // SAFETY: the strings outlive the calls; each successful call gives a new descriptor.
    unsafe {
        let flags = 1u32 | libc::O_CLOEXEC as u32; // OPEN_TREE_CLONE
        let tree = OwnedFd::from_raw_fd(fd(libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, dir.as_ptr(), flags))?);
        let read_only = [1u64, 0, 0, 0]; // MOUNT_ATTR_RDONLY
        let (empty, size, at) = (c"".as_ptr(), std::mem::size_of_val(&read_only), libc::AT_EMPTY_PATH);
        fd(libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), empty, at, read_only.as_ptr(), size))?;
        let opened = libc::openat(tree.as_raw_fd(), name.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        Ok(OwnedFd::from_raw_fd(fd(opened as _)?))
    }
}

/// Starts a keeper and returns when the pod's namespaces exist. Blocks for a few milliseconds.
pub fn launch(program: &Program, sandbox: &str, options: &[String]) -> Result<()> {
    let fail = |message: String| Error::Keeper { sandbox: sandbox.to_string(), message };
    let mut command = Command::new(format!("/proc/self/fd/{}", program.fd()));
    command.arg("hold").args(options).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let output = command.output().map_err(|e| fail(e.to_string()))?;
    match String::from_utf8_lossy(&output.stdout).as_ref() {
        "ok" => Ok(()),
        "" => Err(fail("ended without a word".into())),
        message => Err(fail(message.to_string())),
    }
}

/// Whether pods with user namespaces can have their files in `dir`; if not, why.
pub fn probe(program: &Program, dir: &Path) -> Result<(), String> {
    let mut command = Command::new(format!("/proc/self/fd/{}", program.fd()));
    command.arg("probe").arg(dir).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
    let output = command.output().map_err(|e| e.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_string()) }
}

/// A reply's fields after `ok`, and descriptors.
pub struct Reply {
    pub fields: Vec<Vec<u8>>,
    pub fds: Vec<OwnedFd>,
}

impl Reply {
    pub fn number<T: std::str::FromStr + Default>(&self, n: usize) -> T {
        self.fields.get(n).and_then(|f| wire::number(f)).unwrap_or_default()
    }
}

/// What a keeper tells unasked.
#[derive(Debug, Clone)]
pub struct Ended {
    pub id: String,
    pub code: i32,
    pub signal: i32,
    pub oom: bool,
    pub finished_at: u64,
}

type Waiting = Option<HashMap<u32, oneshot::Sender<Result<Reply, String>>>>;

/// The connection to one keeper.
pub struct Holder {
    socket: AsyncFd<OwnedFd>,
    next: AtomicU32,
    /// `None` once the keeper is gone.
    waiting: Mutex<Waiting>,
    pub pid: AtomicU32,
}

impl Holder {
    /// Connects to the keeper of the pod whose run directory this is. Must be called in a tokio runtime.
    pub fn connect(dir: &Path) -> io::Result<Arc<Holder>> {
        let socket = connect(dir)?;
        let pid = peer_pid(socket.as_raw_fd());
        // SAFETY: the descriptor is owned by the AsyncFd, which never gives it away.
        let socket = unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)?;
        Ok(Arc::new(Holder {
            socket,
            next: AtomicU32::new(1),
            waiting: Mutex::new(Some(HashMap::new())),
            pid: AtomicU32::new(pid),
        }))
    }

    /// Reads until the keeper is gone, handing exits to `ended`.
    pub async fn listen(self: Arc<Self>, ended: impl Fn(Ended)) {
        let mut buffer = vec![0u8; 1024];
        loop {
            let mut fds = Vec::new();
            let Ok(mut ready) = self.socket.readable().await else { break };
            let n = match ready.try_io(|fd| receive_packet(fd.as_raw_fd(), &mut buffer, &mut fds)) {
                Err(_) => continue,
                Ok(Err(e)) if e.raw_os_error() == Some(libc::EMSGSIZE) && buffer.len() < wire::MAX_MESSAGE => {
                    // A list of many containers.
                    buffer.resize(wire::MAX_MESSAGE, 0);
                    continue;
                }
                Ok(Err(_)) | Ok(Ok(0)) => break,
                Ok(Ok(n)) => n,
            };
            let Some((id, fields)) = wire::decode(&buffer[..n]) else { break };
            if id != 0 {
                let waiter = lock(&self.waiting).as_mut().and_then(|waiting| waiting.remove(&id));
                let owned = |fields: &[&[u8]]| fields.iter().map(|f| f.to_vec()).collect();
                let reply = match fields[0] {
                    b"ok" => Ok(Reply { fields: owned(&fields[1..]), fds }),
                    _ => Err(fields.get(1).map(|f| String::from_utf8_lossy(f).into_owned()).unwrap_or_default()),
                };
                if let Some(waiter) = waiter {
                    let _ = waiter.send(reply);
                }
            } else if let [b"exit", id, code, signal, oom, at, ..] = fields[..] {
                ended(Ended {
                    id: String::from_utf8_lossy(id).into_owned(),
                    code: wire::number(code).unwrap_or(255),
                    signal: wire::number(signal).unwrap_or(0),
                    oom: oom == b"1",
                    finished_at: wire::number(at).unwrap_or(0),
                });
            }
        }
        *lock(&self.waiting) = None;
    }

    /// Asks and waits for the answer.
    pub async fn ask(&self, operation: &'static str, fields: &[&[u8]], fds: &[RawFd]) -> Result<Reply> {
        let id = self.next.fetch_add(1, Ordering::Relaxed).max(1);
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting).as_mut().ok_or(Error::Gone(operation))?.insert(id, sender);
        let all: Vec<&[u8]> = [operation.as_bytes()].iter().chain(fields).copied().collect();
        let message = wire::encode(id, &all);
        self.socket
            .async_io(Interest::WRITABLE, |fd| send_packet(fd.as_raw_fd(), &message, fds))
            .await
            .map_err(|_| Error::Gone(operation))?;
        let subject = || fields.first().map(|f| String::from_utf8_lossy(f).into_owned()).unwrap_or_default();
        match receiver.await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(message)) => Err(Error::Refused { operation, id: subject(), message }),
            Err(_) => Err(Error::Gone(operation)),
        }
    }
}

fn connect(dir: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    // Through a descriptor: an address has only 108 bytes.
    let dir = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(dir)?;
    let path: PathBuf = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()).into();
    // SAFETY: a new descriptor; the address is a plain value of the size given.
    unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_un = std::mem::zeroed();
        address.sun_family = libc::AF_UNIX as _;
        for (to, from) in address.sun_path.iter_mut().zip(path.as_os_str().as_encoded_bytes()) {
            *to = *from as _;
        }
        if libc::connect(fd, (&raw const address).cast(), size_of_val(&address) as _) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(socket)
    }
}

fn peer_pid(socket: RawFd) -> u32 {
    // SAFETY: the kernel writes at most the structure's size.
    unsafe {
        let mut peer: libc::ucred = std::mem::zeroed();
        let mut length = size_of_val(&peer) as libc::socklen_t;
        libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &mut length);
        peer.pid.max(0) as u32
    }
}
