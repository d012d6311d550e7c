//! Key pairs that sign, and public keys that verify.

use ring::rand::SecureRandom;
use ring::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use ring::{rsa, signature};

use crate::der::{self, Reader};
use crate::{Error, Pem, Result};

const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const OID_ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const OID_ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
const OID_RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
const OID_RSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c];
const OID_RSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d];

/// What kind a key is, which decides its signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    P256,
    P384,
    Rsa,
    Ed25519,
}

/// A public key in its SubjectPublicKeyInfo form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    pub algorithm: Algorithm,
    /// All of the SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// The key itself: an EC point, an RSAPublicKey, 32 bytes.
    pub key: Vec<u8>,
}

impl PublicKey {
    pub fn from_spki(spki: &[u8]) -> Result<Self> {
        let bad = |field| Error::Der { what: "a public key", field };
        let mut outer = Reader(spki).sequence().ok_or(bad("outer sequence"))?;
        let mut kind = outer.sequence().ok_or(bad("algorithm"))?;
        let oid = kind.expect(der::OID).ok_or(bad("algorithm"))?;
        let algorithm = match oid {
            OID_EC => match kind.expect(der::OID).ok_or(bad("curve"))? {
                OID_P256 => Algorithm::P256,
                OID_P384 => Algorithm::P384,
                other => return Err(Error::Algorithm(dotted(other))),
            },
            OID_RSA => Algorithm::Rsa,
            OID_ED25519 => Algorithm::Ed25519,
            other => return Err(Error::Algorithm(dotted(other))),
        };
        let key = outer.bits().ok_or(bad("key"))?.to_vec();
        Ok(Self { algorithm, spki: spki.to_vec(), key })
    }

    fn from_parts(algorithm: Algorithm, key: &[u8]) -> Self {
        let oid = |bytes| der::tlv(der::OID, bytes);
        let kind = match algorithm {
            Algorithm::P256 => der::sequence(&[oid(OID_EC), oid(OID_P256)]),
            Algorithm::P384 => der::sequence(&[oid(OID_EC), oid(OID_P384)]),
            Algorithm::Rsa => der::sequence(&[oid(OID_RSA), vec![5, 0]]),
            Algorithm::Ed25519 => der::sequence(&[oid(OID_ED25519)]),
        };
        Self { algorithm, spki: der::sequence(&[kind, der::bit_string(key)]), key: key.to_vec() }
    }

    pub fn to_pem(&self) -> String {
        Pem::encode("PUBLIC KEY", &self.spki)
    }

    /// The length of an RSA key's modulus.
    pub fn modulus_bits(&self) -> Option<usize> {
        let components = rsa_components(&self.key).filter(|_| self.algorithm == Algorithm::Rsa)?;
        let first = components.n.first().map_or(0, |first| first.leading_zeros() as usize);
        Some(components.n.len() * 8 - first)
    }

    /// Checks a signature as JWS has it (RFC 7518; fixed-size `r || s` for EC).
    pub fn verify_jws(&self, algorithm: &str, message: &[u8], sig: &[u8]) -> bool {
        let algorithm: &dyn signature::VerificationAlgorithm = match (self.algorithm, algorithm) {
            (Algorithm::P256, "ES256") => &signature::ECDSA_P256_SHA256_FIXED,
            (Algorithm::P384, "ES384") => &signature::ECDSA_P384_SHA384_FIXED,
            (Algorithm::Rsa, "RS256") => &signature::RSA_PKCS1_2048_8192_SHA256,
            (Algorithm::Rsa, "RS384") => &signature::RSA_PKCS1_2048_8192_SHA384,
            (Algorithm::Rsa, "RS512") => &signature::RSA_PKCS1_2048_8192_SHA512,
            (Algorithm::Rsa, "PS256") => &signature::RSA_PSS_2048_8192_SHA256,
            (Algorithm::Rsa, "PS384") => &signature::RSA_PSS_2048_8192_SHA384,
            (Algorithm::Rsa, "PS512") => &signature::RSA_PSS_2048_8192_SHA512,
            _ => return false,
        };
        signature::UnparsedPublicKey::new(algorithm, &self.key).verify(message, sig).is_ok()
    }

