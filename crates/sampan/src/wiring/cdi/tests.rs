use super::*;

#[test]
fn names_become_what_specifications_say() {
    let dir = std::env::temp_dir().join(format!("sampan-cdi-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let spec = "cdiVersion: 0.6.0\nkind: example.com/gpu\ncontainerEdits:\n  env: [ALL=1]\ndevices:\n- name: a\n  containerEdits:\n    env: [GPU=a]\n    deviceNodes: [{path: /dev/gpu, hostPath: /dev/null}]\n    mounts: [{hostPath: /lib/gpu, containerPath: /gpu, options: [ro, bind]}]\n";
    std::fs::write(dir.join("gpu.yaml"), spec).unwrap();
    std::fs::write(dir.join("broken.json"), "{").unwrap();
    let of = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut config = ContainerConfig::default();
        inject_from(&names, &mut config, &[&dir]).map(|()| config)
    };
    let made = of(&["example.com/gpu=a"]).unwrap();
    assert_eq!(made.env, [("ALL".to_owned(), "1".to_owned()), ("GPU".to_owned(), "a".to_owned())]);
    let device = &made.devices[0];
    assert_eq!((device.host_path.as_path(), &*device.container_path), (Path::new("/dev/null"), "/dev/gpu"));
    assert_eq!(device.permissions, "rwm");
    assert!(made.mounts[0].readonly && made.mounts[0].container_path == "/gpu");
    let failed = of(&["example.com/gpu=a", "example.com/gpu=b"]).unwrap_err();
    assert_eq!(failed, "CDI device injection failed: unresolvable CDI devices example.com/gpu=b");
    std::fs::remove_dir_all(&dir).unwrap();
}
