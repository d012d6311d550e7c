//! A network by CNI plugins (specification 1.1): programs that are run in the order of a list, with its JSON on their
//! standard input. What they answered is kept beside, for DEL and for who asks for addresses.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use runtime::containers::SandboxStatus;
use runtime::cri::{BoxFuture, Network};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::files;

/// A plugin that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(120);
const INTERFACE: &str = "eth0";

pub struct Cni {
    conf_dir: PathBuf,
    bin_dir: PathBuf,
    /// Results, by sandbox.
    results: PathBuf,
}

impl Cni {
    pub fn new(conf_dir: &Path, bin_dir: &Path, results: &Path) -> Result<Self, files::Error> {
        files::make_dir(results, 0o700)?;
        Ok(Self { conf_dir: conf_dir.to_owned(), bin_dir: bin_dir.to_owned(), results: results.to_owned() })
    }

    /// The first configuration by name, a single plugin's as a list of one.
    fn list(&self) -> Result<Value, String> {
        let entries = std::fs::read_dir(&self.conf_dir)
            .map_err(|error| format!("cni config: {}: {error}", self.conf_dir.display()))?;
        let fits = |path: &PathBuf| {
            path.extension().and_then(|ext| ext.to_str()).is_some_and(|ext| matches!(ext, "conflist" | "conf" | "json"))
        };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(fits).collect();
        files.sort();
        let Some(path) = files.first() else {
            return Err(format!("cni plugin not initialized: no network config found in {}", self.conf_dir.display()));
        };
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = std::fs::read(path).map_err(|error| named(&error))?;
        let list: Value = serde_json::from_slice(&text).map_err(|error| named(&error))?;
        if list["plugins"].is_array() {
            return Ok(list);
        }
        Ok(json!({"cniVersion": list["cniVersion"], "name": list["name"], "plugins": [list]}))
    }

    fn result(&self, sandbox: &SandboxStatus) -> PathBuf {
        self.results.join(&sandbox.id)
    }

    fn kept(&self, sandbox: &SandboxStatus) -> Value {
        let text = std::fs::read(self.result(sandbox)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    async fn call(
        &self,
        command: &str,
        list: &Value,
        plugin: &Value,
        sandbox: &SandboxStatus,
        before: &Value,
    ) -> Result<Value, String> {
        let name = plugin["type"].as_str().filter(|name| !name.contains('/')).unwrap_or_default();
        let mut asked = plugin.clone();
        asked["cniVersion"] = list["cniVersion"].clone();
        asked["name"] = list["name"].clone();
        if !before.is_null() {
            asked["prevResult"] = before.clone();
        }
        let config = &sandbox.config;
        if plugin["capabilities"]["portMappings"] == json!(true) {
            let port = |port: &runtime::containers::PortMapping| {
                json!({
                    "hostPort": port.host_port,
                    "containerPort": port.container_port,
                    "protocol": port.protocol.to_lowercase(),
                    "hostIP": port.host_ip,
                })
            };
            asked["runtimeConfig"] = json!({"portMappings": config.ports.iter().map(port).collect::<Vec<_>>()});
        }
        let netns = sandbox.netns.as_deref().filter(|_| sandbox.ready).unwrap_or(Path::new(""));
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            config.namespace, config.name, sandbox.id, config.uid
        );
        let failed = |why: &dyn std::fmt::Display| format!("plugin type={name:?} failed ({command}): {why}");
        let mut child = Command::new(self.bin_dir.join(name))
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &sandbox.id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_ARGS", arguments)
            .env("CNI_PATH", &self.bin_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(&error))?;
        let stdin = child.stdin.take();
        let run = async {
            if let Some(mut stdin) = stdin {
                stdin.write_all(asked.to_string().as_bytes()).await?;
            }
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(PATIENCE, run)
            .await
            .map_err(|_| failed(&"timed out"))?
            .map_err(|error| failed(&error))?;
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if output.status.success() {
            return Ok(answer);
        }
        let words: Vec<&str> = ["msg", "details"].iter().filter_map(|field| answer[*field].as_str()).collect();
        Err(if words.is_empty() { failed(&output.status) } else { failed(&words.join("; ")) })
    }
}

impl Network for Cni {
    fn ready(&self) -> Result<(), String> {
        self.list().map(drop)
    }

    fn attach<'a>(&'a self, sandbox: &'a SandboxStatus) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let list = self.list()?;
            let mut result = Value::Null;
            for plugin in list["plugins"].as_array().into_iter().flatten() {
                result = self.call("ADD", &list, plugin, sandbox, &result).await?;
            }
            let kept = json!({"list": list, "result": result});
            files::write(&self.result(sandbox), kept.to_string().as_bytes(), 0o600).map_err(|error| error.to_string())
        })
    }

    fn detach<'a>(&'a self, sandbox: &'a SandboxStatus) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            if sandbox.netns.is_none() {
                return Ok(());
            }
            // With what it was attached by, even if the configuration is another one by now.
            let kept = self.kept(sandbox);
            let list = match (kept["list"].is_object(), self.list()) {
                (true, _) => kept["list"].clone(),
                (false, Ok(list)) => list,
                // There is nothing that it could have been attached by.
                (false, Err(_)) => return Ok(()),
            };
            for plugin in list["plugins"].as_array().into_iter().flatten().rev() {
                self.call("DEL", &list, plugin, sandbox, &kept["result"]).await?;
            }
            let _ = std::fs::remove_file(self.result(sandbox));
            Ok(())
        })
    }

    fn addresses(&self, sandbox: &SandboxStatus) -> Vec<IpAddr> {
        let kept = self.kept(sandbox);
        let ips = kept["result"]["ips"].as_array().into_iter().flatten();
        ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect()
    }
}
