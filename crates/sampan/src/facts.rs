//! What flags leave open, found out on this machine: the node's name and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::cli::NodeArgs;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "--node-name {0:?} is no name for a node: lower-case letters, digits, `-` and `.`, at most 253, with a letter or digit at both ends"
    )]
    NodeName(String),
    #[error("--node-ip: give at most one address per family, not {0:?}")]
    NodeIp(Vec<IpAddr>),
    #[error("cannot read the token file {}: {source}", path.display())]
    TokenFile { path: std::path::PathBuf, source: std::io::Error },
    #[error("the token file {} is empty", .0.display())]
    EmptyTokenFile(std::path::PathBuf),
    #[error("a node needs root: it mounts, makes network interfaces and starts containers{0}")]
    NotRoot(&'static str),
}

/// A node's name: `--node-name`, or the host's in lower case.
pub fn node_name(args: &NodeArgs) -> Result<String, Error> {
    let name = match &args.node_name {
        Some(name) => name.clone(),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_lowercase(),
    };
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let valid = name.len() <= 253
        && !name.is_empty()
        && name.split('.').all(|label| {
            label.starts_with(ends) && label.ends_with(ends) && label.chars().all(|c| ends(c) || c == '-')
        });
    if valid { Ok(name) } else { Err(Error::NodeName(name)) }
}

/// The node's addresses, the primary one first.
pub fn node_addresses(args: &NodeArgs) -> Result<Vec<IpAddr>, Error> {
    let given = &args.node_ip;
    if given.len() > 2 || (given.len() == 2 && given[0].is_ipv4() == given[1].is_ipv4()) {
        return Err(Error::NodeIp(given.clone()));
    }
    if !given.is_empty() {
        return Ok(given.clone());
    }
    Ok(vec![default_address().unwrap_or(Ipv4Addr::LOCALHOST.into())])
}

/// The address from which this machine would talk to the world; nothing is sent.
pub fn default_address() -> Option<IpAddr> {
    let targets: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    ];
    targets.into_iter().find_map(|(from, to)| {
        let socket = UdpSocket::bind(SocketAddr::new(from, 0)).ok()?;
        socket.connect(SocketAddr::new(to, 9)).ok()?;
        socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
    })
}

/// The join token: `--token`, or the contents of `--token-file`.
pub fn token(args: &NodeArgs) -> Result<Option<String>, Error> {
    match (&args.token, &args.token_file) {
        (Some(token), _) => Ok(Some(token.clone())),
        (None, None) => Ok(None),
        (None, Some(path)) => match std::fs::read_to_string(path) {
            Ok(token) if token.trim().is_empty() => Err(Error::EmptyTokenFile(path.clone())),
            Ok(token) => Ok(Some(token.trim().to_owned())),
            Err(source) => Err(Error::TokenFile { path: path.clone(), source }),
        },
    }
}

/// The `index`th address of a CIDR.
pub fn nth_address(cidr: &str, index: u32) -> Option<IpAddr> {
    cidr.parse::<schema::cidr::Cidr>().ok()?.nth(index.into())
}

/// As many descriptors as the machine lets this process have, up to what k3s's unit asks for: a connection each.
pub fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const ENOUGH: u64 = 1 << 20;
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(ENOUGH).min(ENOUGH);
    if limit.current.is_some_and(|current| current < wanted) {
        // Refused only where it is already as high as it may be.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    }
}

/// Whether this process may run a node; `otherwise` is what to do otherwise.
pub fn root(otherwise: &'static str) -> Result<(), Error> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(Error::NotRoot(otherwise)) }
}

/// The host part of a URL for an address.
pub fn url_host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}
