//! ControllerRevisions: the remembered templates of StatefulSets and DaemonSets.
