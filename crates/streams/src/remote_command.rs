//! exec and attach: stdin, stdout, stderr, an error stream for the end, and the terminal's size.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::{BUFFER, Error, Io, Protocol, pipe, spdy, websocket};

/// Which streams the request asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    /// Never with `tty`.
    pub stderr: bool,
    pub tty: bool,
}

/// Columns and rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// The server's ends. Dropping a writer closes its stream; the connection ends when all are dropped.
pub struct RemoteCommand {
    pub stdin: Option<ReadHalf<DuplexStream>>,
    pub stdout: Option<WriteHalf<DuplexStream>>,
    pub stderr: Option<WriteHalf<DuplexStream>>,
    /// Takes one `Status` in JSON at the end (or text, see [`RemoteCommand::status`]).
    pub error: WriteHalf<DuplexStream>,
    pub resize: mpsc::Receiver<TerminalSize>,
    /// Whether the error stream carries a `Status`, or plain text and only after a failure.
    pub status: bool,
    /// Ends when the client has gone.
    pub gone: mpsc::Receiver<()>,
}

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5: the next byte names the channel that the client has closed.
const CLOSE: u8 = 255;

/// Runs the agreed protocol on an upgraded connection.
pub async fn remote_command(io: impl Io, protocol: Protocol, streams: Streams) -> Result<RemoteCommand, Error> {
    match protocol {
        Protocol::Channels { base64, status, close } => Ok(channels(io, streams, base64, status, close).await),
        // Not agreed on for commands.
        Protocol::Messages { base64 } => Ok(channels(io, streams, base64, false, false).await),
        Protocol::Spdy { status } => over_spdy(io, streams, status).await,
        Protocol::Tunnel => over_spdy(crate::tunnel(io, Role::Server).await, streams, true).await,
    }
}

async fn channels(io: impl Io, streams: Streams, base64: bool, status: bool, close: bool) -> RemoteCommand {
    let (mut from, mut to) = websocket::accept(io, Role::Server).await;
    let (resize_to, resize) = mpsc::channel(4);
    let (gone_to, gone) = mpsc::channel(1);
    let (stdin, stdin_to) = pipe();
    tokio::spawn(async move {
        let _gone = gone_to;
        let mut stdin_to = streams.stdin.then_some(stdin_to);
        while let Ok(Some(message)) = from.next().await {
            let Some((channel, data)) = decode(&message, base64) else { continue };
            match channel {
                STDIN if data.is_empty() => {}
                STDIN => {
                    if let Some(stdin) = &mut stdin_to
                        && stdin.write_all(&data).await.is_err()
                    {
                        stdin_to = None;
                    }
                }
                RESIZE => {
                    if let Some(size) = parse_size(&data) {
                        let _ = resize_to.send(size).await;
                    }
                }
                CLOSE if close && data.first() == Some(&STDIN) => stdin_to = None,
                _ => {}
            }
        }
    });

    let (messages_to, mut messages) = mpsc::channel::<(u8, Bytes)>(4);
    let mut outputs = Vec::new();
    let mut writer = |channel: u8, wanted: bool| {
        wanted.then(|| {
            let (ours, theirs) = pipe();
            let messages = messages_to.clone();
            outputs.push(tokio::spawn(async move { pump(theirs, channel, messages).await }));
            tokio::io::split(ours).1
        })
    };
    let stdout = writer(STDOUT, streams.stdout);
    let stderr = writer(STDERR, streams.stderr && !streams.tty);
    let (error, error_from) = pipe();
    tokio::spawn({
        let messages = messages_to.clone();
        async move {
            // The last word comes after all output, as upstream's: clients may go once they have it.
            for output in outputs {
                let _ = output.await;
            }
            pump(error_from, ERROR, messages).await
        }
    });
    drop(messages_to);
    tokio::spawn(async move {
        // Clients of the channel protocols wait for one empty message before they send.
        for (channel, wanted) in [(STDOUT, streams.stdout), (STDERR, streams.stderr && !streams.tty), (ERROR, true)] {
            if wanted && !status && send(&mut to, channel, &[], base64).await.is_err() {
                return;
            }
        }
        while let Some((channel, data)) = messages.recv().await {
            if send(&mut to, channel, &data, base64).await.is_err() {
                return;
            }
        }
        to.close().await;
    });
    RemoteCommand {
        stdin: streams.stdin.then(|| tokio::io::split(stdin).0),
        stdout,
        stderr,
        error: tokio::io::split(error).1,
        resize,
        status,
        gone,
    }
}