    /// An RSA key of its modulus and exponent.
    pub fn from_rsa(modulus: &[u8], exponent: &[u8]) -> Self {
        Self::from_parts(Algorithm::Rsa, &der::sequence(&[der::unsigned(modulus), der::unsigned(exponent)]))
    }

    /// A key of a curve (`P-256`, `P-384`) and the coordinates of its point.
    pub fn from_point(curve: &str, x: &[u8], y: &[u8]) -> Option<Self> {
        let (algorithm, length) = match curve {
            "P-256" => (Algorithm::P256, 32),
            "P-384" => (Algorithm::P384, 48),
            _ => return None,
        };
        let fits = x.len() == length && y.len() == length;
        fits.then(|| Self::from_parts(algorithm, &[&[4], x, y].concat()))
    }

    /// All public keys of a text, or the public halves of its private ones: `--service-account-key-file`.
    pub fn all_from_pem(text: &str) -> Result<Vec<Self>> {
        let mut keys = Vec::new();
        for block in Pem::parse_all(text)? {
            match block.label.as_str() {
                "PUBLIC KEY" => keys.push(Self::from_spki(&block.contents)?),
                "RSA PUBLIC KEY" => keys.push(Self::from_parts(Algorithm::Rsa, &block.contents)),
                "CERTIFICATE" => keys.push(crate::Certificate::from_der(&block.contents)?.public_key()?),
                label if label.ends_with("PRIVATE KEY") => keys.push(KeyPair::from_block(block)?.public),
                _ => {}
            }
        }
        if keys.is_empty() { Err(Error::NoPem { label: "PUBLIC KEY" }) } else { Ok(keys) }
    }

    /// Checks an X.509 signature; `kind` is its AlgorithmIdentifier's OID.
    pub(crate) fn verify_x509(&self, kind: &[u8], message: &[u8], sig: &[u8]) -> bool {
        let algorithm: &dyn signature::VerificationAlgorithm = match (self.algorithm, kind) {
            (Algorithm::P256, OID_ECDSA_SHA256) => &signature::ECDSA_P256_SHA256_ASN1,
            (Algorithm::P256, OID_ECDSA_SHA384) => &signature::ECDSA_P256_SHA384_ASN1,
            (Algorithm::P384, OID_ECDSA_SHA256) => &signature::ECDSA_P384_SHA256_ASN1,
            (Algorithm::P384, OID_ECDSA_SHA384) => &signature::ECDSA_P384_SHA384_ASN1,
            (Algorithm::Rsa, OID_RSA_SHA256) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (Algorithm::Rsa, OID_RSA_SHA384) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (Algorithm::Rsa, OID_RSA_SHA512) => &signature::RSA_PKCS1_2048_8192_SHA512,
            (Algorithm::Ed25519, OID_ED25519) => &signature::ED25519,
            _ => return false,
        };
        signature::UnparsedPublicKey::new(algorithm, &self.key).verify(message, sig).is_ok()
    }
}

enum Signer {
    /// The same scalar twice: ring fixes a signature's encoding at load.
    Ec {
        asn1: Box<EcdsaKeyPair>,
        fixed: Box<EcdsaKeyPair>,
    },
    Ed25519(Box<Ed25519KeyPair>),
    Rsa(Box<RsaKeyPair>),
}

/// A private key with its public half, and the block it came from.
pub struct KeyPair {
    signer: Signer,
    public: PublicKey,
    block: Pem,
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyPair({:?})", self.public.algorithm)
    }
}

impl KeyPair {
    /// A new P-256 key.
    pub fn generate(random: &dyn SecureRandom) -> Result<Self> {
        Self::generate_as(Algorithm::P256, random)
    }

