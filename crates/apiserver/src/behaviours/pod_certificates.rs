//! PodCertificateRequests (KEP-4317): a kubelet asks in a pod's name and proves that it holds the key; a signer answers once.

use base64::{Engine, engine::general_purpose::STANDARD};
use pki::{Certificate, CertificateRequest, Pem, PublicKey};
use schema::validate::{ErrorKind, FieldError, names};
use schema::{Value, checks, time};

use super::{Cx, PLAIN, Strategy, keep, keep_for_status};
use crate::admission::may_use_signer;
use crate::seams::Decision;

pub static POD_CERTIFICATE_REQUEST: Strategy = Strategy {
    unconditional_update: false,
    keep_for_status: |kind, new, old| {
        keep_for_status(kind, new, old);
        for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
            keep(new, old, &["metadata", field]);
        }
    },
    validate: |cx, new, old| match old {
        None => requested_key(new).err().into_iter().collect(),
        Some(old) if cx.subresource == "status" => answered(cx, new, old),
        Some(_) => Vec::new(),
    },
    ..PLAIN
};

const MAX_REQUEST_BYTES: usize = 10 << 10;
const MAX_CHAIN_BYTES: usize = 100 << 10;
const MINUTE: i64 = 60;

fn invalid(field: &str, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
    FieldError::invalid(field, value, detail)
}

/// The key of a request, which has signed a PKCS#10 request that need say nothing else. v1beta1's older form of the
/// proof, `pkixPublicKey` and `proofOfPossession`, is not taken.
fn requested_key(request: &Value) -> Result<PublicKey, FieldError> {
    const FIELD: &str = "spec.stubPKCS10Request";
    let stub = STANDARD.decode(request.str_at(&["spec", "stubPKCS10Request"])).unwrap_or_default();
    let wrong = |field: &str, detail: String| FieldError::new(ErrorKind::InvalidWhole, field, Value::Null, detail);
    if stub.is_empty() {
        let detail = "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set";
        return Err(wrong("spec", detail.to_owned()));
    }
    if stub.len() > MAX_REQUEST_BYTES {
        return Err(FieldError::too_long(FIELD, MAX_REQUEST_BYTES));
    }
    let wrong = |detail: String| wrong(FIELD, detail);
    let key = match CertificateRequest::from_der(&stub) {
        Ok(request) => request.public_key,
        Err(pki::Error::Signature(_)) => return Err(wrong("invalid signature".to_owned())),
        Err(pki::Error::Algorithm(oid)) => {
            let supported = "supported types are Ed25519, ECDSA with curve P256 or P384, and RSA";
            return Err(wrong(format!("unknown public key type {oid}; {supported}")));
        }
        Err(_) => return Err(wrong("must be a valid PKCS#10 CSR".to_owned())),
    };
    match key.modulus_bits() {
        None | Some(3072 | 4096) => Ok(key),
        Some(bits) => {
            Err(invalid(FIELD, format!("{bits}-bit modulus"), "RSA keys must have modulus size 3072 or 4096"))
        }
    }
}

const OUTCOMES: [&str; 3] = ["Denied", "Failed", "Issued"];

fn outcome(request: &Value) -> Option<&str> {
    let mut conditions = request.list_at(&["status", "conditions"]).iter();
    conditions.find(|c| c.str_at(&["status"]) == "True").map(|c| c.str_at(&["type"])).filter(|of| OUTCOMES.contains(of))
}

/// An update of the status: of a signer who may sign for this name, once, and a certificate is what was asked for.
fn answered(cx: &Cx<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
    let errors = conditions(new.list_at(&["status", "conditions"]));
    if !errors.is_empty() {
        return errors;
    }
    let (status, before) = (&new["status"], &old["status"]);
    let is_same = checks::same(status, before);
    let changed = |detail: &str| vec![invalid("status", "<value omitted>", detail)];
    let errors = match (outcome(old), outcome(new)) {
        (Some(_), _) if !is_same => changed("immutable after PodCertificateRequest is issued, denied, or failed"),
        (Some(_), _) => Vec::new(),
        (None, Some("Issued")) => issued(new, old, cx.server.now()).err().into_iter().flatten().collect(),
        (None, Some(_)) if !checks::same(status, &Value::object([("conditions", status["conditions"].clone())])) => {
            changed("non-condition status fields must be empty when denying or failing the PodCertificateRequest")
        }
        (None, Some(_)) => Vec::new(),
        (None, None) if !is_same => {
            changed("status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"")
        }
        (None, None) => Vec::new(),
    };
    if !errors.is_empty() || is_same {
        return errors;
    }
    let signer = old.str_at(&["spec", "signerName"]);
    let authorize = &cx.server.config().authorize;
    let may = may_use_signer(cx.user, "sign", signer, |user, wanted| {
        matches!(authorize.authorize(cx.server, user, wanted).now(), Decision::Allow(_))
    });
    if may {
        return errors;
    }
    let why = format!("User {:?} is not permitted to \"sign\" for signer {signer:?}", cx.user.name);
    vec![FieldError::forbidden("spec.signerName", why)]
}

/// At most one of the outcomes, and every condition whole (`metav1.ValidateConditions`).
fn conditions(conditions: &[Value]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, condition) in conditions.iter().enumerate() {
        let at = |field: &str| format!("status.conditions[{i}].{field}");
        let text = |field: &str| condition.str_at(&[field]);
        if !OUTCOMES.contains(&text("type")) {
            errors.push(FieldError::not_supported(at("type"), text("type"), &OUTCOMES));
        } else if i > 0 {
            let detail = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.push(invalid(&at("type"), text("type"), detail));
        }
        if text("status") != "True" {
            errors.push(FieldError::not_supported(at("status"), text("status"), &["True"]));
        }
        if text("lastTransitionTime").is_empty() {
            errors.push(FieldError::required(at("lastTransitionTime"), ""));
        }
        match text("reason") {
            "" => errors.push(FieldError::required(at("reason"), "")),
            reason => {
                errors.extend(names::condition_reason(reason).into_iter().map(|p| invalid(&at("reason"), reason, p)));
            }
        }
        if text("message").len() > 32 << 10 {
            errors.push(FieldError::too_long(at("message"), 32 << 10));
        }
    }
    errors
}

