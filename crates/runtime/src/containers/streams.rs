//! The ends of a process' stdio that Sampan holds: pipes, or a terminal's master side.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;

use super::packets::set_nonblocking;

pub type Input = Pin<Box<dyn AsyncWrite + Send + Sync>>;
pub type Output = Pin<Box<dyn AsyncRead + Send + Sync>>;

/// Bytes to a process.
pub fn input(fd: OwnedFd) -> io::Result<Input> {
    Ok(Box::pin(pipe::Sender::from_owned_fd(fd)?))
}

/// Bytes from a process.
pub fn output(fd: OwnedFd) -> io::Result<Output> {
    Ok(Box::pin(pipe::Receiver::from_owned_fd(fd)?))
}

/// A terminal's master side; clones are the same terminal.
#[derive(Clone)]
pub struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    pub fn new(fd: OwnedFd) -> io::Result<Terminal> {
        set_nonblocking(&fd)?;
        // SAFETY: the descriptor is owned by the AsyncFd, which never gives it away.
        Ok(Terminal(Arc::new(unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)?)))
    }

    /// Tells the terminal its size, and so the process by SIGWINCH.
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the kernel reads the structure.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            let room = buffer.initialize_unfilled();
            // SAFETY: the kernel writes at most the room's length.
            let read =
                ready.try_io(|fd| match unsafe { libc::read(fd.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) } {
                    n if n >= 0 => Ok(n as usize),
                    _ => match io::Error::last_os_error() {
                        // All who had it open have ended.
                        e if e.raw_os_error() == Some(libc::EIO) => Ok(0),
                        e => Err(e),
                    },
                });
            match read {
                Ok(done) => return Poll::Ready(done.map(|n| buffer.advance(n))),
                Err(_would_block) => continue,
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            // SAFETY: the kernel reads the slice.
            let written =
                ready.try_io(|fd| match unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) } {
                    n if n >= 0 => Ok(n as usize),
                    _ => Err(io::Error::last_os_error()),
                });
            match written {
                Ok(done) => return Poll::Ready(done),
                Err(_would_block) => continue,
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
