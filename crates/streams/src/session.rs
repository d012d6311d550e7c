//! What every server does with a session: join it to a process or a port, and say how that ended.

use std::future::Future;

use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::{Forward, RemoteCommand};

pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// What exec and attach connect; a `None` is not connected.
pub struct Stdio {
    pub stdin: Option<Reader>,
    pub stdout: Option<Writer>,
    pub stderr: Option<Writer>,
    pub tty: bool,
    /// Columns and rows.
    pub resize: Option<mpsc::Receiver<(u16, u16)>>,
}

impl RemoteCommand {
    /// Hands the streams to `work`, and the client the exit code that it gives; ends when the client has gone.
    pub async fn serve<F>(self, tty: bool, work: impl FnOnce(Stdio) -> F)
    where
        F: Future<Output = Result<i32, String>>,
    {
        let RemoteCommand { stdin, stdout, stderr, mut error, mut resize, status, mut gone } = self;
        let (sizes_to, sizes) = mpsc::channel(4);
        let resizing = async {
            while let Some(size) = resize.recv().await {
                if sizes_to.send((size.width, size.height)).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        let work = work(Stdio {
            stdin: stdin.map(|from| Box::new(from) as Reader),
            stdout: stdout.map(|to| Box::new(to) as Writer),
            stderr: stderr.map(|to| Box::new(to) as Writer),
            tty,
            resize: tty.then_some(sizes),
        });
        let ended = tokio::select! {
            ended = work => ended,
            () = resizing => return,
            _ = gone.recv() => return,
        };
        let text = last_word(&ended, status);
        if !text.is_empty() {
            let _ = error.write_all(text.as_bytes()).await;
        }
        let _ = error.shutdown().await;
    }
}

impl Forward {
    /// Copies to and from what `connect` gives; if that fails, the client is told with `target`'s name.
    pub async fn serve(self, target: &str, connect: impl Future<Output = Result<(Reader, Writer), String>>) {
        let Forward { port, data, mut error } = self;
        let failed = match connect.await {
            Ok((mut from_pod, mut to_pod)) => {
                let (mut from_client, mut to_client) = tokio::io::split(data);
                let up = async {
                    let done = tokio::io::copy(&mut from_client, &mut to_pod).await;
                    let _ = to_pod.shutdown().await;
                    done
                };
                let down = async {
                    let done = tokio::io::copy(&mut from_pod, &mut to_client).await;
                    let _ = to_client.shutdown().await;
                    done
                };
                // The pod's end ends it; a client may stop sending and still read.
                tokio::pin!(up, down);
                tokio::select! {
                    _ = &mut down => None,
                    sent = &mut up => if sent.is_ok() { down.await.err().map(|error| error.to_string()) } else { None },
                }
            }
            Err(failed) => Some(failed),
        };
        if let Some(why) = failed {
            let text = format!(
                "an error occurred forwarding {port} -> {port}: error forwarding port {port} to pod {target}: {why}"
            );
            let _ = error.write_all(text.as_bytes()).await;
        }
        let _ = error.shutdown().await;
    }
}

/// What the error stream says at the end: a `Status`, or plain text to clients of old protocols.
fn last_word(ended: &Result<i32, String>, status: bool) -> String {
    match (ended, status) {
        (Ok(0), false) => String::new(),
        (Ok(0), true) => json!({"metadata": {}, "status": "Success"}).to_string(),
        (Ok(code), true) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        })
        .to_string(),
        (Ok(code), false) => format!("command terminated with non-zero exit code: exit status {code}"),
        (Err(error), true) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("Internal error occurred: error executing command in container: {error}"),
            "reason": "InternalError",
            "details": {"causes": [{"message": error}]},
            "code": 500,
        })
        .to_string(),
        (Err(error), false) => format!("error executing command in container: {error}"),
    }
}
