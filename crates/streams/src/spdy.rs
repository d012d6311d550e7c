//! SPDY/3.1 framing, the part that kubelets and Kubernetes clients use: streams with headers, data, half-closes,
//! resets and pings. Like their library it has no flow control: a stream that is not read stops the connection.

use std::{collections::HashMap, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{Mutex, mpsc};

use crate::{BUFFER, Error, Io, pipe};

/// A header block, compressed or not, is at most this long.
const MAX_HEADERS_BYTES: usize = 64 << 10;
const MAX_STREAMS: usize = 10_000;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;

/// A stream that the peer opened, or that we did.
pub struct Stream {
    pub id: u32,
    headers: Vec<(String, String)>,
    /// Reading ends at the peer's FIN; dropping it, or shutting it down, sends ours.
    pub io: DuplexStream,
}

impl Stream {
    /// A header by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A running connection; it ends when this and all streams are dropped, or the peer goes.
pub struct Connection {
    incoming: mpsc::Receiver<Stream>,
    writer: Arc<Writer>,
    shared: Arc<std::sync::Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    streams: HashMap<u32, WriteHalf<DuplexStream>>,
    next_id: u32,
}

struct Writer {
    frames: mpsc::Sender<Bytes>,
    /// Header blocks share one compressor, and must be sent in the order in which they were compressed.
    compressor: Mutex<Compress>,
}

/// The server's side of a connection.
pub fn accept(io: impl Io) -> Connection {
    start(io, 2)
}

/// The client's side.
pub fn connect(io: impl Io) -> Connection {
    start(io, 1)
}

fn start(io: impl Io, first_id: u32) -> Connection {
    let (from, to) = tokio::io::split(io);
    let (frames, queue) = mpsc::channel(8);
    let mut compressor = Compress::new(Compression::fast(), true);
    let _ = compressor.set_dictionary(DICTIONARY);
    let writer = Arc::new(Writer { frames, compressor: Mutex::new(compressor) });
    let shared = Arc::new(std::sync::Mutex::new(Shared { next_id: first_id, ..Shared::default() }));
    let (incoming_to, incoming) = mpsc::channel(64);
    tokio::spawn(write_all(to, queue));
    tokio::spawn({
        let (writer, shared) = (Arc::downgrade(&writer), shared.clone());
        async move {
            let mut reader =
                Reader { from, writer, shared: shared.clone(), incoming: incoming_to, headers: Decompress::new(true) };
            if let Err(error) = reader.run().await {
                tracing::debug!(%error, "a SPDY connection ended");
            }
            // Every stream sees its end: dropping one half of a pipe would not tell.
            let open = std::mem::take(&mut lock(&shared).streams);
            for mut stream in open.into_values() {
                let _ = stream.shutdown().await;
            }
        }
    });
    Connection { incoming, writer, shared }
}

fn lock(shared: &std::sync::Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Connection {
    /// The next stream that the peer opens; `None` when it has gone. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Stream> {
        self.incoming.recv().await
    }

    /// Opens a stream.
    pub async fn open(&self, headers: &[(&str, &str)]) -> Result<Stream, Error> {
        let id = {
            let mut shared = lock(&self.shared);
            shared.next_id += 2;
            shared.next_id - 2
        };
        let io = attach(id, &self.shared, self.writer.clone());
        let headers: Vec<(String, String)> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.writer.headers(SYN_STREAM, id, &headers).await?;
        Ok(Stream { id, headers, io })
    }
}

/// Makes a stream's pipe; its outgoing bytes become data frames.
fn attach(id: u32, shared: &Arc<std::sync::Mutex<Shared>>, writer: Arc<Writer>) -> DuplexStream {
    let (ours, theirs) = pipe();
    let (mut outgoing, incoming) = tokio::io::split(theirs);
    lock(shared).streams.insert(id, incoming);
    tokio::spawn(async move {
        let mut buffer = vec![0; BUFFER];
        while let Ok(length @ 1..) = outgoing.read(&mut buffer).await {
            if writer.data(id, 0, &buffer[..length]).await.is_err() {
                break;
            }
        }
        let _ = writer.data(id, FIN, &[]).await;
    });
    ours
}

impl Writer {
    async fn send(&self, frame: BytesMut) -> Result<(), Error> {
        self.frames.send(frame.freeze()).await.map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe).into())
    }

    async fn data(&self, id: u32, flags: u8, data: &[u8]) -> Result<(), Error> {
        let mut frame = BytesMut::with_capacity(8 + data.len());
        frame.put_u32(id);
        frame.put_u32(u32::from(flags) << 24 | data.len() as u32);
        frame.put_slice(data);
        self.send(frame).await
    }

    async fn control(&self, kind: u16, body: &[u8]) -> Result<(), Error> {
        let mut frame = BytesMut::with_capacity(8 + body.len());
        frame.put_u16(0x8003);
        frame.put_u16(kind);
        frame.put_u32(body.len() as u32);
        frame.put_slice(body);
        self.send(frame).await
    }

    async fn headers(&self, kind: u16, id: u32, headers: &[(String, String)]) -> Result<(), Error> {
        let mut block = BytesMut::new();
        block.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.put_u32(text.len() as u32);
            block.put_slice(text.as_bytes());
        }
        let mut body = Vec::with_capacity(block.len() + 64);
        body.put_u32(id);
        if kind == SYN_STREAM {
            // No associated stream, lowest priority, no slot.
            body.put_u32(0);
            body.put_u16(0);
        }
        let mut compressor = self.compressor.lock().await;
        let mut rest = &block[..];
        loop {
            body.reserve(rest.len() + 64);
            let before = compressor.total_in();
            compressor
                .compress_vec(rest, &mut body, FlushCompress::Sync)
                .map_err(|_| Error::Spdy("headers that cannot be compressed"))?;
            rest = rest.get((compressor.total_in() - before) as usize..).unwrap_or_default();
            if rest.is_empty() && body.len() < body.capacity() {
                break;
            }
        }
        self.control(kind, &body).await
    }
}

