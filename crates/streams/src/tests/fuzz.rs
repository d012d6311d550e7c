//! Broken frames: a connection ends, and nothing else does.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

#[path = "../../../../tests/fuzz/mutate.rs"]
mod mutate;

/// What a client says that opens two streams and writes into one, as SPDY frames or WebSocket messages.
async fn conversation(web: bool) -> Vec<u8> {
    let (client, mut server) = tokio::io::duplex(1 << 16);
    if web {
        let (_from, mut to) = websocket::accept(client, Role::Client).await;
        to.binary(b"\0hello".as_slice().into()).await.expect("stdin");
        to.binary(b"\x04{\"Width\":120,\"Height\":40}".as_slice().into()).await.expect("resize");
        to.binary(vec![255, 0].into()).await.expect("close of stdin");
        to.close().await;
    } else {
        let client = spdy::connect(client);
        let error = client.open(&[("streamType", "error"), ("port", "80"), ("requestID", "0")]).await.expect("opens");
        let mut data =
            client.open(&[("streamType", "stdin"), ("port", "80"), ("requestID", "0")]).await.expect("opens");
        data.io.write_all(b"hello").await.expect("writes");
        drop((error, data));
        tokio::task::yield_now().await;
        drop(client);
    }
    let mut said = Vec::new();
    server.read_to_end(&mut said).await.expect("reads");
    said
}

#[test]
fn broken_frames_end_the_connection() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        before(info);
    }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for web in [false, true] {
        let seeds = [runtime.block_on(conversation(web))];
        let what = if web { "WebSocket" } else { "SPDY" };
        mutate::rounds(what, 2_000, &seeds, |dice, bytes| {
            let panics = PANICS.load(Ordering::Relaxed);
            runtime.block_on(async {
                let (mut client, server) = tokio::io::duplex(1 << 20);
                client.write_all(&bytes).await.expect("writes");
                client.shutdown().await.expect("ends");
                let talk = async {
                    match (web, dice.below(2)) {
                        (false, 0) => {
                            let mut connection = spdy::accept(server);
                            let mut held = Vec::new();
                            while let Some(stream) = connection.next().await {
                                held.push(stream);
                            }
                            for mut stream in held {
                                let _ = stream.io.read_to_end(&mut Vec::new()).await;
                            }
                        }
                        (false, _) => {
                            drop(port_forward(server, Protocol::Spdy { status: false }, &[]).await.recv().await)
                        }
                        (true, _) => {
                            let protocol = Protocol::Channels { base64: false, status: true, close: true };
                            let streams = Streams { stdin: true, ..Streams::default() };
                            if let Ok(mut command) = remote_command(server, protocol, streams).await {
                                let mut stdin = command.stdin.take().expect("asked for");
                                let (mut said, sizes) =
                                    (Vec::new(), async { while command.resize.recv().await.is_some() {} });
                                let _ = tokio::join!(stdin.read_to_end(&mut said), sizes);
                            }
                        }
                    }
                };
                // Whoever waits for a peer that has gone waits for ever.
                tokio::time::timeout(std::time::Duration::from_secs(30), talk).await.expect("it ends");
            });
            assert_eq!(PANICS.load(Ordering::Relaxed), panics, "a task panicked");
        });
    }
}
