//! The client's side, over SPDY/3.1: what a kubelet says to the streaming URLs of a container runtime.

use std::future::{Future, pending};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy};

use crate::{Error, Io, Stdio, spdy};

/// A server's refusal is not longer.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Asks for SPDY/3.1 with `protocol` (`v4.channel.k8s.io`, `portforward.k8s.io`) on a fresh connection.
pub async fn upgrade<T: Io>(mut io: T, host: &str, path: &str, protocol: &str) -> Result<T, Error> {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n"
    );
    io.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD_BYTES {
        // One by one: what follows the head is SPDY's.
        head.push(io.read_u8().await?);
    }
    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    if line.split(' ').nth(1) == Some("101") { Ok(io) } else { Err(Error::Refused(line)) }
}

/// Runs an exec or attach session on an upgraded connection; its exit code.
pub async fn command(io: impl Io, stdio: Stdio) -> Result<i32, String> {
    let words = |error: Error| error.to_string();
    let connection = spdy::connect(io);
    let open = async |kind: &str| connection.open(&[("streamtype", kind)]).await.map_err(words).map(|stream| stream.io);
    let mut error = open("error").await?;
    let Stdio { stdin, stdout, stderr, tty, resize } = stdio;
    let feed = match stdin {
        Some(mut from) => {
            let mut to = open("stdin").await?;
            Some(async move {
                let _ = copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            })
        }
        None => None,
    };
    let out = if stdout.is_some() { Some(open("stdout").await?) } else { None };
    let err = if stderr.is_some() && !tty { Some(open("stderr").await?) } else { None };
    let sizes = if tty { Some(open("resize").await?) } else { None };
    let pump = |from: Option<DuplexStream>, to: Option<crate::Writer>| async move {
        if let (Some(mut from), Some(mut to)) = (from, to) {
            let _ = copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        }
    };
    let resizing = async move {
        if let (Some(mut to), Some(mut from)) = (sizes, resize) {
            while let Some((width, height)) = from.recv().await {
                let size = json!({"Width": width, "Height": height}).to_string();
                let _ = to.write_all(size.as_bytes()).await;
            }
            pending::<()>().await; // Closed, it would say that the session is over.
        }
        pending::<()>().await
    };
    let mut last = Vec::new();
    let ending = async {
        let (_, _, read) = tokio::join!(pump(out, stdout), pump(err, stderr), error.read_to_end(&mut last));
        read
    };
    tokio::select! {
        read = ending => { read.map_err(|error| error.to_string())?; }
        () = both(feed) => {}
        () = resizing => {}
    }
    exit_code(&last)
}

/// Never ends.
async fn both(feed: Option<impl Future<Output = ()>>) {
    if let Some(feed) = feed {
        feed.await;
    }
    pending().await
}

/// From the `Status` of the error stream.
fn exit_code(last: &[u8]) -> Result<i32, String> {
    let status: Value = match last {
        [] => return Ok(0),
        text => serde_json::from_slice(text).map_err(|_| String::from_utf8_lossy(text).into_owned())?,
    };
    if status["status"] == json!("Success") {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let code = causes.filter(|cause| cause["reason"] == json!("ExitCode")).find_map(|cause| cause["message"].as_str());
    code.and_then(|code| code.parse().ok())
        .ok_or_else(|| status["message"].as_str().unwrap_or("the runtime told no exit code").to_owned())
}

/// Opens a connection to a port on an upgraded connection; what fails later is text on the second stream.
pub async fn forward(io: impl Io, port: u16) -> Result<(DuplexStream, DuplexStream), Error> {
    let connection = spdy::connect(io);
    let port = port.to_string();
    let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", "0")];
    let error = connection.open(&headers("error")).await?;
    let data = connection.open(&headers("data")).await?;
    Ok((data.io, error.io))
}