/// What a signer gave: a chain whose first certificate has the key that was asked for and lives as long as the status
/// says and the request allows.
fn issued(new: &Value, old: &Value, now: i64) -> Result<(), Vec<FieldError>> {
    const CHAIN: &str = "status.certificateChain";
    let text = new.str_at(&["status", "certificateChain"]);
    if text.len() > MAX_CHAIN_BYTES {
        return Err(vec![FieldError::too_long(CHAIN, MAX_CHAIN_BYTES)]);
    }
    let wrong = |field: &str, value: &str, detail: &str| Err(vec![invalid(field, value, detail)]);
    let blocks = Pem::parse_all(text).unwrap_or_default();
    let Some((first, rest)) = blocks.split_first() else {
        return wrong(CHAIN, text, "issued certificate chain must contain at least one certificate");
    };
    if blocks.iter().any(|block| block.label != "CERTIFICATE") {
        return wrong(CHAIN, text, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks");
    }
    let Ok(leaf) = Certificate::from_der(&first.contents) else {
        return wrong(CHAIN, text, "leaf certificate does not parse as valid X.509");
    };
    if rest.iter().any(|block| Certificate::from_der(&block.contents).is_err()) {
        return wrong(CHAIN, text, "intermediate certificate does not parse as valid X.509");
    }
    for name in &leaf.names.dns {
        if name.split('.').any(str::is_empty) {
            return wrong(CHAIN, name, "leaf certificate's DNSName should have no empty part");
        }
    }
    let wanted = requested_key(old).map_err(|error| vec![error])?;
    if leaf.public_key().ok().as_ref() != Some(&wanted) {
        return wrong(CHAIN, text, "leaf certificate was not issued to the requested public key");
    }
    let given = |field: &str| new.str_at(&["status", field]);
    let [not_before, refresh, not_after] =
        ["notBefore", "beginRefreshAt", "notAfter"].map(|field| time::parse(given(field)).map(|(seconds, _)| seconds));
    let missing: Vec<FieldError> = [("notBefore", not_before), ("beginRefreshAt", refresh), ("notAfter", not_after)]
        .into_iter()
        .filter(|(_, at)| at.is_none())
        .map(|(field, _)| {
            FieldError::required(
                format!("status.{field}"),
                "must be present and consistent with the issued certificate",
            )
        })
        .collect();
    let (Some(not_before), Some(refresh), Some(not_after)) = (not_before, refresh, not_after) else {
        return Err(missing);
    };
    let field = |name: &str, detail: &str| wrong(&format!("status.{name}"), given(name), detail);
    let lifetime = leaf.not_after - leaf.not_before;
    let most = old.i64_at(&["spec", "maxExpirationSeconds"]).unwrap_or_default();
    if not_before != leaf.not_before {
        field("notBefore", "must be set to the NotBefore time encoded in the leaf certificate")
    } else if (not_before - now).abs() >= 5 * MINUTE {
        field("notBefore", "must be set to within 5 minutes of kube-apiserver's current time")
    } else if not_after != leaf.not_after {
        field("notAfter", "must be set to the NotAfter time encoded in the leaf certificate")
    } else if lifetime < 60 * MINUTE {
        wrong(CHAIN, &format!("{lifetime}s"), "leaf certificate lifetime must be >= 1 hour")
    } else if lifetime > most {
        let detail = format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({most})");
        wrong(CHAIN, &format!("{lifetime}s"), &detail)
    } else if refresh < not_before + 10 * MINUTE {
        field("beginRefreshAt", "must be at least 10 minutes after status.notBefore")
    } else if refresh > not_after - 10 * MINUTE {
        field("beginRefreshAt", "must be at least 10 minutes before status.notAfter")
    } else {
        Ok(())
    }
}