    /// A new key of any algorithm but RSA.
    pub fn generate_as(algorithm: Algorithm, random: &dyn SecureRandom) -> Result<Self> {
        let ec = |kind| {
            let document = EcdsaKeyPair::generate_pkcs8(kind, random).map_err(|_| Error::Randomness)?;
            Ok(document.as_ref().to_vec())
        };
        let contents = match algorithm {
            Algorithm::P256 => ec(&signature::ECDSA_P256_SHA256_ASN1_SIGNING)?,
            Algorithm::P384 => ec(&signature::ECDSA_P384_SHA384_ASN1_SIGNING)?,
            Algorithm::Ed25519 => {
                let mut seed = [0; 32];
                random.fill(&mut seed).map_err(|_| Error::Randomness)?;
                // RFC 8410, 7, without the public half, which not every reader takes.
                der::sequence(&[
                    der::unsigned(&[]),
                    der::sequence(&[der::tlv(der::OID, OID_ED25519)]),
                    der::tlv(der::OCTET_STRING, &der::tlv(der::OCTET_STRING, &seed)),
                ])
            }
            Algorithm::Rsa => return Err(Error::Key("RSA keys are not made here")),
        };
        Self::from_block(Pem { label: "PRIVATE KEY".into(), contents })
    }

    /// The first private key of the text: PKCS#8, SEC 1 (`EC PRIVATE KEY`) or PKCS#1 (`RSA PRIVATE KEY`).
    pub fn from_pem(text: &str) -> Result<Self> {
        let block = Pem::parse_all(text)?
            .into_iter()
            .find(|b| b.label.ends_with("PRIVATE KEY"))
            .ok_or(Error::NoPem { label: "PRIVATE KEY" })?;
        Self::from_block(block)
    }

