//! What is taken for objects before they are stored.

use std::sync::Arc;

use schema::Value;

use crate::behaviours::Cx;
use crate::call::Call;
use crate::kind::Kind;
use crate::{Server, User};

/// What an object has reserved that is about to be stored, a Service's addresses and ports: given back if it is not stored
/// after all, whatever the reason; a client that went away is one.
pub struct Reserved {
    server: Server,
    user: User,
    kind: Arc<Kind>,
    new: Value,
    old: Option<Arc<Value>>,
    dry_run: bool,
    is_stored: bool,
}

impl Reserved {
    pub fn of(call: &Call, kind: &Arc<Kind>, new: &Value, old: Option<&Arc<Value>>, dry_run: bool) -> Option<Reserved> {
        kind.strategy.abandon?;
        let (server, user) = (call.server.clone(), call.user.clone());
        Some(Reserved {
            server,
            user,
            kind: kind.clone(),
            new: new.clone(),
            old: old.cloned(),
            dry_run,
            is_stored: false,
        })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(abandon) = self.kind.strategy.abandon.filter(|_| !self.is_stored) {
            let Reserved { server, user, kind, dry_run, .. } = &*self;
            abandon(&Cx { server, user, kind, subresource: "", dry_run: *dry_run }, &self.new, self.old.as_deref());
        }
    }
}

/// The store is being asked: if nobody waits for its answer, it is as good as stored.
pub fn mark_stored(reserved: &mut Option<Reserved>, is_stored: bool) {
    reserved.iter_mut().for_each(|reserved| reserved.is_stored = is_stored);
}
