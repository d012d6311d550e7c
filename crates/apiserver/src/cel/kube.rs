//! Kubernetes' own types: URLs, addresses, quantities, versions, named formats.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use schema::quantity::{self, Quantity};
use schema::validate::names;

use super::eval::Cx;
use super::value::{Evaluated, Fault, Key, Library, Text, Url, Val};

type Args<'c, 'v> = &'c [Val<'v>];

/// Pays for reading a text, and gives it.
fn read<'c, 'v>(cx: &mut Cx<'v>, args: Args<'c, 'v>) -> Evaluated<&'c str> {
    let text = args.first().ok_or_else(Fault::no_such_overload)?.as_str()?;
    cx.charge_text(text.len() as u64)?;
    Ok(text)
}

fn library<'c>(args: Args<'c, '_>, at: usize) -> Evaluated<&'c Library> {
    match args.get(at) {
        Some(Val::Library(library)) => Ok(library),
        _ => Err(Fault::no_such_overload()),
    }
}

// ---- url

/// As Go's `url.ParseRequestURI`: with a scheme or an absolute path, and no fragment.
fn parse_url(text: &str) -> Result<Url, &'static str> {
    if text.is_empty() {
        return Err("empty url");
    }
    if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Err("net/url: invalid control character in URL");
    }
    let scheme_end = text.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c));
    let (scheme, rest) = match scheme_end {
        Some(0) if text.starts_with(':') => return Err("missing protocol scheme"),
        Some(at) if text[at..].starts_with(':') && text.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            (text[..at].to_ascii_lowercase(), &text[at + 1..])
        }
        _ => (String::new(), text),
    };
    if scheme.is_empty() && !rest.starts_with('/') {
        return Err("invalid URI for request");
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, path) = match rest.strip_prefix("//") {
        Some(authority) if !scheme.is_empty() || !rest.starts_with("///") => {
            let end = authority.find('/').unwrap_or(authority.len());
            let host = authority[..end].rsplit('@').next().unwrap_or_default();
            (host, &authority[end..])
        }
        _ => ("", rest),
    };
    let port = if host.starts_with('[') {
        host.split_once(']').map_or("", |(_, p)| p)
    } else {
        host.find(':').map_or("", |at| &host[at..])
    };
    if host.contains([' ', '"', '<', '>', '^', '`', '{', '|', '}', '\\'])
        || host.starts_with('[') && !host.contains(']')
    {
        return Err("invalid character in host name");
    }
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit())) {
        return Err("invalid port after host");
    }
    if unescape(path, false).is_none() {
        return Err("invalid URL escape");
    }
    Ok(Url { scheme, host: host.to_owned(), path: path.to_owned(), query: query.to_owned() })
}

/// Undoes percent-encoding, and in queries `+`.
fn unescape(text: &str, query: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(b) = bytes.get(at) {
        match b {
            b'%' => {
                out.push(u8::from_str_radix(text.get(at + 1..at + 3)?, 16).ok()?);
                at += 3;
                continue;
            }
            b'+' if query => out.push(b' '),
            b => out.push(*b),
        }
        at += 1;
    }
    String::from_utf8(out).ok()
}

/// A path with everything encoded that must be.
fn escaped_path(path: &str) -> String {
    let mut out = String::new();
    for b in path.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@%!'()*[]".contains(&b) {
            out.push(b as char);
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

pub fn url<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let text = read(cx, args)?;
    parse_url(text)
        .map(|url| Val::library(Library::Url(url)))
        .map_err(|why| Fault::Failed(format!("URL parse error during conversion from string: parse {text:?}: {why}")))
}

pub fn is_url<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    Ok(Val::Bool(parse_url(read(cx, args)?).is_ok()))
}

fn of_url<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>, part: fn(&Url) -> String) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    match library(args, 0)? {
        Library::Url(url) => Ok(Val::text(part(url))),
        _ => Err(Fault::no_such_overload()),
    }
}

/// The host's name and its port.
fn host_and_port(host: &str) -> (&str, &str) {
    if let Some((inner, port)) = host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        return (inner, port.trim_start_matches(':'));
    }
    host.split_once(':').unwrap_or((host, ""))
}

