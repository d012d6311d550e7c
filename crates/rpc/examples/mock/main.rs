//! `mock ROOT LOG`: a CSI driver, a device plugin and a DRA driver, all called `mock.example.com`, beside the kubelet whose
//! directory is ROOT. What they are asked is appended to LOG. It ends when it is killed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a tool of tests

mod plugins;

use std::path::{Path, PathBuf};

use plugins::{Claims, DevicePlugin_, Driver, Log, Registrar};
use rpc::Routes;
use rpc::csi::node_server::NodeServer;
use rpc::deviceplugin::device_plugin_server::DevicePluginServer;
use rpc::dra::dra_plugin_server::DraPluginServer;
use rpc::pluginregistration::PluginInfo;
use rpc::pluginregistration::registration_server::RegistrationServer;
use tokio::net::UnixListener;

fn bind(path: &Path) -> UnixListener {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let _ = std::fs::remove_file(path);
    UnixListener::bind(path).unwrap()
}

#[tokio::main]
async fn main() {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [root, log] = &arguments[..] else { panic!("mock ROOT LOG") };
    let (log, plugin) = (Log::to(log.clone()), root.join("plugins/mock.example.com"));
    let registrar = |kind: &str, name: &str, endpoint: &Path, version: &str| {
        RegistrationServer::new(Registrar {
            info: PluginInfo {
                r#type: kind.into(),
                name: name.into(),
                endpoint: endpoint.to_string_lossy().into_owned(),
                supported_versions: vec![version.into()],
            },
            log: log.clone(),
        })
    };
    let driver = Driver { log: log.clone(), data: plugin.join("data"), faults: Default::default() };
    let list = ["one", "two"].map(|id| (id.to_owned(), true, None)).into();
    let devices = DevicePlugin_ { log: log.clone(), devices: tokio::sync::watch::channel(list).0 };
    let claims = Claims { log: log.clone() };
    let (csi, dra) = (plugin.join("csi.sock"), plugin.join("dra.sock"));
    let registry = root.join("plugins_registry");
    let device = registry.join("mock-device.sock");
    // The endpoints first: who registers is spoken to.
    let servers = [
        (bind(&csi), Routes::default().with(NodeServer::new(driver))),
        (bind(&dra), Routes::default().with(DraPluginServer::new(claims))),
        (
            bind(&registry.join("mock-csi.sock")),
            Routes::default().with(registrar("CSIPlugin", "mock.example.com", &csi, "1.0.0")),
        ),
        (
            bind(&device),
            Routes::default()
                .with(registrar("DevicePlugin", "mock.example.com/widget", &device, "v1beta1"))
                .with(DevicePluginServer::new(devices)),
        ),
        (
            bind(&registry.join("mock-dra.sock")),
            Routes::default().with(registrar("DRAPlugin", "mock.example.com", &dra, "v1.DRAPlugin")),
        ),
    ];
    for (listener, routes) in servers {
        tokio::spawn(rpc::serve(listener, routes));
    }
    std::future::pending::<()>().await;
}
