//! Logins that others know: docker's configuration with its helpers, for `sampan images pull`, and kubelet's credential
//! provider plugins, for pods.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use runtime::images::credentials::{Credentials, Login, matches};
use runtime::images::reference::Reference;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

/// How long a plugin may take, as upstream.
const PATIENCE: Duration = Duration::from_secs(60);
const API_VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];

/// What docker's configuration of this user says of the image's registry: its helper's word, else what stands there.
/// With the user `<token>` it is a token.
pub fn docker_login(image: &str) -> Option<(String, String)> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from).or_else(home)?;
    let config: Value = serde_json::from_slice(&std::fs::read(dir.join("config.json")).ok()?).ok()?;
    let reference = Reference::parse(image).ok()?;
    let server = match &*reference.domain {
        "docker.io" => "https://index.docker.io/v1/",
        other => other,
    };
    let helper =
        config["credHelpers"][server].as_str().or(config["credsStore"].as_str()).filter(|name| !name.is_empty());
    helper.and_then(|name| ask_helper(name, server)).or_else(|| {
        let entry = &config["auths"][server];
        let token = entry["identitytoken"].as_str().filter(|token| !token.is_empty());
        let known = || match Credentials::from_auth(entry["auth"].as_str()?)? {
            Credentials::Basic { username, password } => Some((username, password)),
            _ => None,
        };
        token.map(|token| ("<token>".to_owned(), token.to_owned())).or_else(known)
    })
}

