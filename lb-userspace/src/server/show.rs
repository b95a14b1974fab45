//! What the API answers, made from what the [controller](crate::controller) has published.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lb_common::{Drops, LossCause};

use crate::{
    api::types::{
        Applied, Asked, Attached, Backend, BackendHealth, BackendStats, ClientFlows, ConfigStatus, Counts, Diff,
        DropStats, FileState, FlowEntries, Interface, Link, LossStats, MapUsage, NextHop, Problem, SlowStart, Stats,
        Status, TrackedStats, Tracking, UnreachableBackend, Vip, VipStats,
    },
    controller::{self, Error, View},
    dataplane::{self, BackendCounts, BackendSlots, LostFrames},
    fault,
    health::{Probed, Verdict},
    model::{self, Mac, Target, Word as _, slow_start_duration, slow_start_now, slow_start_time},
    tracking,
};

/// What runs of a backend, over all entries of the same real server: one that was reached in another way before has
/// several.
pub struct Running {
    /// The entry that says how it is reached.
    pub backend: tracking::Backend,
    /// Slots of the VIP's table that are its own.
    pub slots: u32,
}

/// What an apply of the file would change.
pub fn diff(view: &View) -> Result<Diff, Error> {
    let controller::Diff { changes, removal, warnings } = view.diff()?;
    Ok(Diff { changes, refused: removal.map(|removal| removal.to_string()), warnings })
}

/// What was done.
pub fn applied(applied: controller::Applied) -> Applied {
    let controller::Applied { changes, writes, to_maps, elapsed, warnings } = applied;
    Applied { changes, writes, maps_us: microseconds(to_maps), elapsed_us: microseconds(elapsed), warnings }
}

/// What the daemon is, does and misses.
pub fn status(view: &View) -> Result<Status, Error> {
    let config = view.config();
    let backends = || config.vips.iter().flat_map(|vip| &vip.backends);
    let maps = maps(view)?;
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: view.started.elapsed().as_secs(),
        config: config_status(view),
        interfaces: interfaces(view),
        hash_seed: view.dataplane.state().seed.is_secret().then(|| view.dataplane.state().seed.to_string()),
        vips: config.vips.len(),
        backends: backends().count(),
        backends_active: backends().filter(|backend| backend.effective_weight() > 0).count(),
        operations: view.operations().iter().count(),
        unreachable: unreachable(view),
        tracking: tracking(view),
        map_memory_bytes: maps.iter().map(|map| map.memory_bytes).sum(),
        maps,
        problems: problems(view),
        warnings: view.warnings(),
    })
}

/// Counters.
pub fn stats(view: &View) -> Result<Stats, Error> {
    fault::read("stats");
    stats_of(view, |_| true)
}

/// Counters, those of backends only for some VIPs, by name.
pub fn stats_of(view: &View, shown: impl Fn(&str) -> bool) -> Result<Stats, Error> {
    let dataplane::Counts { vips, backends, drops, flow_packets } = view.dataplane.counters_of(&shown)?;
    let mut of_vips: HashMap<_, _> = vips.into_iter().map(|counts| (counts.vip.clone(), counts)).collect();
    // A server that was reached in another way before has several entries.
    let mut of_backends: HashMap<_, BTreeMap<_, Counts>> = HashMap::new();
    for BackendCounts { vip, address, counters } in backends {
        *of_backends.entry(vip).or_default().entry(address).or_default() += counters.into();
    }
    let mut stats = Stats::default();
    for vip in &view.config().vips {
        let all = if shown(&vip.name) { vip.backends.as_slice() } else { &[] };
        let mut counted = of_backends.remove(&vip.name).unwrap_or_default();
        let configured = all.iter().map(|model::Backend { address, .. }| {
            let counts = counted.remove(address).unwrap_or_default();
            BackendStats { address: *address, removed: false, counts }
        });
        let mut backends: Vec<_> = configured.collect();
        backends.extend(counted.into_iter().map(|(address, counts)| BackendStats { address, removed: true, counts }));
        let counted = of_vips.remove(&vip.name);
        let (counts, dropped) = counted.map_or_else(Default::default, |counts| (counts.counters.into(), counts.drops));
        let drops = drop_stats(dropped).filter(|drop| drop.packets > 0).collect();
        stats.vips.push(VipStats { name: vip.name.clone(), counts, drops, backends });
    }
    stats.drops = drop_stats(drops).collect();
    stats.losses = view.lost_frames().into_iter().flat_map(|lost| losses(view, lost)).collect();
    stats.tracked = flow_packets
        .into_iter()
        .map(|(outcome, packets)| TrackedStats { outcome: outcome.name().to_owned(), packets })
        .collect();
    Ok(stats)
}

