//! Which ConfigMaps and Secrets a pod names.

use std::collections::BTreeSet;

use schema::api::core::v1::Pod;

use crate::pod::Desired;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refs {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
}

pub fn refs(desired: &Desired) -> Refs {
    let mut refs = Refs::default();
    for member in &desired.members {
        for from in &member.container.env_from {
            refs.config_maps.extend(from.config_map_ref.iter().map(|of| of.local_object_reference.name.clone()));
            refs.secrets.extend(from.secret_ref.iter().map(|of| of.local_object_reference.name.clone()));
        }
        for source in member.container.env.iter().filter_map(|var| var.value_from.as_ref()) {
            refs.config_maps.extend(source.config_map_key_ref.iter().map(|of| of.local_object_reference.name.clone()));
            refs.secrets.extend(source.secret_key_ref.iter().map(|of| of.local_object_reference.name.clone()));
        }
    }
    volumes(&desired.pod, &mut refs);
    refs.secrets.extend(desired.pod.spec.image_pull_secrets.iter().map(|of| of.name.clone()));
    refs.secrets.remove("");
    refs.config_maps.remove("");
    refs
}

fn volumes(pod: &Pod, refs: &mut Refs) {
    for volume in &pod.spec.volumes {
        let source = &volume.volume_source;
        refs.config_maps.extend(source.config_map.iter().map(|of| of.local_object_reference.name.clone()));
        refs.secrets.extend(source.secret.iter().map(|of| of.secret_name.clone()));
        for source in source.projected.iter().flat_map(|of| &of.sources) {
            refs.config_maps.extend(source.config_map.iter().map(|of| of.local_object_reference.name.clone()));
            refs.secrets.extend(source.secret.iter().map(|of| of.local_object_reference.name.clone()));
        }
    }
}
