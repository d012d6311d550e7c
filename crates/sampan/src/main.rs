//! The program: flags, configuration, and the wiring of the rooms.

mod agent;
mod audit;
mod check;
mod cli;
mod config;
mod credentials;
mod cri;
mod deploy;
mod encryption;
mod facts;
mod files;
mod flags;
mod identity;
mod images;
mod inbox;
mod join;
mod killall;
mod listen;
mod machine;
mod manners;
mod places;
mod server;
mod signing;
mod token;
mod who;
mod wiring;

use std::process::ExitCode;

use cli::Command;

/// Requests allocate and free by the thousand on all threads: see docs/decisions/allocator.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let words = std::env::args_os().collect();
    let cli = match config::parse(words, |name| std::env::var_os(name)) {
        Ok(cli) => cli,
        Err(config::Error::Arguments(error)) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
        Err(error) => return fail(2, &error),
    };
    match cli.command {
        Command::Server(args) => finish(server::run(*args)),
        Command::Agent(args) => finish(agent::run(*args)),
        Command::Cri(args) => finish(cri::run(*args)),
        Command::Version => {
            println!("sampan {} (Kubernetes {})", env!("CARGO_PKG_VERSION"), server::KUBERNETES_VERSION);
            ExitCode::SUCCESS
        }
        Command::Images { place, action } => finish(images::run(&place.data_dir, action)),
        Command::Token { place, agent } => finish(token::run(&place.data_dir, agent)),
        Command::SecretsEncrypt { action: cli::SecretsEncryptCommand::Status { place } } => {
            finish(encryption::status(&places::Places::new(&place.data_dir)).map(|text| print!("{text}")))
        }
        Command::Check { place } => finish(check::run(&place.data_dir)),
        Command::Killall { place } => finish(killall::run(&place.data_dir)),
        Command::Completion { shell } => {
            let mut command = <cli::Cli as clap::CommandFactory>::command();
            clap_complete::generate(shell, &mut command, "sampan", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
    }
}

/// Lines on standard error, each with its place; systemd's journal adds the time.
fn logging(args: &cli::LogArgs) {
    use tracing_subscriber::{EnvFilter, fmt};
    let filter = if args.debug { "debug" } else { &args.log };
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let _ = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).try_init();
}

/// One line on standard error, with all causes.
fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("sampan: {error}");
    ExitCode::from(code)
}

fn finish<E: std::error::Error>(outcome: Result<(), E>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut line = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                let text = cause.to_string();
                if !line.contains(&text) {
                    line = format!("{line}: {text}");
                }
                source = cause.source();
            }
            fail(1, &line)
        }
    }
}
