//! The difference between what the maps hold and what a config wants, as an ordered list of map writes.
//!
//! Pure: it reads a [`State`] and a [`Config`] and writes nothing. The order of the steps is what keeps packets from
//! half a change: backends before the slots that name them, slots before the keys that lead to them, then the old keys
//! go. What a config no longer has is not freed: its flows may go on. It is marked as removed, and [`State::frees`]
//! frees it once nothing in slots and the flow table is left of it.
//!
//! What stays keeps its id: a VIP is its name, a backend its VIP, address and outer header; one that gets another
//! header, or loses it, gets another id that continues its counts. A change that does not fit the maps, or that meets
//! maps in doubt, is planned as a rebuild: the whole config in new maps, with the same ids.

mod allocate;
mod capacity;
mod change;
mod entry;
#[cfg(test)]
pub(crate) mod fixtures;
mod key;
pub mod maglev;
pub mod record;
pub mod refill;
mod removal;
mod state;
mod step;
mod steps;
#[cfg(test)]
mod tests;
mod totals;
mod wanted;

use std::collections::HashSet;

use lb_common::Features;

use self::{
    allocate::Pools,
    totals::Totals,
    wanted::{Index, Scope, Wanted, keys, markers},
};
pub use self::{
    capacity::Capacity,
    change::Change,
    entry::Entry,
    key::{FamilyKey, VipKey},
    removal::{Removal, Served},
    state::State,
    step::{Continuation, Owner, Step},
    wanted::NextHops,
};
use crate::{
    model::{Config, IcmpRate, Node},
    seed::HashSeed,
};

/// What to do so that the maps hold a config.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    steps: Vec<Step>,
    changes: Vec<Change>,
    rebuild: Option<Capacity>,
    features: Option<Features>,
    seed: Option<HashSeed>,
    icmp_rate: Option<IcmpRate>,
    totals: Totals,
}

/// A config that the maps are known to hold.
#[derive(Clone, Debug)]
pub struct InForce {
    config: Config,
    totals: Totals,
}

impl InForce {
    /// `config`, for which `plan` was made and carried out.
    pub fn by(plan: &Plan, config: Config) -> Self {
        Self { config, totals: plan.totals }
    }
}

impl Plan {
    /// From what the maps hold to what `config` wants; `next_hops` fills in entries of new backends. VIPs that are the
    /// same in the config that is known to be `in_force` are passed over.
    pub fn new(state: &State, config: &Config, next_hops: &NextHops, in_force: Option<&InForce>) -> Self {
        let totals = match in_force {
            Some(InForce { config: before, totals }) => totals.after(before, config),
            None => Totals::of(config),
        };
        let scope = Scope::new(state, config, in_force.map(|in_force| &in_force.config));
        Self::within(&scope, state, config, next_hops, totals)
    }

    /// The same for a scope that has all that differs, and the totals of `config`.
    fn within(scope: &Scope<'_>, state: &State, config: &Config, next_hops: &NextHops, totals: Totals) -> Self {
        let needed = Capacity::for_totals(&totals, &config.node);
        let features = features_for(&totals, &config.node).with(state.forward_features());
        let index = Index::of(state, scope);
        let flows_fit = state.capacity.flows == Capacity::flows(&config.node);
        let in_place = if state.suspect || !flows_fit || !keys_fit(state, scope) {
            None
        } else {
            Wanted::assign(config, scope, &index, next_hops, Pools::in_place(state))
        };
        if let Some(wanted) = in_place {
            let steps = steps::steps(state, &index, &wanted);
            let changes = change::changes(state, &index, &wanted, features);
            return Self::of(steps, changes, None, state, features, &config.node).with(totals);
        }
        Self::rebuilt(state, config, next_hops, needed, features).with(totals)
    }

    /// The whole config in new maps.
    fn rebuilt(state: &State, config: &Config, next_hops: &NextHops, needed: Capacity, features: Features) -> Self {
        let scope = Scope::all(config);
        let index = Index::of(state, &scope);
        let needed = needed.and(state.removed_vips().count(), state.removed_backends().count());
        let capacity =
            state.capacity.at_least(Capacity::with_headroom(needed, &config.node)).with_flows_of(&config.node);
        let pools = Pools::rebuild(capacity, index.ids());
        let wanted = Wanted::assign(config, &scope, &index, next_hops, pools);
        let wanted = wanted.expect("maps that were made for a config have room for it");
        let steps = steps::steps(&State::empty(capacity, features), &Index::default(), &wanted);
        let changes = change::changes(state, &index, &wanted, features);
        Self::of(steps, changes, Some(capacity), state, features, &config.node)
    }

    fn of(
        steps: Vec<Step>,
        changes: Vec<Change>,
        rebuild: Option<Capacity>,
        state: &State,
        features: Features,
        node: &Node,
    ) -> Self {
        let features = (features != state.features).then_some(features);
        let seed = (node.hash_seed != state.seed).then_some(node.hash_seed);
        let icmp_rate = (node.icmp_rate != state.icmp_rate).then_some(node.icmp_rate);
        Self { steps, changes, rebuild, features, seed, icmp_rate, totals: Totals::default() }
    }

    fn with(self, totals: Totals) -> Self {
        Self { totals, ..self }
    }

    /// The plan with these changes in the place of its own, where part of it is done already.
    #[must_use]
    pub fn saying(self, changes: Vec<Change>) -> Self {
        Self { changes, ..self }
    }

    /// The map writes, in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The same in the words of the config.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The plan's changes, for a report.
    pub fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// Size of the new maps that the steps are for; `None` where they are for the maps in use.
    pub fn rebuild(&self) -> Option<Capacity> {
        self.rebuild
    }

    /// The features that the program must have afterwards, where those that it has are others.
    pub fn features(&self) -> Option<Features> {
        self.features
    }

    /// The seed that the program's flow hash must have afterwards, where it has another.
    pub fn seed(&self) -> Option<HashSeed> {
        self.seed
    }

    /// How many ICMP answers of each kind the program must send afterwards, where that is another number.
    pub fn icmp_rate(&self) -> Option<IcmpRate> {
        self.icmp_rate
    }

    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        let Self { steps, changes, rebuild, features, seed, icmp_rate, totals: _ } = self;
        let has_globals = features.is_some() || seed.is_some() || icmp_rate.is_some();
        steps.is_empty() && changes.is_empty() && rebuild.is_none() && !has_globals
    }
}

/// The features that a program needs for `config`.
pub fn required_features(config: &Config) -> Features {
    features_for(&Totals::of(config), &config.node)
}

fn features_for(totals: &Totals, node: &Node) -> Features {
    let own = if node.log_packets { Features::LOG } else { Features::default() };
    totals.features().with(own)
}

/// Whether the key maps have room for new keys beside those that are there: new keys go in before old ones go out.
fn keys_fit(state: &State, scope: &Scope<'_>) -> bool {
    let wanted = scope.vips.iter().flat_map(|vip| keys(vip).chain(markers(vip)));
    let new: HashSet<VipKey> = wanted.filter(|key| !state.keys().contains_key(key)).collect();
    if new.is_empty() {
        return true;
    }
    let count = |v4: bool| new.iter().chain(state.keys().keys()).filter(|key| key.address.is_ipv4() == v4).count();
    count(true) <= state.capacity.keys4 as usize && count(false) <= state.capacity.keys6 as usize
}