pub fn url_scheme<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    of_url(cx, args, |url| url.scheme.clone())
}

pub fn url_host<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    of_url(cx, args, |url| url.host.clone())
}

pub fn url_hostname<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    of_url(cx, args, |url| host_and_port(&url.host).0.to_owned())
}

pub fn url_port<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    of_url(cx, args, |url| host_and_port(&url.host).1.to_owned())
}

pub fn url_path<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    of_url(cx, args, |url| escaped_path(&url.path))
}

pub fn url_query<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let Library::Url(url) = library(args, 0)? else { return Err(Fault::no_such_overload()) };
    cx.charge_text(url.query.len() as u64)?;
    let mut out: BTreeMap<Key<'v>, Vec<Val<'v>>> = BTreeMap::new();
    for pair in url.query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let (Some(key), Some(value)) = (unescape(key, true), unescape(value, true)) {
            out.entry(Key::String(Text::Shared(key.into()))).or_default().push(Val::text(value));
        }
    }
    Ok(Val::Map(Rc::new(out.into_iter().map(|(k, v)| (k, Val::list(v))).collect())))
}

// ---- ip, cidr

fn parse_ip(text: &str) -> Result<IpAddr, String> {
    if text.contains('%') {
        return Err(format!("IP address {text:?} with zone value is not allowed"));
    }
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        Ok(ip) => Ok(ip),
        Err(_) => Err(format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
        )),
    }
}

fn parse_cidr(text: &str) -> Result<(IpAddr, u8), String> {
    let failed = |why: &str| {
        format!("network address parse error during conversion from string: netip.ParsePrefix({text:?}): {why}")
    };
    let (ip, bits) = text.split_once('/').ok_or_else(|| failed("no '/'"))?;
    let ip = ip.parse::<IpAddr>().map_err(|_| failed("unable to parse IP"))?;
    if matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
    }
    let is_plain = bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    let most = if ip.is_ipv4() { 32 } else { 128 };
    match bits.parse::<u8>() {
        Ok(bits) if is_plain && bits <= most => Ok((ip, bits)),
        _ => Err(failed("prefix length out of range")),
    }
}

/// The network's address.
fn masked(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)).into()),
        IpAddr::V6(v6) => {
            IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)).into())
        }
    }
}

fn holds(network: (IpAddr, u8), ip: IpAddr) -> bool {
    network.0.is_ipv4() == ip.is_ipv4() && masked(network.0, network.1) == masked(ip, network.1)
}

/// `ip('1.2.3.4')` and `cidr.ip()`.
pub fn ip<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    if let [Val::Library(cidr)] = args {
        cx.charge(1)?;
        let Library::Cidr(ip, _) = **cidr else { return Err(Fault::no_such_overload()) };
        return Ok(Val::library(Library::Ip(ip)));
    }
    parse_ip(read(cx, args)?).map(|ip| Val::library(Library::Ip(ip))).map_err(Fault::Failed)
}

pub fn is_ip<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    Ok(Val::Bool(parse_ip(read(cx, args)?).is_ok()))
}

pub fn ip_is_canonical<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let text = read(cx, args)?;
    cx.charge_text(text.len() as u64)?;
    let ip = parse_ip(text).map_err(Fault::Failed)?;
    Ok(Val::Bool(ip.to_string() == text))
}

fn of_ip<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>, answer: fn(IpAddr) -> Val<'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    match library(args, 0)? {
        Library::Ip(ip) => Ok(answer(*ip)),
        _ => Err(Fault::no_such_overload()),
    }
}

pub fn ip_family<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    of_ip(cx, args, |ip| Val::Int(if ip.is_ipv4() { 4 } else { 6 }))
}

pub fn ip_is_unspecified<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    of_ip(cx, args, |ip| Val::Bool(ip.is_unspecified()))
}

pub fn ip_is_loopback<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    of_ip(cx, args, |ip| Val::Bool(ip.is_loopback()))
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

