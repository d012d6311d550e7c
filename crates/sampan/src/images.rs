//! `sampan images`, and what a node does for it.
//!
//! One process holds the image store at a time. If that is a running node, it is asked over a socket that only root may
//! open: one [`Ask`] as a line of JSON, for [`Ask::ImportStream`] the tar after it; the answers are [`Answer`]s, a line
//! each. Without a node the command opens the store itself. [`perform`] does the work in both cases.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use runtime::images::{
    self, Event, EventSink, Images, LayerState, PullOptions, credentials::Credentials, reference::Reference,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    cli::ImagesCommand,
    credentials::docker_login,
    inbox::Inbox,
    places::Places,
    wiring::runtime::{image_store, registries},
};

const MAX_ASK_BYTES: u64 = 1 << 20;
const ARCHIVES: [&str; 6] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tzst"];

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the image store: {0}")]
    Store(String),
    #[error("{0}")]
    Failed(String),
    #[error("--credentials: expected USER:PASSWORD")]
    Credentials,
    #[error("cannot talk to the node by {}: {source}", path.display())]
    Socket { path: PathBuf, source: io::Error },
    #[error("the node ended before it had answered")]
    Cut,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase")]
enum Ask {
    /// The images that are here.
    List,
    /// One image, from its registry.
    Pull { image: String, credentials: Option<(String, String)> },
    /// Archives, which the node opens.
    Import { files: Vec<PathBuf> },
    /// The tar follows.
    ImportStream,
    /// Images into an archive, which the node makes.
    Export { file: PathBuf, images: Vec<String> },
    /// Names, or images by id.
    Remove { images: Vec<String> },
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase")]
enum Answer {
    /// Something to read.
    Progress { line: String },
    /// How far a layer is.
    #[serde(rename_all = "camelCase")]
    Layer { blob: String, state: String, done: u64, size: u64 },
    /// What [`Ask::List`] asked for.
    Images { rows: Vec<Row> },
    /// The last one: why it was not done.
    Failed { why: String },
    /// The last one.
    Done,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    /// As the registry counts: compressed.
    size: u64,
    disk_bytes: u64,
    platform: String,
    pinned: bool,
}

/// Where answers go; quick, and never fails: who asked may be gone.
type Answers = Arc<dyn Fn(Answer) + Send + Sync>;

// ---- the command

pub fn run(data_dir: &Path, action: ImagesCommand) -> Result<(), Error> {
    let places = Places::new(data_dir);
    let (json, quiet) = match action {
        ImagesCommand::Ls { json, quiet } => (json, quiet),
        _ => (false, false),
    };
    let (path, ask) = ask(action)?;
    let terminal = io::stdout().is_terminal();
    let mut printer = Printer { json, quiet, terminal, layers: Vec::new(), drawn: 0, failed: None, done: false };
    let socket = places.images_socket();
    match UnixStream::connect(&socket) {
        Ok(stream) => remote(stream, &ask, &mut printer).map_err(|source| Error::Socket { path: socket, source })?,
        Err(_) => local(&places, &path, ask, &mut printer)?,
    }
    match printer {
        Printer { failed: Some(why), .. } => Err(Error::Failed(why)),
        Printer { done: false, .. } => Err(Error::Cut),
        _ => Ok(()),
    }
}

fn ask(action: ImagesCommand) -> Result<(PathBuf, Ask), Error> {
    // The node opens files, and stands elsewhere.
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let mut registries = PathBuf::from("/etc/sampan/registries.yaml");
    let ask = match action {
        ImagesCommand::Ls { .. } => Ask::List,
        ImagesCommand::Pull { image, credentials, private_registry } => {
            registries = private_registry;
            let pair =
                |text: String| text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()));
            let credentials = match credentials {
                Some(text) => Some(pair(text).ok_or(Error::Credentials)?),
                None => docker_login(&image),
            };
            Ask::Pull { image, credentials }
        }
        ImagesCommand::Import { files } if files.is_empty() || files == [PathBuf::from("-")] => Ask::ImportStream,
        ImagesCommand::Import { files } => Ask::Import { files: files.into_iter().map(absolute).collect() },
        ImagesCommand::Export { file, images } => Ask::Export { file: absolute(file), images },
        ImagesCommand::Rm { images } => Ask::Remove { images },
    };
    Ok((registries, ask))
}

