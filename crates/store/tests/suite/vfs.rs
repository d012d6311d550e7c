//! A disk for SQLite that forgets: what was written since a file's last sync is kept apart, and a power cut keeps any
//! mixture of it, sector by sector. It can also be full, or fail to sync.
//!
//! The files themselves are real ones of the default VFS, so locks and shared memory are SQLite's own; only syncs are
//! not passed on. SQLite's VFS interface is C, hence the unsafe code.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, Once};

use rusqlite::ffi;

use crate::common::Random;

pub const NAME: &str = "forgetful";
const SECTOR: usize = 512;

/// What one directory's disk does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Behaviour {
    /// Bytes that all files together may take, those of other programs in the directory included.
    pub capacity: Option<u64>,
    pub syncs_fail: bool,
    pub writes: u64,
    pub written_bytes: u64,
    pub syncs: u64,
}

#[derive(Clone, Default)]
struct Contents {
    /// As of the last sync.
    durable: Vec<u8>,
    /// Since then.
    pending: Vec<Op>,
    length: usize,
}

#[derive(Clone)]
enum Op {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

#[derive(Default)]
struct Disks {
    files: HashMap<PathBuf, Contents>,
    behaviour: HashMap<PathBuf, Behaviour>,
}

static DISKS: LazyLock<Mutex<Disks>> = LazyLock::new(Mutex::default);

fn disks() -> MutexGuard<'static, Disks> {
    DISKS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The state of a directory's files at one instant, unsynced writes apart.
pub struct Instant(Vec<(String, Contents)>);

/// Freezes what the disk and its cache hold right now.
pub fn freeze(directory: &Path) -> Instant {
    let disks = disks();
    let mut files: Vec<_> = disks
        .files
        .iter()
        // What was renamed is known by its new name.
        .filter(|(path, _)| path.parent() == Some(directory) && path.exists())
        .map(|(path, contents)| (path.file_name().unwrap().to_str().unwrap().to_owned(), contents.clone()))
        .collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));
    Instant(files)
}

pub fn behave(directory: &Path, change: impl FnOnce(&mut Behaviour)) -> Behaviour {
    let mut disks = disks();
    let behaviour = disks.behaviour.entry(directory.to_owned()).or_default();
    change(behaviour);
    *behaviour
}

pub fn forget(directory: &Path) {
    let mut disks = disks();
    disks.files.retain(|path, _| path.parent() != Some(directory));
    disks.behaviour.remove(directory);
}

impl Instant {
    /// What a power cut might leave, as files in `directory`.
    pub fn cut(&self, directory: &Path, random: &mut Random) {
        // Whole-cut moods: everything unsynced lost, everything kept, or a mixture.
        let keep = random.below(5);
        for (name, contents) in &self.0 {
            let left = match keep {
                0 => contents.durable.clone(),
                1 => contents.newest(),
                _ => contents.torn(random),
            };
            std::fs::write(directory.join(name), &left).unwrap();
            disks().files.insert(directory.join(name), Contents { length: left.len(), durable: left, pending: vec![] });
        }
    }

    /// What is left when only the process dies.
    pub fn kill(&self, directory: &Path) {
        for (name, contents) in &self.0 {
            let left = contents.newest();
            std::fs::write(directory.join(name), &left).unwrap();
            disks().files.insert(directory.join(name), Contents { length: left.len(), durable: left, pending: vec![] });
        }
    }
}

impl Contents {
    /// The file with all that is unsynced.
    fn newest(&self) -> Vec<u8> {
        let mut image = self.durable.clone();
        self.pending.iter().for_each(|op| op.apply(&mut image));
        image
    }

