//! What a program is loaded with as read-only data, besides the sizes of its maps.

use lb_common::Features;

use crate::{
    model::{Config, IcmpRate},
    plan::{State, required_features},
    seed::HashSeed,
};

/// What a program is loaded with as read-only data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Globals {
    /// What of it the config uses.
    pub features: Features,
    /// What its flow hash is keyed with.
    pub seed: HashSeed,
    /// How many ICMP answers of each kind a CPU sends in a second.
    pub icmp_rate: IcmpRate,
}

impl Globals {
    /// What the loaded program has.
    pub fn of(state: &State) -> Self {
        let State { features, seed, icmp_rate, .. } = *state;
        Self { features, seed, icmp_rate }
    }

    /// What a program needs that is loaded for `config`.
    pub fn for_config(config: &Config) -> Self {
        let (seed, icmp_rate) = (config.node.hash_seed, config.node.icmp_rate);
        Self { features: required_features(config), seed, icmp_rate }
    }
}