fn ask_helper(name: &str, server: &str) -> Option<(String, String)> {
    let command = format!("docker-credential-{name}");
    let asked = || {
        let mut child = Command::new(&command)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(server.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = asked().inspect_err(|error| eprintln!("sampan: {command}: {error}")).ok()?;
    let said: Value = serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())?;
    Some((said["Username"].as_str()?.to_owned(), said["Secret"].as_str()?.to_owned()))
}

// ---- kubelet's plugins

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    kind: String,
    providers: Vec<Provider>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Provider {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: String,
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    /// A pod's own tokens, which are not handed to plugins here.
    #[serde(default)]
    token_attributes: Value,
}

#[derive(Clone, Deserialize)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    cache_key_type: String,
    #[serde(default)]
    cache_duration: Option<String>,
    #[serde(default)]
    auth: Option<BTreeMap<String, User>>,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// `CredentialProviderConfig`: programs that know logins.
pub struct Providers {
    dir: PathBuf,
    providers: Vec<Provider>,
    /// By provider and what its answer is for: until when, and the logins.
    known: Mutex<HashMap<(String, String), (Instant, Vec<Login>)>>,
}

impl Providers {
    /// `text` is the configuration as JSON; `dir` has the programs. All mistakes at once.
    pub fn new(text: &[u8], dir: &Path) -> Result<Providers, String> {
        let config: Config = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let mut wrong = Vec::new();
        if config.kind != "CredentialProviderConfig" {
            wrong.push(format!("its kind is {:?}, not CredentialProviderConfig", config.kind));
        }
        for provider in &config.providers {
            let name = &provider.name;
            let mut check = |bad: bool, why: &str| bad.then(|| wrong.push(format!("provider {name:?}: {why}")));
            check(
                name.is_empty() || name.contains('/') || name.starts_with('.'),
                "the name must be a file's in the directory",
            );
            check(!dir.join(name).is_file(), "the directory has no such program");
            check(provider.match_images.is_empty(), "matchImages is required");
            let version = provider.api_version.strip_prefix("credentialprovider.kubelet.k8s.io/");
            check(version.is_none_or(|version| !API_VERSIONS.contains(&version)), "apiVersion is unknown");
            check(duration(&provider.default_cache_duration).is_none(), "defaultCacheDuration is no duration");
            check(!provider.token_attributes.is_null(), "tokenAttributes are not supported");
        }
        match wrong.is_empty() {
            true => Ok(Providers { dir: dir.to_owned(), providers: config.providers, known: Mutex::default() }),
            false => Err(wrong.join("; ")),
        }
    }

    /// The logins for an image of all providers that match it. One that fails is named in the log, as upstream.
    pub async fn logins(&self, image: &str) -> Vec<Login> {
        let Ok(reference) = Reference::parse(image) else { return Vec::new() };
        let repository = reference.repository();
        let mut logins = Vec::new();
        for provider in &self.providers {
            if !provider.match_images.iter().any(|pattern| matches(pattern, &repository).is_some()) {
                continue;
            }
            let keys = [repository.as_str(), reference.domain.as_str(), "*"];
            let now = Instant::now();
            let known = |key: &&str| {
                let known = self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                known.get(&(provider.name.clone(), key.to_string())).filter(|(until, _)| *until > now).cloned()
            };
            if let Some((_, of_before)) = keys.iter().find_map(known) {
                logins.extend(of_before);
                continue;
            }
            match self.ask(provider, image).await {
                Ok(response) => {
                    let users = response.auth.unwrap_or_default().into_iter();
                    let of_users =
                        |(registry, User { username, password })| (registry, Credentials::Basic { username, password });
                    let found: Vec<Login> = users.map(of_users).collect();
                    let lasts = response.cache_duration.as_deref().unwrap_or(&provider.default_cache_duration);
                    let key = match &*response.cache_key_type {
                        "Image" => keys[0],
                        "Registry" => keys[1],
                        _ => keys[2],
                    };
                    if let Some(until) =
                        duration(lasts).filter(|lasts| !lasts.is_zero()).and_then(|lasts| now.checked_add(lasts))
                    {
                        let mut known = self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                        known.retain(|_, (until, _)| *until > now);
                        known.insert((provider.name.clone(), key.to_owned()), (until, found.clone()));
                    }
                    logins.extend(found);
                }
                Err(error) => tracing::warn!(provider = provider.name, image, error, "a credential provider failed"),
            }
        }
        logins
    }

    async fn ask(&self, provider: &Provider, image: &str) -> Result<Response, String> {
        let request = json!({"kind": "CredentialProviderRequest", "apiVersion": provider.api_version, "image": image});
        let mut command = tokio::process::Command::new(self.dir.join(&provider.name));
        command.args(&provider.args).envs(provider.env.iter().map(|of| (&of.name, &of.value))).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = async {
            let mut child = command.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // One that answers without reading is as good.
                let _ = stdin.write_all(request.to_string().as_bytes()).await;
            }
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(PATIENCE, run).await.map_err(|_| "it did not answer in a minute")?;
        let output = output.map_err(|error: std::io::Error| error.to_string())?;
        if !output.status.success() {
            let said: String = String::from_utf8_lossy(&output.stderr).chars().take(300).collect();
            return Err(format!("{}: {}", output.status, said.trim()));
        }
        let value: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
        if value["kind"] != "CredentialProviderResponse" || value["apiVersion"] != *provider.api_version {
            return Err(format!("its answer is no CredentialProviderResponse of {}", provider.api_version));
        }
        serde_json::from_value(value).map_err(|error| error.to_string())
    }
}

/// Go's durations of hours, minutes and seconds: `12h`, `1h30m`, `0s`, `0`.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut all) = (text, Duration::ZERO);
    if rest == "0" {
        return Some(all);
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit = rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| end + at);
        let seconds = match &rest[end..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        all = all.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn plugins_are_asked_once_for_what_their_answers_are_for() {
        let dir = std::env::temp_dir().join(format!("sampan-providers-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let program = |name: &str, text: &str| {
            std::fs::write(dir.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(dir.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        let log = dir.join("log");
        program(
            "good",
            &format!(
                "cat >>{0}; echo >>{0}; echo '{{\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\"cacheKeyType\":\"'$KEY'\",\"cacheDuration\":\"'$1'\",\"auth\":{{\"*.example\":{{\"username\":\"u\",\"password\":\"p\"}}}}}}'",
                log.display()
            ),
        );
        program("bad", "echo no >&2; exit 3");
        let config = |key: &str, lasts: &str| {
            json!({"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig", "providers": [
                {"name": "bad", "matchImages": ["*.example"], "defaultCacheDuration": "1h", "apiVersion": "credentialprovider.kubelet.k8s.io/v1"},
                {"name": "good", "matchImages": ["*.example/team"], "defaultCacheDuration": "12h", "args": [lasts],
                 "env": [{"name": "KEY", "value": key}], "apiVersion": "credentialprovider.kubelet.k8s.io/v1"}]})
            .to_string()
        };
        for (key, lasts, asked) in [("Image", "1h", 3), ("Registry", "1h", 2), ("Global", "1h", 1), ("Image", "0s", 4)]
        {
            let _ = std::fs::remove_file(&log);
            let providers = Providers::new(config(key, lasts).as_bytes(), &dir).unwrap();
            for image in ["a.example/team/x:1", "a.example/team/x:2", "a.example/team/y", "b.example/team/x"] {
                assert_eq!(providers.logins(image).await.len(), 1, "{key} {image}");
            }
            assert!(
                providers.logins("a.example/other/x").await.is_empty()
                    && providers.logins("docker.io/team/x").await.is_empty()
            );
            assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), asked, "{key} {lasts}");
        }
        assert!(std::fs::read_to_string(&log).unwrap().contains(r#""image":"a.example/team/x:1""#));
        let wrong = r#"{"kind":"X","providers":[{"name":"none","matchImages":[],"defaultCacheDuration":"soon","apiVersion":"v1"}]}"#;
        let error = Providers::new(wrong.as_bytes(), &dir).err().unwrap();
        for part in ["CredentialProviderConfig", "no such program", "matchImages", "apiVersion", "defaultCacheDuration"]
        {
            assert!(error.contains(part), "{error}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
        for (text, seconds) in [
            ("0", Some(0)),
            ("1h30m", Some(5400)),
            ("1.5m", Some(90)),
            ("", None),
            ("5", None),
            ("x", None),
            ("5y", None),
        ] {
            assert_eq!(duration(text).map(|of| of.as_secs()), seconds, "{text}");
        }
    }
}
