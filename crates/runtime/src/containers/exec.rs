//! Into a running pod: exec, attach, port-forward.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ::streams::{Stdio, Writer};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, copy};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

use super::error::{At, Error, Result};
use super::holder::Ended;
use super::lifecycle::{blocking, expect_state};
use super::spec::Field;
use super::streams::{Input, Output, Terminal, input, output};
use super::*;

/// What `exec_sync` keeps of each stream, as upstream.
const MAX_SYNC_OUTPUT: u64 = 16 << 20;
/// After the process has ended, another may hold its output open: what is there by then is taken.
const DRAIN_PATIENCE: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    pub command: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

#[derive(Debug)]
pub struct ExecOutput {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// A process that was started by an exec, or a container that somebody is attached to.
pub struct Process {
    pub stdin: Option<Input>,
    pub stdout: Option<Output>,
    /// Never with a terminal.
    pub stderr: Option<Output>,
    pub terminal: Option<Terminal>,
    holder: Arc<Holder>,
    id: String,
    end: End,
}

enum End {
    Exec(oneshot::Receiver<Ended>),
    Container(watch::Receiver<Live>),
}

impl Process {
    /// The exit code; 137 if it was killed.
    pub async fn wait(&mut self) -> Result<i32> {
        match &mut self.end {
            End::Exec(ended) => ended.await.map(|e| e.code).map_err(|_| Error::Gone("exec")),
            End::Container(live) => {
                let ended = live.wait_for(|l| l.exit.is_some()).await.map_err(|_| Error::Gone("attach"))?;
                Ok(ended.exit.as_ref().map_or(255, |e| e.code))
            }
        }
    }

    /// Connects the process with `stdio`: an exec until it ends (its exit code), an attachment until its streams do.
    pub async fn join(&mut self, stdio: Stdio, until_exit: bool) -> Result<i32> {
        let Stdio { stdin, stdout, stderr, resize, .. } = stdio;
        let terminal = self.terminal.clone();
        let sizes = async move {
            if let (Some(terminal), Some(mut resize)) = (terminal, resize) {
                while let Some((width, height)) = resize.recv().await {
                    let _ = terminal.resize(height, width);
                }
            }
            std::future::pending::<()>().await
        };
        let input = self.stdin.take();
        let feed = async move {
            if let (Some(mut from), Some(mut to)) = (stdin, input) {
                let _ = copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            }
            std::future::pending::<()>().await
        };
        let (out, err) = (self.stdout.take(), self.stderr.take());
        let outputs = async move {
            let pump = |from: Option<Output>, to: Option<Writer>| async move {
                if let (Some(mut from), Some(mut to)) = (from, to) {
                    let _ = copy(&mut from, &mut to).await;
                    let _ = to.flush().await;
                }
            };
            tokio::join!(pump(out, stdout), pump(err, stderr));
        };
        tokio::select! {
            () = sizes => Ok(0),
            () = feed => Ok(0),
            code = async {
                outputs.await;
                if until_exit { self.wait().await } else { Ok(0) }
            } => code,
        }
    }

    pub async fn signal(&self, signal: i32) -> Result<()> {
        self.holder.ask("signal", &[self.id.as_bytes(), signal.to_string().as_bytes()], &[]).await.map(drop)
    }

    /// For an attached container: its input is at its end (`stdinOnce`).
    pub async fn close_stdin(&mut self) -> Result<()> {
        self.stdin = None;
        match self.end {
            End::Exec(_) => Ok(()),
            End::Container(_) => self.holder.ask("close-stdin", &[self.id.as_bytes()], &[]).await.map(drop),
        }
    }
}

impl Runtime {
    /// Starts a process in a running container.
    pub async fn exec(&self, id: &str, request: ExecRequest) -> Result<Process> {
        let container = self.0.container(id)?;
        expect_state(&container, ContainerState::Running)?;
        let holder = container.pod.holder()?;
        let (inner, owner, command) = (self.0.clone(), container.clone(), request.command.clone());
        let tty = request.tty;
        let spec = blocking(move || {
            let config = owner.config();
            let exec = spec::Exec {
                cgroup: inner.cgroups.entry(&owner.cgroup()),
                oom_score_adj: Some(resolve::oom_score_adj(&config)),
                process: resolve::process(&inner.options, &inner.filters, &owner.pod.config, &config, &command, tty)?,
            };
            let mut encoded = Vec::new();
            exec.put(&mut encoded);
            packets::memory_file(&encoded).at("make", "memory file of the spec")
        })
        .await?;
        let exec_id = new_id();
        let mut fields = vec![exec_id.clone(), format!("container={id}")];
        let mut theirs: Vec<OwnedFd> = Vec::new();
        let (mut stdin, mut stdout, mut stderr) = (None, None, None);
        if tty {
            fields.push("tty=1".into());
        } else {
            let pipes = || packets::pipe().at("make", "pipe");
            if request.stdin {
                let (read, write) = pipes()?;
                theirs.push(read);
                stdin = Some(input(write).at("use", "pipe")?);
                fields.push("in=1".into());
            }
            for (on, key, end) in [(request.stdout, "out=1", &mut stdout), (request.stderr, "err=1", &mut stderr)] {
                if on {
                    let (read, write) = pipes()?;
                    theirs.push(write);
                    *end = Some(output(read).at("use", "pipe")?);
                    fields.push(key.into());
                }
            }
        }
        let (sender, receiver) = oneshot::channel();
        lock(&self.0.execs).insert(exec_id.clone(), sender);
        let fields: Vec<&[u8]> = fields.iter().map(|f| f.as_bytes()).collect();
        let fds: Vec<_> =
            [self.0.program.fd(), spec.as_raw_fd()].into_iter().chain(theirs.iter().map(|fd| fd.as_raw_fd())).collect();
        let reply = holder.ask("exec", &fields, &fds).await;
        drop(theirs);
        let mut reply = reply.inspect_err(|_| drop(lock(&self.0.execs).remove(&exec_id)))?;
        let terminal = match reply.fds.pop() {
            Some(master) if tty => Some(Terminal::new(master).at("use", "terminal")?),
            _ => None,
        };
        if let Some(terminal) = &terminal {
            stdin = request.stdin.then(|| Box::pin(terminal.clone()) as Input);
            stdout = request.stdout.then(|| Box::pin(terminal.clone()) as Output);
        }
        Ok(Process { stdin, stdout, stderr, terminal, holder, id: exec_id, end: End::Exec(receiver) })
    }