    /// Every sector is that of some moment since the last sync, chosen for itself; so is the length.
    fn torn(&self, random: &mut Random) -> Vec<u8> {
        let mut image = self.durable.clone();
        let mut versions: HashMap<usize, Vec<Vec<u8>>> = HashMap::new();
        let mut lengths = vec![image.len()];
        for op in &self.pending {
            op.apply(&mut image);
            lengths.push(image.len());
            if let Op::Write(at, bytes) = op {
                for sector in at / SECTOR..(at + bytes.len()).div_ceil(SECTOR) {
                    let end = ((sector + 1) * SECTOR).min(image.len());
                    versions.entry(sector).or_default().push(image[sector * SECTOR..end].to_vec());
                }
            }
        }
        // Mostly the length is the newest one: a shorter file hides the torn sectors.
        let length = if random.one_in(4) { lengths[random.below(lengths.len() as u64) as usize] } else { image.len() };
        let mut left = self.durable.clone();
        let garbage = random.one_in(4);
        let old_length = left.len();
        left.resize(length, 0);
        if garbage && length > old_length {
            left[old_length..].copy_from_slice(&random.bytes(length - old_length));
        }
        let lost_in_100 = [5, 50, 95][random.below(3) as usize];
        let mut sectors: Vec<_> = versions.into_iter().collect();
        sectors.sort_by_key(|(sector, _)| *sector);
        for (sector, versions) in sectors {
            if random.below(100) < lost_in_100 {
                continue;
            }
            let newest = versions.len() - 1;
            let version = if random.one_in(3) { random.below(versions.len() as u64) as usize } else { newest };
            let start = sector * SECTOR;
            for (offset, byte) in versions[version].iter().enumerate() {
                if let Some(place) = left.get_mut(start + offset) {
                    *place = *byte;
                }
            }
        }
        left
    }
}

impl Op {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write(at, bytes) => {
                let end = at + bytes.len();
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[*at..end].copy_from_slice(bytes);
            }
            Self::Truncate(length) => image.resize(*length, 0),
        }
    }
}

/// An open file: SQLite's base, our path, and behind it in the same allocation the default VFS' own.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    /// A leaked box, freed by [`close`]; null for temporary files, which no power cut concerns.
    path: *mut PathBuf,
}

fn under() -> *mut ffi::sqlite3_vfs {
    // SAFETY: the default VFS is there for as long as the process.
    unsafe { ffi::sqlite3_vfs_find(std::ptr::null()) }
}

/// The default VFS' file inside of ours.
unsafe fn inner(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: szOsFile below makes room for both, one after the other.
    unsafe { file.byte_add(size_of::<File>()) }
}

unsafe fn path<'a>(file: *mut ffi::sqlite3_file) -> Option<&'a Path> {
    // SAFETY: `file` is one of ours, and its box lives until close().
    unsafe { (*file.cast::<File>()).path.as_ref().map(PathBuf::as_path) }
}

