//! What a name, key or value may look like. Each check gives upstream's sentences, none if all is well.

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

pub type Problems = Vec<String>;

fn at_most(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// The older checks say characters, and count bytes too.
fn at_most_characters(max: usize) -> String {
    format!("must be no more than {max} characters")
}

pub fn in_range(value: i64, min: i64, max: i64) -> Problems {
    if (min..=max).contains(&value) { Vec::new() } else { vec![format!("must be between {min} and {max}, inclusive")] }
}

/// Upstream's sentence with the regular expression and examples.
fn regex_error(message: &str, regex: &str, examples: &[&str]) -> String {
    let mut text = message.to_owned();
    if examples.is_empty() {
        return format!("{text} (regex used for validation is '{regex}')");
    }
    text.push_str(" (e.g. ");
    for (i, example) in examples.iter().enumerate() {
        if i > 0 {
            text.push_str(" or ");
        }
        text.push_str(&format!("'{example}', "));
    }
    format!("{text}regex used for validation is '{regex}')")
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// First and last byte by `edge`, those between also by `inner`.
fn shaped(text: &str, first: fn(u8) -> bool, inner: fn(u8) -> bool, last: fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        [only] => first(*only) && last(*only),
        [start, middle @ .., end] => first(*start) && last(*end) && middle.iter().all(|b| inner(*b)),
    }
}

fn is_label(text: &str) -> bool {
    shaped(text, lower_alnum, |b| lower_alnum(b) || b == b'-', lower_alnum)
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// What is wrong with a text that has a length and a shape.
fn formed(value: &str, max: usize, good: bool, wrong: impl FnOnce() -> String) -> Problems {
    let long = (value.len() > max).then(|| at_most_characters(max));
    long.into_iter().chain((!good).then(wrong)).collect()
}

/// `IsDNS1123Label`
pub fn dns1123_label(value: &str) -> Problems {
    formed(value, 63, is_label(value), || {
        if is_subdomain(value) {
            return "must not contain dots".to_owned();
        }
        regex_error(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
            LABEL,
            &["my-name", "123-abc"],
        )
    })
}

/// `IsDNS1123Subdomain`
pub fn dns1123_subdomain(value: &str) -> Problems {
    formed(value, 253, is_subdomain(value), || {
        regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            SUBDOMAIN,
            &["example.com"],
        )
    })
}

/// `IsDNS1123SubdomainCaseless`
pub fn caseless_subdomain(value: &str) -> Problems {
    let told = dns1123_subdomain(&value.to_ascii_lowercase()).into_iter();
    told.map(|p| {
        p.replace("a lowercase RFC", "an RFC").replace("lower case ", "").replace("example.com", "Example.com")
    })
    .collect()
}

/// A domain to search in: as a subdomain, with underscores; a dot is the root.
pub fn search_domain(value: &str) -> Problems {
    let value = value.strip_suffix('.').unwrap_or(value);
    let inner = |b| lower_alnum(b) || matches!(b, b'-' | b'_');
    let is_label = |text: &str| shaped(text.strip_prefix('_').unwrap_or(text), lower_alnum, inner, lower_alnum);
    formed(value, 253, value.split('.').all(is_label), || {
        regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character",
            "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        )
    })
}

/// A path that stays below where it begins.
pub fn relative_path(value: &str) -> Problems {
    match value {
        _ if value.starts_with('/') => vec!["must be a relative path".to_owned()],
        _ if value.split('/').any(|part| part == "..") => vec!["must not contain '..'".to_owned()],
        _ => Vec::new(),
    }
}

/// `IsFullyQualifiedName`
pub fn fully_qualified(value: &str) -> Problems {
    let problems = dns1123_subdomain(value);
    if problems.is_empty() && value.split('.').count() < 3 {
        return vec!["should be a domain with at least three segments separated by dots".to_owned()];
    }
    problems
}

/// `IsDomainPrefixedPath`
pub fn domain_path(value: &str) -> Problems {
    match value.split_once('/') {
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => dns1123_subdomain(domain),
        _ => vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()],
    }
}

/// The name of a kind: a label in any case.
pub fn kind(value: &str) -> Problems {
    let problems = dns1035_label(&value.to_lowercase()).into_iter();
    problems.map(|p| format!("may have mixed case, but should otherwise match: {p}")).collect()
}

/// The name of an extended resource, which quotas put `requests.` before.
pub fn extended_resource(value: &str) -> Problems {
    let wrong = [
        (!value.contains('/'), "a name must be a domain-prefixed path, such as 'example.com/my-prop'"),
        (value.contains("kubernetes.io/"), "must not have \"kubernetes.io/\" domain"),
        (value.starts_with("requests."), "must not have \"requests.\" prefix"),
    ];
    let wrong = wrong.into_iter().filter(|(wrong, _)| *wrong).map(|(_, sentence)| sentence.to_owned());
    wrong.chain(label_key(&format!("requests.{value}"))).collect()
}

