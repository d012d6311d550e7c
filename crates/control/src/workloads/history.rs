//! ControllerRevisions: the remembered templates of StatefulSets and DaemonSets.
//!
//! A revision holds upstream's patch `{"spec":{"template":{"$patch":"replace",…}}}`, so that `kubectl rollout history`
//! and `undo` read it.

use std::borrow::Cow;

use reconcile::{Action, World};
use schema::api::apps::v1::ControllerRevision;
use schema::api::core::v1::PodTemplateSpec;
use schema::api::meta::v1::ObjectMeta;
use schema::api::{Message, Object, RawExtension};
use schema::transcode::proto_to_json;
use schema::{Table, json, proto};
use serde_json::{Value as Json, json};

use crate::support::{Matcher, claim, controller_ref, is_controlled_by, key, safe_encode};

/// On pods of both kinds, and on the revisions of DaemonSets.
pub const POD_HASH: &str = "controller-revision-hash";
/// On the revisions of StatefulSets.
pub const HASH: &str = "controller.kubernetes.io/hash";

/// An owner's revisions, the one of its current template found or made.
pub struct History<'a> {
    /// Oldest first; without one that this look makes.
    pub revisions: Vec<&'a ControllerRevision>,
    pub update: Cow<'a, ControllerRevision>,
    pub collisions: i32,
}

impl<'a> History<'a> {
    /// `label` is where a revision carries its hash.
    pub fn of<O: Object>(
        world: &'a World,
        owner: &O,
        matcher: &Matcher,
        template: &PodTemplateSpec,
        collisions: Option<i32>,
        label: &str,
        actions: &mut Vec<Action>,
    ) -> Self {
        let all = world.of::<ControllerRevision>();
        let mut revisions = claim(owner, matcher, all, |_| true, actions);
        revisions.sort_by_key(|revision| (revision.revision, revision.metadata.creation_timestamp, revision.name()));
        let patch = patch(template);
        let number = revisions.last().map_or(1, |latest| latest.revision + 1);
        let mut collisions = collisions.unwrap_or(0);
        let same = |revision: &ControllerRevision| revision.data.raw == patch;
        let update = if let Some(latest) =
            revisions.last().filter(|latest| same(latest) || template_of(latest).as_ref() == Some(template))
        {
            Cow::Borrowed(*latest)
        } else if let Some(earlier) = revisions.iter().rev().find(|revision| same(revision)) {
            // Back to an earlier template: its revision becomes the newest.
            actions.push(Action::merge(*earlier, None, json!({"revision": number})));
            Cow::Owned(ControllerRevision { revision: number, ..(*earlier).clone() })
        } else {
            loop {
                let hash = safe_encode(fnv(&patch, collisions));
                let name = format!("{}-{hash}", owner.name().get(..223).unwrap_or(owner.name()));
                match all.get(&key(owner.namespace(), &name)) {
                    Some(held) if same(held) && is_controlled_by(&held.metadata, &owner.metadata().uid) => {
                        break Cow::Borrowed(&**held);
                    }
                    Some(_) => collisions += 1,
                    None => {
                        let made = revision(owner, template, label, name, hash, RawExtension { raw: patch }, number);
                        actions.push(Action::create(made.clone()));
                        break Cow::Owned(made);
                    }
                }
            }
        };
        Self { revisions, update, collisions }
    }

    /// Revisions that nothing uses, oldest first.
    pub fn unused(&self, used: impl Fn(&ControllerRevision) -> bool) -> Vec<&'a ControllerRevision> {
        let others = self.revisions.iter().copied();
        others.filter(|revision| revision.name() != self.update.name() && !used(revision)).collect()
    }
}

fn revision<O: Object>(
    owner: &O,
    template: &PodTemplateSpec,
    label: &str,
    name: String,
    hash: String,
    data: RawExtension,
    number: i64,
) -> ControllerRevision {
    let mut labels = template.metadata.labels.clone();
    labels.insert(label.to_owned(), hash);
    ControllerRevision {
        metadata: ObjectMeta {
            name,
            namespace: owner.namespace().to_owned(),
            labels,
            annotations: owner.metadata().annotations.clone(),
            owner_references: vec![controller_ref(owner)],
            ..ObjectMeta::default()
        },
        data,
        revision: number,
        ..ControllerRevision::default()
    }
}

/// The patch that puts a template back, keys in order.
fn patch(template: &PodTemplateSpec) -> Vec<u8> {
    let table = Table::builtin();
    let mut text = Vec::new();
    let written = table
        .id(PodTemplateSpec::NAME)
        .and_then(|id| proto_to_json(table, id, None, &template.to_vec(), &mut text).ok());
    let mut template: Json = written.and_then(|()| serde_json::from_slice(&text).ok()).unwrap_or_default();
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}}).to_string().into_bytes()
}

/// The template that a revision remembers.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let table = Table::builtin();
    let id = table.id(PodTemplateSpec::NAME)?;
    let mut patch: Json = serde_json::from_slice(&revision.data.raw).ok()?;
    let template = patch.get_mut("spec")?.get_mut("template")?;
    template.as_object_mut()?.remove("$patch");
    let decoded = json::decode(table, id, template.to_string().as_bytes()).ok()?;
    let mut wire = Vec::new();
    proto::encode(table, id, &decoded.value, &mut wire);
    PodTemplateSpec::decode(&wire).ok()
}

/// FNV-1 of the patch and of the number of collisions, as upstream names revisions.
fn fnv(patch: &[u8], collisions: i32) -> u32 {
    let collisions = collisions.to_string();
    let bytes = patch.iter().chain(collisions.as_bytes());
    bytes.fold(0x811c_9dc5_u32, |hash, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(*byte))
}
