//! All that is wanted.

use super::{Node, Vip};

/// A whole config file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The machine that the load balancer runs on: `[node]`.
    pub node: Node,
    /// The virtual addresses in the order of the file: `[[vip]]`.
    pub vips: Vec<Vip>,
}
