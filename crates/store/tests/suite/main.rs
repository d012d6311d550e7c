//! The store's tests: the contract that every implementation keeps, and what is special to the embedded one.

mod common;
mod contract;
mod model;
mod sqlite;
