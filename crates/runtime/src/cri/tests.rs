use rpc::cri;

use super::asked;

#[test]
fn a_sandbox_is_checked_and_its_defaults_are_cris() {
    let metadata = cri::PodSandboxMetadata { name: "a".into(), uid: "u".into(), ..Default::default() };
    let plain = cri::PodSandboxConfig { metadata: Some(metadata), ..Default::default() };
    let config = asked::sandbox(plain.clone(), String::new(), "/k8s.io").unwrap();
    assert!(config.share_process_namespace && !config.host_network, "{config:?}");
    assert_eq!(config.cgroup_parent, "/k8s.io/u");

    let with = |change: fn(&mut cri::PodSandboxConfig)| {
        let mut asked = plain.clone();
        change(&mut asked);
        asked::sandbox(asked, String::new(), "/k8s.io").map_err(|status| status.code())
    };
    let refused = Some(rpc::Code::InvalidArgument);
    assert_eq!(with(|pod| pod.metadata = None).err(), refused);
    assert_eq!(
        with(|pod| pod.port_mappings = vec![cri::PortMapping { host_port: 70_000, ..Default::default() }]).err(),
        refused
    );
    assert_eq!(asked::sandbox(plain.clone(), "kata".into(), "").err().map(|status| status.code()), refused);
    let dns = with(|pod| {
        pod.dns_config = Some(cri::DnsConfig {
            servers: vec!["10.0.0.1".into(), "10.0.0.2".into()],
            searches: vec!["a".into(), "b".into()],
            options: vec!["ndots:8".into()],
        });
    });
    let text = dns.unwrap().resolv_conf.unwrap();
    assert_eq!(text, "search a b\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:8\n");
}

#[test]
fn signals_go_both_ways() {
    for (name, signal) in [
        ("", cri::Signal::Sigterm),
        ("SIGUSR1", cri::Signal::Sigusr1),
        ("USR1", cri::Signal::Sigusr1),
        ("SIGRTMIN+3", cri::Signal::Sigrtminplus3),
        ("37", cri::Signal::Sigrtminplus3),
        ("SIGRTMAX-1", cri::Signal::Sigrtmaxminus1),
        ("nonsense", cri::Signal::RuntimeDefault),
    ] {
        assert_eq!(asked::signal(name), signal as i32, "{name}");
    }
}
