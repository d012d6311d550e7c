use std::time::Duration;

use crate::pluginregistration::registration_client::RegistrationClient;
use crate::pluginregistration::registration_server::{Registration, RegistrationServer};
use crate::pluginregistration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use crate::{Code, Request, Response, Routes, Status, connect, serve};

struct Plugin;

#[crate::async_trait]
impl Registration for Plugin {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo { name: "plugin.example.com".into(), ..Default::default() }))
    }

    async fn notify_registration_status(
        &self,
        _: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        Err(Status::invalid_argument("no"))
    }
}

#[tokio::test]
async fn calls_pass_and_a_lost_peer_is_dialled_again() {
    let path = std::env::temp_dir().join(format!("rpc-{}.sock", std::process::id()));
    let timeout = Duration::from_secs(5);
    assert!(connect(&path, timeout).await.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound));
    let start = || {
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        tokio::spawn(serve(listener, Routes::default().with(RegistrationServer::new(Plugin))))
    };
    let server = start();
    let channel = connect(&path, timeout).await.unwrap();
    let mut client = RegistrationClient::new(channel.clone());
    assert_eq!(client.get_info(InfoRequest {}).await.unwrap().into_inner().name, "plugin.example.com");
    let refused = client.notify_registration_status(RegistrationStatus::default()).await.err().unwrap();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "no"));
    let mut renamed = RegistrationClient::new(channel.clone().to("other.Service"));
    assert_eq!(renamed.get_info(InfoRequest {}).await.err().unwrap().code(), Code::Unimplemented);
    let mut other = crate::csi::identity_client::IdentityClient::new(channel);
    let unknown = other.probe(crate::csi::ProbeRequest {}).await.err().unwrap();
    assert_eq!(unknown.code(), Code::Unimplemented);

    server.abort();
    let _ = server.await;
    let lost = client.get_info(InfoRequest {}).await.err().unwrap();
    assert_eq!(lost.code(), Code::Unavailable, "{lost}");
    std::fs::remove_file(&path).unwrap();
    let server = start();
    assert!(client.get_info(InfoRequest {}).await.is_ok());
    server.abort();
    std::fs::remove_file(&path).unwrap();
}
