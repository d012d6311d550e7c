//! The DNS server: sockets, other resolvers, and a small memory of what they said.
//!
//! A question is in flight once however many clients ask it, so a resolver that sends our questions back to us waits for
//! itself and runs into its timeout instead of multiplying them.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OnceCell, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::dns::wire::{self, Query};
use crate::dns::{Answer, Transport, Zone, answer, failure, finish_chase};

const TRY: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
const IDLE: Duration = Duration::from_secs(10);
const CACHE_SECONDS: u32 = 30;
const CACHE_ENTRIES: usize = 4096;
/// Questions to other resolvers at a time, and TCP clients at a time.
const IN_FLIGHT: usize = 512;
const TCP_CLIENTS: usize = 128;
const RECHECK: Duration = Duration::from_secs(5);

/// Where questions go that are not the cluster's.
#[derive(Clone, Debug)]
pub enum Upstream {
    /// A `resolv.conf`, read again when it has changed.
    File(PathBuf),
    Servers(Vec<SocketAddr>),
}

/// Bound sockets, handed in by whoever may listen.
#[derive(Debug, Default)]
pub struct Sockets {
    pub udp: Vec<UdpSocket>,
    pub tcp: Vec<TcpListener>,
}

/// What was asked and answered, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    pub queries: AtomicU64,
    pub forwarded: AtomicU64,
    pub cached: AtomicU64,
    pub failed: AtomicU64,
}