fn remote(stream: UnixStream, ask: &Ask, printer: &mut Printer) -> io::Result<()> {
    let mut line = serde_json::to_vec(ask)?;
    line.push(b'\n');
    (&stream).write_all(&line)?;
    let sending = matches!(ask, Ask::ImportStream).then(|| {
        let stream = stream.try_clone()?;
        Ok::<_, io::Error>(std::thread::spawn(move || {
            // A node that refuses the tar has said why; the rest of it is not wanted.
            let _ = io::copy(&mut io::stdin().lock(), &mut &stream);
            let _ = stream.shutdown(Shutdown::Write);
        }))
    });
    if let Some(sending) = sending {
        drop(sending?);
    }
    for line in BufReader::new(stream).lines() {
        printer.take(serde_json::from_str(&line?)?);
    }
    Ok(())
}

fn local(places: &Places, path: &Path, ask: Ask, printer: &mut Printer) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Store(error.to_string()))?;
    let images = image_store(&places.images(), registries(path).map_err(Error::Store)?).map_err(Error::Store)?;
    let (sender, mut answers) = mpsc::unbounded_channel();
    let (own, containers) = (images.clone(), places.containers());
    runtime.block_on(async {
        let sink: Answers = Arc::new(move |answer| drop(sender.send(answer)));
        let work = tokio::spawn(async move { perform(&own, &containers, ask, io::stdin(), sink).await });
        while let Some(answer) = answers.recv().await {
            printer.take(answer);
        }
        let _ = work.await;
    });
    images.close().map_err(|error| Error::Store(error.chain()))
}

struct Printer {
    json: bool,
    quiet: bool,
    /// Bars that move, not lines.
    terminal: bool,
    layers: Vec<(String, String, u64, u64)>,
    /// Lines of bars above the cursor.
    drawn: usize,
    failed: Option<String>,
    done: bool,
}

impl Printer {
    fn take(&mut self, answer: Answer) {
        match answer {
            // A closed pipe (`| head`) is nothing to complain about.
            Answer::Progress { line } => {
                // Bars stay below what is said.
                let up = self.up();
                self.drawn = 0;
                self.layers.retain(|(_, state, ..)| !finished(state));
                drop(writeln!(io::stdout(), "{up}{line}"));
            }
            Answer::Layer { blob, state, done, size } => self.layer(blob, state, done, size),
            Answer::Images { rows } => drop(io::stdout().write_all(self.table(&rows).as_bytes())),
            Answer::Failed { why } => (self.failed, self.done) = (Some(why), true),
            Answer::Done => self.done = true,
        }
    }

    /// Takes away the bars that are drawn.
    fn up(&self) -> String {
        if self.drawn > 0 { format!("\x1b[{}A\x1b[J", self.drawn) } else { String::new() }
    }

    /// A line for each step, or a bar for each layer.
    fn layer(&mut self, blob: String, state: String, done: u64, total: u64) {
        let known = self.layers.iter_mut().find(|(known, ..)| *known == blob);
        let news = known.as_ref().is_none_or(|(_, before, ..)| *before != state);
        match known {
            Some(layer) => (layer.1, layer.2, layer.3) = (state.clone(), done, total),
            None => self.layers.push((blob.clone(), state.clone(), done, total)),
        }
        if !self.terminal {
            if news {
                drop(writeln!(io::stdout(), "  {blob} {state} {}", size(total)));
            }
            return;
        }
        // Bars that do not fit on the screen cannot be drawn anew: first go those that are done.
        let mut shown: Vec<&(String, String, u64, u64)> = self.layers.iter().collect();
        let rows = rustix::termios::tcgetwinsize(io::stdout()).map_or(24, |size| usize::from(size.ws_row));
        if shown.len() >= rows {
            shown.retain(|(_, state, ..)| !finished(state));
            shown.truncate(rows.saturating_sub(1));
        }
        let mut text = self.up();
        text.extend(shown.iter().map(|(blob, state, done, total)| {
            let share = if state == "downloading" { (*done).min(*total) as f64 / (*total).max(1) as f64 } else { 1.0 };
            let full = (share * 30.0) as usize;
            let of = if state == "downloading" { format!("{} / {}", size(*done), size(*total)) } else { size(*total) };
            format!("  {blob}  {state:<11}  [{:<30}]  {of}\n", "=".repeat(full))
        }));
        self.drawn = shown.len();
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    fn table(&self, rows: &[Row]) -> String {
        if self.json {
            return serde_json::to_string_pretty(rows).unwrap_or_default() + "\n";
        }
        if self.quiet {
            return rows.iter().map(|row| format!("{}\n", row.id)).collect();
        }
        let mut lines = vec![["REPOSITORY".to_owned(), "TAG".into(), "IMAGE ID".into(), "SIZE".into()]];
        for row in rows {
            let id = row.id.split_once(':').map_or(&*row.id, |(_, hex)| hex).chars().take(13).collect::<String>();
            let mut names: Vec<(String, String)> = row.repo_tags.iter().map(|name| split_tag(name)).collect();
            if names.is_empty() {
                let digest = row.repo_digests.first().and_then(|name| name.split_once('@'));
                names.push((digest.map_or("<none>", |(name, _)| name).to_owned(), "<none>".into()));
            }
            for (name, tag) in names {
                lines.push([name, tag, id.clone(), size(row.size)]);
            }
        }
        columns(&lines)
    }
}

fn finished(state: &str) -> bool {
    matches!(state, "done" | "present")
}

fn split_tag(name: &str) -> (String, String) {
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name.to_owned(), tag.to_owned()),
        _ => (name.to_owned(), "<none>".into()),
    }
}

