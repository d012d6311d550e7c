use super::*;

const PASSWD: &[u8] =
    b"# comment\nroot:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/false\nbroken\nbare:x:50:51\n";
const GROUP: &[u8] = b"root:x:0:\nwww:x:34:\nssl:x:60:other,web\nlog:x:61:web\n";

fn check(user: User, expect: Result<(u32, u32, &[u32], &str), &str>) {
    let got = identify(&user, PASSWD, GROUP);
    match (got, expect) {
        (Ok(id), Ok((uid, gid, groups, home))) => {
            assert_eq!((id.uid, id.gid, &id.groups[..], &id.home[..]), (uid, gid, groups, home.as_bytes()), "{user:?}")
        }
        (Err(e), Err(part)) => assert!(e.contains(part), "{e}"),
        (got, expect) => panic!("{user:?}: {got:?} instead of {expect:?}"),
    }
}

fn named(name: &str) -> User {
    User { name: name.into(), ..User::default() }
}

#[test]
fn users_and_groups() {
    check(named(""), Ok((0, 0, &[0], "/root")));
    check(named("web"), Ok((33, 34, &[34, 60, 61], "/var/www")));
    check(named("33"), Ok((33, 34, &[34, 60, 61], "/var/www")));
    check(named("1000"), Ok((1000, 0, &[0], "/")));
    check(named("bare"), Ok((50, 51, &[51], "/")));
    check(named("web:ssl"), Ok((33, 60, &[60, 61], "/var/www")));
    check(named("1000:7"), Ok((1000, 7, &[7], "/")));
    check(named("nobody"), Err("unable to find user nobody"));
    check(named("web:none"), Err("unable to find group none"));
    check(named("-1"), Err("unable to find user"));
    check(named("4294967296"), Err("unable to find user"));
    // To the kernel it means "leave it", which is root.
    check(named("4294967295"), Err("unable to find user"));
    check(named("1:4294967295"), Err("unable to find group"));
    check(User { uid: Some(u32::MAX), ..named("") }, Err("must be in range"));
    check(User { supplemental: vec![u32::MAX], ..named("") }, Err("must be in range"));
    // The pod's word goes before the image's, whose group then no longer counts.
    check(User { uid: Some(1001), ..named("web:ssl") }, Ok((1001, 0, &[0], "/")));
    check(User { uid: Some(33), gid: Some(5), ..named("") }, Ok((33, 5, &[5, 60, 61], "/var/www")));
    check(User { supplemental: vec![9, 60], ..named("web") }, Ok((33, 34, &[34, 60, 61, 9], "/var/www")));
    check(User { supplemental: vec![9], strict: true, ..named("web") }, Ok((33, 34, &[34, 9], "/var/www")));
}