/// The whole name of a device's attribute: a domain and an identifier.
pub fn device_attribute(value: &str) -> Problems {
    let Some((domain, name)) = value.split_once('/') else {
        let mut problems = c_identifier(value);
        problems.push("a fully qualified name must be a domain and a name separated by a slash".to_owned());
        return problems;
    };
    let prefix = dns1123_subdomain(domain).into_iter().map(|p| format!("prefix: {p}"));
    prefix.chain(c_identifier(name)).collect()
}

/// `content.IsDNS1123Subdomain`, which counts bytes.
pub fn long_name(value: &str) -> Problems {
    dns1123_subdomain(value).into_iter().map(|p| p.replace("253 characters", "253 bytes")).collect()
}

/// `IsDNS1035Label`
pub fn dns1035_label(value: &str) -> Problems {
    let good = shaped(value, |b| b.is_ascii_lowercase(), |b| lower_alnum(b) || b == b'-', lower_alnum);
    formed(value, 63, good, || {
        regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        )
    })
}

/// `IsWildcardDNS1123Subdomain`
pub fn wildcard_dns1123_subdomain(value: &str) -> Problems {
    formed(value, 253, value.strip_prefix("*.").is_some_and(is_subdomain), || {
        regex_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{SUBDOMAIN}"),
            &["*.example.com"],
        )
    })
}

fn key_edge(b: u8) -> bool {
    b.is_ascii_alphanumeric()
}

fn key_inner(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')
}

