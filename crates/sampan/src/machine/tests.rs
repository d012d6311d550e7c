use super::*;

#[test]
fn kubelet_args_set_what_they_name_and_refuse_the_rest() {
    let parse = |words: &[&str]| KubeletArgs::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    let args =
        parse(&["max-pods=20", "--pod-max-pids=500", "kube-reserved=cpu=100m,memory=64Mi", "system-reserved=cpu=1"]);
    let reserved = Reservation { cpu_milli: 1100, memory_bytes: 64 << 20, ephemeral_storage_bytes: 0 };
    assert_eq!(args.ok(), Some(KubeletArgs { max_pods: 20, pod_max_pids: 500, reserved }));
    for bad in ["max-pods", "max-pods=many", "no-such=1", "kube-reserved=cpu", "kube-reserved=gpu=1"] {
        let error = parse(&[bad]).expect_err("a mistake").to_string();
        assert!(error.contains("--kubelet-arg") && error.contains(bad), "{error}");
    }
}
