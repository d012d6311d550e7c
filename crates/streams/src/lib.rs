//! Several byte streams over one upgraded HTTP connection, as kubelets and their clients speak them.
//!
//! [`Upgrade::negotiate`] reads a request's headers and says which protocol was agreed on and what to answer;
//! after the 101, [`remote_command`] (exec, attach) or [`port_forward`] runs it on the connection:
//! WebSocket with channels (`v5.channel.k8s.io` and its elders), or SPDY/3.1, itself perhaps in a WebSocket tunnel.

pub mod client;
mod messages;
mod negotiate;
mod port_forward;
mod remote_command;
mod session;
pub mod spdy;
mod tunnel;
mod websocket;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};

pub use messages::{Message, messages};
pub use negotiate::{Protocol, Refused, Upgrade, Use};
pub use port_forward::{Forward, port_forward};
pub use remote_command::{RemoteCommand, Streams, TerminalSize, remote_command};
pub use session::{Reader, Stdio, Writer};
pub use tunnel::tunnel;

/// Any connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// What a stream holds before its writer must wait: per stream, in bytes.
const BUFFER: usize = 32 << 10;

fn pipe() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(BUFFER)
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    #[error("a WebSocket message that cannot be read")]
    WebSocket(#[from] Box<tokio_tungstenite::tungstenite::Error>),
    #[error("the peer broke SPDY/3.1: {0}")]
    Spdy(&'static str),
    #[error("the peer does not upgrade: {0}")]
    Refused(String),
    #[error("the peer opened {got} of {expected} streams")]
    Missing { expected: usize, got: usize },
}

#[cfg(test)]
mod tests;
