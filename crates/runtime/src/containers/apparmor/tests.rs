#[test]
fn a_policy_includes_what_the_machine_has() {
    let all = super::policy("sampan", |_| true);
    assert!(all.starts_with("abi <abi/3.0>,\n#include <tunables/global>\nprofile sampan-default "), "{all}");
    assert!(all.contains("peer=sampan,") && all.contains("  #include <abstractions/base>\n"), "{all}");
    let none = super::policy("", |_| false);
    assert!(none.starts_with("profile sampan-default ") && !none.contains("include"), "{none}");
    assert!(none.contains("  deny /sys/{[^f]*,f[^s]*}/** wklx,\n"), "{none}");
}