/// Drops by reason, every reason.
fn drop_stats(drops: Drops) -> impl Iterator<Item = DropStats> {
    drops.by_reason().map(|(reason, packets)| DropStats { reason: reason.name().to_owned(), packets })
}

/// VIPs with their backends, in the order of the config.
pub fn vips(view: &View) -> Vec<Vip> {
    let mut running = running(view);
    let vips = view.config().vips.iter();
    vips.map(|vip| vip_of(view, vip, running.remove(&vip.name).unwrap_or_default())).collect()
}

/// One VIP with its backends.
pub fn vip(view: &View, name: &str) -> Result<Vip, Error> {
    let mut running = running(view);
    match view.config().vips.iter().find(|vip| vip.name == name) {
        Some(vip) => Ok(vip_of(view, vip, running.remove(name).unwrap_or_default())),
        None => Err(view.no_such_vip(name)),
    }
}

/// Interfaces that are configured or attached.
pub fn interfaces(view: &View) -> Vec<Interface> {
    let interface = |interface: controller::Interface| {
        let controller::Interface { name, configured, link, attached, problem } = interface;
        let link = link.map(|link| Link {
            ifindex: link.ifindex,
            mac: link.mac.map(mac),
            mtu: link.mtu,
            up: link.up && link.carrier,
        });
        let attached =
            attached.map(|attachment| Attached { mode: attachment.mode.to_string(), reason: attachment.reason });
        Interface { name, configured, link, attached, problem }
    };
    view.interfaces().into_iter().map(interface).collect()
}

/// What is not as the config wants it.
pub fn problems(view: &View) -> Vec<Problem> {
    let problem = |problem: &controller::Problem| {
        let controller::Problem { kind, what, reason, since } = problem.clone();
        Problem { kind, what, reason, since: seconds(since) }
    };
    view.problems.iter().map(problem).collect()
}

/// Fill and memory of the data plane's maps.
pub fn maps(view: &View) -> Result<Vec<MapUsage>, Error> {
    let usage = |usage| {
        let dataplane::MapUsage { name, entries, max_entries, memory_bytes } = usage;
        MapUsage { name, entries, max_entries, memory_bytes }
    };
    Ok(view.dataplane.map_usage(view.tracking.entries())?.into_iter().map(usage).collect())
}

/// What the data plane remembers of flows.
pub fn tracking(view: &View) -> Tracking {
    let tracking::Usage {
        max_flows,
        established,
        embryonic,
        expired,
        refused,
        cut,
        settled_slots,
        moving_slots,
        sweep,
    } = view.tracking.usage(&view.dataplane);
    let vips = view.dataplane.state().vips();
    let refused = refused.into_iter().filter_map(|(id, flows)| Some((vips.get(&id)?.name.as_str().to_owned(), flows)));
    let entries = |[established, embryonic]: [u64; 2]| FlowEntries { established, embryonic };
    Tracking {
        max_flows,
        flows: entries([established, embryonic]),
        expired: entries(expired),
        refused: refused.collect(),
        cut,
        settled_slots,
        moving_slots,
        sweep_us: sweep.map(microseconds),
    }
}