fn columns(lines: &[[String; 4]]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0) + 3;
    let widths = [width(0), width(1), width(2)];
    let format = |[a, b, c, d]: &[String; 4]| format!("{a:0$}{b:1$}{c:2$}{d}\n", widths[0], widths[1], widths[2]);
    lines.iter().map(format).collect()
}

/// `12.3MB`, as crictl prints it.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let places = usize::from(unit > 0 && value < 100.0);
    format!("{value:.places$}{}", UNITS[unit])
}

// ---- the work

/// Does what is asked; the last answer is `Done` or `Failed`. `containers` is the runtime's state directory, which
/// knows the layers that containers stand on.
async fn perform(images: &Images, containers: &Path, ask: Ask, input: impl Read + Send + 'static, answers: Answers) {
    let outcome = act(images, containers, ask, input, &answers).await;
    answers(outcome.map_or_else(|why| Answer::Failed { why }, |()| Answer::Done));
}

async fn act(
    images: &Images,
    containers: &Path,
    ask: Ask,
    input: impl Read + Send + 'static,
    answers: &Answers,
) -> Result<(), String> {
    let chain = |error: images::Error| error.chain();
    match ask {
        Ask::List => {
            let mut rows: Vec<Row> = images.list().await.map_err(chain)?.into_iter().map(row).collect();
            rows.sort_by(|a, b| (&a.repo_tags, &a.id).cmp(&(&b.repo_tags, &b.id)));
            answers(Answer::Images { rows });
        }
        Ask::Pull { image, credentials } => {
            // Given for this very image, so for its registry.
            let login = credentials.map(|(username, password)| match &*username {
                // Docker's word for a token in the password's place.
                "<token>" => (String::new(), Credentials::IdentityToken(password)),
                _ => (String::new(), Credentials::Basic { username, password }),
            });
            let logins = login.into_iter().collect();
            let options = PullOptions { logins, events: Some(progress(answers.clone())), make_room: None };
            let pulled = images.pull(&image, options).await.map_err(chain)?;
            answers(Answer::Progress { line: format!("{image}: {}, {}", pulled.id, size(pulled.size)) });
        }
        Ask::Import { files } => {
            let mut failures = Vec::new();
            for file in files {
                let outcome = images.import_file(&file, Some(progress(answers.clone()))).await;
                failures.extend(imported(outcome, answers).err());
            }
            if !failures.is_empty() {
                return Err(failures.join("; "));
            }
        }
        Ask::ImportStream => {
            let outcome = images.import(input, "standard input", Some(progress(answers.clone()))).await;
            imported(outcome, answers)?;
        }
        Ask::Export { file, images: names } => {
            let failed = |error: io::Error| format!("cannot write {}: {error}", file.display());
            let output = File::create(&file).map_err(failed)?;
            match images.export(&names, io::BufWriter::new(output)).await {
                Ok(output) => {
                    output.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?
                }
                Err(error) => {
                    // Half a tar is worth less than none.
                    let _ = std::fs::remove_file(&file);
                    return Err(chain(error));
                }
            }
            let bytes = file.metadata().map_or(0, |metadata| metadata.len());
            answers(Answer::Progress { line: format!("{}: {}", file.display(), size(bytes)) });
        }
        Ask::Remove { images: names } => {
            let mut failures = Vec::new();
            for name in names {
                match remove(images, containers, &name).await {
                    Ok(freed) => answers(Answer::Progress { line: format!("{name}: removed, {} freed", size(freed)) }),
                    Err(why) => failures.push(why),
                }
            }
            if !failures.is_empty() {
                return Err(failures.join("; "));
            }
        }
    }
    Ok(())
}

