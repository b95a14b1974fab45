//! The order of the map writes.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{VipRecord, VipRoute};

use super::{
    Entry, State, Step, VipKey,
    wanted::{Index, Wanted, WantedVip, keys, markers},
};

/// From `state` to `wanted`: what packets will come across first, then the ways to it, then away with the old ways.
pub(super) fn steps(state: &State, index: &Index<'_>, wanted: &Wanted<'_>) -> Vec<Step> {
    let vips = &wanted.vips;
    let mut steps: Vec<Step> = vips.iter().flat_map(|vip| put_backends(vip, state)).collect();
    steps.extend(
        wanted.leaving.iter().flat_map(|vip| &vip.backends).filter_map(|(id, entry)| put_backend(*id, *entry, state)),
    );
    steps.extend(vips.iter().filter(|vip| !vip.table_stays_in(state, index)).map(WantedVip::table));
    steps.extend(vips.iter().filter_map(|vip| put_record(vip.id, vip.record, state)));
    let routes = routes(wanted);
    steps.extend(put_keys(state, &routes));
    steps.extend(remove_keys(state, index, wanted, &routes));
    let leaving = wanted.leaving.iter().filter_map(|vip| put_record(vip.id, vip.record, state));
    steps.extend(leaving);
    // A table that moved leaves slots behind that the next plan may hand out.
    if vips.iter().any(|vip| vip.is_in(state) && vip.table_moves()) {
        steps.push(Step::Grace);
    }
    steps
}

impl WantedVip<'_> {
    /// Whether `state` has this VIP; the empty state of a rebuild has none, whatever was known before.
    fn is_in(&self, state: &State) -> bool {
        state.vips().contains_key(&self.id)
    }

    fn table_stays_in(&self, state: &State, index: &Index<'_>) -> bool {
        self.is_in(state) && self.table_stays(index)
    }
}

fn put_backends(vip: &WantedVip<'_>, state: &State) -> impl Iterator<Item = Step> {
    let wanted = vip.backends.iter().map(|backend| (backend.id, backend.entry));
    wanted.chain(vip.leaving.iter().copied()).filter_map(|(id, entry)| put_backend(id, entry, state))
}

fn put_backend(id: u32, entry: Entry, state: &State) -> Option<Step> {
    let there = state.backends().get(&id);
    (there != Some(&entry)).then(|| Step::PutBackend { id, entry, fresh: there.is_none() })
}

fn put_record(id: u32, record: VipRecord, state: &State) -> Option<Step> {
    let there = state.vips().get(&id);
    (there != Some(&record)).then(|| Step::PutVip { id, record, fresh: there.is_none() })
}

/// Every key that is wanted, markers included, and what it leads to.
fn routes(wanted: &Wanted<'_>) -> BTreeMap<VipKey, VipRoute> {
    let markers = wanted.vips.iter().flat_map(|vip| markers(vip.config)).map(|key| (key, VipRoute::default()));
    let services = wanted.vips.iter().flat_map(|vip| keys(vip.config).map(|key| (key, vip.route())));
    markers.chain(services).collect()
}

/// Markers behind what they are for: they say that something is served.
fn put_keys(state: &State, routes: &BTreeMap<VipKey, VipRoute>) -> Vec<Step> {
    let differing = routes.iter().filter(|(key, route)| state.keys().get(*key) != Some(*route));
    let (markers, services): (Vec<_>, Vec<_>) = differing.partition(|(key, _)| key.is_marker());
    let puts = services.into_iter().chain(markers);
    puts.map(|(key, route)| Step::PutKey { key: *key, route: *route }).collect()
}

/// Markers first, for the same reason; one that any VIP of the config needs stays.
fn remove_keys(
    state: &State,
    index: &Index<'_>,
    wanted: &Wanted<'_>,
    routes: &BTreeMap<VipKey, VipRoute>,
) -> Vec<Step> {
    let there = index.all_keys();
    let markers: BTreeSet<VipKey> = there.iter().flat_map(|key| [key.marker(), VipKey::echo(key.address)]).collect();
    let unrouted =
        markers.into_iter().filter(|marker| !routes.contains_key(marker) && state.keys().contains_key(marker));
    let markers = wanted.unneeded(unrouted.collect()).into_iter();
    let services = there.into_iter().filter(|key| !routes.contains_key(key));
    markers.chain(services).map(|key| Step::RemoveKey { key }).collect()
}
