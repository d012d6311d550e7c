//! What is on disk, and finding it again: after a restart, and after a boot that has ended everything.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};

use super::error::{At, Result};
use super::holder::{self, Holder};
use super::*;
use crate::removal::remove_tree;

#[derive(Serialize, Deserialize)]
pub(super) struct PodRecord {
    pub id: String,
    pub boot_id: String,
    pub created_at: u64,
    pub config: SandboxConfig,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    pub id: String,
    pub sandbox_id: String,
    pub boot_id: String,
    pub created_at: u64,
    /// 0: not started, or the keeper knows.
    pub started_at: u64,
    /// An end that no keeper has recorded.
    pub exit: Option<Exit>,
    pub config: ContainerConfig,
}

impl Runtime {
    /// Opens the runtime and takes up what an earlier one has left running.
    pub async fn open(options: Options) -> Result<Runtime> {
        let inner = tokio::task::spawn_blocking(move || prepare(options))
            .await
            .map_err(io::Error::other)
            .at("open", "runtime")??;
        let runtime = Runtime(Arc::new(inner));
        runtime.adopt().await?;
        Ok(runtime)
    }

    async fn adopt(&self) -> Result<()> {
        let inner = &self.0;
        let mut known: HashMap<String, holder::Reply> = HashMap::new();
        for record in read_records::<PodRecord>(&inner.options.state_dir.join("pods"), "sandbox.json")? {
            let pod = Arc::new(Pod {
                id: record.id.clone(),
                config: Arc::new(record.config),
                created_at: record.created_at,
                holder: Mutex::new(None),
                stopping: AtomicBool::new(false),
            });
            lock(&inner.pods).insert(record.id.clone(), pod.clone());
            let run_dir = inner.pod_run_dir(&record.id);
            let found = if record.boot_id == inner.boot_id { Holder::connect(&run_dir).ok() } else { None };
            let list = match &found {
                Some(holder) => {
                    self.listen(&pod, holder);
                    let greeting = holder.ask("hello", &[], &[]).await;
                    tracing::debug!(pod = %pod.id, version = greeting.map_or(0, |g| g.number(0)), "found a keeper");
                    holder.ask("list", &[], &[]).await.ok()
                }
                None => None,
            };
            match list {
                Some(list) => {
                    known.insert(record.id, list);
                }
                None => release(&run_dir),
            }
        }
        for record in read_records::<ContainerRecord>(&inner.options.state_dir.join("containers"), "container.json")? {
            let Ok(pod) = inner.pod(&record.sandbox_id) else {
                self.discard(&record.id);
                continue;
            };
            let live = live_of(inner, &record, known.get(&pod.id));
            let container = Arc::new(Container {
                id: record.id.clone(),
                config: Mutex::new(Arc::new(record.config)),
                created_at: record.created_at,
                live: watch::Sender::new(live),
                user: OnceLock::new(),
                turn: Default::default(),
                pod,
            });
            if !known.contains_key(&container.pod.id) && record.boot_id == inner.boot_id {
                inner.cgroups.kill(&container.cgroup()); // its keeper has died while nobody looked
            }
            lock(&inner.containers).insert(record.id, container);
        }
        // Keepers that were started a moment before the record of their pod was lost or removed.
        for entry in fs::read_dir(inner.options.run_dir.join("pods")).into_iter().flatten().flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            if inner.pod(&id).is_err() {
                if let Ok(holder) = Holder::connect(&entry.path()) {
                    let listening = tokio::spawn(holder.clone().listen(|_| {}));
                    let _ = holder.ask("quit", &[], &[]).await;
                    listening.abort();
                }
                release(&entry.path());
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }

    /// Listens to a pod's keeper from now on.
    pub(super) fn listen(&self, pod: &Arc<Pod>, holder: &Arc<Holder>) {
        *lock(&pod.holder) = Some(holder.clone());
        // Weak: a runtime that everybody has dropped must not be kept by its listeners.
        let (inner, pod, holder) = (Arc::downgrade(&self.0), pod.clone(), holder.clone());
        tokio::spawn(async move {
            let listening = inner.clone();
            let owner = pod.clone();
            holder
                .listen(move |ended| {
                    if let Some(inner) = listening.upgrade() {
                        inner.ended(&owner, ended);
                    }
                })
                .await;
            *lock(&pod.holder) = None;
            if let Some(inner) = inner.upgrade() {
                keeper_gone(&inner, &pod);
            }
        });
    }

    /// Moves a container's directory out of the way and removes it when there is time.
    pub(super) fn discard(&self, id: &str) {
        let (dir, trash) = (self.0.container_dir(id), self.0.options.state_dir.join("trash").join(id));
        if fs::rename(&dir, &trash).is_ok() {
            tokio::task::spawn_blocking(move || remove_tree(&trash));
        }
    }
}

/// A keeper has ended. If nobody asked it to, its containers have lost their parent and their logs: they end too.
fn keeper_gone(inner: &Inner, pod: &Pod) {
    let unexpected = !pod.stopping.load(Ordering::Acquire);
    for container in inner.containers_of(&pod.id) {
        if container.live.borrow().state == ContainerState::Running {
            inner.cgroups.kill(&container.cgroup());
            let recorded = read_exit(&inner.container_dir(&container.id));
            let exit = recorded.map_or_else(|| unknown_exit("its keeper has ended"), |(exit, _)| exit);
            container.live.send_modify(|live| {
                live.state = ContainerState::Exited;
                live.exit = Some(exit.clone());
            });
            inner.emit(Event::ContainerExited { sandbox_id: pod.id.clone(), container_id: container.id.clone(), exit });
        }
    }
    if unexpected {
        release(&inner.pod_run_dir(&pod.id));
    }
    inner.emit(Event::SandboxStopped { sandbox_id: pod.id.clone(), unexpected });
}

fn prepare(options: Options) -> Result<Inner> {
    let private = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path).at("make", path);
    let keepers = options.state_dir.join("keeper");
    for dir in [
        options.state_dir.join("pods"),
        options.state_dir.join("containers"),
        keepers.clone(),
        options.run_dir.join("pods"),
    ] {
        private(&dir)?;
    }
    // What was to be removed when the last Sampan ended.
    let trash = options.state_dir.join("trash");
    let _ = remove_tree(&trash);
    private(&trash)?;
    // Beneath every image: what each container has mounts on, so that none makes it in its own layer.
    let base = options.state_dir.join("base");
    for dir in ["proc", "sys", "dev", "etc"] {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(base.join(dir)).at("make", &base)?;
    }
    for file in ["hostname", "hosts", "resolv.conf"] {
        let path = base.join("etc").join(file);
        if !path.exists() {
            fs::write(&path, "").at("make", path)?;
        }
    }
    private(&options.state_dir.join("root"))?;
    let cgroups = options.cgroups.clone().map_or_else(Cgroups::detect, Ok)?;
    let keeper_cgroups = cgroups.outside(&options.keeper_cgroup);
    let boot_id =
        fs::read_to_string("/proc/sys/kernel/random/boot_id").at("read", "/proc/sys/kernel/random/boot_id")?;
    Ok(Inner {
        program: Arc::new(holder::Program::install(&keepers)?),
        keeper_cgroups,
        cgroups,
        boot_id: boot_id.trim().to_string(),
        pods: Default::default(),
        containers: Default::default(),
        execs: Default::default(),
        filters: Default::default(),
        user_namespaces: Default::default(),
        events: broadcast::Sender::new(EVENT_BACKLOG),
        options,
    })
}

