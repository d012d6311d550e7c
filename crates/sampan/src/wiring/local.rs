//! The API server of this process as a transport: a call, no socket, no TLS.

use apiserver::{Body, Server, User, body};
use bytes::Bytes;
use reconcile::io::{BoxError, BoxFuture, Identity, Transport};

pub struct Local(pub Server);

impl Transport for Local {
    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'_, Result<http::Response<Body>, BoxError>> {
        Box::pin(async move {
            let mut request = request.map(body::full);
            let user = request.extensions().get::<Identity>().map_or_else(User::anonymous, user);
            request.extensions_mut().insert(user);
            Ok(self.0.handle(request).await)
        })
    }
}

/// A component's user with the groups that authentication would give it.
fn user(identity: &Identity) -> User {
    let name = &*identity.0;
    if let Some((namespace, _)) = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        let own = format!("system:serviceaccounts:{namespace}");
        return User::new(name, &["system:serviceaccounts", &own, "system:authenticated"]);
    }
    if name == "system:apiserver" {
        return User::new(name, &["system:masters", "system:authenticated"]);
    }
    if name.starts_with("system:node:") {
        return User::new(name, &["system:nodes", "system:authenticated"]);
    }
    User::new(name, &["system:authenticated"])
}