/// `IsLabelKey`, also known as `IsQualifiedName`.
pub fn label_key(value: &str) -> Problems {
    const SENTENCE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    let regex = || regex_error(SENTENCE, LABEL_KEY, &["MyName", "my.name", "123-abc"]);
    let mut problems = Vec::new();
    let mut parts = value.split('/');
    let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let name = match (second, third) {
        (None, _) => first,
        (Some(name), None) => {
            if first.is_empty() {
                problems.push("prefix part must be non-empty".to_owned());
            } else {
                let prefix = dns1123_subdomain(first).into_iter().map(|p| p.replace("253 characters", "253 bytes"));
                problems.extend(prefix.map(|p| format!("prefix part {p}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex()
            )];
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        problems.push(format!("name part {}", at_most(63)));
    }
    if !shaped(name, key_edge, key_inner, key_edge) {
        problems.push(format!("name part {}", regex()));
    }
    problems
}

/// `IsPrefixedLabelKey`
pub fn prefixed_label_key(value: &str) -> Problems {
    let problems = label_key(value);
    if problems.is_empty() && !value.contains('/') {
        return vec!["must include a prefix (e.g. 'example.com/key')".to_owned()];
    }
    problems
}

/// `ValidateSignerName`: a domain of two labels or more, a slash, and subdomains with dots between.
pub fn signer_name(value: &str) -> Problems {
    let Some((domain, path)) = value.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        return vec!["must be a fully qualified domain and path of the form 'example.com/signer-name'".to_owned()];
    };
    let first_wrong = |labels: &str, check: fn(&str) -> Problems| {
        let mut all = labels.split('.').map(|label| (label.to_owned(), check(label)));
        let (label, problems) = all.find(|(_, problems)| !problems.is_empty()).unwrap_or_default();
        problems.into_iter().map(move |problem| format!("validating label {label:?}: {problem}"))
    };
    let mut problems: Problems = (domain.len() > 253).then(|| at_most(253)).into_iter().collect();
    problems.extend(first_wrong(domain, dns1123_label));
    if !domain.contains('.') {
        problems.push("should be a domain with at least two segments separated by dots".to_owned());
    }
    problems.extend(first_wrong(path, dns1123_subdomain));
    problems.extend((value.len() > 571).then(|| at_most(571)));
    problems
}

/// `IsLabelValue`
pub fn label_value(value: &str) -> Problems {
    let mut problems = Vec::new();
    if value.len() > 63 {
        problems.push(at_most(63));
    }
    if !value.is_empty() && !shaped(value, key_edge, key_inner, key_edge) {
        problems.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            &format!("({LABEL_KEY})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    problems
}

/// `metav1.IsValidConditionReason`, with its length
pub fn condition_reason(value: &str) -> Problems {
    fn word(b: u8) -> bool {
        b.is_ascii_alphanumeric() || b == b'_'
    }
    let good = shaped(value, |b| b.is_ascii_alphabetic(), |b| word(b) || matches!(b, b',' | b':'), word);
    let mut problems: Problems = (value.len() > 1024).then(|| at_most(1024)).into_iter().collect();
    if !good {
        problems.push(regex_error(
            "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
            "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
            &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
        ));
    }
    problems
}

/// `IsValidPortNum`
pub fn port_number(value: i64) -> Problems {
    in_range(value, 1, 65535)
}

/// `IsValidPortName`
pub fn port_name(value: &str) -> Problems {
    let plain = !value.is_empty() && value.bytes().all(|b| lower_alnum(b) || b == b'-');
    let mut problems = formed(value, 15, plain, || {
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned()
    });
    let wrong = [
        (!value.bytes().any(|b| b.is_ascii_lowercase()), "must contain at least one letter (a-z)"),
        (value.contains("--"), "must not contain consecutive hyphens"),
        (value.starts_with('-') || value.ends_with('-'), "must not begin or end with a hyphen"),
    ];
    problems.extend(wrong.into_iter().filter(|(wrong, _)| *wrong).map(|(_, sentence)| sentence.to_owned()));
    problems
}

/// `IsValidPercent`
pub fn percent(value: &str) -> Problems {
    match value.strip_suffix('%') {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => Vec::new(),
        _ => vec![regex_error(
            "a valid percent string must be a numeric string followed by an ending '%'",
            "[0-9]+%",
            &["1%", "93%"],
        )],
    }
}

/// `IsRelaxedEnvVarName`
pub fn env_name(value: &str) -> Problems {
    let mut problems = Vec::new();
    if value.is_empty() {
        problems.push("environment variable name must be non-empty".to_owned());
    }
    if !value.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        problems.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        );
    }
    problems
}

/// `IsConfigMapKey`: the keys of ConfigMaps and Secrets.
pub fn config_map_key(value: &str) -> Problems {
    let mut problems = formed(value, 253, !value.is_empty() && value.bytes().all(key_inner), || {
        regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        )
    });
    match value {
        "." => problems.push("must not be '.'".to_owned()),
        ".." => problems.push("must not be '..'".to_owned()),
        _ if value.starts_with("..") => problems.push("must not start with '..'".to_owned()),
        _ => {}
    }
    problems
}

/// `IsHTTPHeaderName`
pub fn http_header_name(value: &str) -> Problems {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![regex_error(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// `IsValidPathSegmentName`: names of RBAC objects and the like.
pub fn path_segment(value: &str) -> Problems {
    match value {
        "." | ".." => return vec![format!("may not be '{value}'")],
        _ => {}
    }
    ["/", "%"].into_iter().filter(|c| value.contains(*c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// `IsValidIP`: leading zeros and IPv4-mapped IPv6 addresses are refused.
pub fn ip(value: &str) -> Problems {
    match value.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
        }
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// `IsValidCIDR`
pub fn cidr(value: &str) -> Problems {
    if value.parse::<crate::cidr::Cidr>().is_ok() {
        return Vec::new();
    }
    vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()]
}

/// A lower-case UUID.
pub fn uuid(value: &str) -> Problems {
    let shape = |(i, b): (usize, u8)| match i {
        8 | 13 | 18 | 23 => b == b'-',
        _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
    };
    if value.len() == 36 && value.bytes().enumerate().all(shape) {
        return Vec::new();
    }
    vec!["must be a lowercase UUID in 8-4-4-4-12 format".to_owned()]
}

/// `IsCIdentifier`
pub fn c_identifier(value: &str) -> Problems {
    let start = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    if value.bytes().next().is_some_and(start) && value.bytes().all(|b| start(b) || b.is_ascii_digit()) {
        return Vec::new();
    }
    vec![regex_error(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
        "[A-Za-z_][A-Za-z0-9_]*",
        &["my_name", "MY_NAME", "MyName"],
    )]
}

/// A version of semver.org's second specification.
pub fn semver(value: &str) -> Problems {
    let (rest, build) = value.split_once('+').map_or((value, None), |(rest, build)| (rest, Some(build)));
    let (core, release) = rest.split_once('-').map_or((rest, None), |(core, release)| (core, Some(release)));
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let released = |text: &str| word(text) && (number(text) || text.bytes().any(|b| !b.is_ascii_digit()));
    let good = core.split('.').count() == 3
        && core.split('.').all(|part| !part.is_empty() && number(part))
        && release.is_none_or(|release| release.split('.').all(released))
        && build.is_none_or(|build| build.split('.').all(word));
    if good { Vec::new() } else { vec!["must be a string compatible with semver.org spec 2.0.0".to_owned()] }
}