/// Serves until dropped. While `zone` is `None` (nothing is known of the cluster yet) every query fails rather than
/// being denied.
pub async fn serve(
    sockets: Sockets,
    zone: watch::Receiver<Option<Arc<Zone>>>,
    upstream: Upstream,
    counters: Arc<Counters>,
) -> io::Result<()> {
    let mut own: Vec<SocketAddr> = sockets.udp.iter().filter_map(|s| s.local_addr().ok()).collect();
    own.extend(sockets.tcp.iter().filter_map(|s| s.local_addr().ok()));
    let server = Arc::new(Server {
        zone,
        resolvers: Resolvers { upstream, own, known: Mutex::new(Known::default()) },
        cache: Mutex::default(),
        flights: Mutex::default(),
        slots: Arc::new(Semaphore::new(IN_FLIGHT)),
        secret: RandomState::new(),
        turn: AtomicU64::new(0),
        counters,
    });
    let mut tasks = JoinSet::new();
    for socket in sockets.udp {
        tasks.spawn(server.clone().udp(Arc::new(socket)));
    }
    let clients = Arc::new(Semaphore::new(TCP_CLIENTS));
    for listener in sockets.tcp {
        tasks.spawn(server.clone().tcp(listener, clients.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(io::Error::other)?;
    }
    Ok(())
}

struct Server {
    zone: watch::Receiver<Option<Arc<Zone>>>,
    resolvers: Resolvers,
    cache: Mutex<Cache>,
    flights: Mutex<HashMap<Question, Arc<Flight>>>,
    slots: Arc<Semaphore>,
    secret: RandomState,
    turn: AtomicU64,
    counters: Arc<Counters>,
}

/// What makes two queries the same to another resolver.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Question {
    /// The question section's bytes in lower case.
    bytes: Vec<u8>,
    flags: u16,
    edns: bool,
    tcp: bool,
}

type Flight = OnceCell<Option<Arc<[u8]>>>;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    async fn udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; 4096];
        loop {
            let (n, peer) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(_) => {
                    // An ICMP error of an earlier reply; a real fault must not spin.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            match self.local(&buffer[..n], Transport::Udp) {
                Local::Reply(reply) => {
                    let _ = socket.send_to(&reply, peer).await;
                }
                Local::Nothing => {}
                Local::Ask(query, target) => {
                    let message = buffer[..n].to_vec();
                    let Ok(slot) = self.slots.clone().try_acquire_owned() else {
                        let _ = socket.send_to(&self.failed(&message, &query), peer).await;
                        continue;
                    };
                    let (server, socket) = (self.clone(), socket.clone());
                    tokio::spawn(async move {
                        let reply = server.elsewhere(&message, query, target, Transport::Udp).await;
                        let _ = socket.send_to(&reply, peer).await;
                        drop(slot);
                    });
                }
            }
        }
    }

    async fn tcp(self: Arc<Self>, listener: TcpListener, clients: Arc<Semaphore>) {
        loop {
            let Ok(slot) = clients.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = self.clone();
                    tokio::spawn(async move {
                        let _ = server.client(stream).await;
                        drop(slot);
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// One TCP client, question by question, until it is silent for a while.
    async fn client(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let length = match timeout(IDLE, stream.read_u16()).await {
                Ok(Ok(length)) => usize::from(length),
                _ => return Ok(()),
            };
            let mut message = vec![0; length];
            timeout(IDLE, stream.read_exact(&mut message)).await??;
            let reply = match self.local(&message, Transport::Tcp) {
                Local::Reply(reply) => reply,
                Local::Nothing => return Ok(()),
                Local::Ask(query, target) => match self.slots.try_acquire() {
                    Ok(_slot) => self.elsewhere(&message, query, target, Transport::Tcp).await,
                    Err(_) => self.failed(&message, &query),
                },
            };
            let mut out = (reply.len() as u16).to_be_bytes().to_vec();
            out.extend_from_slice(&reply);
            timeout(IDLE, stream.write_all(&out)).await??;
        }
    }

    fn failed(&self, message: &[u8], query: &Query) -> Vec<u8> {
        self.counters.failed.fetch_add(1, Ordering::Relaxed);
        failure(message, query)
    }

    fn local(&self, message: &[u8], transport: Transport) -> Local {
        self.counters.queries.fetch_add(1, Ordering::Relaxed);
        let zone = self.zone.borrow().clone();
        let Some(zone) = zone else {
            return match wire::read_query(message) {
                Ok(query) => Local::Reply(self.failed(message, &query)),
                Err(_) => Local::Nothing,
            };
        };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) as u32;
        match answer(&zone, message, transport, turn) {
            Answer::Reply(reply) => Local::Reply(reply),
            Answer::Ignore => Local::Nothing,
            Answer::Forward(query) => Local::Ask(query, None),
            Answer::Chase { query, target } => Local::Ask(query, Some(target)),
        }
    }

    /// The reply to what other resolvers have to be asked about.
    async fn elsewhere(&self, message: &[u8], query: Query, target: Option<String>, transport: Transport) -> Vec<u8> {
        if !query.recursion_desired && target.is_none() {
            return failure(message, &query);
        }
        let Some(target) = target else {
            return match self.ask(message, transport).await {
                Some(response) => readdress(&response, message, &query),
                None => self.failed(message, &query),
            };
        };
        // Over TCP, for the alias and its records must fit together.
        let chased = wire::write_query(0, &target, query.kind);
        match self.ask(&chased, transport).await {
            Some(response) => finish_chase(message, &query, transport, &target, &response),
            None => self.failed(message, &query),
        }
    }

    /// Another resolver's response to `message`, remembered or new.
    async fn ask(&self, message: &[u8], transport: Transport) -> Option<Arc<[u8]>> {
        let query = wire::read_query(message).ok()?;
        let question = Question {
            bytes: message.get(wire::HEADER..query.question_end)?.to_ascii_lowercase(),
            flags: query.flags,
            edns: query.edns.is_some(),
            tcp: transport == Transport::Tcp,
        };
        if let Some(found) = lock(&self.cache).get(&question, Instant::now()) {
            self.counters.cached.fetch_add(1, Ordering::Relaxed);
            return Some(found);
        }
        let flight = lock(&self.flights).entry(question.clone()).or_default().clone();
        let response = flight
            .get_or_init(|| async {
                self.counters.forwarded.fetch_add(1, Ordering::Relaxed);
                let response = self.ask_servers(message, &query, transport).await?;
                lock(&self.cache).put(question.clone(), response.clone(), Instant::now());
                Some(response)
            })
            .await
            .clone();
        let mut flights = lock(&self.flights);
        if flights.get(&question).is_some_and(|current| Arc::ptr_eq(current, &flight)) {
            flights.remove(&question);
        }
        response
    }

    async fn ask_servers(&self, message: &[u8], query: &Query, transport: Transport) -> Option<Arc<[u8]>> {
        let servers = self.resolvers.servers();
        let mut refused = None;
        for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
            // A keyed hash of a counter: nobody else can tell the next one.
            let id = self.secret.hash_one(self.turn.fetch_add(1, Ordering::Relaxed)) as u16;
            let mut asked = message.to_vec();
            asked[..2].copy_from_slice(&id.to_be_bytes());
            let asking = async {
                match transport {
                    Transport::Udp => ask_udp(*server, &asked, query).await,
                    Transport::Tcp => ask_tcp(*server, &asked, query).await,
                }
            };
            if let Ok(Ok(response)) = timeout(TRY, asking).await {
                // What one resolver can't say the next one may.
                const REFUSED: u8 = 5;
                match response.get(3).map(|byte| byte & 0xf) {
                    Some(wire::SERVER_FAILURE | wire::NOT_IMPLEMENTED | REFUSED) => refused = Some(response.into()),
                    _ => return Some(response.into()),
                }
            }
        }
        refused
    }
}

enum Local {
    Reply(Vec<u8>),
    Ask(Query, Option<String>),
    Nothing,
}

