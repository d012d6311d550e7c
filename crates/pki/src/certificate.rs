//! Reading a certificate: whom it names, for what, until when, and whether it should be replaced.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::der::{self, Reader};
use crate::{Error, Pem, PublicKey, Result};

pub(crate) const OID_CN: &[u8] = &[0x55, 0x04, 0x03];
pub(crate) const OID_O: &[u8] = &[0x55, 0x04, 0x0a];
pub(crate) const EXT_SUBJECT_KEY: &[u8] = &[0x55, 0x1d, 0x0e];
pub(crate) const EXT_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
pub(crate) const EXT_NAMES: &[u8] = &[0x55, 0x1d, 0x11];
pub(crate) const EXT_BASIC: &[u8] = &[0x55, 0x1d, 0x13];
pub(crate) const EXT_AUTHORITY_KEY: &[u8] = &[0x55, 0x1d, 0x23];
pub(crate) const EXT_EXTENDED_USAGE: &[u8] = &[0x55, 0x1d, 0x25];

/// Common name and organizations: a client's user and groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    pub common_name: String,
    pub organizations: Vec<String>,
}

/// Subject alternative names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub dns: BTreeSet<String>,
    pub ips: BTreeSet<IpAddr>,
    pub emails: BTreeSet<String>,
    pub uris: BTreeSet<String>,
}

impl Names {
    /// Sorts addresses from names (`--tls-san` takes both).
    pub fn of<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Self {
        let mut sorted = Self::default();
        for name in names {
            match name.as_ref().parse() {
                Ok(ip) => sorted.ips.insert(ip),
                Err(_) => sorted.dns.insert(name.as_ref().to_owned()),
            };
        }
        sorted
    }

    pub fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.ips.is_empty() && self.emails.is_empty() && self.uris.is_empty()
    }

    /// What `self` has and `other` lacks.
    pub fn missing_in(&self, other: &Self) -> Vec<String> {
        let names = self.dns.difference(&other.dns).cloned();
        let ips = self.ips.difference(&other.ips).map(IpAddr::to_string);
        let emails = self.emails.difference(&other.emails).cloned();
        names.chain(ips).chain(emails).chain(self.uris.difference(&other.uris).cloned()).collect()
    }
}

/// Extended key usages that Kubernetes knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExtendedUsage {
    Any,
    ServerAuth,
    ClientAuth,
    CodeSigning,
    EmailProtection,
    IpsecEndSystem,
    IpsecTunnel,
    IpsecUser,
    Timestamping,
    OcspSigning,
    MicrosoftSgc,
    NetscapeSgc,
}

/// Usage, its name in a CertificateSigningRequest's `spec.usages`, and its OID.
const USAGES: [(ExtendedUsage, &str, &[u8]); 12] = [
    (ExtendedUsage::Any, "any", &[0x55, 0x1d, 0x25, 0x00]),
    (ExtendedUsage::ServerAuth, "server auth", &[0x2b, 6, 1, 5, 5, 7, 3, 1]),
    (ExtendedUsage::ClientAuth, "client auth", &[0x2b, 6, 1, 5, 5, 7, 3, 2]),
    (ExtendedUsage::CodeSigning, "code signing", &[0x2b, 6, 1, 5, 5, 7, 3, 3]),
    (ExtendedUsage::EmailProtection, "email protection", &[0x2b, 6, 1, 5, 5, 7, 3, 4]),
    (ExtendedUsage::IpsecEndSystem, "ipsec end system", &[0x2b, 6, 1, 5, 5, 7, 3, 5]),
    (ExtendedUsage::IpsecTunnel, "ipsec tunnel", &[0x2b, 6, 1, 5, 5, 7, 3, 6]),
    (ExtendedUsage::IpsecUser, "ipsec user", &[0x2b, 6, 1, 5, 5, 7, 3, 7]),
    (ExtendedUsage::Timestamping, "timestamping", &[0x2b, 6, 1, 5, 5, 7, 3, 8]),
    (ExtendedUsage::OcspSigning, "ocsp signing", &[0x2b, 6, 1, 5, 5, 7, 3, 9]),
    (ExtendedUsage::MicrosoftSgc, "microsoft sgc", &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 10, 3, 3]),
    (ExtendedUsage::NetscapeSgc, "netscape sgc", &[0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 4, 1]),
];

impl ExtendedUsage {
    /// From a name of `spec.usages`.
    pub fn named(name: &str) -> Option<Self> {
        let name = if name == "s/mime" { "email protection" } else { name };
        USAGES.iter().find(|(_, n, _)| *n == name).map(|(usage, ..)| *usage)
    }

    pub(crate) fn oid(self) -> &'static [u8] {
        USAGES.iter().find(|(usage, ..)| *usage == self).map_or(&[], |(_, _, oid)| oid)
    }

    fn from_oid(oid: &[u8]) -> Option<Self> {
        USAGES.iter().find(|(.., o)| *o == oid).map(|(usage, ..)| *usage)
    }
}

