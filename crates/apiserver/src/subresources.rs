//! Subresources that are types of their own.

use http::Method;

use crate::{Status, call::Call, reply::Reply, status::Result};

pub async fn serve(_call: Call, _method: Method, _body: &[u8]) -> Result<Reply> {
    Err(Status::no_such_resource())
}

/// Binds a pod to a node.
pub async fn bind(_call: Call, _name: &str, _binding: schema::Value) -> Result<Reply> {
    Err(Status::no_such_resource())
}