async fn pump(mut from: DuplexStream, channel: u8, to: mpsc::Sender<(u8, Bytes)>) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if to.send((channel, Bytes::copy_from_slice(&buffer[..length]))).await.is_err() {
            return;
        }
    }
}

async fn send<T: Io>(to: &mut websocket::Writer<T>, channel: u8, data: &[u8], base64: bool) -> Result<(), Error> {
    if base64 {
        return to.text(format!("{}{}", channel, STANDARD.encode(data))).await;
    }
    let mut message = BytesMut::with_capacity(data.len() + 1);
    message.put_u8(channel);
    message.put_slice(data);
    to.binary(message.freeze()).await
}

fn decode(message: &Bytes, base64: bool) -> Option<(u8, Bytes)> {
    let first = *message.first()?;
    if base64 {
        return Some((first.checked_sub(b'0')?, STANDARD.decode(&message[1..]).ok()?.into()));
    }
    Some((first, message.slice(1..)))
}

/// `{"Width":80,"Height":24}`: the whole grammar that clients send.
fn parse_size(data: &[u8]) -> Option<TerminalSize> {
    let text = std::str::from_utf8(data).ok()?;
    let number = |name: &str| -> Option<u16> {
        let rest = text[text.find(name)? + name.len()..].trim_start_matches(['"', ':', ' ']);
        rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
    };
    Some(TerminalSize { width: number("Width")?, height: number("Height")? })
}

async fn over_spdy(io: impl Io, streams: Streams, status: bool) -> Result<RemoteCommand, Error> {
    let mut connection = spdy::accept(io);
    let expected = 1
        + usize::from(streams.stdin)
        + usize::from(streams.stdout)
        + usize::from(streams.stderr && !streams.tty)
        + usize::from(streams.tty && status);
    let (mut stdin, mut stdout, mut stderr, mut error, mut sizes) = (None, None, None, None, None);
    for got in 0..expected {
        let Some(stream) = connection.next().await else { return Err(Error::Missing { expected, got }) };
        let kind = stream.header("streamtype").unwrap_or_default().to_owned();
        let (read, write) = tokio::io::split(stream.io);
        match &*kind {
            "stdin" => stdin = Some(read),
            "stdout" => stdout = Some(write),
            "stderr" => stderr = Some(write),
            "error" => error = Some(write),
            "resize" => sizes = Some(read),
            _ => return Err(Error::Spdy("a stream of an unknown type")),
        }
    }
    let (resize_to, resize) = mpsc::channel(4);
    if let Some(mut sizes) = sizes {
        tokio::spawn(async move {
            // A size is one JSON object after another.
            let mut text = Vec::new();
            let mut byte = [0];
            while matches!(sizes.read(&mut byte).await, Ok(1)) && text.len() < 1024 {
                text.push(byte[0]);
                if byte[0] == b'}' {
                    if let Some(size) = parse_size(&text) {
                        let _ = resize_to.send(size).await;
                    }
                    text.clear();
                }
            }
        });
    }
    let (gone_to, gone) = mpsc::channel(1);
    tokio::spawn(async move {
        let _gone = gone_to;
        // Keeps the connection's end in view; more streams are not part of the protocol.
        while connection.next().await.is_some() {}
    });
    let error = error.ok_or(Error::Missing { expected, got: expected })?;
    Ok(RemoteCommand { stdin, stdout, stderr, error, resize, status, gone })
}
