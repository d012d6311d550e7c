//! `log`, `exec`, `attach`, `portforward` and `proxy`.

use http::request::Parts;

use crate::{Body, Status, call::Call, reply::Reply, status::Result};

pub async fn serve(_call: Call, _parts: Parts, _body: Body) -> Result<Reply> {
    Err(Status::no_such_resource())
}