/// A name takes the image with it if it is the last one; an id always does.
async fn remove(images: &Images, containers: &Path, name: &str) -> Result<u64, String> {
    let in_use = layers_in_use(containers);
    let found =
        images.get(name).await.map_err(|error| error.chain())?.ok_or_else(|| format!("{name}: no such image here"))?;
    let tag = Reference::parse(name).ok().map(|reference| reference.to_string());
    let by_tag = tag.as_ref().is_some_and(|tag| found.repo_tags.contains(tag));
    let freed =
        if by_tag { images.untag(name, &in_use).await } else { images.remove(found.id.as_str(), &in_use).await };
    freed.map(|freed| freed.bytes).map_err(|error| error.chain())
}

/// As containers' records have them: true with and without a running node.
fn layers_in_use(containers: &Path) -> Vec<PathBuf> {
    let records = std::fs::read_dir(containers.join("containers")).into_iter().flatten().flatten();
    let layers = records.filter_map(|entry| {
        let record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(entry.path().join("container.json")).ok()?).ok()?;
        Some(
            record["config"]["image"]["lower"]
                .as_array()?
                .iter()
                .filter_map(|path| Some(PathBuf::from(path.as_str()?)))
                .collect::<Vec<_>>(),
        )
    });
    layers.flatten().collect()
}

fn row(image: images::Image) -> Row {
    Row {
        id: image.id.as_str().to_owned(),
        repo_tags: image.repo_tags,
        repo_digests: image.repo_digests,
        size: image.size,
        disk_bytes: image.disk_bytes,
        platform: image.platform,
        pinned: image.pinned,
    }
}

fn imported(outcome: images::Result<images::ImportReport>, answers: &Answers) -> Result<(), String> {
    let report = outcome.map_err(|error| error.chain())?;
    for image in &report.images {
        let names = if image.names.is_empty() { image.id.to_string() } else { image.names.join(", ") };
        answers(Answer::Progress { line: format!("{names}: imported") });
    }
    let failures: Vec<String> =
        report.failures.iter().map(|(name, error)| format!("{name}: {}", error.chain())).collect();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

/// What happens to layers, each ten times a second at most.
fn progress(answers: Answers) -> EventSink {
    let seen: Mutex<HashMap<String, (LayerState, Instant)>> = Mutex::default();
    Arc::new(move |event| {
        let line = match event {
            Event::Resolving { .. } | Event::Done { .. } => return,
            Event::Resolved { image, digest, layers, size: bytes, .. } => {
                format!("{image}: {digest}, {layers} layers, {}", size(bytes))
            }
            Event::Layer { blob, state, done, size, .. } => {
                let mut seen = seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                let last = seen.get(blob.as_str());
                if last.is_some_and(|(before, at)| *before == state && at.elapsed() < Duration::from_millis(100)) {
                    return;
                }
                seen.insert(blob.to_string(), (state, Instant::now()));
                let word = match state {
                    LayerState::Present => "present",
                    LayerState::Downloading => "downloading",
                    LayerState::Unpacking => "unpacking",
                    LayerState::Done => "done",
                };
                return answers(Answer::Layer {
                    blob: blob.hex()[..12].to_owned(),
                    state: word.to_owned(),
                    done,
                    size,
                });
            }
            Event::Resuming { blob, from, size: all, .. } => {
                format!("  {} resumed at {} of {}", &blob.hex()[..12], size(from), size(all))
            }
            Event::Retrying { what, error, .. } => format!("  {what}: {error}; trying again"),
        };
        answers(Answer::Progress { line });
    })
}

// ---- the node's side

/// Takes orders at `socket` until dropped; `<data-dir>/agent/images.sock`.
pub async fn serve(images: Images, socket: &Path) -> io::Result<()> {
    // The store's lock says that nobody else is a node here: an old socket is nobody's.
    let listener = crate::files::listen(socket, 0o600)?;
    let containers = socket.with_file_name("containers");
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely.
                tracing::warn!(%error, "cannot accept a connection of `sampan images`");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (images, containers) = (images.clone(), containers.clone());
        tokio::spawn(async move {
            if let Err(error) = answer(images, &containers, stream).await {
                tracing::debug!(%error, "somebody who asked about images went away");
            }
        });
    }
}

