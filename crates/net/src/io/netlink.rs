//! Netlink: messages as bytes, and the socket they go through.
//!
//! Only what the families of this crate need: requests with an acknowledgement, dumps, and nfnetlink
//! batches whose errors are collected. The socket belongs to the network namespace in which it was opened.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{Error, Result};

const HEADER: usize = 16;
const NESTED: u16 = 0x8000;
const ATTRIBUTE_TYPE: u16 = 0x3fff;

/// A message being built: header, the family's fixed part, attributes.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        let mut message = Message { bytes };
        message.pad();
        message
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The family's own bytes, where they are not an attribute (the header inside a veth's peer).
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    pub fn attr(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.raw(value);
    }

    pub fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes);
    }

    /// A 32-bit number in network order, as nfnetlink has them.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub fn be32s(&mut self, attributes: &[(u16, u32)]) {
        attributes.iter().for_each(|(kind, value)| self.be32(*kind, *value));
    }

    /// A 32-bit number in the machine's order, as rtnetlink has them.
    pub fn ne32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_ne_bytes());
    }

    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.attr(kind | NESTED, &[]);
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn finish(mut self, sequence: u32, more_flags: u16) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | more_flags;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// The attributes of a received message or nest; stops at the first malformed one.
#[derive(Clone, Copy)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & ATTRIBUTE_TYPE;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attributes<'a> {
    pub fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find_map(|(k, value)| (k == kind).then_some(value))
    }

    pub fn nest(self, kind: u16) -> Attributes<'a> {
        Attributes(self.find(kind).unwrap_or_default())
    }

    pub fn text(self, kind: u16) -> Option<&'a str> {
        self.find(kind).and_then(text)
    }

    pub fn be32(self, kind: u16) -> Option<u32> {
        self.find(kind).and_then(|v| Some(u32::from_be_bytes(v.get(..4)?.try_into().ok()?)))
    }

    pub fn ne32(self, kind: u16) -> Option<u32> {
        self.find(kind).and_then(|v| Some(u32::from_ne_bytes(v.get(..4)?.try_into().ok()?)))
    }
}

pub fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.split(|b| *b == 0).next()?).ok()
}

/// A message that arrived.
struct Received<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let message = bytes.get(..length).filter(|m| m.len() >= HEADER)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Received {
            kind: u16::from_ne_bytes([message[4], message[5]]),
            flags: u16::from_ne_bytes([message[6], message[7]]),
            sequence: u32::from_ne_bytes([message[8], message[9], message[10], message[11]]),
            payload: &message[HEADER..],
        })
    })
}

