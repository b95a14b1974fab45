//! What a program is loaded with as read-only data, besides the sizes of its maps.

use lb_common::Features;

use crate::seed::HashSeed;

/// What a program is loaded with as read-only data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Globals {
    /// What of it the config uses.
    pub features: Features,
    /// What its flow hash is keyed with.
    pub seed: HashSeed,
}
