//! The embedded store keeps the contract, with and without volatile keys.

use std::{cell::RefCell, sync::Arc};

use store::{
    Store,
    sqlite::{Options, Sqlite},
};

use crate::{common::Directory, contract};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn keep(options: Options) {
    let directories = RefCell::new(Vec::new());
    let fresh = || {
        let directory = Directory::new();
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(directory.database(), options.clone()).unwrap());
        directories.borrow_mut().push(directory);
        store
    };
    runtime().block_on(contract::keep(&fresh));
}

#[test]
fn contract_without_volatile_keys() {
    keep(Options { volatile: Vec::new(), ..Options::default() });
}

#[test]
fn contract_with_volatile_keys() {
    keep(Options::default());
}