async fn answer(images: Images, containers: &Path, stream: tokio::net::UnixStream) -> io::Result<()> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    let mut output = stream.try_clone()?;
    let (ask, input) = tokio::task::spawn_blocking(move || {
        let mut input = BufReader::new(stream);
        let mut line = Vec::new();
        input.by_ref().take(MAX_ASK_BYTES).read_until(b'\n', &mut line)?;
        Ok::<_, io::Error>((serde_json::from_slice::<Ask>(&line)?, input))
    })
    .await??;
    let (sender, mut answers) = mpsc::unbounded_channel::<Answer>();
    let writing = tokio::task::spawn_blocking(move || {
        while let Some(answer) = answers.blocking_recv() {
            let mut line = serde_json::to_vec(&answer)?;
            line.push(b'\n');
            output.write_all(&line)?;
        }
        output.shutdown(Shutdown::Both)
    });
    let sink: Answers = Arc::new(move |answer| drop(sender.send(answer)));
    let work = perform(&images, containers, ask, input, sink);
    tokio::pin!(writing);
    tokio::select! {
        // Who asked has gone: nobody wants the rest.
        written = &mut writing => return written?,
        () = work => {}
    }
    writing.await?
}

/// What was imported from a file, so that a restart reads it only if an image of it has gone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Taken {
    bytes: u64,
    modified_ns: u128,
    images: Vec<String>,
}

/// Imports archives of `dir` now and whenever one appears, and pins their images. Runs until dropped.
pub async fn import_directory(images: Images, dir: &Path) -> io::Result<()> {
    let mut inbox = Inbox::open(dir)?;
    let record = dir.join(".imported.json");
    let mut taken: BTreeMap<PathBuf, Taken> =
        std::fs::read(&record).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let mut first = true;
    loop {
        let mut now = BTreeMap::new();
        for path in inbox.files().into_iter().filter(|path| is_archive(path)) {
            let Ok(metadata) = path.metadata() else { continue };
            let modified_ns = metadata
                .modified()
                .ok()
                .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
                .map_or(0, |since| since.as_nanos());
            let known =
                taken.get(&path).filter(|taken| (taken.bytes, taken.modified_ns) == (metadata.len(), modified_ns));
            let present = match known {
                Some(known) => !first || all_present(&images, &known.images).await,
                None => false,
            };
            let ids = if let (true, Some(known)) = (present, known) {
                known.images.clone()
            } else {
                take(&images, &path).await
            };
            now.insert(path, Taken { bytes: metadata.len(), modified_ns, images: ids });
        }
        if now != taken {
            taken = now;
            let text = serde_json::to_vec(&taken).unwrap_or_default();
            if let Err(error) = crate::files::write(&record, &text, 0o600) {
                tracing::warn!(%error, "cannot note what was imported");
            }
        }
        first = false;
        inbox.changed().await?;
    }
}

fn is_archive(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ARCHIVES.iter().any(|ending| name.ends_with(ending))
}

async fn all_present(images: &Images, ids: &[String]) -> bool {
    for id in ids {
        if !matches!(images.get(id).await, Ok(Some(_))) {
            return false;
        }
    }
    !ids.is_empty()
}

async fn take(images: &Images, path: &Path) -> Vec<String> {
    let report = match images.import_file(path, None).await {
        Ok(report) => report,
        Err(error) => {
            tracing::warn!(file = %path.display(), error = error.chain(), "an archive was not imported");
            return Vec::new();
        }
    };
    for (name, error) in &report.failures {
        tracing::warn!(file = %path.display(), image = name, error = error.chain(), "an image was not imported");
    }
    let mut ids = Vec::new();
    for image in report.images {
        let id = image.id.to_string();
        if let Err(error) = images.pin(&id, true).await {
            tracing::warn!(image = id, error = error.chain(), "an image was not pinned");
        }
        tracing::info!(file = %path.display(), names = image.names.join(" "), "imported");
        ids.push(id);
    }
    ids
}
