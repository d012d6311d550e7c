//! `sampan token`: the secret by which nodes join, with the hash of the CA that they check the server by.

use std::path::{Path, PathBuf};

use crate::{files, places::Places};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] files::Error),
    #[error("{} is not there: no server has started with this data dir yet", .0.display())]
    NoServer(PathBuf),
}

pub fn run(data_dir: &Path, agent: bool) -> Result<(), Error> {
    let server = Places::new(data_dir).server();
    // Without a token of their own, agents join with the servers'.
    let own = if agent { files::read(&server.join("agent-token"))? } else { None };
    let path = server.join("node-token");
    let token = match own {
        Some(token) => token,
        None => files::read(&path)?.ok_or(Error::NoServer(path))?,
    };
    println!("{}", token.trim());
    Ok(())
}