pub fn ip_is_link_local_multicast<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    of_ip(cx, args, |ip| {
        Val::Bool(match ip {
            IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
            IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
        })
    })
}

pub fn ip_is_link_local_unicast<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    of_ip(cx, args, |ip| Val::Bool(is_link_local(ip)))
}

/// As Go has it: also private addresses are global.
pub fn ip_is_global_unicast<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    of_ip(cx, args, |ip| {
        let is_broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        let is_special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
        Val::Bool(!is_broadcast && !is_special && !is_link_local(ip))
    })
}

pub fn cidr<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let parsed = parse_cidr(read(cx, args)?);
    parsed.map(|(ip, bits)| Val::library(Library::Cidr(ip, bits))).map_err(Fault::Failed)
}

pub fn is_cidr<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    Ok(Val::Bool(parse_cidr(read(cx, args)?).is_ok()))
}

fn network(args: Args<'_, '_>) -> Evaluated<(IpAddr, u8)> {
    match library(args, 0)? {
        Library::Cidr(ip, bits) => Ok((*ip, *bits)),
        _ => Err(Fault::no_such_overload()),
    }
}

pub fn contains_ip<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let network = network(args)?;
    cx.charge(1)?;
    let ip = match args.get(1) {
        Some(Val::String(text)) => {
            cx.charge_text(text.len() as u64)?;
            parse_ip(text).map_err(Fault::Failed)?
        }
        _ => match library(args, 1)? {
            Library::Ip(ip) => *ip,
            _ => return Err(Fault::no_such_overload()),
        },
    };
    Ok(Val::Bool(holds(network, ip)))
}

pub fn contains_cidr<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let network = network(args)?;
    cx.charge(4)?;
    let (ip, bits) = match args.get(1) {
        Some(Val::String(text)) => {
            cx.charge_text(text.len() as u64)?;
            parse_cidr(text).map_err(Fault::Failed)?
        }
        _ => match library(args, 1)? {
            Library::Cidr(ip, bits) => (*ip, *bits),
            _ => return Err(Fault::no_such_overload()),
        },
    };
    Ok(Val::Bool(bits >= network.1 && holds(network, ip)))
}

pub fn prefix_length<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    Ok(Val::Int(network(args)?.1.into()))
}

pub fn cidr_masked<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    let (ip, bits) = network(args)?;
    Ok(Val::library(Library::Cidr(masked(ip, bits), bits)))
}

// ---- quantity

fn quantity_at(args: Args<'_, '_>, at: usize) -> Evaluated<Quantity> {
    match args.get(at) {
        Some(Val::Int(i)) => Ok(Quantity::from_int(*i, quantity::Format::DecimalSI)),
        _ => match library(args, at)? {
            Library::Quantity(quantity) => Ok(*quantity),
            _ => Err(Fault::no_such_overload()),
        },
    }
}

pub fn quantity<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let parsed = Quantity::parse(read(cx, args)?);
    parsed.map(|q| Val::library(Library::Quantity(q))).map_err(|why| Fault::Failed(why.to_string()))
}

pub fn is_quantity<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    Ok(Val::Bool(Quantity::parse(read(cx, args)?).is_ok()))
}

const NANO: i128 = 1_000_000_000;

pub fn sign<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    Ok(Val::Int(quantity_at(args, 0)?.nanos.signum() as i64))
}

pub fn is_integer<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    let nanos = quantity_at(args, 0)?.nanos;
    Ok(Val::Bool(nanos % NANO == 0 && i64::try_from(nanos / NANO).is_ok()))
}

pub fn as_integer<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    let nanos = quantity_at(args, 0)?.nanos;
    match i64::try_from(nanos / NANO) {
        Ok(n) if nanos % NANO == 0 => Ok(Val::Int(n)),
        _ => Err(Fault::new("cannot convert value to integer")),
    }
}

pub fn as_float<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    Ok(Val::Double(quantity_at(args, 0)?.nanos as f64 / NANO as f64))
}

pub fn quantity_add<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    Ok(Val::library(Library::Quantity(quantity_at(args, 0)?.plus(quantity_at(args, 1)?))))
}

