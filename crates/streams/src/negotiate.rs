//! Which protocol a client asks for: RFC 6455 subprotocols, or `X-Stream-Protocol-Version` with `Upgrade: SPDY/3.1`.

use http::{HeaderMap, HeaderValue, StatusCode, header};

/// What runs over the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// exec and attach.
    RemoteCommand,
    PortForward,
    /// A log, over WebSocket only.
    Log,
    /// A watch, over WebSocket only: whatever subprotocol is asked for.
    Watch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Channels, one byte of number before each message; with `close`, channel 255 half-closes another (v5).
    Channels { base64: bool, status: bool, close: bool },
    /// SPDY/3.1 on the connection itself. `status`: the error stream carries a `Status` (v4), else text.
    Spdy { status: bool },
    /// SPDY/3.1 in binary WebSocket messages (port-forward).
    Tunnel,
    /// Messages from the server alone: binary ones, or text that is base64.
    Messages { base64: bool },
}

/// An agreed upgrade: answer 101 with these headers, then run `protocol` on the connection.
#[derive(Debug)]
pub struct Upgrade {
    pub protocol: Protocol,
    pub headers: HeaderMap,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    #[error("unable to upgrade: missing upgrade headers in request")]
    NoUpgrade,
    #[error("unable to upgrade: Sec-WebSocket-Key is missing or Sec-WebSocket-Version is not 13")]
    BadHandshake,
    #[error("unable to upgrade: unable to negotiate protocol: client supports {asked:?}, server accepts {offered:?}")]
    NoProtocol { asked: Vec<String>, offered: &'static [&'static str] },
}

impl Refused {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoProtocol { .. } => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

const COMMAND_CHANNELS: &[&str] =
    &["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];
const COMMAND_SPDY: &[&str] = &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
const FORWARD_CHANNELS: &[&str] = &["SPDY/3.1+portforward.k8s.io", "v4.channel.k8s.io"];
const FORWARD_SPDY: &[&str] = &["portforward.k8s.io"];
const LOG: &[&str] = &["binary.k8s.io", "base64.binary.k8s.io"];

impl Upgrade {
    pub fn negotiate(headers: &HeaderMap, usage: Use) -> Result<Self, Refused> {
        let upgrade = text(headers, header::UPGRADE.as_str()).to_ascii_lowercase();
        if !text(headers, "connection").to_ascii_lowercase().contains("upgrade") {
            return Err(Refused::NoUpgrade);
        }
        match &*upgrade {
            "websocket" => websocket(headers, usage),
            "spdy/3.1" if matches!(usage, Use::RemoteCommand | Use::PortForward) => spdy(headers, usage),
            _ => Err(Refused::NoUpgrade),
        }
    }
}

fn websocket(headers: &HeaderMap, usage: Use) -> Result<Upgrade, Refused> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or(Refused::BadHandshake)?;
    if text(headers, "sec-websocket-version") != "13" {
        return Err(Refused::BadHandshake);
    }
    let asked = listed(headers, "sec-websocket-protocol");
    let offered = match usage {
        Use::RemoteCommand => COMMAND_CHANNELS,
        Use::PortForward => FORWARD_CHANNELS,
        Use::Log => LOG,
        Use::Watch => &[],
    };
    // A client that asks for nothing gets the oldest, without a header (RFC 6455 §4.2.2).
    let chosen = if asked.is_empty() || offered.is_empty() { None } else { Some(choose(asked, offered)?) };
    let mut answer = HeaderMap::new();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).map_err(|_| Refused::BadHandshake)?);
    if let Some(chosen) = chosen {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen));
    }
    if usage == Use::Watch
        && let Some(asked) =
            headers.get(header::SEC_WEBSOCKET_PROTOCOL).filter(|asked| !asked.as_bytes().contains(&b','))
    {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, asked.clone());
    }
    let chosen = chosen.unwrap_or("channel.k8s.io");
    let protocol = if matches!(usage, Use::Log | Use::Watch) {
        Protocol::Messages { base64: chosen.contains("base64") }
    } else if chosen.starts_with("SPDY/") {
        Protocol::Tunnel
    } else {
        Protocol::Channels {
            base64: chosen.contains("base64"),
            status: chosen.starts_with('v'),
            close: chosen.starts_with("v5"),
        }
    };
    Ok(Upgrade { protocol, headers: answer })
}

fn spdy(headers: &HeaderMap, usage: Use) -> Result<Upgrade, Refused> {
    let offered = if usage == Use::RemoteCommand { COMMAND_SPDY } else { FORWARD_SPDY };
    let asked = listed(headers, "x-stream-protocol-version");
    let chosen = if asked.is_empty() { offered.last().copied().unwrap_or_default() } else { choose(asked, offered)? };
    let mut answer = HeaderMap::new();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    answer.insert("x-stream-protocol-version", HeaderValue::from_static(chosen));
    Ok(Upgrade { protocol: Protocol::Spdy { status: chosen == "v4.channel.k8s.io" }, headers: answer })
}

/// The first that the client asks for and that we know.
fn choose(asked: Vec<String>, offered: &'static [&'static str]) -> Result<&'static str, Refused> {
    asked
        .iter()
        .find_map(|name| offered.iter().find(|known| *known == name).copied())
        .ok_or(Refused::NoProtocol { asked, offered })
}

fn listed(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
        .collect()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