/// A response to someone's question, with this client's id and spelling.
fn readdress(response: &[u8], message: &[u8], query: &Query) -> Vec<u8> {
    let mut reply = response.to_vec();
    let asked = wire::HEADER..query.question_end;
    if let (Some(to), Some(from)) = (reply.get_mut(asked.clone()), message.get(asked)) {
        to.copy_from_slice(from);
        reply[..2].copy_from_slice(&query.id.to_be_bytes());
    }
    reply
}

/// The response is one to what was asked.
fn fits(response: &[u8], asked: &[u8], query: &Query) -> bool {
    let question = wire::HEADER..query.question_end;
    wire::read_response(response).is_some_and(|read| read.question_end == query.question_end)
        && response.get(..2) == asked.get(..2)
        && match (response.get(question.clone()), asked.get(question)) {
            (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
            _ => false,
        }
}

async fn ask_udp(server: SocketAddr, asked: &[u8], query: &Query) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(asked).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let n = socket.recv(&mut buffer).await?;
        if fits(&buffer[..n], asked, query) {
            buffer.truncate(n);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, asked: &[u8], query: &Query) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let mut out = (asked.len() as u16).to_be_bytes().to_vec();
    out.extend_from_slice(asked);
    stream.write_all(&out).await?;
    let mut response = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut response).await?;
    if fits(&response, asked, query) { Ok(response) } else { Err(io::ErrorKind::InvalidData.into()) }
}

struct Resolvers {
    upstream: Upstream,
    /// Our own sockets: asking them would be a loop.
    own: Vec<SocketAddr>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    servers: Vec<SocketAddr>,
    modified: Option<SystemTime>,
    checked: Option<Instant>,
}

impl Resolvers {
    fn servers(&self) -> Vec<SocketAddr> {
        let path = match &self.upstream {
            Upstream::Servers(servers) => return servers.iter().filter(|s| self.foreign(s)).copied().collect(),
            Upstream::File(path) => path,
        };
        let mut known = lock(&self.known);
        if known.checked.is_none_or(|checked| checked.elapsed() > RECHECK) {
            known.checked = Some(Instant::now());
            let modified = std::fs::metadata(path).and_then(|m| m.modified()).ok();
            if modified.is_none() || modified != known.modified {
                known.modified = modified;
                let text = std::fs::read_to_string(path).unwrap_or_default();
                known.servers = nameservers(&text).into_iter().filter(|s| self.foreign(s)).collect();
            }
        }
        known.servers.clone()
    }

    fn foreign(&self, server: &SocketAddr) -> bool {
        !self.own.iter().any(|own| {
            own.port() == server.port()
                && (own.ip() == server.ip() || own.ip().is_unspecified() && server.ip().is_loopback())
        })
    }
}

/// The `nameserver` lines of a resolv.conf; three at most, as the C library.
pub fn nameservers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let ip = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        // A link-local address may name its link, which std cannot.
        Some(SocketAddr::new(ip.split('%').next()?.parse().ok()?, 53))
    };
    text.lines().filter_map(server).take(3).collect()
}

#[derive(Default)]
struct Cache {
    entries: BTreeMap<Question, Kept>,
}

struct Kept {
    response: Arc<[u8]>,
    since: Instant,
    until: Instant,
}

impl Cache {
    /// With the times to live of now.
    fn get(&self, question: &Question, now: Instant) -> Option<Arc<[u8]>> {
        let kept = self.entries.get(question).filter(|kept| now < kept.until)?;
        let age = now.duration_since(kept.since).as_secs() as u32;
        if age == 0 {
            return Some(kept.response.clone());
        }
        let mut response = kept.response.to_vec();
        for record in wire::read_response(&kept.response)?.records.iter().filter(|r| r.kind != wire::OPT) {
            let left = record.ttl.saturating_sub(age).max(1);
            response.get_mut(record.ttl_at..record.ttl_at + 4)?.copy_from_slice(&left.to_be_bytes());
        }
        Some(response.into())
    }

    fn put(&mut self, question: Question, response: Arc<[u8]>, now: Instant) {
        let Some(read) = wire::read_response(&response) else { return };
        if read.truncated || !matches!(read.code, wire::NO_ERROR | wire::NAME_ERROR) {
            return;
        }
        let ttls = read.records.iter().filter(|r| r.kind != wire::OPT).map(|r| r.ttl);
        let seconds = ttls.min().unwrap_or(0).min(CACHE_SECONDS);
        if seconds == 0 {
            return;
        }
        if self.entries.len() >= CACHE_ENTRIES {
            self.entries.retain(|_, kept| now < kept.until);
            while self.entries.len() >= CACHE_ENTRIES {
                self.entries.pop_first();
            }
        }
        let until = now + Duration::from_secs(seconds.into());
        self.entries.insert(question, Kept { response, since: now, until });
    }
}
