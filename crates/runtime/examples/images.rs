//! The image store by hand: `cargo run -p runtime --example images -- ROOT COMMAND…`, for trying and measuring.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use runtime::images::platform::Platform;
use runtime::images::registries::Registries;
use runtime::images::{Error, Images, Options, PullOptions};

const USAGE: &str =
    "images ROOT (pull NAME | import TAR | export NAME TAR | list | show NAME | remove NAME | gc | check | usage)
REGISTRIES (registries.yaml as JSON), PLATFORM (os/arch) and DISCARD_BLOBS=1 are taken from the environment.";

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let start = Instant::now();
    if let Err(error) = run(&arguments).await {
        eprintln!("{}", error.chain());
        std::process::exit(1);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("").trim();
    eprintln!("{:.2} s, peak memory {peak}", start.elapsed().as_secs_f64());
}

async fn run(arguments: &[String]) -> Result<(), Error> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let variable = |name: &str| std::env::var(name).ok();
    let platform = variable("PLATFORM").and_then(|text| Platform::parse(&text)).unwrap_or_else(|| Platform::host(""));
    let registries = variable("REGISTRIES").and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let mut options = Options::new(platform);
    options.registries = Registries::from_value(registries)?;
    options.discard_blobs = variable("DISCARD_BLOBS").is_some();
    let [root, command, rest @ ..] = arguments.as_slice() else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    let images = Images::open(PathBuf::from(root), options)?;
    match (*command, rest) {
        ("pull", [name]) => {
            let events: runtime::images::EventSink = Arc::new(|event| eprintln!("{event:?}"));
            println!("{:#?}", images.pull(name, PullOptions { events: Some(events), ..PullOptions::default() }).await?);
        }
        ("import", [tar]) => println!("{:#?}", images.import_file(tar.as_ref(), None).await?),
        ("export", [name, tar]) => {
            let file =
                std::fs::File::create(tar).map_err(|source| Error::Io { doing: "create", path: tar.into(), source })?;
            images.export(&[(*name).to_owned()], file).await?;
        }
        ("list", []) => println!("{:#?}", images.list().await?),
        ("show", [name]) => println!("{:#?}", images.resolve(name).await?),
        ("remove", [name]) => println!("{:?}", images.remove(name, &[]).await?),
        ("gc", []) => println!("{:?}", images.gc(&[]).await?),
        ("check", []) => println!("{:#?}", images.check().await?),
        ("usage", []) => println!("{:#?}", images.usage().await?),
        _ => eprintln!("{USAGE}"),
    }
    images.close()
}