/// What runs of each backend, by the names of the VIPs and the addresses of their backends.
pub fn running(view: &View) -> HashMap<String, BTreeMap<IpAddr, Running>> {
    let mut running: HashMap<String, BTreeMap<IpAddr, Running>> = HashMap::new();
    for backend in view.tracking.backends(&view.dataplane) {
        let of_vip = running.entry(backend.entry.vip.clone()).or_default();
        match of_vip.entry(backend.entry.target.address) {
            Entry::Vacant(vacant) => drop(vacant.insert(Running { backend, slots: 0 })),
            Entry::Occupied(mut occupied) => occupied.get_mut().add(backend),
        }
    }
    for BackendSlots { vip, address, slots } in view.dataplane.slots_per_backend() {
        if let Some(running) = running.get_mut(&vip).and_then(|of_vip| of_vip.get_mut(&address)) {
            running.slots += slots;
        }
    }
    running
}

fn config_status(view: &View) -> ConfigStatus {
    let file = match view.file_state() {
        controller::FileState::Applied => FileState::Applied,
        controller::FileState::Changed => FileState::Changed,
        controller::FileState::Invalid(error) => FileState::Invalid { error: error.to_string() },
        controller::FileState::Unreadable(error) => FileState::Unreadable { error: error.to_string() },
    };
    let applied_at = view.applied_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    ConfigStatus {
        path: view.file().path.clone(),
        file,
        applied_at: applied_at.as_secs(),
        applied_at_us: microseconds(applied_at),
    }
}

fn unreachable(view: &View) -> Vec<UnreachableBackend> {
    let backends = view.config().vips.iter().flat_map(|vip| vip.backends.iter().map(move |backend| (vip, backend)));
    let unreachable = backends.filter_map(|(vip, backend)| {
        let reason = view.way_to(vip, backend).err()?;
        Some(UnreachableBackend { vip: vip.name.clone(), address: backend.address, reason })
    });
    unreachable.collect()
}

/// What an interface lost, by cause.
fn losses(view: &View, lost: LostFrames) -> impl Iterator<Item = LossStats> {
    let interface = view.interface_name(lost.ifindex);
    LossCause::ALL.into_iter().zip(lost.frames).map(move |(cause, packets)| LossStats {
        interface: interface.clone(),
        cause: cause.name().to_owned(),
        packets,
    })
}

fn vip_of(view: &View, vip: &model::Vip, mut running: BTreeMap<IpAddr, Running>) -> Vip {
    let probed = view.probes.get(&vip.name);
    let configured = vip.backends.iter().map(|backend| {
        let way = view.way_to(vip, backend);
        let running = running.remove(&backend.address);
        let state = match backend {
            own if own.is_out => Backend::FAILED,
            own if own.stands_by => Backend::STANDBY,
            own => own.state.word(),
        };
        let own = backend_of(view, &vip.name, *backend, state, way, running.as_ref());
        let asked = vip.asked_otherwise.get(&backend.address).map(|own| match own {
            Some(own) => Asked::So(Box::new(model::Health::clone(own))),
            None => Asked::None,
        });
        let health = probed.and_then(|probed| probed.get(&backend.address)).map(|probed| health(probed));
        Backend { health, slow_start: slow_start(vip, backend), asked, ..own }
    });
    let mut backends: Vec<_> = configured.collect();
    backends.extend(running.values().map(|running| {
        let dataplane::Backend { target: Target { address, mac, .. }, weight, state, .. } = running.backend.entry;
        let way = view.way_of(&running.backend.entry.target);
        let mac = mac.map(Into::into);
        let last = model::Backend { weight, state, mac, ..model::Backend::plain(address) };
        backend_of(view, &vip.name, last, Backend::REMOVED, way, Some(running))
    }));
    Vip {
        name: vip.name.clone(),
        address: vip.address,
        ports: vip.ports.iter().map(ToString::to_string).collect(),
        forward: vip.forward.to_string(),
        settings: vip.settings_on(&view.config().node),
        health: vip.health.as_ref().map(|health| model::Health::clone(health)),
        not_ready: not_ready(view, vip),
        backends,
    }
}