/// A parsed certificate; parsing proves nothing about who signed it.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub der: Vec<u8>,
    pub serial: Vec<u8>,
    pub subject: Subject,
    pub names: Names,
    /// Seconds since 1970, both inclusive.
    pub not_before: i64,
    pub not_after: i64,
    pub is_ca: bool,
    /// Those that Kubernetes knows.
    pub extended_usages: Vec<ExtendedUsage>,
    /// Whether it names extended usages, known or not.
    pub restricts_usage: bool,
    pub subject_key: Option<Vec<u8>>,
    pub authority_key: Option<Vec<u8>>,
    pub(crate) raw_subject: Vec<u8>,
    pub(crate) raw_issuer: Vec<u8>,
    spki: Vec<u8>,
    signed: Vec<u8>,
    signature_oid: Vec<u8>,
    signature: Vec<u8>,
}

/// Why a certificate should be issued anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It ends at `not_after`, within the window or in the past.
    Expires { not_after: i64 },
    /// It begins in the future: the clock was wrong when it was made.
    NotYetValid { not_before: i64 },
    /// The wanted names or addresses that it lacks.
    Names { missing: Vec<String> },
    /// It names another user or other groups.
    Subject,
    /// Another authority signed it.
    Authority,
}

impl Certificate {
    pub fn from_der(bytes: &[u8]) -> Result<Self> {
        let bad = |field| Error::Der { what: "a certificate", field };
        let mut outer = Reader(bytes).sequence().ok_or(bad("outer sequence"))?;
        let (tag, tbs, signed) = outer.element().ok_or(bad("tbsCertificate"))?;
        if tag != der::SEQUENCE {
            return Err(bad("tbsCertificate"));
        }
        let signature_oid = outer.sequence().and_then(|mut a| a.expect(der::OID)).ok_or(bad("signatureAlgorithm"))?;
        let signature = outer.bits().ok_or(bad("signature"))?;
        let mut tbs = Reader(tbs);
        let _version = tbs.expect(der::context(0, true));
        let serial = tbs.expect(der::INTEGER).ok_or(bad("serialNumber"))?;
        tbs.sequence().ok_or(bad("signature algorithm"))?;
        let (_, _, raw_issuer) = tbs.element().ok_or(bad("issuer"))?;
        let mut validity = tbs.sequence().ok_or(bad("validity"))?;
        let not_before = validity.time().ok_or(bad("notBefore"))?;
        let not_after = validity.time().ok_or(bad("notAfter"))?;
        let (_, _, raw_subject) = tbs.element().ok_or(bad("subject"))?;
        let (_, _, spki) = tbs.element().ok_or(bad("subjectPublicKeyInfo"))?;
        let mut certificate = Self {
            der: bytes.to_vec(),
            serial: serial.to_vec(),
            subject: read_subject(raw_subject).ok_or(bad("subject"))?,
            names: Names::default(),
            not_before,
            not_after,
            is_ca: false,
            extended_usages: Vec::new(),
            restricts_usage: false,
            subject_key: None,
            authority_key: None,
            raw_subject: raw_subject.to_vec(),
            raw_issuer: raw_issuer.to_vec(),
            spki: spki.to_vec(),
            signed: signed.to_vec(),
            signature_oid: signature_oid.to_vec(),
            signature: signature.to_vec(),
        };
        while let Some((tag, contents, _)) = tbs.element() {
            if tag == der::context(3, true) {
                let list = Reader(contents).sequence().ok_or(bad("extensions"))?;
                certificate.read_extensions(list).ok_or(bad("extensions"))?;
            }
        }
        Ok(certificate)
    }

    /// Every certificate of the text, in order; at least one.
    pub fn all_from_pem(text: &str) -> Result<Vec<Self>> {
        let blocks = Pem::parse_all(text)?;
        let found: Vec<Self> = blocks
            .iter()
            .filter(|b| b.label == "CERTIFICATE")
            .map(|b| Self::from_der(&b.contents))
            .collect::<Result<_>>()?;
        if found.is_empty() { Err(Error::NoPem { label: "CERTIFICATE" }) } else { Ok(found) }
    }

    /// The first certificate of the text.
    pub fn from_pem(text: &str) -> Result<Self> {
        Self::all_from_pem(text).map(|mut all| all.swap_remove(0))
    }

    pub fn to_pem(&self) -> String {
        Pem::encode("CERTIFICATE", &self.der)
    }

    pub fn public_key(&self) -> Result<PublicKey> {
        PublicKey::from_spki(&self.spki)
    }

    /// Whether `authority`'s key made this signature and its name stands as the issuer.
    pub fn is_signed_by(&self, authority: &Certificate) -> bool {
        self.raw_issuer == authority.raw_subject
            && authority
                .public_key()
                .is_ok_and(|key| key.verify_x509(&self.signature_oid, &self.signed, &self.signature))
    }

