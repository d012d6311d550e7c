//! A kubeconfig with one cluster, one user and one context.

use base64::{Engine, engine::general_purpose::STANDARD};

/// How the user proves who it is.
pub enum User<'a> {
    Certificate { certificate_pem: &'a str, key_pem: &'a str },
    Token(&'a str),
}

/// Renders the file; `name` is that of cluster, user and context alike (k3s: `default`).
pub fn render(name: &str, server: &str, ca_pem: &str, user: &User<'_>) -> String {
    let user = match user {
        User::Certificate { certificate_pem, key_pem } => format!(
            "    client-certificate-data: {}\n    client-key-data: {}\n",
            STANDARD.encode(certificate_pem),
            STANDARD.encode(key_pem)
        ),
        User::Token(token) => format!("    token: {}\n", quoted(token)),
    };
    let (name, server, ca) = (quoted(name), quoted(server), STANDARD.encode(ca_pem));
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: {name}\n  cluster:\n    certificate-authority-data: {ca}\n    \
         server: {server}\nusers:\n- name: {name}\n  user:\n{user}contexts:\n- name: {name}\n  context:\n    cluster: {name}\n    \
         user: {name}\ncurrent-context: {name}\npreferences: {{}}\n"
    )
}

/// Plain where YAML leaves a word alone, JSON (which YAML is a superset of) elsewhere.
fn quoted(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._/:[]@".contains(c))
        && !text.ends_with(':')
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}
