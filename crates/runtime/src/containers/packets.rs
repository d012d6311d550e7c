//! What the keeper's socket and its helpers want: packets with file descriptors, memory files, pipes.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

pub use shared::send_packet;

#[path = "../../../keeper/src/packets.rs"]
mod shared;
use super::wire;

/// Receives one packet; 0 bytes mean the end. One that does not fit stays in the socket and is `EMSGSIZE`.
pub fn receive_packet(socket: RawFd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    // SAFETY: a null buffer of no length; MSG_TRUNC gives the packet's real length.
    let length = unsafe { libc::recv(socket, std::ptr::null_mut(), 0, libc::MSG_PEEK | libc::MSG_TRUNC) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    if length as usize > buffer.len() {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    shared::receive_packet(socket, buffer, fds)
}

/// A file in memory with this content.
pub fn memory_file(content: &[u8]) -> io::Result<OwnedFd> {
    let file = std::fs::File::from(rustix::fs::memfd_create("spec", rustix::fs::MemfdFlags::CLOEXEC)?);
    io::Write::write_all(&mut &file, content)?;
    Ok(file.into())
}

/// A pipe: reading end, writing end. Both block.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    io::pipe().map(|(reader, writer)| (reader.into(), writer.into()))
}

pub fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(fd, true)?)
}