    /// Runs a command in a container to its end; killed after `timeout`.
    pub async fn exec_sync(&self, id: &str, command: &[String], timeout: Option<Duration>) -> Result<ExecOutput> {
        let request = ExecRequest { command: command.to_vec(), stdout: true, stderr: true, ..ExecRequest::default() };
        let mut process = self.exec(id, request).await?;
        let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut reading = Box::pin(async {
            let (a, b) = tokio::join!(read_limited(stdout, &mut out), read_limited(stderr, &mut err));
            a.and(b)
        });
        let running = async {
            tokio::select! {
                code = process.wait() => {
                    let _ = tokio::time::timeout(DRAIN_PATIENCE, &mut reading).await;
                    code
                }
                read = &mut reading => {
                    read.at("read the output of", id)?;
                    process.wait().await
                }
            }
        };
        let code = match timeout {
            None => running.await?,
            Some(limit) => match tokio::time::timeout(limit, running).await {
                Ok(code) => code?,
                Err(_) => {
                    let _ = process.signal(libc::SIGKILL).await;
                    return Err(Error::Timeout { command: command.join(" "), seconds: limit.as_secs() });
                }
            },
        };
        drop(reading);
        Ok(ExecOutput { code, stdout: out, stderr: err })
    }

    /// Joins a running container's stdio.
    pub async fn attach(&self, id: &str, stdin: bool, stdout: bool, stderr: bool) -> Result<Process> {
        let container = self.0.container(id)?;
        expect_state(&container, ContainerState::Running)?;
        let (holder, config) = (container.pod.holder()?, container.config());
        let live = container.live.subscribe();
        let mut fields = vec![id.to_string()];
        let mut theirs: Vec<OwnedFd> = Vec::new();
        let (mut out, mut err) = (None, None);
        for (on, key, end) in [(stdout, "out=1", &mut out), (stderr && !config.tty, "err=1", &mut err)] {
            if on {
                let (read, write) = packets::pipe().at("make", "pipe")?;
                theirs.push(write);
                *end = Some(output(read).at("use", "pipe")?);
                fields.push(key.into());
            }
        }
        if stdin && (config.stdin || config.tty) {
            fields.push("in=1".into());
        }
        let fields: Vec<&[u8]> = fields.iter().map(|f| f.as_bytes()).collect();
        let fds: Vec<_> = theirs.iter().map(|fd| fd.as_raw_fd()).collect();
        let mut reply = holder.ask("attach", &fields, &fds).await?;
        drop(theirs);
        let mut terminal = None;
        let stdin = match reply.fds.pop() {
            Some(fd) if config.tty => {
                let master = Terminal::new(fd).at("use", "terminal")?;
                terminal = Some(master.clone());
                Some(Box::pin(master) as Input)
            }
            Some(fd) if config.stdin_once => {
                let inner = input(fd).at("use", "pipe")?;
                Some(Box::pin(OnceInput { inner, holder: holder.clone(), id: id.to_string() }) as Input)
            }
            Some(fd) => Some(input(fd).at("use", "pipe")?),
            None => None,
        };
        Ok(Process { stdin, stdout: out, stderr: err, terminal, holder, id: id.to_string(), end: End::Container(live) })
    }

    /// Connects to a port on the pod's loopback.
    pub async fn port_forward(&self, sandbox: &str, port: u16) -> Result<TcpStream> {
        let holder = self.0.pod(sandbox)?.holder()?;
        let mut last = io::Error::from(io::ErrorKind::ConnectionRefused);
        let loopbacks = [
            ("4", SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            ("6", SocketAddr::from((Ipv6Addr::LOCALHOST, port))),
        ];
        for (family, address) in loopbacks {
            // A socket of the pod's network namespace: the keeper makes it, we connect it.
            let Some(fd) = holder.ask("socket", &[family.as_bytes()], &[]).await?.fds.pop() else { continue };
            match TcpSocket::from_std_stream(fd.into()).connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(e) => last = e,
            }
        }
        Err(last).at("connect to port", format!("{port} of sandbox {sandbox}"))
    }
}

/// The input of a `stdinOnce` container: its end is the container's end of input, for the keeper holds the pipe, too.
struct OnceInput {
    inner: Input,
    holder: Arc<Holder>,
    id: String,
}

impl AsyncWrite for OnceInput {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.inner.as_mut().poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.as_mut().poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.as_mut().poll_shutdown(cx)
    }
}

impl Drop for OnceInput {
    fn drop(&mut self) {
        let (holder, id) = (self.holder.clone(), self.id.clone());
        if let Ok(handle) = tokio::runtime::Handle::try_current() {
            handle.spawn(async move { holder.ask("close-stdin", &[id.as_bytes()], &[]).await.map(drop) });
        }
    }
}

async fn read_limited(stream: Option<Output>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(mut stream) = stream else { return Ok(()) };
    (&mut stream).take(MAX_SYNC_OUTPUT).read_to_end(into).await?;
    // What is beyond is read and dropped, so that the process can go on.
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop)
}
