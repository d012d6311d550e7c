//! The DNS server between real sockets, with another resolver behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use net::dns::{Zone, ZoneService};
use net::io::dns::{Counters, Sockets, Upstream, nameservers, serve};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE, rdata};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

use crate::kernel::ip;

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(
        Name::new(name).unwrap(),
        QTYPE::TYPE(TYPE::A),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    packet.build_bytes_vec().unwrap()
}

/// Answers every name with 1.2.3.4, but `broken` with a failure, and `silent` not at all; `big` is cut over UDP.
fn respond(message: &[u8], udp: bool) -> Option<Vec<u8>> {
    let asked = Packet::parse(message).unwrap();
    let name = asked.questions[0].qname.to_string();
    let mut packet = Packet::new_reply(asked.id());
    packet.questions = asked.questions.clone();
    match name.to_lowercase().as_str() {
        "silent.example" => return None,
        "broken.example" => *packet.rcode_mut() = RCODE::ServerFailure,
        "big.example" if udp => packet.set_flags(PacketFlag::TRUNCATION),
        _ => {
            let a = rdata::RData::A(rdata::A { address: 0x0102_0304 });
            packet.answers.push(ResourceRecord::new(Name::new(&name).unwrap().into_owned(), CLASS::IN, 60, a));
        }
    }
    Some(packet.build_bytes_vec().unwrap())
}

struct Lab {
    udp: SocketAddr,
    tcp: SocketAddr,
    asked: Arc<AtomicU32>,
    zone: watch::Sender<Option<Arc<Zone>>>,
}

async fn lab() -> Lab {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = upstream.local_addr().unwrap();
    let upstream_tcp = TcpListener::bind(address).await.unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (n, peer) = upstream.recv_from(&mut buffer).await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            if let Some(reply) = respond(&buffer[..n], true) {
                // A forged reply comes first.
                let mut forged = reply.clone();
                forged[0] ^= 0xff;
                upstream.send_to(&forged, peer).await.unwrap();
                upstream.send_to(&reply, peer).await.unwrap();
            }
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = upstream_tcp.accept().await.unwrap();
            let mut message = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut message).await.unwrap();
            let reply = respond(&message, false).unwrap();
            stream.write_u16(reply.len() as u16).await.unwrap();
            stream.write_all(&reply).await.unwrap();
        }
    });
    let (udp, tcp) = (UdpSocket::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (udp_at, tcp_at) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    let (sender, zone) = watch::channel(None);
    let sockets = Sockets { udp: vec![udp], tcp: vec![tcp] };
    // Itself among the resolvers: it is left out.
    let upstream = Upstream::Servers(vec![udp_at, address]);
    tokio::spawn(serve(sockets, zone, upstream, Arc::new(Counters::default())));
    Lab { udp: udp_at, tcp: tcp_at, asked, zone: sender }
}

impl Lab {
    async fn udp(&self, message: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(message, self.udp).await.unwrap();
        let mut buffer = vec![0; 2048];
        let n = socket.recv(&mut buffer).await.unwrap();
        buffer.truncate(n);
        buffer
    }

    async fn tcp(&self, message: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.tcp).await.unwrap();
        stream.write_u16(message.len() as u16).await.unwrap();
        stream.write_all(message).await.unwrap();
        let mut reply = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut reply).await.unwrap();
        reply
    }
}

fn show(reply: &[u8]) -> String {
    let packet = Packet::parse(reply).unwrap();
    let records = packet.answers.iter().map(|r| match &r.rdata {
        rdata::RData::A(a) => std::net::Ipv4Addr::from(a.address).to_string(),
        rdata::RData::CNAME(n) => n.0.to_string(),
        other => format!("{other:?}"),
    });
    let cut = if packet.has_flags(PacketFlag::TRUNCATION) { " cut" } else { "" };
    format!("{} {:?} {}{cut}", packet.id(), packet.rcode(), records.collect::<Vec<_>>().join(" "))
}

#[tokio::test]
async fn answers_forwards_remembers_and_survives() {
    let lab = lab().await;
    let ours = "a.d.svc.cluster.local";
    assert_eq!(show(&lab.udp(&query(1, ours)).await), "1 ServerFailure ", "nothing is known yet");
    let mut zone = Zone::new("cluster.local", 1);
    let service = ZoneService { cluster_ips: vec![ip("10.43.0.7")], ..ZoneService::default() };
    zone.services.insert(("d".into(), "a".into()), service.into());
    let alias = ZoneService { external_name: Some("www.example".into()), ..ZoneService::default() };
    zone.services.insert(("d".into(), "out".into()), alias.into());
    lab.zone.send(Some(Arc::new(zone.index()))).unwrap();

    assert_eq!(show(&lab.udp(&query(2, ours)).await), "2 NoError 10.43.0.7");
    assert_eq!(show(&lab.tcp(&query(3, ours)).await), "3 NoError 10.43.0.7");
    assert_eq!(lab.asked.load(Ordering::SeqCst), 0);

    assert_eq!(show(&lab.udp(&query(4, "Some.Example")).await), "4 NoError 1.2.3.4");
    let again = lab.udp(&query(5, "somE.example")).await;
    assert_eq!(show(&again), "5 NoError 1.2.3.4");
    assert_eq!(Packet::parse(&again).unwrap().questions[0].qname.to_string(), "somE.example");
    assert_eq!(lab.asked.load(Ordering::SeqCst), 1, "the second time from memory");

    assert_eq!(show(&lab.udp(&query(6, "out.d.svc.cluster.local")).await), "6 NoError www.example 1.2.3.4");
    assert_eq!(show(&lab.udp(&query(7, "big.example")).await), "7 NoError  cut");
    assert_eq!(show(&lab.tcp(&query(8, "big.example")).await), "8 NoError 1.2.3.4");
    assert_eq!(show(&lab.udp(&query(9, "broken.example")).await), "9 ServerFailure ");

    // Rubbish does no harm.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for rubbish in [&[][..], &[0; 3], &[0xff; 600], &query(1, "x.y")[..13]] {
        socket.send_to(rubbish, lab.udp).await.unwrap();
    }
    assert_eq!(show(&lab.udp(&query(10, ours)).await), "10 NoError 10.43.0.7");

    // Many ask, one question goes out.
    let before = lab.asked.load(Ordering::SeqCst);
    let silent = query(11, "silent.example");
    let all = futures(&lab, &silent).await;
    assert!(all.iter().all(|reply| show(reply) == "11 ServerFailure "));
    assert_eq!(lab.asked.load(Ordering::SeqCst) - before, 2, "two rounds, not eight");
}

async fn futures(lab: &Lab, message: &[u8]) -> Vec<Vec<u8>> {
    let (a, b, c, d) = tokio::join!(lab.udp(message), lab.udp(message), lab.udp(message), lab.udp(message));
    vec![a, b, c, d]
}

#[test]
fn resolv_conf() {
    let text = "# x\nnameserver 192.0.2.1\nsearch a b\n nameserver 2001:db8::1 \nnameserver bad\nnameserver fe80::1%eth0\nnameserver 1.1.1.1";
    let found: Vec<String> = nameservers(text).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1]:53"]);
    assert_eq!(nameservers(""), []);
}
