//! OpenAPI v2 and v3, from the table.

use http::request::Parts;

use crate::{Server, nonresource::not_found, reply::Reply, request::Query, status::Result};

pub fn v2(_server: &Server, _parts: &Parts) -> Result<Reply> {
    Ok(not_found())
}

pub fn v3(_server: &Server, _parts: &Parts, _rest: &[&str], _query: &Query) -> Result<Reply> {
    Ok(not_found())
}
