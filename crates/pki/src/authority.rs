//! A certificate authority: how it comes to be, and what it issues.

use ring::{digest, rand::SecureRandom};

use crate::certificate::{
    EXT_AUTHORITY_KEY, EXT_BASIC, EXT_EXTENDED_USAGE, EXT_KEY_USAGE, EXT_NAMES, EXT_SUBJECT_KEY, write_extension,
    write_names, write_subject,
};
use crate::{Certificate, DAY, Error, ExtendedUsage, KeyPair, Names, PublicKey, Renewal, Result, Subject, der};

/// keyUsage bits, named as in `spec.usages`; the first is bit 0 of the BIT STRING.
const KEY_USAGES: [&str; 9] = [
    "digital signature", "content commitment", "key encipherment", "data encipherment", "key agreement", "cert sign",
    "crl sign", "encipher only", "decipher only",
];

/// Where authorities and what components show each other begin: a machine without a battery for its clock boots in its
/// past, and is to serve even so.
const ALWAYS: i64 = 0;

/// A leaf to issue: who, for what, how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub subject: Subject,
    pub names: Names,
    /// Names of keyUsage bits as in `spec.usages`; unknown ones are ignored.
    pub key_usages: Vec<String>,
    pub extended_usages: Vec<ExtendedUsage>,
    pub not_before: i64,
    pub not_after: i64,
}

impl Leaf {
    fn new(subject: Subject, names: Names, usage: ExtendedUsage, now: i64, validity: i64) -> Self {
        Self {
            subject,
            names,
            key_usages: vec!["digital signature".into(), "key encipherment".into()],
            extended_usages: vec![usage],
            not_before: ALWAYS,
            not_after: now + validity,
        }
    }

    /// A serving certificate; `validity` in seconds.
    pub fn server(common_name: &str, names: Names, now: i64, validity: i64) -> Self {
        let subject = Subject { common_name: common_name.into(), organizations: vec![] };
        // Some clients refuse certificates of servers that are long (Apple's after 825 days); clocks of a cluster differ,
        // and upstream backdates by five minutes too.
        Self { not_before: now - 300, ..Self::new(subject, names, ExtendedUsage::ServerAuth, now, validity) }
    }

    /// A client's certificate: user and groups.
    pub fn client(user: &str, groups: &[&str], now: i64, validity: i64) -> Self {
        let subject =
            Subject { common_name: user.into(), organizations: groups.iter().map(|g| (*g).to_owned()).collect() };
        Self::new(subject, Names::default(), ExtendedUsage::ClientAuth, now, validity)
    }

    /// A kubelet's identity towards the API server.
    pub fn kubelet_client(node: &str, now: i64, validity: i64) -> Self {
        Self::client(&format!("system:node:{node}"), &["system:nodes"], now, validity)
    }

    /// What a kubelet shows to the API server.
    pub fn kubelet_serving(node: &str, names: Names, now: i64, validity: i64) -> Self {
        let subject =
            Subject { common_name: format!("system:node:{node}"), organizations: vec!["system:nodes".into()] };
        Self::new(subject, names, ExtendedUsage::ServerAuth, now, validity)
    }
}

/// A CA certificate with its key.
#[derive(Debug)]
pub struct Authority {
    certificate: Certificate,
    key: KeyPair,
    /// What stands behind the signing certificate, if it is an intermediate: sent along with leaves.
    chain: Vec<Certificate>,
}

impl Authority {
    /// A new self-signed P-256 authority, valid for ten years.
    pub fn create(common_name: &str, now: i64, random: &dyn SecureRandom) -> Result<Self> {
        let key = KeyPair::generate(random)?;
        let subject = Subject { common_name: common_name.into(), organizations: vec![] };
        let name = write_subject(&subject);
        let key_id = key_id(key.public());
        let extensions = [
            write_extension(
                EXT_KEY_USAGE,
                true,
                &key_usage_bits(&["digital signature", "key encipherment", "cert sign"]),
            ),
            write_extension(EXT_BASIC, true, &der::sequence(&[der::tlv(der::BOOLEAN, &[0xff])])),
            write_extension(EXT_SUBJECT_KEY, false, &der::tlv(der::OCTET_STRING, &key_id)),
        ];
        let tbs = tbs(&key, &name, &name, ALWAYS, now + 3650 * DAY, key.public(), &extensions, random)?;
        let certificate = Certificate::from_der(&seal(&key, &tbs, random)?)?;
        Ok(Self { certificate, key, chain: Vec::new() })
    }

    /// From PEM; the first certificate signs, the others follow it as its chain.
    pub fn from_pem(certificates: &str, key: &str) -> Result<Self> {
        let mut chain = Certificate::all_from_pem(certificates)?;
        let certificate = chain.remove(0);
        let key = KeyPair::from_pem(key)?;
        if certificate.public_key()? != *key.public() {
            return Err(Error::Mismatch(certificate.subject.common_name));
        }
        Ok(Self { certificate, key, chain })
    }

    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The bundle that clients trust: the signing certificate and its chain.
    pub fn bundle_pem(&self) -> String {
        std::iter::once(&self.certificate).chain(&self.chain).map(Certificate::to_pem).collect()
    }

    pub fn key_pem(&self) -> String {
        self.key.to_pem()
    }

