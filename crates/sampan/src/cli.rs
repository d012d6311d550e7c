//! The command line: one table of flags. `/etc/sampan/config.yaml` and `SAMPAN_*` set the same ones (see [`crate::config`]).

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use schema::api::core::v1::Taint;

use crate::flags;

/// A small Kubernetes distribution.
#[derive(Debug, Parser)]
#[command(name = "sampan", version, about, args_override_self = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a server: the control plane and, unless --disable-agent, a node.
    Server(Box<ServerArgs>),
    /// Run a node of another server's cluster.
    Agent(Box<AgentArgs>),
    /// Run the container runtime alone, for a kubelet or crictl, on a CRI v1 socket.
    Cri(Box<CriArgs>),
    /// Look at the images of this node, and bring or take some.
    Images {
        #[command(flatten)]
        place: DataDir,
        #[command(subcommand)]
        action: ImagesCommand,
    },
    /// Print the token with which nodes join.
    Token {
        #[command(flatten)]
        place: DataDir,
        /// The token of agents only, which cannot add servers.
        #[arg(long)]
        agent: bool,
    },
    /// Look after the encryption of Secrets.
    SecretsEncrypt {
        #[command(subcommand)]
        action: SecretsEncryptCommand,
    },
    /// Say in plain words what this machine offers and lacks.
    Check {
        #[command(flatten)]
        place: DataDir,
    },
    /// Stop all pods of this node and take back what it made on this machine (volumes' contents stay).
    Killall {
        #[command(flatten)]
        place: DataDir,
    },
    /// Print the completion script of a shell.
    Completion { shell: clap_complete::Shell },
    /// Print the version.
    Version,
}

#[derive(Debug, Args, Clone)]
pub struct DataDir {
    /// Where the state lives.
    #[arg(short, long, env = "SAMPAN_DATA_DIR", default_value = "/var/lib/sampan", value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// Flags of every node, server or agent.
#[derive(Debug, Args, Clone)]
pub struct NodeArgs {
    #[command(flatten)]
    pub place: DataDir,
    /// A file with flags: `name: value`, lists for repeated ones.
    #[arg(short, long, env = "SAMPAN_CONFIG_FILE", default_value = crate::config::DEFAULT_FILE, value_name = "FILE")]
    pub config: PathBuf,
    /// The node's name [default: the host's name].
    #[arg(long, env = "SAMPAN_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// An address of this node, at most one per family [default: that of the default route].
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// An address by which clients outside reach this node.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub node_external_ip: Vec<IpAddr>,
    /// A label to register the node with: KEY=VALUE.
    #[arg(long, value_name = "LABEL", value_delimiter = ',', value_parser = flags::label)]
    pub node_label: Vec<(String, String)>,
    /// A taint to register the node with: KEY=VALUE:EFFECT.
    #[arg(long, value_name = "TAINT", value_delimiter = ',', value_parser = flags::taint)]
    pub node_taint: Vec<Taint>,
    /// The secret by which nodes join.
    #[arg(short, long, env = "SAMPAN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A file which holds the token.
    #[arg(long, env = "SAMPAN_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Registries: mirrors, authentication, TLS.
    #[arg(long, default_value = "/etc/sampan/registries.yaml", value_name = "FILE")]
    pub private_registry: PathBuf,
    /// kubelet's CredentialProviderConfig: plugins that know logins for registries.
    #[arg(long, value_name = "FILE", requires = "image_credential_provider_bin_dir")]
    pub image_credential_provider_config: Option<PathBuf>,
    /// The plugins' directory.
    #[arg(long, value_name = "DIR", requires = "image_credential_provider_config")]
    pub image_credential_provider_bin_dir: Option<PathBuf>,
    /// Another resolv.conf for the node and for pods with dnsPolicy Default.
    #[arg(long, env = "SAMPAN_RESOLV_CONF", value_name = "FILE")]
    pub resolv_conf: Option<PathBuf>,
    /// A flag of kubelet, as it takes it; config=FILE is a KubeletConfiguration.
    #[arg(long, value_name = "NAME=VALUE", value_parser = node::settings::flag)]
    pub kubelet_arg: Vec<node::settings::Flag>,
    /// Another container runtime's CRI v1 socket, instead of the embedded one.
    #[arg(long, value_name = "unix://PATH", value_parser = flags::socket)]
    pub container_runtime_endpoint: Option<PathBuf>,
    /// Its image service, if that has a socket of its own.
    #[arg(long, value_name = "unix://PATH", value_parser = flags::socket)]
    pub image_service_endpoint: Option<PathBuf>,
    /// How pods of other nodes are reached.
    #[arg(long, value_enum, default_value = "vxlan")]
    pub flannel_backend: Backend,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Debug, Args, Clone)]
pub struct LogArgs {
    /// Log more: `debug`, `trace`, or tracing's filter (`info,net=debug`).
    #[arg(long, env = "SAMPAN_LOG", default_value = "info", value_name = "FILTER", value_parser = flags::log)]
    pub log: String,
    /// Like --log debug.
    #[arg(long, env = "SAMPAN_DEBUG")]
    pub debug: bool,
}

