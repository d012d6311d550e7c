//! Addresses on disk.

use net::io::ipam::Ipam;

use crate::kernel::{cidr, ip};
use crate::lab::Directory;

#[test]
fn addresses_are_given_once_and_outlive_the_process() {
    let directory = Directory::new();
    let open = || Ipam::open(&directory.0, vec![cidr("10.42.0.0/29"), cidr("fd00::/64")]).unwrap();
    let mut ipam = open();
    assert_eq!(ipam.allocate("a").unwrap(), [ip("10.42.0.2"), ip("fd00::2")]);
    assert_eq!(ipam.allocate("a").unwrap(), [ip("10.42.0.2"), ip("fd00::2")], "the same again");
    assert_eq!(ipam.allocate("b").unwrap(), [ip("10.42.0.3"), ip("fd00::3")]);
    ipam.release("a").unwrap();
    ipam.release("a").unwrap();
    assert_eq!(ipam.allocate("c").unwrap(), [ip("10.42.0.4"), ip("fd00::4")], "not at once again");

    let mut ipam = open();
    assert_eq!(ipam.allocate("b").unwrap(), [ip("10.42.0.3"), ip("fd00::3")]);
    for owner in ["d", "e", "f"] {
        ipam.allocate(owner).unwrap();
    }
    // .2 to .6: the network, the gateway's place and the broadcast are not given.
    assert_eq!(ipam.allocate("g").unwrap_err().to_string(), "no free address left in 10.42.0.0/29");
    assert_eq!(ipam.keep(&|owner| owner == "b").unwrap(), ["c", "d", "e", "f"]);
    assert_eq!(ipam.owners().len(), 2);

    // A crash between creation and content; files that are not ours.
    std::fs::write(directory.0.join("10.42.0.5"), "").unwrap();
    std::fs::write(directory.0.join("notes"), "x").unwrap();
    let ipam = open();
    assert_eq!(ipam.owners().len(), 2);
    assert!(directory.0.join("notes").exists() && !directory.0.join("10.42.0.5").exists());
}
