//! The kubelet's API on its port: who may ask, then the kubelet.