#[derive(Debug, Args, Clone)]
pub struct CriArgs {
    #[command(flatten)]
    pub place: DataDir,
    /// The socket [default: cri.sock in the run directory].
    #[arg(long, value_name = "unix://PATH", value_parser = flags::socket)]
    pub address: Option<PathBuf>,
    /// Addresses of pods.
    #[arg(long, default_value = "10.42.0.0/24", value_name = "CIDR", value_delimiter = ',', value_parser = flags::cidr)]
    pub cluster_cidr: Vec<String>,
    /// Leave the network to CNI plugins, as the first list of this directory says.
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Where the plugins are.
    #[arg(long, default_value = "/opt/cni/bin", value_name = "DIR")]
    pub cni_bin_dir: PathBuf,
    #[arg(long, default_value = "/etc/sampan/registries.yaml", value_name = "FILE")]
    pub private_registry: PathBuf,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    Vxlan,
    HostGw,
    None,
}

#[derive(Debug, Args, Clone)]
pub struct ServerArgs {
    #[command(flatten)]
    pub node: NodeArgs,
    /// The address to listen on.
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    pub bind_address: IpAddr,
    /// The port of the API.
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    pub https_listen_port: u16,
    /// The address by which members of the cluster reach the API [default: the node's].
    #[arg(long, value_name = "IP")]
    pub advertise_address: Option<IpAddr>,
    /// One more name or address in the API's certificate.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// Addresses of pods.
    #[arg(long, default_value = "10.42.0.0/16", value_name = "CIDR", value_delimiter = ',', value_parser = flags::cidr)]
    pub cluster_cidr: Vec<String>,
    /// Addresses of services.
    #[arg(long, default_value = "10.43.0.0/16", value_name = "CIDR", value_delimiter = ',', value_parser = flags::cidr)]
    pub service_cidr: Vec<String>,
    /// Ports of NodePort services.
    #[arg(long, default_value = "30000-32767", value_name = "RANGE", value_parser = flags::port_range)]
    pub service_node_port_range: RangeInclusive<u16>,
    /// The address of the cluster's DNS [default: the tenth of --service-cidr].
    #[arg(long, value_name = "IP")]
    pub cluster_dns: Option<IpAddr>,
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub cluster_domain: String,
    /// Where the admin's kubeconfig is written.
    #[arg(
        short = 'o',
        long,
        env = "SAMPAN_KUBECONFIG_OUTPUT",
        default_value = "/etc/sampan/kubeconfig.yaml",
        value_name = "FILE"
    )]
    pub write_kubeconfig: PathBuf,
    /// Its mode.
    #[arg(long, env = "SAMPAN_KUBECONFIG_MODE", default_value = "0600", value_name = "MODE", value_parser = flags::mode)]
    pub write_kubeconfig_mode: u32,
    /// A part to leave out: servicelb, dns, network-policy.
    #[arg(long, value_name = "PART", value_delimiter = ',', value_parser = flags::part)]
    pub disable: Vec<String>,
    /// Encrypt Secrets in the datastore, with a key that is made at the first start.
    #[arg(long)]
    pub secrets_encryption: bool,
    /// How the first key encrypts.
    #[arg(long, default_value = "aescbc", value_name = "PROVIDER", value_parser = ["aescbc", "secretbox"])]
    pub secrets_encryption_provider: String,
    /// A flag of kube-apiserver, as it takes it.
    #[arg(long, value_name = "NAME=VALUE", value_parser = flags::api_server_arg)]
    pub kube_apiserver_arg: Vec<(String, String)>,
    /// Run no node here.
    #[arg(long)]
    pub disable_agent: bool,
    /// Run no controllers here.
    #[arg(long)]
    pub disable_controller_manager: bool,
    /// Run no scheduler here.
    #[arg(long)]
    pub disable_scheduler: bool,
    /// A token for agents that differs from the servers'.
    #[arg(long, env = "SAMPAN_AGENT_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub agent_token: Option<String>,
}

impl ServerArgs {
    /// What `--kube-apiserver-arg` sets: the last value given.
    pub fn api_server_arg(&self, name: &str) -> Option<&str> {
        self.kube_apiserver_arg.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Args, Clone)]
pub struct AgentArgs {
    #[command(flatten)]
    pub node: NodeArgs,
    /// The server to join: https://HOST:6443.
    #[arg(short, long, env = "SAMPAN_URL", value_name = "URL")]
    pub server: String,
}

#[derive(Debug, Subcommand)]
pub enum SecretsEncryptCommand {
    /// Print whether it is on, and the names of its keys.
    Status {
        #[command(flatten)]
        place: DataDir,
    },
}

#[derive(Debug, Subcommand)]
pub enum ImagesCommand {
    /// List them.
    #[command(alias = "list")]
    Ls {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Print ids only.
        #[arg(short, long, conflicts_with = "json")]
        quiet: bool,
    },
    /// Fetch from a registry.
    Pull {
        image: String,
        /// USER:PASSWORD for the registry; else docker's configuration of this user and its helpers are asked.
        #[arg(long, hide_env_values = true, env = "SAMPAN_REGISTRY_CREDENTIALS")]
        credentials: Option<String>,
        #[arg(long, default_value = "/etc/sampan/registries.yaml")]
        private_registry: PathBuf,
    },
    /// Take all images of docker-archives and OCI layouts (.tar, .tar.gz, .tar.zst; `-` for standard input).
    Import { files: Vec<PathBuf> },
    /// Write images into one tar.
    Export { file: PathBuf, images: Vec<String> },
    /// Remove names; what nothing else uses goes with them.
    Rm { images: Vec<String> },
}
