//! `grpc.health.v1.Health/Check` over plain HTTP/2, as gRPC probes ask.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::http_get::{dial, join};

const SERVING: u8 = 1;
const UNIMPLEMENTED: &str = "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service grpc.health.v1.Health";

/// Why the service is not serving.
pub async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    match tokio::time::timeout(timeout, ask(host, port, service)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!(
            "timeout: failed to connect service \"{host}:{port}\" within {}s: context deadline exceeded",
            timeout.as_secs()
        )),
    }
}

async fn ask(host: &str, port: u16, service: &str) -> Result<(), String> {
    let address = join(host, port);
    let unreachable =
        |error: &dyn std::fmt::Display| format!("error: failed to connect service at \"{address}\": {error}");
    let stream = dial(host, port).await.map_err(|error| unreachable(&error))?;
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(&error))?;
    let driver = tokio::spawn(connection);
    let answer = async {
        // HealthCheckRequest { service = 1 }.
        let mut message = BytesMut::new();
        if !service.is_empty() {
            message.put_u8(1 << 3 | 2);
            let mut length = service.len();
            while length >= 0x80 {
                message.put_u8(length as u8 | 0x80);
                length >>= 7;
            }
            message.put_u8(length as u8);
            message.put_slice(service.as_bytes());
        }
        let length = u32::try_from(message.len()).unwrap_or(0).to_be_bytes();
        let framed = [&[0], &length[..], &message].concat();
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{address}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "kube-probe/1.37")
            .body(Full::<Bytes>::new(framed.into()))
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
        let code = response.headers().get("grpc-status").cloned();
        let collected = response.into_body().collect().await.map_err(|error| unreachable(&error))?;
        let code = code.or_else(|| collected.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned());
        match code.as_ref().and_then(|code| code.to_str().ok()) {
            Some("0") => {}
            Some("12") => return Err(UNIMPLEMENTED.to_owned()),
            code => {
                return Err(format!("error: health rpc probe failed: rpc error: code = {}", code.unwrap_or("Unknown")));
            }
        }
        // HealthCheckResponse { status = 1 } behind five bytes of frame.
        let body = collected.to_bytes();
        let status = match body.get(5..) {
            Some([8, SERVING, ..]) => return Ok(()),
            Some([8, 2, ..]) => "NOT_SERVING",
            Some([8, 3, ..]) => "SERVICE_UNKNOWN",
            _ => "UNKNOWN",
        };
        Err(format!("service unhealthy (responded with \"{status}\")"))
    }
    .await;
    driver.abort();
    answer
}