/// Calls the same method of the default VFS' file.
macro_rules! pass {
    ($file:expr, $method:ident $(, $arg:expr)*) => {{
        // SAFETY: SQLite calls with files that open() has made, whose inner file has all methods of version 2.
        unsafe {
            let inner = inner($file);
            (*(*inner).pMethods).$method.unwrap()(inner $(, $arg)*)
        }
    }};
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite gives szOsFile bytes and a terminated name or null.
    unsafe {
        let ours = file.cast::<File>();
        (*ours).base.pMethods = std::ptr::null();
        (*ours).path = std::ptr::null_mut();
        let code = (*under()).xOpen.unwrap()(under(), name, inner(file), flags, out);
        if code == ffi::SQLITE_OK {
            (*ours).base.pMethods = &raw const METHODS;
            if !name.is_null() {
                let path = PathBuf::from(CStr::from_ptr(name).to_str().unwrap());
                // A file from elsewhere was synced by whoever made it.
                disks().files.entry(path.clone()).or_insert_with(|| {
                    let durable = std::fs::read(&path).unwrap();
                    Contents { length: durable.len(), durable, pending: vec![] }
                });
                (*ours).path = Box::into_raw(Box::new(path));
            }
        }
        code
    }
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, name: *const c_char, _: c_int) -> c_int {
    // SAFETY: as in open(). The directory is not synced: nothing here is.
    unsafe {
        disks().files.remove(Path::new(CStr::from_ptr(name).to_str().unwrap()));
        (*under()).xDelete.unwrap()(under(), name, 0)
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let code = pass!(file, xClose);
    // SAFETY: SQLite closes once.
    unsafe {
        let path = (*file.cast::<File>()).path;
        if !path.is_null() {
            drop(Box::from_raw(path));
        }
    }
    code
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, len: c_int, at: i64) -> c_int {
    pass!(file, xRead, to, len, at)
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, len: c_int, at: i64) -> c_int {
    // SAFETY: SQLite gives `len` readable bytes.
    let (path, bytes) = unsafe { (path(file), std::slice::from_raw_parts(from.cast::<u8>(), len as usize)) };
    let Some(path) = path else { return pass!(file, xWrite, from, len, at) };
    let directory = path.parent().unwrap();
    let mut disks = disks();
    let behaviour = disks.behaviour.get(directory).copied().unwrap_or_default();
    let end = at as usize + bytes.len();
    let growth = end.saturating_sub(disks.files[path].length) as u64;
    if let Some(capacity) = behaviour.capacity
        && growth > 0
    {
        let used: u64 =
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        if used + growth > capacity {
            return ffi::SQLITE_FULL;
        }
    }
    let contents = disks.files.get_mut(path).unwrap();
    contents.length = contents.length.max(end);
    contents.pending.push(Op::Write(at as usize, bytes.to_vec()));
    let behaviour = disks.behaviour.entry(directory.to_owned()).or_default();
    behaviour.writes += 1;
    behaviour.written_bytes += bytes.len() as u64;
    // Under the lock, so that the file and our record of it never differ.
    pass!(file, xWrite, from, len, at)
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, length: i64) -> c_int {
    // SAFETY: one of our files.
    if let Some(path) = unsafe { path(file) } {
        let mut disks = disks();
        let contents = disks.files.get_mut(path).unwrap();
        contents.length = length as usize;
        contents.pending.push(Op::Truncate(length as usize));
    }
    pass!(file, xTruncate, length)
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: one of our files.
    let Some(path) = (unsafe { path(file) }) else { return ffi::SQLITE_OK };
    let mut disks = disks();
    let behaviour = disks.behaviour.entry(path.parent().unwrap().to_owned()).or_default();
    behaviour.syncs += 1;
    if behaviour.syncs_fail {
        return ffi::SQLITE_IOERR_FSYNC;
    }
    let Contents { durable, pending, .. } = disks.files.get_mut(path).unwrap();
    for op in pending.drain(..) {
        op.apply(durable);
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    pass!(file, xFileSize, size)
}
unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    pass!(file, xLock, level)
}
unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    pass!(file, xUnlock, level)
}
unsafe extern "C" fn check_reserved(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    pass!(file, xCheckReservedLock, out)
}
unsafe extern "C" fn control(file: *mut ffi::sqlite3_file, op: c_int, arg: *mut c_void) -> c_int {
    // Hints make the default VFS write by itself.
    if matches!(op, ffi::SQLITE_FCNTL_SIZE_HINT | ffi::SQLITE_FCNTL_CHUNK_SIZE) {
        return ffi::SQLITE_NOTFOUND;
    }
    pass!(file, xFileControl, op, arg)
}
unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    pass!(file, xSectorSize)
}
unsafe extern "C" fn device(file: *mut ffi::sqlite3_file) -> c_int {
    pass!(file, xDeviceCharacteristics)
}
unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    pass!(file, xShmMap, region, size, extend, out)
}
unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, offset: c_int, n: c_int, flags: c_int) -> c_int {
    pass!(file, xShmLock, offset, n, flags)
}
unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    pass!(file, xShmBarrier)
}
unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    pass!(file, xShmUnmap, delete)
}

/// Version 2: shared memory, but no memory-mapped reads.
static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved),
    xFileControl: Some(control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// Makes the disk known to SQLite as [`NAME`].
pub fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: a copy of the default VFS whose files are larger and opened and deleted by us; its other methods
        // take the default's own data, which the copy keeps. It is never unregistered.
        unsafe {
            let mut vfs = std::ptr::read(under());
            vfs.szOsFile += size_of::<File>() as c_int;
            vfs.zName = c"forgetful".as_ptr();
            vfs.pNext = std::ptr::null_mut();
            vfs.xOpen = Some(open);
            vfs.xDelete = Some(delete);
            assert_eq!(ffi::sqlite3_vfs_register(Box::into_raw(Box::new(vfs)), 0), ffi::SQLITE_OK);
        }
    });
}
