//! `--audit-log-path`: a line an event, in a file that is put aside when it is full.
//!
//! A thread of its own writes: a disk that hangs keeps those requests waiting that are audited, and nobody else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apiserver::audit::{Job, Lost};
use flate2::{Compression, write::GzEncoder};
use tokio::sync::mpsc;

/// What becomes of full files.
#[derive(Clone, Debug, Default)]
pub struct Rotation {
    /// 0: a file is never full.
    pub bytes_max: u64,
    /// 0: however old.
    pub days_max: u64,
    /// 0: however many.
    pub backups_max: usize,
    pub compress: bool,
}

pub struct Log {
    /// `None`: standard output.
    path: Option<PathBuf>,
    rotation: Rotation,
    legacy: bool,
    file: Option<File>,
    bytes: u64,
    now: fn() -> SystemTime,
}

const DAY: Duration = Duration::from_secs(24 * 3600);
/// `2026-11-26T12-00-00.000`, UTC.
const STAMP_CHARS: usize = 23;

impl Log {
    /// Opens the file, or makes it for its owner alone.
    pub fn open(path: &str, legacy: bool, rotation: Rotation, now: fn() -> SystemTime) -> io::Result<Log> {
        let path = (path != "-").then(|| PathBuf::from(path));
        let mut log = Log { path, rotation, legacy, file: None, bytes: 0, now };
        if let Some(path) = log.path.clone() {
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            }
            log.reopen(&path)?;
        }
        Ok(log)
    }

    fn reopen(&mut self, path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        self.bytes = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Writes what comes until nobody can send any more.
    pub fn run(mut self, mut jobs: mpsc::Receiver<Job>, lost: &Arc<Lost>) {
        let mut failing = false;
        while let Some(job) = jobs.blocking_recv() {
            let mut line = if self.legacy { job.event.legacy().into_bytes() } else { job.event.json() };
            line.push(b'\n');
            let written = self.write(&line);
            if let Err(error) = &written {
                lost.add(1, error, !failing);
            }
            failing = written.is_err();
            job.done(written.is_ok());
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let Some(path) = self.path.clone() else {
            let mut out = io::stdout().lock();
            return out.write_all(line).and_then(|()| out.flush());
        };
        let most = self.rotation.bytes_max;
        if most > 0 && line.len() as u64 > most {
            return Err(io::Error::other(format!("write length {} exceeds maximum file size {most}", line.len())));
        }
        if most > 0 && self.bytes + line.len() as u64 > most {
            self.rotate(&path)?;
        }
        if self.file.is_none() {
            self.reopen(&path)?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        match file.write_all(line) {
            Ok(()) => self.bytes += line.len() as u64,
            Err(error) => {
                // Half a line would spoil the next one.
                let _ = file.set_len(self.bytes);
                return Err(error);
            }
        }
        Ok(())
    }

    fn rotate(&mut self, path: &Path) -> io::Result<()> {
        self.file = None;
        let since = (self.now)().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let text = schema::time::format_micro(since.as_secs() as i64, since.subsec_nanos());
        let stamp = text.get(..STAMP_CHARS).unwrap_or(&text).replace(':', "-");
        let (prefix, suffix) = name(path);
        let aside = path.with_file_name(format!("{prefix}{stamp}{suffix}"));
        fs::rename(path, &aside)?;
        self.reopen(path)?;
        let rotation = self.rotation.clone();
        let oldest = (self.now)().checked_sub(DAY * u32::try_from(rotation.days_max).unwrap_or(u32::MAX));
        let oldest = oldest.filter(|_| rotation.days_max > 0);
        let path = path.to_owned();
        // Events need not wait for this.
        std::thread::spawn(move || {
            if rotation.compress
                && let Err(error) = compress(&aside)
            {
                tracing::warn!(%error, file = %aside.display(), "an audit log could not be compressed");
            }
            prune(&path, &rotation, oldest);
        });
        Ok(())
    }
}

/// What full files' names have before and after the time.
fn name(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let suffix = path.extension().map(|extension| format!(".{}", extension.to_string_lossy())).unwrap_or_default();
    (format!("{}-", text(path.file_stem())), suffix)
}

fn compress(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let out = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&name)?;
    let mut encoder = GzEncoder::new(out, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    fs::remove_file(path)
}

/// Removes full files that are too many or too old.
fn prune(path: &Path, rotation: &Rotation, oldest: Option<SystemTime>) {
    let (prefix, suffix) = name(path);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut full: Vec<(String, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let rest = name.strip_prefix(&prefix)?;
            let (stamp, rest) = rest.split_at_checked(STAMP_CHARS)?;
            (rest.strip_suffix(".gz").unwrap_or(rest) == suffix).then(|| (stamp.to_owned(), entry.path()))
        })
        .collect();
    full.sort();
    full.reverse();
    let at = |stamp: &str| {
        let (day, time) = stamp.split_once('T')?;
        let (seconds, _) = schema::time::parse(&format!("{day}T{}Z", time.replace('-', ":")))?;
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
    };
    for (place, (stamp, path)) in full.iter().enumerate() {
        let too_many = rotation.backups_max > 0 && place >= rotation.backups_max;
        let too_old = oldest.is_some_and(|oldest| at(stamp).is_some_and(|at| at < oldest));
        if (too_many || too_old)
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(%error, file = %path.display(), "an old audit log could not be removed");
        }
    }
}

#[cfg(test)]
mod tests;