    pub fn to_pem(&self) -> String {
        Pem::encode(&self.block.label, &self.block.contents)
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    fn from_block(block: Pem) -> Result<Self> {
        let (signer, public) = match block.label.as_str() {
            "PRIVATE KEY" => Self::pkcs8(&block.contents),
            "EC PRIVATE KEY" => {
                Self::sec1(&block.contents, None).ok_or(Error::Key("SEC 1, but not a whole P-256 or P-384 key"))
            }
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(&block.contents)
                .map(Self::rsa)
                .map_err(|_| Error::Key("RSA, but not of 2048 to 4096 bits")),
            _ => Err(Error::Key("neither PKCS#8 nor SEC 1 nor PKCS#1")),
        }?;
        Ok(Self { signer, public, block })
    }

    fn pkcs8(contents: &[u8]) -> Result<(Signer, PublicKey)> {
        if let Ok(pair) = RsaKeyPair::from_pkcs8(contents) {
            return Ok(Self::rsa(pair));
        }
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(contents) {
            let public = PublicKey::from_parts(Algorithm::Ed25519, pair.public_key().as_ref());
            return Ok((Signer::Ed25519(Box::new(pair)), public));
        }
        let parsed = (|| {
            let mut outer = Reader(contents).sequence()?;
            outer.expect(der::INTEGER)?;
            let mut kind = outer.sequence()?;
            (kind.expect(der::OID)? == OID_EC).then_some(())?;
            let curve = kind.expect(der::OID)?;
            Self::sec1(outer.expect(der::OCTET_STRING)?, Some(curve))
        })();
        parsed.ok_or(Error::Key("PKCS#8, but neither P-256, P-384, Ed25519 nor RSA of 2048 bits or more"))
    }

    /// RFC 5915, with the curve from around it when it stands in PKCS#8.
    fn sec1(contents: &[u8], curve: Option<&[u8]>) -> Option<(Signer, PublicKey)> {
        let mut outer = Reader(contents).sequence()?;
        outer.expect(der::INTEGER)?;
        let scalar = outer.expect(der::OCTET_STRING)?;
        let inner = outer.expect(der::context(0, true)).and_then(|b| Reader(b).expect(der::OID));
        let point = Reader(outer.expect(der::context(1, true))?).bits()?;
        let (algorithm, asn1, fixed) = match curve.or(inner)? {
            OID_P256 => (
                Algorithm::P256,
                &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
                &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            ),
            OID_P384 => (
                Algorithm::P384,
                &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
                &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            ),
            _ => return None,
        };
        // ring takes a source of randomness here only to blind; signing has its own argument.
        let random = ring::rand::SystemRandom::new();
        let load = |kind| EcdsaKeyPair::from_private_key_and_public_key(kind, scalar, point, &random).ok();
        let signer = Signer::Ec { asn1: Box::new(load(asn1)?), fixed: Box::new(load(fixed)?) };
        Some((signer, PublicKey::from_parts(algorithm, point)))
    }

    fn rsa(pair: RsaKeyPair) -> (Signer, PublicKey) {
        let public = PublicKey::from_parts(Algorithm::Rsa, pair.public_key().as_ref());
        (Signer::Rsa(Box::new(pair)), public)
    }

    fn sign_rsa(pair: &RsaKeyPair, message: &[u8], random: &dyn SecureRandom) -> Result<Vec<u8>> {
        let mut out = vec![0; pair.public().modulus_len()];
        pair.sign(&signature::RSA_PKCS1_SHA256, random, message, &mut out).map_err(|_| Error::Signing)?;
        Ok(out)
    }

    /// Signature for X.509; [`Self::x509_algorithm`] says of which kind.
    pub(crate) fn sign_x509(&self, message: &[u8], random: &dyn SecureRandom) -> Result<Vec<u8>> {
        match &self.signer {
            Signer::Ec { asn1, .. } => {
                asn1.sign(random, message).map(|s| s.as_ref().to_vec()).map_err(|_| Error::Signing)
            }
            Signer::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Signer::Rsa(pair) => Self::sign_rsa(pair, message, random),
        }
    }

    pub(crate) fn x509_algorithm(&self) -> Vec<u8> {
        match self.public.algorithm {
            Algorithm::P384 => der::sequence(&[der::tlv(der::OID, OID_ECDSA_SHA384)]),
            Algorithm::Rsa => der::sequence(&[der::tlv(der::OID, OID_RSA_SHA256), vec![5, 0]]),
            Algorithm::Ed25519 => der::sequence(&[der::tlv(der::OID, OID_ED25519)]),
            Algorithm::P256 => der::sequence(&[der::tlv(der::OID, OID_ECDSA_SHA256)]),
        }
    }

    /// Signature for JWS (RFC 7518) in this key's own algorithm; Ed25519 has none that Kubernetes knows.
    pub(crate) fn sign_jws(&self, message: &[u8], random: &dyn SecureRandom) -> Result<Vec<u8>> {
        match &self.signer {
            Signer::Ec { fixed, .. } => {
                fixed.sign(random, message).map(|s| s.as_ref().to_vec()).map_err(|_| Error::Signing)
            }
            Signer::Ed25519(_) => Err(Error::Signing),
            Signer::Rsa(pair) => Self::sign_rsa(pair, message, random),
        }
    }
}

/// Modulus and exponent of an RSAPublicKey.
pub(crate) fn rsa_components(key: &[u8]) -> Option<rsa::PublicKeyComponents<&[u8]>> {
    let mut outer = Reader(key).sequence()?;
    Some(rsa::PublicKeyComponents { n: outer.unsigned()?, e: outer.unsigned()? })
}

/// `1.2.840.…` for error messages.
pub(crate) fn dotted(oid: &[u8]) -> String {
    let mut numbers = Vec::new();
    let mut current = 0u64;
    for byte in oid {
        current = current << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if numbers.is_empty() {
                let first = (current / 40).min(2);
                numbers.extend([first, current - first * 40]);
            } else {
                numbers.push(current);
            }
            current = 0;
        }
    }
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}