pub fn quantity_sub<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    Ok(Val::library(Library::Quantity(quantity_at(args, 0)?.minus(quantity_at(args, 1)?))))
}

// ---- semver

/// A version by Semantic Versioning 2.0.0.
#[derive(Clone, Debug, PartialEq)]
pub struct Semver {
    numbers: [u64; 3],
    pre: String,
}

impl Semver {
    fn parse(text: &str, normalize: bool) -> Result<Semver, String> {
        let text = if normalize { text.strip_prefix('v').unwrap_or(text) } else { text };
        let (text, build) = text.split_once('+').map_or((text, None), |(t, b)| (t, Some(b)));
        let (core, pre) = text.split_once('-').map_or((text, None), |(c, p)| (c, Some(p)));
        let mut parts: Vec<&str> = core.split('.').collect();
        if normalize {
            while parts.len() < 3 {
                parts.push("0");
            }
        }
        if parts.len() != 3 {
            return Err("No Major.Minor.Patch elements found".into());
        }
        let mut numbers = [0; 3];
        for (number, part) in numbers.iter_mut().zip(&parts) {
            if !part.bytes().all(|b| b.is_ascii_digit()) || part.is_empty() {
                return Err(format!("Invalid character(s) found in version number {part:?}"));
            }
            if part.len() > 1 && part.starts_with('0') && !normalize {
                return Err(format!("Version number must not contain leading zeroes {part:?}"));
            }
            *number = part.parse().map_err(|_| format!("value out of range {part:?}"))?;
        }
        let is_identifier = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        for suffix in [pre, build].into_iter().flatten() {
            if !suffix.split('.').all(is_identifier) {
                return Err(format!("Invalid character(s) found in {suffix:?}"));
            }
        }
        let is_padded = |s: &str| s.len() > 1 && s.starts_with('0') && s.bytes().all(|b| b.is_ascii_digit());
        if pre.is_some_and(|pre| pre.split('.').any(is_padded)) {
            return Err("Numeric PreRelease version must not contain leading zeroes".into());
        }
        Ok(Semver { numbers, pre: pre.unwrap_or_default().to_owned() })
    }

    pub fn compare(&self, other: &Semver) -> Ordering {
        let order = self.numbers.cmp(&other.numbers);
        let by_pre = || match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let key = |s: &str| s.parse::<u64>().map_or_else(|_| (1, 0, s.to_owned()), |n| (0, n, String::new()));
                self.pre.split('.').map(key).cmp(other.pre.split('.').map(key))
            }
        };
        order.then_with(by_pre)
    }
}

fn parse_semver(args: Args<'_, '_>) -> Evaluated<Result<Semver, String>> {
    let normalize = args.get(1).map(Val::as_bool).transpose()?.unwrap_or(false);
    Ok(Semver::parse(args.first().ok_or_else(Fault::no_such_overload)?.as_str()?, normalize))
}

pub fn semver<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    read(cx, args)?;
    parse_semver(args)?.map(|v| Val::library(Library::Semver(v))).map_err(Fault::Failed)
}

pub fn is_semver<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    read(cx, args)?;
    Ok(Val::Bool(parse_semver(args)?.is_ok()))
}

fn number<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>, at: usize) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    match library(args, 0)? {
        Library::Semver(semver) => Ok(Val::Int(semver.numbers[at] as i64)),
        _ => Err(Fault::no_such_overload()),
    }
}

pub fn major<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    number(cx, args, 0)
}

pub fn minor<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    number(cx, args, 1)
}

pub fn patch<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    number(cx, args, 2)
}

/// The order of two quantities or versions.
fn order<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Ordering> {
    cx.charge(1)?;
    match (library(args, 0)?, library(args, 1)?) {
        (Library::Quantity(a), Library::Quantity(b)) => Ok(a.compare(*b)),
        (Library::Semver(a), Library::Semver(b)) => Ok(a.compare(b)),
        _ => Err(Fault::no_such_overload()),
    }
}

pub fn is_greater_than<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    order(cx, args).map(|o| Val::Bool(o.is_gt()))
}