fn error_code(payload: &[u8]) -> i32 {
    payload.get(..4).map_or(libc::EPROTO, |b| -i32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

/// A netlink socket of one family in one network namespace.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket of `protocol` (`NETLINK_ROUTE`, `NETLINK_NETFILTER`) in the thread's network namespace.
    pub fn open(protocol: i32) -> Result<Self> {
        let doing = |source| Error::Kernel { action: format!("open netlink socket {protocol}"), source };
        // SAFETY: no pointers; the returned descriptor is owned by nobody else.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
            if fd < 0 {
                return Err(doing(io::Error::last_os_error()));
            }
            OwnedFd::from_raw_fd(fd)
        };
        let socket = Socket { fd, sequence: 1, buffer: vec![0; 64 << 10] };
        // A whole table goes out in one send and its errors come back at once; without the privilege the default stays.
        for option in [libc::SO_SNDBUFFORCE, libc::SO_RCVBUFFORCE] {
            socket.option(libc::SOL_SOCKET, option, 64 << 20);
        }
        // Errors need not carry the request back.
        socket.option(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1);
        Ok(socket)
    }

    fn option(&self, level: i32, option: i32, value: i32) {
        // SAFETY: the pointer is to a live i32 whose size is given.
        unsafe {
            libc::setsockopt(self.fd.as_raw_fd(), level, option, (&raw const value).cast(), size_of::<i32>() as u32);
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        // SAFETY: an all-zero sockaddr_nl is valid: the kernel, no groups. Pointers and sizes are of live values.
        let sent = unsafe {
            let mut kernel: libc::sockaddr_nl = std::mem::zeroed();
            kernel.nl_family = libc::AF_NETLINK as u16;
            libc::sendto(
                self.fd.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
                (&raw const kernel).cast(),
                size_of::<libc::sockaddr_nl>() as u32,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// `None` if nothing is there and `wait` is false.
    fn receive(&mut self, wait: bool) -> io::Result<Option<usize>> {
        let flags = libc::MSG_TRUNC | if wait { 0 } else { libc::MSG_DONTWAIT };
        loop {
            // SAFETY: the buffer is live and its length is given.
            let n =
                unsafe { libc::recv(self.fd.as_raw_fd(), self.buffer.as_mut_ptr().cast(), self.buffer.len(), flags) };
            if n >= 0 {
                // MSG_TRUNC returns the real length; what was cut can't be had again.
                return if n as usize > self.buffer.len() {
                    Err(io::Error::other("a netlink message larger than the buffer"))
                } else {
                    Ok(Some(n as usize))
                };
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Ok(None),
                _ => return Err(error),
            }
        }
    }

    /// Sends one request and waits for its acknowledgement.
    pub fn request(&mut self, message: Message) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        self.send(&message.finish(sequence, libc::NLM_F_ACK as u16))?;
        loop {
            let n = self.receive(true)?.unwrap_or_default();
            for m in messages(&self.buffer[..n]).filter(|m| m.sequence == sequence) {
                if m.kind == libc::NLMSG_ERROR as u16 {
                    return match error_code(m.payload) {
                        0 => Ok(()),
                        code => Err(io::Error::from_raw_os_error(code)),
                    };
                }
            }
        }
    }

    /// Sends a request that is answered by one object.
    pub fn ask_one(&mut self, message: Message, mut answer: impl FnMut(&[u8])) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        self.send(&message.finish(sequence, 0))?;
        loop {
            let n = self.receive(true)?.unwrap_or_default();
            let mut mine = messages(&self.buffer[..n]).filter(|m| m.sequence == sequence);
            if let Some(m) = mine.next() {
                if m.kind == libc::NLMSG_ERROR as u16 {
                    return Err(io::Error::from_raw_os_error(error_code(m.payload)));
                }
                answer(m.payload);
                return Ok(());
            }
        }
    }

    /// Sends a dump request and shows every answer's type and payload. Repeats if the kernel says that the
    /// answer was cut by a concurrent change, so `each` may see an object twice.
    pub fn dump(&mut self, message: Message, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        for _ in 0..8 {
            self.sequence = self.sequence.wrapping_add(1);
            let sequence = self.sequence;
            self.send(&message.clone().finish(sequence, libc::NLM_F_DUMP as u16))?;
            let mut interrupted = false;
            'answer: loop {
                let n = self.receive(true)?.unwrap_or_default();
                for m in messages(&self.buffer[..n]).filter(|m| m.sequence == sequence) {
                    interrupted |= m.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
                    match i32::from(m.kind) {
                        libc::NLMSG_DONE => break 'answer,
                        libc::NLMSG_ERROR => return Err(io::Error::from_raw_os_error(error_code(m.payload))),
                        _ => each(m.kind, m.payload),
                    }
                }
            }
            if !interrupted {
                return Ok(());
            }
        }
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }

    /// Sends messages as one nfnetlink batch for `subsystem`: all of them happen or none.
    /// The kernel handles it within the send; the error is the first one it names, with its message's index.
    pub fn batch(&mut self, subsystem: u8, batch: Vec<Message>) -> std::result::Result<(), (usize, io::Error)> {
        const BEGIN: u16 = 0x10;
        const END: u16 = 0x11;
        let edge = |kind| Message::new(kind, 0, &[0, 0, 0, subsystem]);
        let first = self.sequence.wrapping_add(2);
        let mut bytes = edge(BEGIN).finish(first.wrapping_sub(1), 0);
        let mut sequence = first;
        for message in batch {
            bytes.extend_from_slice(&message.finish(sequence, 0));
            sequence = sequence.wrapping_add(1);
        }
        bytes.extend_from_slice(&edge(END).finish(sequence, 0));
        self.sequence = sequence;
        self.send(&bytes).map_err(|e| (0, e))?;
        let mut failed = None;
        while let Some(n) = self.receive(false).map_err(|e| (0, e))? {
            for m in messages(&self.buffer[..n]).filter(|m| m.kind == libc::NLMSG_ERROR as u16) {
                let code = error_code(m.payload);
                if code != 0 && failed.is_none() {
                    failed = Some((m.sequence.wrapping_sub(first) as usize, io::Error::from_raw_os_error(code)));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
