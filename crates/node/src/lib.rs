//! What a machine does next: the kubelet.
//!
//! It decides from pods as the API has them and containers as the runtime has them, and does so through [`ports`]:
//! small traits in its own words, which the program implements with its runtime, images and network.

pub mod ports;
