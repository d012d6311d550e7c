//! CustomResourceDefinitions: from the stored definition to served kinds.

use crate::Server;

pub async fn load(_server: &Server) {}

pub async fn follow(_server: Server) {}

pub fn validate(_: &crate::behaviours::Cx<'_>, _: &schema::Value, _: Option<&schema::Value>) -> Vec<schema::validate::FieldError> {
    Vec::new()
}