fn backend_of(
    view: &View,
    vip: &str,
    backend: model::Backend,
    state: &str,
    way: Result<&lb_common::NextHop, String>,
    running: Option<&Running>,
) -> Backend {
    let runs = running.map(|running| &running.backend);
    let operation = view.operations().of(vip, backend.address);
    Backend {
        vip: vip.to_owned(),
        address: backend.address,
        weight: backend.weight,
        state: state.to_owned(),
        health: None,
        slow_start: None,
        asked: None,
        operation: operation.cloned(),
        file_state: operation
            .and_then(|_| view.file_state_of(vip, backend.address))
            .map(|state| state.word().to_owned()),
        slots: running.map_or(0, |running| running.slots),
        flows: runs.map_or(0, |runs| runs.flows),
        held_slots: runs.map_or(0, |runs| runs.held_slots),
        // Rounded up: they are let go by the first sweep after that.
        held_seconds: runs.filter(|runs| runs.held_slots > 0).map_or(0, |runs| runs.held_for.as_secs() + 1),
        held_by_refusals: runs.is_some_and(|runs| runs.held_by_refusals),
        drained: runs.is_some_and(|runs| runs.drained),
        cut_seconds: runs.and_then(|runs| runs.cut_in).map(|left| left.as_secs()),
        clients: runs.map_or(Vec::new(), |runs| {
            runs.clients.iter().map(|(prefix, flows)| ClientFlows { prefix: *prefix, flows: *flows }).collect()
        }),
        mac: backend.mac.map(|mac| mac.to_string()),
        mtu: backend.mtu,
        next_hop: match way {
            Ok(next_hop) => NextHop::Known {
                interface: view.link_name(next_hop.ifindex),
                mac: mac(next_hop.destination()),
                vlan: next_hop.vlan,
                mtu: next_hop.mtu,
            },
            Err(reason) => NextHop::Unknown { reason },
        },
    }
}

/// Why a VIP cannot serve: it can where packets for it come in, and go to a backend that is not known to fail.
pub fn not_ready(view: &View, vip: &model::Vip) -> Option<String> {
    if !view.is_attached() {
        return Some("the data plane is attached to no interface".to_owned());
    }
    if let Some(reason) = vip.unready() {
        return Some(reason.to_string());
    }
    let has_way = vip.best().any(|backend| view.way_to(vip, backend).is_ok());
    (!has_way).then(|| "no way to any backend that works is known".to_owned())
}

/// How far a backend is that has a part of its slots only.
fn slow_start(vip: &model::Vip, backend: &model::Backend) -> Option<SlowStart> {
    let own = backend.slow_start.filter(|_| backend.effective_weight() > 0)?;
    let time = slow_start_time(vip.health.as_ref()?.slow_start?);
    let whole = slow_start_duration(own.until_whole(slow_start_now(), time));
    Some(SlowStart { eighths: own.eighths(), whole_ms: whole.as_millis() as u64 })
}

/// What is known of a backend by its probes.
pub fn health(probed: &Probed) -> BackendHealth {
    let status = probed.status();
    let verdict = status.verdict();
    let word = match verdict {
        Verdict::Up => "up",
        Verdict::Unknown => "unknown",
        Verdict::Down => "down",
    };
    let (against, needed) = status.against(probed.health());
    let [good, failed, void] = status.counts;
    let last = status.last.as_ref();
    BackendHealth {
        verdict: word.to_owned(),
        since: seconds(status.since),
        last: last.map(|last| seconds(last.at)),
        took_us: last.map(|last| microseconds(last.took)),
        failure: last.and_then(|last| last.failure.clone()),
        against,
        needed,
        flips: status.flips,
        good,
        failed,
        void,
        shared_by: probed.health().share.then(|| probed.sharers()),
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn mac(mac: [u8; 6]) -> String {
    Mac::from(mac).to_string()
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Running {
    /// Adds another entry of the same real server.
    fn add(&mut self, other: tracking::Backend) {
        let all = &mut self.backend;
        let (flows, held_slots) = (all.flows + other.flows, all.held_slots + other.held_slots);
        let (held_for, drained) = (all.held_for.max(other.held_for), all.drained && other.drained);
        let cut_in = all.cut_in.zip(other.cut_in).map(|(one, other)| one.max(other));
        // The one that the config has says how it is reached; among others, the one that came last.
        if all.entry.removed {
            *all = other;
        }
        *all = tracking::Backend { flows, held_slots, held_for, drained, cut_in, ..all.clone() };
    }
}
