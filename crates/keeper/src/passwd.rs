//! Who a container's process is, from the image's own `/etc/passwd` and `/etc/group`.
//!
//! The rules are containerd's: a number needs no entry, a name does; a user without a group gets the group of its entry,
//! else 0; supplemental groups are those that name the user, and what the pod adds.

use std::os::fd::{AsRawFd, RawFd};

use crate::spec::User;
use crate::sys;

const MAX_FILE: usize = 16 << 20;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: Vec<u8>,
}

/// Resolves `user` by the files beneath `root`.
pub fn resolve(root: RawFd, user: &User) -> Result<Identity, String> {
    let read = |path: &str| match sys::open_in_root(root, path, libc::O_RDONLY | libc::O_NONBLOCK) {
        Ok(file) => sys::read_to_end(file.as_raw_fd(), MAX_FILE).map_err(|e| format!("read {path}: {e}")),
        Err(_) => Ok(Vec::new()), // an image without the file has no names
    };
    identify(user, &read("/etc/passwd")?, &read("/etc/group")?)
}

fn identify(user: &User, passwd: &[u8], group: &[u8]) -> Result<Identity, String> {
    let (name, group_name) = match user.name.iter().position(|b| *b == b':') {
        Some(at) => (&user.name[..at], &user.name[at + 1..]),
        None => (&user.name[..], &b""[..]),
    };
    let wanted_uid = user.uid.or_else(|| number(name)).or(if name.is_empty() { Some(0) } else { None });
    let entry =
        records(passwd).find(|f| f.len() >= 4 && wanted_uid.map_or(f[0] == name, |uid| number(f[2]) == Some(uid)));
    let uid = match (wanted_uid, &entry) {
        (Some(uid), _) => uid,
        (None, Some(f)) => number(f[2]).ok_or_else(|| format!("user {}: bad entry in /etc/passwd", show(name)))?,
        (None, None) => return Err(format!("unable to find user {}: no matching entries in passwd file", show(name))),
    };
    let gid = match (user.gid, group_name.is_empty() || user.uid.is_some()) {
        (Some(gid), _) => gid,
        (None, true) => entry.as_ref().and_then(|f| number(f[3])).unwrap_or(0),
        (None, false) => number(group_name)
            .or_else(|| records(group).find(|f| f.len() >= 3 && f[0] == group_name).and_then(|f| number(f[2])))
            .ok_or_else(|| format!("unable to find group {}: no matching entries in group file", show(group_name)))?,
    };
    let mut groups = vec![gid];
    if let (Some(f), false) = (&entry, user.strict) {
        let member = |g: &Vec<&[u8]>| g.len() >= 4 && g[3].split(|b| *b == b',').any(|m| !m.is_empty() && m == f[0]);
        groups.extend(records(group).filter(member).filter_map(|g| number(g[2])));
    }
    groups.extend(&user.supplemental);
    if uid == u32::MAX || groups.contains(&u32::MAX) {
        return Err(format!("uids and gids must be in range 0-{}", u32::MAX - 1));
    }
    let mut seen = Vec::with_capacity(groups.len());
    groups.retain(|g| {
        !seen.contains(g) && {
            seen.push(*g);
            true
        }
    });
    let home =
        entry.as_ref().and_then(|f| f.get(5)).filter(|h| h.starts_with(b"/")).map_or(b"/".to_vec(), |h| h.to_vec());
    Ok(Identity { uid, gid, groups, home })
}

fn records(file: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    file.split(|b| *b == b'\n')
        .map(|line| line.trim_ascii())
        .filter(|line| !line.is_empty() && line[0] != b'#')
        .map(|line| line.split(|b| *b == b':').collect())
}

/// The last number is nobody's: the kernel takes it for "leave it as it is", which is root.
fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|id| *id != u32::MAX)
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests;