async fn write_all(mut to: WriteHalf<impl AsyncWrite>, mut frames: mpsc::Receiver<Bytes>) {
    while let Some(frame) = frames.recv().await {
        if to.write_all(&frame).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

struct Reader<T> {
    from: ReadHalf<T>,
    /// Weak: the connection lives as long as its user and its streams do.
    writer: std::sync::Weak<Writer>,
    shared: Arc<std::sync::Mutex<Shared>>,
    incoming: mpsc::Sender<Stream>,
    headers: Decompress,
}

impl<T: AsyncRead> Reader<T> {
    async fn run(&mut self) -> Result<(), Error> {
        loop {
            let mut head = [0; 8];
            match self.from.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            let [a, b, c, d, flags, x, y, z] = head;
            let length = u32::from_be_bytes([0, x, y, z]) as usize;
            if a & 0x80 == 0 {
                self.data(u32::from_be_bytes([a, b, c, d]), flags, length).await?;
                continue;
            }
            if u16::from_be_bytes([a & 0x7f, b]) != 3 {
                return Err(Error::Spdy("another version than 3"));
            }
            if length > MAX_HEADERS_BYTES {
                return Err(Error::Spdy("a control frame that is too long"));
            }
            let mut body = vec![0; length];
            self.from.read_exact(&mut body).await?;
            if !self.control(u16::from_be_bytes([c, d]), flags, &body).await? {
                return Ok(());
            }
        }
    }

    /// Copies a data frame into its stream, whatever its length.
    async fn data(&mut self, id: u32, flags: u8, length: usize) -> Result<(), Error> {
        let mut stream = lock(&self.shared).streams.remove(&id);
        let mut left = length;
        let mut buffer = [0; 8 << 10];
        while left > 0 {
            let part = left.min(buffer.len());
            if let Err(error) = self.from.read_exact(&mut buffer[..part]).await {
                if let Some(open) = &mut stream {
                    let _ = open.shutdown().await;
                }
                return Err(error.into());
            }
            left -= part;
            if let Some(open) = &mut stream
                && open.write_all(&buffer[..part]).await.is_err()
            {
                stream = None;
            }
        }
        if let Some(mut open) = stream {
            if flags & FIN != 0 {
                let _ = open.shutdown().await;
            } else {
                lock(&self.shared).streams.insert(id, open);
            }
        }
        Ok(())
    }

    /// Whether the connection goes on.
    async fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> Result<bool, Error> {
        let id = body.first_chunk::<4>().map(|id| u32::from_be_bytes(*id) & 0x7fff_ffff);
        match (kind, id) {
            (SYN_STREAM, Some(id)) if body.len() >= 10 => {
                let headers = self.inflate(&body[10..])?;
                let Some(writer) = self.writer.upgrade() else { return Ok(false) };
                if lock(&self.shared).streams.len() >= MAX_STREAMS {
                    return Err(Error::Spdy("too many streams"));
                }
                if lock(&self.shared).streams.contains_key(&id) {
                    return Err(Error::Spdy("a stream that is open already"));
                }
                writer.headers(SYN_REPLY, id, &[]).await?;
                let io = attach(id, &self.shared, writer);
                if flags & FIN != 0 {
                    self.data(id, FIN, 0).await?;
                }
                Ok(self.incoming.send(Stream { id, headers, io }).await.is_ok()
                    || !lock(&self.shared).streams.is_empty())
            }
            (SYN_REPLY, Some(_)) => self.inflate(&body[4..]).map(|_| true),
            (RST_STREAM, Some(id)) => {
                let reset = lock(&self.shared).streams.remove(&id);
                if let Some(mut stream) = reset {
                    let _ = stream.shutdown().await;
                }
                Ok(true)
            }
            (PING, Some(_)) => {
                let Some(writer) = self.writer.upgrade() else { return Ok(false) };
                writer.control(PING, body).await?;
                Ok(true)
            }
            // Streams that are open go on.
            (GOAWAY, _) => Ok(true),
            (SYN_STREAM | SYN_REPLY | RST_STREAM | PING, _) => Err(Error::Spdy("a control frame that is too short")),
            _ => Ok(true),
        }
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, Error> {
        let bad = |_| Error::Spdy("headers that cannot be decompressed");
        let mut out = Vec::with_capacity(1024);
        let mut rest = block;
        loop {
            let before = self.headers.total_in();
            match self.headers.decompress_vec(rest, &mut out, FlushDecompress::Sync) {
                Ok(status) => {
                    rest = rest.get((self.headers.total_in() - before) as usize..).unwrap_or_default();
                    if out.len() < out.capacity() && (rest.is_empty() || status == Status::StreamEnd) {
                        break;
                    }
                    if out.len() >= MAX_HEADERS_BYTES {
                        return Err(Error::Spdy("headers that are too long"));
                    }
                    out.reserve(1024);
                }
                Err(error) if error.needs_dictionary().is_some() => {
                    rest = rest.get((self.headers.total_in() - before) as usize..).unwrap_or_default();
                    self.headers.set_dictionary(DICTIONARY).map_err(bad)?;
                }
                Err(error) => return Err(bad(error)),
            }
        }
        parse_headers(&out).ok_or(Error::Spdy("headers that cannot be read"))
    }
}

fn parse_headers(block: &[u8]) -> Option<Vec<(String, String)>> {
    let mut at = 0;
    let number = |at: &mut usize| -> Option<usize> {
        let four = block.get(*at..*at + 4)?.first_chunk::<4>()?;
        *at += 4;
        Some(u32::from_be_bytes(*four) as usize)
    };
    let count = number(&mut at)?;
    let mut headers = Vec::new();
    for _ in 0..count {
        let mut text = || {
            let length = number(&mut at)?;
            let bytes = block.get(at..at.checked_add(length)?)?;
            at += length;
            String::from_utf8(bytes.to_vec()).ok()
        };
        headers.push((text()?.to_ascii_lowercase(), text()?));
    }
    Some(headers)
}

/// The SPDY/3 header dictionary: the protocol's own bytes (draft-mbelshe-httpbis-spdy-00, 2.6.10.1).
const DICTIONARY: &[u8] = include_bytes!("spdy.dictionary");
