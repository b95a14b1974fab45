//! The order of the map writes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use lb_common::VipRoute;

use super::{
    State, Step, VipKey,
    wanted::{Index, Wanted, WantedVip, keys},
};

/// From `state` to `wanted`: what packets will come across first, then the ways to it, then away with the old ways, and
/// last with what they led to.
pub(super) fn steps(state: &State, index: &Index<'_>, wanted: &Wanted<'_>) -> Vec<Step> {
    let vips = &wanted.vips;
    let mut steps: Vec<Step> = vips.iter().flat_map(|vip| put_backends(vip, state)).collect();
    steps.extend(vips.iter().filter(|vip| !vip.table_stays_in(state, index)).map(WantedVip::table));
    steps.extend(vips.iter().filter_map(|vip| put_vip(vip, state)));
    let routes = routes(wanted);
    steps.extend(put_keys(state, &routes));
    let removals = remove_keys(state, index, wanted, &routes);
    let frees = frees(index, wanted);
    // A table that moved leaves slots behind that the next plan may hand out.
    let moves = vips.iter().any(|vip| vip.is_in(state) && vip.table_moves());
    if moves || !removals.is_empty() || !frees.is_empty() {
        steps.extend(removals);
        steps.push(Step::Grace);
        steps.extend(frees);
    }
    steps
}

impl WantedVip<'_> {
    /// Whether `state` has this VIP; the empty state of a rebuild has none, whatever was known before.
    fn is_in(&self, state: &State) -> bool {
        state.vips.contains_key(&self.id)
    }

    fn table_stays_in(&self, state: &State, index: &Index<'_>) -> bool {
        self.is_in(state) && self.table_stays(index)
    }
}

fn put_backends(vip: &WantedVip<'_>, state: &State) -> Vec<Step> {
    let put = |id: u32, entry| match state.backends.get(&id) {
        Some(there) if *there == entry => None,
        there => Some(Step::PutBackend { id, entry, fresh: there.is_none() }),
    };
    vip.backends.iter().filter_map(|backend| put(backend.id, backend.entry)).collect()
}

fn put_vip(vip: &WantedVip<'_>, state: &State) -> Option<Step> {
    let there = state.vips.get(&vip.id);
    (there != Some(&vip.record)).then(|| Step::PutVip { id: vip.id, record: vip.record, fresh: there.is_none() })
}

/// Every key that is wanted, markers included, and what it leads to.
fn routes(wanted: &Wanted<'_>) -> BTreeMap<VipKey, VipRoute> {
    let markers = wanted.vips.iter().flat_map(|vip| keys(vip.config)).map(|key| (key.marker(), VipRoute::default()));
    let services = wanted.vips.iter().flat_map(|vip| keys(vip.config).map(|key| (key, vip.route())));
    markers.chain(services).collect()
}

/// Markers last: they say that something is served.
fn put_keys(state: &State, routes: &BTreeMap<VipKey, VipRoute>) -> Vec<Step> {
    let new = routes.iter().filter(|(key, route)| state.keys.get(key) != Some(*route));
    let (markers, services): (Vec<_>, Vec<_>) = new.partition(|(key, _)| key.is_marker());
    services.into_iter().chain(markers).map(|(key, route)| Step::PutKey { key: *key, route: *route }).collect()
}

/// Markers first, for the same reason; one that any VIP of the config needs stays.
fn remove_keys(
    state: &State,
    index: &Index<'_>,
    wanted: &Wanted<'_>,
    routes: &BTreeMap<VipKey, VipRoute>,
) -> Vec<Step> {
    let there = index.all_keys();
    let markers: BTreeSet<VipKey> = there.iter().map(|key| key.marker()).collect();
    let markers =
        markers.into_iter().filter(|marker| !wanted.markers.contains(marker) && state.keys.contains_key(marker));
    let services = there.into_iter().filter(|key| !routes.contains_key(key));
    markers.chain(services).map(|key| Step::RemoveKey { key }).collect()
}

fn frees(index: &Index<'_>, wanted: &Wanted<'_>) -> Vec<Step> {
    let vips: HashSet<u32> = wanted.vips.iter().map(|vip| vip.id).collect();
    let backends = || wanted.vips.iter().flat_map(|vip| &vip.backends);
    let kept: HashSet<u32> = backends().map(|backend| backend.id).collect();
    let heirs: HashMap<u32, u32> =
        backends().filter_map(|backend| backend.known.map(|(known, _)| (known, backend.id))).collect();
    let free_backend = |id: u32| Step::FreeBackend { id, heir: heirs.get(&id).copied() };
    let gone_backends = index.backend_ids().into_iter().filter(|id| !kept.contains(id)).map(free_backend);
    let gone_vips = index.vips().into_keys().filter(|id| !vips.contains(id)).map(|id| Step::FreeVip { id });
    gone_backends.chain(gone_vips).collect()
}