pub fn is_less_than<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    order(cx, args).map(|o| Val::Bool(o.is_lt()))
}

pub fn compare_to<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    order(cx, args).map(|o| Val::Int(o as i64))
}

// ---- format

/// A named format: what is wrong with a text by it.
#[derive(Debug)]
pub struct Format {
    pub name: &'static str,
    check: fn(&str) -> Vec<String>,
    /// What matching it costs, as the length of a regular expression.
    pattern_length: u64,
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// A generated name's beginning may end with a dash.
fn prefix(text: &str) -> String {
    text.strip_suffix('-').filter(|t| !t.is_empty()).map_or_else(|| text.to_owned(), |t| format!("{t}a"))
}

fn problem(fits: bool, why: &str) -> Vec<String> {
    if fits { Vec::new() } else { vec![why.to_owned()] }
}

fn decodes(text: &str) -> bool {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}

pub static FORMATS: [Format; 13] = [
    Format { name: "dns1123Label", check: |s| names::dns1123_label(s), pattern_length: 30 },
    Format { name: "dns1123Subdomain", check: |s| names::dns1123_subdomain(s), pattern_length: 60 },
    Format { name: "dns1035Label", check: |s| names::dns1035_label(s), pattern_length: 30 },
    Format { name: "qualifiedName", check: |s| names::label_key(s), pattern_length: 60 },
    Format { name: "dns1123LabelPrefix", check: |s| names::dns1123_label(&prefix(s)), pattern_length: 30 },
    Format { name: "dns1123SubdomainPrefix", check: |s| names::dns1123_subdomain(&prefix(s)), pattern_length: 60 },
    Format { name: "dns1035LabelPrefix", check: |s| names::dns1035_label(&prefix(s)), pattern_length: 30 },
    Format { name: "labelValue", check: |s| names::label_value(s), pattern_length: 40 },
    Format {
        name: "uri",
        check: |s| parse_url(s).err().map(|e| format!("parse {s:?}: {e}")).into_iter().collect(),
        pattern_length: 900,
    },
    Format {
        name: "uuid",
        check: |s| problem(names::uuid(&s.to_lowercase()).is_empty(), "does not match the UUID format"),
        pattern_length: 80,
    },
    Format { name: "byte", check: |s| problem(decodes(s), "invalid base64"), pattern_length: 80 },
    Format {
        name: "date",
        check: |s| problem(s.len() == 10 && schema::time::parse(&format!("{s}T00:00:00Z")).is_some(), "invalid date"),
        pattern_length: 150,
    },
    Format {
        name: "datetime",
        check: |s| problem(schema::time::parse(s).is_some(), "invalid datetime"),
        pattern_length: 150,
    },
];

fn format_by_name<'v>(name: &str) -> Option<Val<'v>> {
    FORMATS.iter().find(|f| f.name == name).map(|f| Val::library(Library::Format(f)))
}

pub fn format_named<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    let name = args.first().ok_or_else(Fault::no_such_overload)?.as_str()?;
    Ok(Val::Optional(format_by_name(name).map(Rc::new)))
}

/// `format.dns1123Label()`: the checker gives the name as an argument.
pub fn format_constant<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    let name = args.first().ok_or_else(Fault::no_such_overload)?.as_str()?;
    format_by_name(name).ok_or_else(Fault::no_such_overload)
}

pub fn validate<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let (Library::Format(format), Some(Val::String(text))) = (library(args, 0)?, args.get(1)) else {
        return Err(Fault::no_such_overload());
    };
    cx.charge((text.len() as u64 + 1).div_ceil(10).saturating_mul(format.pattern_length.div_ceil(4)))?;
    let problems = (format.check)(text);
    let list = || Val::some(Val::list(problems.iter().map(|p| Val::text(p.as_str())).collect()));
    Ok(if problems.is_empty() { Val::Optional(None) } else { list() })
}

/// A key as a JSON pointer's token (RFC 6901).
pub fn escape_key<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    Ok(Val::text(read(cx, args)?.replace('~', "~0").replace('/', "~1")))
}