    fn read_extensions(&mut self, mut list: Reader<'_>) -> Option<()> {
        while !list.is_empty() {
            let (oid, value) = read_extension(list.sequence()?)?;
            let mut inner = Reader(value);
            match oid {
                EXT_NAMES => self.names = read_names(inner.sequence()?)?,
                EXT_BASIC => self.is_ca = inner.sequence()?.expect(der::BOOLEAN) == Some(&[0xff]),
                EXT_EXTENDED_USAGE => {
                    self.restricts_usage = true;
                    let mut usages = inner.sequence()?;
                    while !usages.is_empty() {
                        self.extended_usages.extend(ExtendedUsage::from_oid(usages.expect(der::OID)?));
                    }
                }
                EXT_SUBJECT_KEY => self.subject_key = Some(inner.expect(der::OCTET_STRING)?.to_vec()),
                EXT_AUTHORITY_KEY => {
                    self.authority_key = inner.sequence()?.expect(der::context(0, false)).map(<[u8]>::to_vec);
                }
                _ => {}
            }
        }
        Some(())
    }
}

/// OID and value of one Extension.
pub(crate) fn read_extension(mut extension: Reader<'_>) -> Option<(&[u8], &[u8])> {
    let oid = extension.expect(der::OID)?;
    let _critical = extension.expect(der::BOOLEAN);
    Some((oid, extension.expect(der::OCTET_STRING)?))
}

/// A Name's common name (the last one, as Go has it) and organizations.
pub(crate) fn read_subject(name: &[u8]) -> Option<Subject> {
    let mut subject = Subject::default();
    let mut parts = Reader(name).sequence()?;
    while !parts.is_empty() {
        let mut set = Reader(parts.expect(der::SET)?);
        while !set.is_empty() {
            let mut attribute = set.sequence()?;
            let oid = attribute.expect(der::OID)?;
            let (tag, value, _) = attribute.element()?;
            match oid {
                OID_CN => subject.common_name = der::text(tag, value)?,
                OID_O => subject.organizations.push(der::text(tag, value)?),
                _ => {}
            }
        }
    }
    Some(subject)
}

/// GeneralNames of the kinds that matter; others are skipped.
pub(crate) fn read_names(mut list: Reader<'_>) -> Option<Names> {
    const EMAIL: u8 = der::context(1, false);
    const DNS: u8 = der::context(2, false);
    const URI: u8 = der::context(6, false);
    const IP: u8 = der::context(7, false);
    let mut names = Names::default();
    while !list.is_empty() {
        let (tag, value, _) = list.element()?;
        let text = || der::text(der::IA5_STRING, value).filter(|t| t.is_ascii());
        match tag {
            EMAIL => drop(names.emails.insert(text()?)),
            DNS => drop(names.dns.insert(text()?)),
            URI => drop(names.uris.insert(text()?)),
            IP => {
                let ip = <[u8; 4]>::try_from(value).map(|b| IpAddr::V4(Ipv4Addr::from(b)));
                names.ips.insert(ip.or_else(|_| <[u8; 16]>::try_from(value).map(|b| Ipv6Addr::from(b).into())).ok()?);
            }
            _ => {}
        }
    }
    Some(names)
}

pub(crate) fn write_subject(subject: &Subject) -> Vec<u8> {
    let attribute = |oid, text: &str| {
        der::tlv(der::SET, &der::sequence(&[der::tlv(der::OID, oid), der::tlv(der::UTF8_STRING, text.as_bytes())]))
    };
    // Go writes organizations into one set; readers take either, and a set per value keeps their order.
    let mut parts: Vec<Vec<u8>> = subject.organizations.iter().map(|o| attribute(OID_O, o)).collect();
    if !subject.common_name.is_empty() {
        parts.push(attribute(OID_CN, &subject.common_name));
    }
    der::sequence(&parts)
}

pub(crate) fn write_names(names: &Names) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    parts.extend(names.dns.iter().map(|n| der::tlv(der::context(2, false), n.as_bytes())));
    parts.extend(names.ips.iter().map(|ip| match ip {
        IpAddr::V4(ip) => der::tlv(der::context(7, false), &ip.octets()),
        IpAddr::V6(ip) => der::tlv(der::context(7, false), &ip.octets()),
    }));
    parts.extend(names.emails.iter().map(|n| der::tlv(der::context(1, false), n.as_bytes())));
    parts.extend(names.uris.iter().map(|n| der::tlv(der::context(6, false), n.as_bytes())));
    der::sequence(&parts)
}

pub(crate) fn write_extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let mut parts = vec![der::tlv(der::OID, oid)];
    if critical {
        parts.push(der::tlv(der::BOOLEAN, &[0xff]));
    }
    parts.push(der::tlv(der::OCTET_STRING, value));
    der::sequence(&parts)
}