    /// Signs `leaf` for a key that the caller or a request holds. Never outlives the authority.
    pub fn issue(&self, leaf: &Leaf, public: &PublicKey, random: &dyn SecureRandom) -> Result<Certificate> {
        let bits: Vec<&str> = leaf.key_usages.iter().map(String::as_str).collect();
        let mut extensions = vec![
            write_extension(EXT_KEY_USAGE, true, &key_usage_bits(&bits)),
            write_extension(EXT_BASIC, true, &der::sequence::<&[u8]>(&[])),
            write_extension(EXT_SUBJECT_KEY, false, &der::tlv(der::OCTET_STRING, &key_id(public))),
        ];
        if !leaf.extended_usages.is_empty() {
            let oids: Vec<_> = leaf.extended_usages.iter().map(|u| der::tlv(der::OID, u.oid())).collect();
            extensions.push(write_extension(EXT_EXTENDED_USAGE, false, &der::sequence(&oids)));
        }
        if let Some(id) = &self.certificate.subject_key {
            let value = der::sequence(&[der::tlv(der::context(0, false), id)]);
            extensions.push(write_extension(EXT_AUTHORITY_KEY, false, &value));
        }
        if !leaf.names.is_empty() {
            extensions.push(write_extension(EXT_NAMES, false, &write_names(&leaf.names)));
        }
        let not_after = leaf.not_after.min(self.certificate.not_after);
        let subject = write_subject(&leaf.subject);
        let issuer = &self.certificate.raw_subject;
        let tbs = tbs(&self.key, issuer, &subject, leaf.not_before, not_after, public, &extensions, random)?;
        Certificate::from_der(&seal(&self.key, &tbs, random)?)
    }

    /// A new key and its certificate, both as PEM; the chain of an intermediate follows the certificate.
    pub fn issue_pair(&self, leaf: &Leaf, random: &dyn SecureRandom) -> Result<(String, String)> {
        let key = KeyPair::generate(random)?;
        let certificate = self.issue(leaf, key.public(), random)?;
        Ok((self.with_chain(&certificate), key.to_pem()))
    }

    /// The certificate as PEM, followed by the intermediates that lead to a root.
    pub fn with_chain(&self, certificate: &Certificate) -> String {
        let is_root = self.certificate.raw_issuer == self.certificate.raw_subject;
        let own = (!is_root).then_some(&self.certificate);
        std::iter::once(certificate).chain(own).chain(&self.chain).map(Certificate::to_pem).collect()
    }
}

/// Why `held` does not serve in the place of `wanted` any more; `None`: keep it. `window` is how many seconds before its end a
/// certificate is replaced. Names beyond the wanted ones are no reason.
pub fn renewal(held: &Certificate, wanted: &Leaf, authority: &Certificate, now: i64, window: i64) -> Option<Renewal> {
    let missing = wanted.names.missing_in(&held.names);
    let groups = |s: &Subject| s.organizations.iter().cloned().collect::<std::collections::BTreeSet<_>>();
    if !held.is_signed_by(authority) {
        Some(Renewal::Authority)
    } else if held.subject.common_name != wanted.subject.common_name || groups(&held.subject) != groups(&wanted.subject)
    {
        Some(Renewal::Subject)
    } else if !missing.is_empty() {
        Some(Renewal::Names { missing })
    } else if held.not_before > now {
        Some(Renewal::NotYetValid { not_before: held.not_before })
    } else if held.not_after - window < now && held.not_after < authority.not_after {
        Some(Renewal::Expires { not_after: held.not_after })
    } else {
        None
    }
}

/// keyUsage as DER drops trailing zero bits.
fn key_usage_bits(names: &[&str]) -> Vec<u8> {
    let mut bits = 0u16;
    for (i, name) in KEY_USAGES.iter().enumerate() {
        if names.iter().any(|n| n == name || (*name == "digital signature" && *n == "signing")) {
            bits |= 0x8000 >> i;
        }
    }
    let bytes = bits.to_be_bytes();
    let used = bytes.iter().rposition(|b| *b != 0).map_or(&[][..], |last| &bytes[..=last]);
    let unused = used.last().map_or(0, |last| last.trailing_zeros() as u8);
    der::tlv(der::BIT_STRING, &[&[unused], used].concat())
}

/// RFC 7093, method 1: the leftmost 160 bits of the key's SHA-256.
fn key_id(public: &PublicKey) -> Vec<u8> {
    digest::digest(&digest::SHA256, &public.key).as_ref()[..20].to_vec()
}

#[allow(clippy::too_many_arguments)] // the fields of a TBSCertificate
fn tbs(
    signer: &KeyPair,
    issuer: &[u8],
    subject: &[u8],
    not_before: i64,
    not_after: i64,
    public: &PublicKey,
    extensions: &[Vec<u8>],
    random: &dyn SecureRandom,
) -> Result<Vec<u8>> {
    let mut serial = [0u8; 16];
    random.fill(&mut serial).map_err(|_| Error::Randomness)?;
    serial[0] = serial[0] & 0x7f | 0x40; // positive, and always sixteen bytes
    Ok(der::sequence(&[
        der::tlv(der::context(0, true), &der::unsigned(&[2])),
        der::unsigned(&serial),
        signer.x509_algorithm(),
        issuer.to_vec(),
        der::sequence(&[der::time(not_before), der::time(not_after)]),
        subject.to_vec(),
        public.spki.clone(),
        der::tlv(der::context(3, true), &der::sequence(extensions)),
    ]))
}

/// SEQUENCE { signed, algorithm, signature }: the frame of certificates and requests.
pub(crate) fn seal(signer: &KeyPair, signed: &[u8], random: &dyn SecureRandom) -> Result<Vec<u8>> {
    let signature = signer.sign_x509(signed, random)?;
    Ok(der::sequence(&[signed.to_vec(), signer.x509_algorithm(), der::bit_string(&signature)]))
}
