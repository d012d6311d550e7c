//! APIServices that are served elsewhere: requests go on to them.

use http::request::Parts;

use crate::{Attributes, Body, Server, User, reply::Reply, status::Result};

/// Groups and versions of remote APIServices.
pub fn groups(_server: &Server) -> Vec<(String, Vec<String>)> {
    Vec::new()
}

/// Forwards a request for a group that is served elsewhere; `None` if there is no such group.
pub async fn proxy(_server: &Server, _user: &User, _info: &Attributes, _parts: Parts, _body: Body) -> Option<Result<Reply>> {
    None
}
