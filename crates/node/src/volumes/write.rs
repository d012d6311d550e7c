//! Files that change as one: each version in a directory of its own, `..data` links to the current one, and what
//! containers open links through `..data`. Readers see the old version or the new one, never a mixture.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::{fs, io};

use super::payload::Payload;

const DATA: &str = "..data";
const NEW: &str = "..data_tmp";

/// Makes `dir` show `payload`; true if anything changed. `stamp` names the new version.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>, stamp: &str) -> io::Result<bool> {
    let current = fs::read_link(dir.join(DATA)).ok();
    if let Some(current) = &current
        && matches(&dir.join(current), payload, group)
    {
        return Ok(false);
    }
    let version = format!("..{stamp}");
    let target = dir.join(&version);
    let _ = fs::remove_dir_all(&target);
    fs::create_dir(&target)?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        let to = target.join(path);
        if let Some(parent) = to.parent().filter(|parent| *parent != target) {
            fs::create_dir_all(parent)?;
        }
        // What may be a key is nobody else's before it has its mode.
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to)?.write_all(&file.data)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(effective(file.mode, group)))?;
        if file.user.is_some() || group.is_some() {
            chown(&to, file.user, group)?;
        }
    }
    if group.is_some() {
        chown(&target, None, group)?;
    }
    let _ = fs::remove_file(dir.join(NEW));
    symlink(&version, dir.join(NEW))?;
    fs::rename(dir.join(NEW), dir.join(DATA))?;
    let top: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &top {
        let link = dir.join(name);
        if fs::read_link(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !top.contains(name.as_str()) {
            fs::remove_file(entry.path())?;
        }
        if name.starts_with("..") && name != DATA && name != version {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(true)
}

/// With an fsGroup, owner and group may read.
fn effective(mode: u32, group: Option<u32>) -> u32 {
    if group.is_some() { mode | 0o440 } else { mode }
}

fn matches(dir: &Path, payload: &Payload, group: Option<u32>) -> bool {
    fn count(dir: &Path) -> usize {
        let Ok(entries) = fs::read_dir(dir) else { return usize::MAX };
        entries
            .flatten()
            .map(|entry| if entry.file_type().is_ok_and(|kind| kind.is_dir()) { count(&entry.path()) } else { 1 })
            .fold(0, usize::saturating_add)
    }
    count(dir) == payload.len()
        && payload.iter().all(|(path, file)| {
            let path = dir.join(path);
            fs::read(&path).is_ok_and(|data| data == file.data)
                && fs::metadata(&path)
                    .is_ok_and(|meta| meta.permissions().mode() & 0o7777 == effective(file.mode, group))
        })
}
