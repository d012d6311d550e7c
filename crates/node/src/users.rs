//! The ids of pods with user namespaces (`hostUsers: false`): 65,536 for each, nobody else's on this host.
//!
//! What a pod has stands in its directory, in upstream's form, and goes with it: those records are all that is known.

use std::path::Path;
use std::sync::Mutex;
use std::{fs, io};

use serde_json::{Value, json};

use crate::objects::lock;

/// Ids of one pod, and where they begin.
const COUNT: u32 = 65_536;
/// Where all ids of pods end: a devpts is told its group by a signed number.
const END: u32 = 1 << 31;
const RECORD: &str = "userns";

/// Upstream's words where the runtime or the kernel has no user namespaces.
pub const UNSUPPORTED: &str = "can't set `spec.hostUsers: false`, runtime does not support user namespaces";

/// The first id above those that this host gives to its own users (subuid(5)).
pub fn floor() -> u32 {
    let end = |line: &str| {
        let mut numbers = line.split(':').skip(1).map(|text| text.trim().parse::<u32>().ok());
        numbers.next().flatten()?.checked_add(numbers.next().flatten()?)
    };
    let files = ["/etc/subuid", "/etc/subgid"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let ends = files.iter().flat_map(|text| text.lines().filter_map(end));
    ends.max().unwrap_or(0).max(COUNT).checked_next_multiple_of(COUNT).unwrap_or(COUNT)
}

/// The first of a pod's ids on the host and how many they are: what it has, or some that are free above `floor`, on
/// another machine probably others, for disks may be shared. `pods` has the pods' directories.
pub fn allocate(pods: &Path, uid: &str, floor: u32) -> io::Result<(u32, u32)> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = lock(&TURN);
    let record = pods.join(uid).join(RECORD);
    if let Some(own) = read(&record) {
        return Ok((own, COUNT));
    }
    let taken: Vec<u32> = fs::read_dir(pods)?.flatten().filter_map(|pod| read(&pod.path().join(RECORD))).collect();
    let slots = END.saturating_sub(floor) / COUNT;
    let from = uid.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let all = (0..slots).map(|slot| floor + (from % slots + slot) % slots * COUNT);
    let mut free = all.filter(|first| !taken.contains(first));
    let first =
        free.next().ok_or_else(|| io::Error::other("could not find an empty slot to allocate a user namespace"))?;
    let map = json!([{"hostId": first, "containerId": 0, "length": COUNT}]);
    fs::write(&record, json!({"uidMappings": map, "gidMappings": map}).to_string())?;
    Ok((first, COUNT))
}

fn read(record: &Path) -> Option<u32> {
    let value: Value = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
    value["uidMappings"][0]["hostId"].as_u64()?.try_into().ok()
}
