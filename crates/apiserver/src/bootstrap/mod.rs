//! Objects a cluster has from its first start.
