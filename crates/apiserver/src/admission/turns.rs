//! When mutating plugins are asked once more: a webhook or a policy that changed the object makes all others see it a
//! second time, but webhooks and policies only if they want to (`reinvocationPolicy: IfNeeded`).

use std::collections::BTreeSet;

use schema::Value;

/// What one request's plugins keep between their two turns.
#[derive(Debug, Default)]
pub struct Turns {
    pub is_second: bool,
    /// Somebody asks for the second turn.
    pub again: bool,
    pub webhooks: Turn,
    pub policies: Turn,
}

/// Those who may be asked again, by names of their own.
#[derive(Debug, Default)]
pub struct Turn {
    /// The object as they left it.
    left: Value,
    asked: BTreeSet<String>,
    due: BTreeSet<String>,
}

impl Turn {
    /// At the start of the second turn: others have changed the object in between.
    pub fn resume(&mut self, object: &Value) {
        if self.left != *object {
            self.changed();
        }
    }

    /// Who was asked before has something new to see.
    pub fn changed(&mut self) {
        self.due.append(&mut self.asked);
    }

    pub fn asked(&mut self, name: String) {
        self.asked.insert(name);
    }

    pub fn is_due(&self, name: &str) -> bool {
        self.due.contains(name)
    }

    pub fn leave(&mut self, object: &Value) {
        if !self.asked.is_empty() {
            self.left = object.clone();
        }
    }
}