/// A container's state from what its keeper says, else from what is on disk.
fn live_of(inner: &Inner, record: &ContainerRecord, list: Option<&holder::Reply>) -> Live {
    let exited = |exit| Live { state: ContainerState::Exited, pid: 0, started_at: record.started_at, exit: Some(exit) };
    let line = list.and_then(|list| list.fields.iter().find(|line| line.starts_with(record.id.as_bytes())));
    let fields: Vec<&[u8]> = line.map(|l| l.split(|b| *b == b' ').collect()).unwrap_or_default();
    let number = |n: usize| fields.get(n).and_then(|f| wire::number::<u64>(f)).unwrap_or(0);
    match fields.get(2).copied() {
        Some(b"exited") => Live {
            started_at: number(3),
            ..exited(exit_of(number(5) as i32, number(6) as i32, number(7) == 1, number(4)))
        },
        Some(_) => Live { state: ContainerState::Running, pid: number(1) as u32, started_at: number(3), exit: None },
        None => match (record.exit.clone(), read_exit(&inner.container_dir(&record.id)), list) {
            (Some(exit), ..) => exited(exit),
            (None, Some((exit, started_at)), _) => Live { started_at, ..exited(exit) },
            (None, None, Some(_)) => Live { state: ContainerState::Created, pid: 0, started_at: 0, exit: None },
            (None, None, None) if record.boot_id != inner.boot_id => exited(unknown_exit("the machine was restarted")),
            (None, None, None) => exited(unknown_exit("its keeper has ended")),
        },
    }
}

fn unknown_exit(message: &str) -> Exit {
    Exit { code: 255, signal: 0, oom_killed: false, finished_at: 0, reason: "Unknown".into(), message: message.into() }
}

/// The record that the keeper has written, `code signal oom finished started`: the end and the start.
pub(super) fn read_exit(dir: &Path) -> Option<(Exit, u64)> {
    let text = fs::read_to_string(dir.join("exit")).ok()?;
    let numbers: Vec<i64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    match numbers[..] {
        [code, signal, oom, at, started] => {
            Some((exit_of(code as i32, signal as i32, oom == 1, at as u64), started as u64))
        }
        _ => None,
    }
}

/// Undoes the mounts of a pod whose keeper could not.
pub(super) fn release(run_dir: &Path) {
    for name in ["net", "shm"] {
        if let Ok(path) = std::ffi::CString::new(run_dir.join(name).into_os_string().into_encoded_bytes()) {
            // SAFETY: a path.
            unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) };
        }
    }
}

/// Writes a record so that a crash leaves the old one or the new one; a first one, which has no old one, at once.
pub(super) fn write_record(dir: &Path, name: &str, record: &impl Serialize) -> Result<()> {
    let (path, part) = (dir.join(name), dir.join(format!("{name}.part")));
    let bytes = serde_json::to_vec(record).map_err(io::Error::other).at("encode", &path)?;
    let write_to = |to: &Path, fresh: bool| -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).create_new(fresh).truncate(!fresh).mode(0o600);
        io::Write::write_all(&mut options.open(to)?, &bytes)
    };
    let write = || match write_to(&path, true) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            write_to(&part, false)?;
            fs::rename(&part, &path)
        }
        done => done,
    };
    write().at("write", &path)
}

/// All records of one kind; a broken one, left by a power cut, goes with its directory.
fn read_records<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<Vec<T>> {
    let mut records = Vec::new();
    for entry in fs::read_dir(dir).at("list", dir)?.flatten() {
        match fs::read(entry.path().join(name)).map(|bytes| serde_json::from_slice(&bytes)) {
            Ok(Ok(record)) => records.push(record),
            _ => {
                tracing::warn!(path = %entry.path().display(), "removing what has no readable record");
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
    Ok(records)
}
