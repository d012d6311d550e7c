//! Logins that others know: docker's configuration with its helpers, for `sampan images pull`, and kubelet's credential
//! provider plugins, for pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use node::ports::{self, Account};
use reconcile::io::BoxFuture;
use runtime::images::credentials::{Credentials, matches};
use runtime::images::reference::Reference;
use schema::validate::names::label_key;
use serde::Deserialize;
use serde_json::{Map, Value, json};
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
    token_attributes: Option<TokenAttributes>,
}

/// What a plugin wants of a pod's service account.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TokenAttributes {
    service_account_token_audience: String,
    require_service_account: Option<bool>,
    required_service_account_annotation_keys: Vec<String>,
    optional_service_account_annotation_keys: Vec<String>,
    cache_type: String,
}

impl TokenAttributes {
    /// What the plugin is told, and whom its answer is for; nothing if any of it is missing.
    fn told(&self, account: &Account) -> Option<(Map<String, Value>, String)> {
        let token = account.tokens.get(&self.service_account_token_audience)?;
        let find = |key: &String| Some((key.clone(), json!(account.annotations.get(key)?)));
        let required = self.required_service_account_annotation_keys.iter().map(find);
        let mut annotations = required.collect::<Option<Map<_, _>>>()?;
        annotations.extend(self.optional_service_account_annotation_keys.iter().filter_map(find));
        let by_token = (self.cache_type == "Token").then_some(token);
        let whose = json!([account.namespace, account.name, account.uid, annotations, by_token]).to_string();
        let mut told = Map::from_iter([("serviceAccountToken".to_owned(), json!(token))]);
        if !annotations.is_empty() {
            told.insert("serviceAccountAnnotations".into(), annotations.into());
        }
        Some((told, whose))
    }
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

/// And whether they are for one service account alone.
type Logins = Vec<(ports::Credentials, bool)>;

/// `CredentialProviderConfig`: programs that know logins.
pub struct Providers {
    dir: PathBuf,
    providers: Vec<Provider>,
    /// By provider, and what and whom its answer is for; until when.
    known: Mutex<HashMap<(String, String, String), (Instant, Logins)>>,
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
            let Some(wants) = &provider.token_attributes else { continue };
            let v1 = "tokenAttributes is only supported for credentialprovider.kubelet.k8s.io/v1 API version";
            check(version != Some("v1"), v1);
            check(wants.service_account_token_audience.is_empty(), "serviceAccountTokenAudience is required");
            check(wants.require_service_account.is_none(), "requireServiceAccount is required");
            let (required, optional) =
                (&wants.required_service_account_annotation_keys, &wants.optional_service_account_annotation_keys);
            check(
                wants.require_service_account == Some(false) && !required.is_empty(),
                "requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set",
            );
            check(
                !["ServiceAccount", "Token"].contains(&&*wants.cache_type),
                "cacheType is not ServiceAccount or Token",
            );
            let mut seen = BTreeSet::new();
            for key in required.iter().chain(optional) {
                check(!label_key(&key.to_lowercase()).is_empty(), "an annotation key is no qualified name");
                check(!seen.insert(key), "an annotation key is there twice");
            }
        }
        match wrong.is_empty() {
            true => Ok(Providers { dir: dir.to_owned(), providers: config.providers, known: Mutex::default() }),
            false => Err(wrong.join("; ")),
        }
    }

    fn matching<'a>(&'a self, image: &str) -> impl Iterator<Item = &'a Provider> + use<'a> {
        let repository = Reference::parse(image).map(|of| of.repository()).unwrap_or_default();
        let fits = move |pattern: &String| matches(pattern, &repository).is_some();
        self.providers.iter().filter(move |provider| provider.match_images.iter().any(&fits))
    }

    /// A provider's logins, asked for or known.
    async fn of(&self, provider: &Provider, image: &str, account: Option<&Account>) -> Result<Logins, String> {
        let reference = Reference::parse(image).map_err(|error| error.to_string())?;
        let repository = reference.repository();
        let wants = provider.token_attributes.as_ref();
        let told = match (wants, account) {
            (Some(wants), Some(account)) => wants.told(account),
            (Some(wants), None) if wants.require_service_account == Some(true) => None,
            _ => Some(Default::default()),
        };
        let Some((told, whose)) = told else { return Ok(Vec::new()) };
        let (own, token) = (!told.is_empty(), told.get("serviceAccountToken").cloned());
        let keys = [repository.as_str(), reference.domain.as_str(), "*"];
        let now = Instant::now();
        let key = |key: &str| (provider.name.clone(), key.to_owned(), whose.clone());
        let known = |of: &&str| {
            let known = self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            known.get(&key(of)).filter(|(until, _)| *until > now).cloned()
        };
        if let Some((_, of_before)) = keys.iter().find_map(known) {
            return Ok(of_before);
        }
        let response = self.ask(provider, &repository, told).await?;
        let users = response.auth.unwrap_or_default();
        let by_token = wants.is_some_and(|wants| wants.cache_type == "Token");
        if !by_token && token.is_some_and(|token| users.values().any(|user| user.password == token)) {
            return Err("credential provider plugin returned the service account token as the password which is not allowed when service account cache type is not set to 'Token'".into());
        }
        let of_user = |(registry, User { username, password })| {
            (ports::Credentials { registry, username, password, ..Default::default() }, own)
        };
        let found: Vec<_> = users.into_iter().map(of_user).collect();
        let lasts = response.cache_duration.as_deref().unwrap_or(&provider.default_cache_duration);
        let of = match &*response.cache_key_type {
            "Image" => keys[0],
            "Registry" => keys[1],
            _ => keys[2],
        };
        if let Some(until) = duration(lasts).filter(|lasts| !lasts.is_zero()).and_then(|lasts| now.checked_add(lasts)) {
            let mut known = self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            known.retain(|_, (until, _)| *until > now);
            known.insert(key(of), (until, found.clone()));
        }
        Ok(found)
    }

    async fn ask(&self, provider: &Provider, image: &str, mut request: Map<String, Value>) -> Result<Response, String> {
        let of_all = json!({"kind": "CredentialProviderRequest", "apiVersion": provider.api_version, "image": image});
        request.extend(of_all.as_object().cloned().unwrap_or_default());
        let mut command = tokio::process::Command::new(self.dir.join(&provider.name));
        command.args(&provider.args).envs(provider.env.iter().map(|of| (&of.name, &of.value))).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = async {
            let mut child = command.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // One that answers without reading is as good.
                let _ = stdin.write_all(Value::from(request).to_string().as_bytes()).await;
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

impl ports::Providers for Providers {
    fn audiences(&self, image: &str) -> Vec<String> {
        let wants = self.matching(image).filter_map(|provider| provider.token_attributes.as_ref());
        wants.map(|wants| wants.service_account_token_audience.clone()).collect()
    }

    /// Of all providers that match. One that fails is named in the log, as upstream.
    fn logins<'a>(&'a self, image: &'a str, account: Option<&'a Account>) -> BoxFuture<'a, Logins> {
        Box::pin(async move {
            let mut logins = Vec::new();
            for provider in self.matching(image) {
                match self.of(provider, image, account).await {
                    Ok(found) => logins.extend(found),
                    Err(error) => {
                        tracing::warn!(provider = provider.name, image, error, "a credential provider failed")
                    }
                }
            }
            logins
        })
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
    use node::ports::Providers as _;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn plugins_are_told_of_service_accounts() {
        let dir = std::env::temp_dir().join(format!("sampan-accounts-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let log = dir.join("log");
        let text = format!(
            "#!/bin/sh\ncat >>{0}; echo >>{0}; echo '{{\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\"cacheKeyType\":\"Global\",\"auth\":{{\"r.example\":{{\"password\":\"'$1'\"}}}}}}'\n",
            log.display()
        );
        std::fs::write(dir.join("plugin"), text).unwrap();
        std::fs::set_permissions(dir.join("plugin"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let new = |version: &str, password: &str, wants: Value| {
            let version = format!("credentialprovider.kubelet.k8s.io/{version}");
            let config = json!({"kind": "CredentialProviderConfig", "providers": [{"name": "plugin", "matchImages": ["r.example"],
                "defaultCacheDuration": "1h", "args": [password], "apiVersion": version, "tokenAttributes": wants}]});
            Providers::new(config.to_string().as_bytes(), &dir)
        };
        let account = |uid: &str, role: &str, token: &str| {
            let [uid, namespace, name] = [uid, "ns", "sa"].map(str::to_owned);
            let annotations = [("example.com/role".to_owned(), role.to_owned())].into();
            Some(Account { uid, namespace, name, annotations, tokens: [("aud".to_owned(), token.to_owned())].into() })
        };
        let bare = Some(Account { tokens: [("aud".to_owned(), "t".to_owned())].into(), ..Account::default() });
        let wants = |required: bool, cache: &str, keys: Value| json!({"serviceAccountTokenAudience": "aud", "requireServiceAccount": required, "cacheType": cache, "requiredServiceAccountAnnotationKeys": keys});
        // What is asked for in turn with one password, how many logins it gives, and how often the plugin has run.
        let role = || json!(["example.com/role"]);
        let a = |token| account("u", "a", token);
        let cases = [
            (
                wants(true, "ServiceAccount", role()),
                "p",
                vec![(a("t"), 1, 1), (a("t2"), 1, 1), (account("u", "b", "t"), 1, 2), (account("v", "a", "t"), 1, 3)],
            ),
            (wants(true, "Token", role()), "t", vec![(a("t"), 1, 1), (a("t"), 1, 1), (a("t2"), 1, 2)]),
            (wants(true, "ServiceAccount", role()), "t", vec![(a("t"), 0, 1)]),
            (
                wants(true, "Token", role()),
                "p",
                vec![(None, 0, 0), (bare.clone(), 0, 0), (Some(Account::default()), 0, 0)],
            ),
            (wants(false, "Token", json!([])), "p", vec![(None, 1, 1), (bare, 1, 2), (None, 1, 2)]),
            (Value::Null, "p", vec![(None, 1, 1), (a("t"), 1, 1)]),
        ];
        for (wants, password, turns) in cases {
            std::fs::write(&log, "").unwrap();
            let providers = new("v1", password, wants.clone()).ok().unwrap();
            assert_eq!(providers.audiences("r.example/x").is_empty(), wants.is_null());
            assert!(providers.audiences("other.example/x").is_empty());
            for (at, (account, logins, runs)) in turns.into_iter().enumerate() {
                let found = providers.logins("r.example/x:1", account.as_ref()).await;
                let own = account.is_some() && !wants.is_null();
                assert!(found.len() == logins && found.iter().all(|(_, of)| *of == own), "{wants} {at}");
                let said = std::fs::read_to_string(&log).unwrap();
                assert_eq!(said.lines().count(), runs, "{wants} {at}");
                let last: Value = serde_json::from_str(said.lines().last().unwrap_or("{}")).unwrap();
                assert_eq!(
                    last["serviceAccountAnnotations"].is_object(),
                    own && runs > 0 && wants.to_string().contains("role"),
                    "{last}"
                );
                assert_eq!(last["serviceAccountToken"].is_string(), (own && runs > 0) || runs > 1, "{last}");
            }
        }
        for (version, wants, why) in [
            ("v1beta1", wants(true, "Token", json!([])), "only supported for credentialprovider.kubelet.k8s.io/v1"),
            ("v1", wants(false, "Token", role()), "cannot be false"),
            ("v1", wants(true, "Pod", role()), "cacheType"),
            ("v1", wants(true, "Token", json!(["a b"])), "qualified"),
            ("v1", wants(true, "Token", json!(["a", "a"])), "twice"),
            (
                "v1",
                json!({"cacheType": "Token", "requireServiceAccount": true}),
                "serviceAccountTokenAudience is required",
            ),
            ("v1", json!({"cacheType": "Token"}), "requireServiceAccount is required"),
        ] {
            let error = new(version, "p", wants).err().unwrap();
            assert!(error.contains(why), "{error}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

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
                assert_eq!(providers.logins(image, None).await.len(), 1, "{key} {image}");
            }
            assert!(
                providers.logins("a.example/other/x", None).await.is_empty()
                    && providers.logins("docker.io/team/x", None).await.is_empty()
            );
            assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), asked, "{key} {lasts}");
        }
        assert!(std::fs::read_to_string(&log).unwrap().contains(r#""image":"a.example/team/x""#));
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
