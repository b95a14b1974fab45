//! The controller's state as the API and the metrics show it: a [`View`] of a moment, which whoever reads asks instead of
//! the controller. So no read waits for a change, and no change for a read. What is asked may wait for a disk or walk over
//! maps: it belongs on a thread that may block.

use std::{
    collections::{BTreeMap, HashMap, HashSet, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    Controller, Error,
    file::Contents,
    interfaces::Interfaces,
    losses::Found,
    merged,
    next_hops::{NextHops, target},
    node,
};
use crate::{
    api::types::{
        self, Backend, BackendStats, ConfigStatus, Counts, Diff, DropStats, FileState, Interface, MapUsage, NextHop,
        Problem, Stats, Status, TrackedStats, Tracking, UnreachableBackend, Vip, VipStats,
    },
    config::{self, Config, ReadError, Readers, Vrf, Word as _},
    controller::ConfigFile,
    dataplane::{self, Attachment, BackendCounts, BackendSlots},
    fault,
    plan::{Change, Removal},
    server::metrics::{Applies, BackendSample, Snapshot, VipSample},
    tracking,
};

/// What the controller knew at a moment.
pub struct View {
    file: ConfigFile,
    applied: Arc<Contents>,
    applied_at: SystemTime,
    applies: Applies,
    started: Instant,
    dataplane: dataplane::View,
    tracking: tracking::View,
    attachments: Vec<Attachment>,
    next_hops: Arc<NextHops>,
    interfaces: Interfaces,
    losses: Found,
    problems: Vec<Problem>,
    netlink_restarts: u64,
}

/// What runs of a backend, over all entries of the same real server: one that was reached in another way before has
/// several.
struct Running {
    backend: tracking::Backend,
    slots: u32,
}

impl Controller {
    /// What is known now.
    pub(super) fn view(&self) -> View {
        View {
            file: self.file.clone(),
            applied: Arc::clone(&self.applied),
            applied_at: self.applied_at,
            applies: self.applies,
            started: self.started,
            dataplane: self.dataplane.view(),
            tracking: self.upkeep.view(),
            attachments: self.dataplane.attachments(),
            next_hops: Arc::clone(&self.next_hops),
            interfaces: self.interfaces.clone(),
            losses: self.losses.found().clone(),
            problems: self.problems.list(),
            netlink_restarts: self.netlink.health().restarts,
        }
    }
}

impl View {
    fn config(&self) -> &Config {
        &self.applied.config
    }

    /// Who may read what the API tells.
    pub(super) fn readers(&self) -> &Readers {
        &self.config().node.readers
    }

    /// The data plane.
    pub(super) fn dataplane(&self) -> &dataplane::View {
        &self.dataplane
    }

    /// What an apply of the file would change.
    pub fn diff(&self) -> Result<Diff, Error> {
        let wanted = self.file.with_seed(self.file.read(Some(&self.applied))?)?.config;
        let refused = Removal::between(self.config(), &wanted).map(|removal| removal.to_string());
        Ok(Diff { changes: self.changes_to(&wanted)?, refused })
    }

    /// What differs between what runs and `wanted`; the order of VIPs and backends is no difference.
    pub(super) fn changes_to(&self, wanted: &Config) -> Result<Vec<Change>, Error> {
        if wanted == self.config() {
            return Ok(Vec::new());
        }
        let plan = self.dataplane.plan(wanted)?;
        Ok(merged(node::changes(self.config(), wanted), plan.into_changes()))
    }

    /// What the operator should look at although it is allowed.
    pub(super) fn warnings(&self) -> Vec<String> {
        let egress = self.interfaces.warnings(&self.attachments, self.config(), &self.next_hops);
        let left_out = self.interfaces.left_out();
        let losses = self.losses.warnings(|ifindex| self.interface_name(ifindex));
        self.config().warnings().iter().map(ToString::to_string).chain(left_out).chain(egress).chain(losses).collect()
    }

    /// What the daemon is, does and misses.
    pub fn status(&self) -> Result<Status, Error> {
        let config = self.config();
        let backends = || config.vips.iter().flat_map(|vip| &vip.backends);
        let maps = self.map_usage()?;
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            config: self.config_status(),
            interfaces: self.interfaces_view(),
            hash_seed: self.dataplane.state().seed.is_secret().then(|| self.dataplane.state().seed.to_string()),
            vips: config.vips.len(),
            backends: backends().count(),
            backends_active: backends().filter(|backend| backend.effective_weight() > 0).count(),
            unreachable: self.unreachable(),
            tracking: self.tracking(),
            map_memory_bytes: maps.iter().map(|map| map.memory_bytes).sum(),
            maps,
            problems: self.problems.clone(),
            warnings: self.warnings(),
        })
    }

    /// Counters.
    pub fn stats(&self) -> Result<Stats, Error> {
        fault::read("stats");
        self.stats_of(|_| true)
    }

    /// Counters, those of backends only for some VIPs, by name.
    fn stats_of(&self, shown: impl Fn(&str) -> bool) -> Result<Stats, Error> {
        let dataplane::Counts { vips, backends, drops, flow_packets } = self.dataplane.counters_of(&shown)?;
        let mut of_vips: HashMap<_, Counts> = HashMap::new();
        for (name, counters) in vips {
            *of_vips.entry(name).or_default() += counters.into();
        }
        // A server that was reached in another way before has several entries.
        let mut of_backends: HashMap<_, BTreeMap<_, Counts>> = HashMap::new();
        for BackendCounts { vip, address, counters } in backends {
            *of_backends.entry(vip).or_default().entry(address).or_default() += counters.into();
        }
        let mut stats = Stats::default();
        for vip in &self.config().vips {
            let all = if shown(&vip.name) { vip.backends.as_slice() } else { &[] };
            let mut counted = of_backends.remove(&vip.name).unwrap_or_default();
            let configured = all.iter().map(|config::Backend { address, .. }| {
                let counts = counted.remove(address).unwrap_or_default();
                BackendStats { address: *address, removed: false, counts }
            });
            let mut backends: Vec<_> = configured.collect();
            backends.extend(counted.into_iter().map(|(address, counts)| BackendStats {
                address,
                removed: true,
                counts,
            }));
            let counts = of_vips.get(&vip.name).copied().unwrap_or_default();
            stats.vips.push(VipStats { name: vip.name.clone(), counts, backends });
        }
        stats.drops = drops
            .into_iter()
            .map(|(reason, packets)| DropStats { reason: reason.name().to_owned(), packets })
            .collect();
        stats.losses = self.losses.counted(|ifindex| self.interface_name(ifindex));
        stats.tracked = flow_packets
            .into_iter()
            .map(|(outcome, packets)| TrackedStats { outcome: outcome.name().to_owned(), packets })
            .collect();
        Ok(stats)
    }

    /// VIPs with their backends, in the order of the config.
    pub fn vips(&self) -> Vec<Vip> {
        let mut running = self.running();
        let vips = self.config().vips.iter();
        vips.map(|vip| self.vip_view(vip, running.remove(&vip.name).unwrap_or_default())).collect()
    }

    /// One VIP with its backends.
    pub fn vip(&self, name: &str) -> Result<Vip, Error> {
        let mut running = self.running();
        match self.config().vips.iter().find(|vip| vip.name == name) {
            Some(vip) => Ok(self.vip_view(vip, running.remove(name).unwrap_or_default())),
            None => Err(self.no_such_vip(name)),
        }
    }

    pub(super) fn no_such_vip(&self, name: &str) -> Error {
        Error::NoSuchVip { name: name.to_owned(), remedy: remedy(name, &self.config().vips) }
    }

    /// Interfaces that are configured or attached.
    pub fn interfaces_view(&self) -> Vec<Interface> {
        self.interfaces.view(&self.attachments, &self.config().node)
    }

    /// What an interface is called: as the config calls it, where it does and the data plane is attached to it; else as the
    /// kernel does.
    fn interface_name(&self, ifindex: u32) -> String {
        let named = |attachment: &&Attachment| self.config().node.interfaces.contains(&attachment.name);
        let attached = self.attachments.iter().filter(named).find(|attachment| attachment.ifindex == ifindex);
        attached.map_or_else(|| self.interfaces.name(ifindex), |attachment| attachment.name.clone())
    }

    /// What a scrape shows. Counters of backends that the config wants no series of are not read.
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        let Config { node, vips } = self.config();
        let shown = vips.iter().filter(|vip| vip.metrics_backends.unwrap_or(node.metrics_backends));
        let shown: HashSet<_> = shown.map(|vip| vip.name.as_str()).collect();
        let Stats { vips: counted, drops, tracked, losses } = self.stats_of(|vip| shown.contains(vip))?;
        let mut running = if shown.is_empty() { HashMap::new() } else { self.running() };
        let samples = vips.iter().zip(counted).map(|(vip, VipStats { name, counts, backends })| {
            let running = running.remove(&name).unwrap_or_default();
            let backends =
                backends.into_iter().map(|counted| self.sample(vip, &counted, running.get(&counted.address)));
            VipSample { backends: backends.collect(), name, counts }
        });
        Ok(Snapshot {
            vips: samples.collect(),
            drops,
            tracked,
            losses,
            interfaces: self.interfaces_view(),
            tracking: self.tracking(),
            maps: self.map_usage()?,
            problems: self.problems.clone(),
            netlink_restarts: self.netlink_restarts,
            applied_at: self.applied_at,
            applies: self.applies,
        })
    }

    fn sample(&self, vip: &config::Vip, counted: &BackendStats, running: Option<&Running>) -> BackendSample {
        let BackendStats { address, removed, counts } = *counted;
        let configured = vip.backends.iter().find(|backend| backend.address == address);
        let target = match (running, configured) {
            (Some(running), _) if removed => Some(super::target(running.backend.entry.destination())),
            (_, configured) => configured.map(|backend| target(&self.config().node, vip, backend)),
        };
        BackendSample {
            address,
            counts,
            weight: configured.map(|backend| backend.weight),
            slots: running.map_or(0, |running| running.slots),
            next_hop_up: target.is_some_and(|target| self.next_hops.way_to(&target).is_ok()),
            flows: running.map_or(0, |running| running.backend.flows),
            held_slots: running.map_or(0, |running| running.backend.held_slots),
        }
    }

    fn config_status(&self) -> ConfigStatus {
        let read = self.file.read(Some(&self.applied)).and_then(|contents| self.file.with_seed(contents));
        let file = match read {
            Ok(contents) => match self.changes_to(&contents.config) {
                Ok(changes) if changes.is_empty() => FileState::Applied,
                Ok(_) => FileState::Changed,
                Err(error) => FileState::Invalid { error: error.to_string() },
            },
            Err(ReadError::Invalid(errors)) => FileState::Invalid { error: errors.to_string() },
            Err(error @ (ReadError::Unreadable { .. } | ReadError::Seed { .. })) => {
                FileState::Unreadable { error: error.to_string() }
            }
        };
        let applied_at = self.applied_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        ConfigStatus {
            path: self.file.path.clone(),
            file,
            applied_at: applied_at.as_secs(),
            applied_at_us: u64::try_from(applied_at.as_micros()).unwrap_or(u64::MAX),
        }
    }

    fn unreachable(&self) -> Vec<UnreachableBackend> {
        let backends = self.config().vips.iter().flat_map(|vip| vip.backends.iter().map(move |backend| (vip, backend)));
        let unreachable = backends.filter_map(|(vip, backend)| {
            let reason = self.next_hops.way_to(&target(&self.config().node, vip, backend)).err()?;
            Some(UnreachableBackend { vip: vip.name.clone(), address: backend.address, reason })
        });
        unreachable.collect()
    }

    fn map_usage(&self) -> Result<Vec<MapUsage>, Error> {
        Ok(self.dataplane.map_usage(self.tracking.entries())?)
    }

    fn tracking(&self) -> Tracking {
        let tracking::Usage { established, embryonic, settled_slots, moving_slots, sweep } =
            self.tracking.usage(&self.dataplane);
        let sweep_us = sweep.map(|sweep| u64::try_from(sweep.as_micros()).unwrap_or(u64::MAX));
        Tracking { established, embryonic, settled_slots, moving_slots, sweep_us }
    }

    /// What runs of each backend, by the names of the VIPs and the addresses of their backends.
    fn running(&self) -> HashMap<String, BTreeMap<IpAddr, Running>> {
        let mut running: HashMap<String, BTreeMap<IpAddr, Running>> = HashMap::new();
        for backend in self.tracking.backends(&self.dataplane) {
            let of_vip = running.entry(backend.entry.vip.clone()).or_default();
            match of_vip.entry(backend.entry.address) {
                Entry::Vacant(vacant) => drop(vacant.insert(Running { backend, slots: 0 })),
                Entry::Occupied(mut occupied) => occupied.get_mut().add(backend),
            }
        }
        for BackendSlots { vip, address, slots } in self.dataplane.slots_per_backend() {
            if let Some(running) = running.get_mut(&vip).and_then(|of_vip| of_vip.get_mut(&address)) {
                running.slots += slots;
            }
        }
        running
    }

    fn vip_view(&self, vip: &config::Vip, mut running: BTreeMap<IpAddr, Running>) -> Vip {
        let configured = vip.backends.iter().map(|backend| {
            let way = self.next_hops.way_to(&target(&self.config().node, vip, backend));
            let running = running.remove(&backend.address);
            self.backend_view(&vip.name, *backend, backend.state.word(), way, running.as_ref())
        });
        let mut backends: Vec<_> = configured.collect();
        backends.extend(running.values().map(|running| {
            let dataplane::Backend { address, weight, state, mac, .. } = running.backend.entry;
            let way = self.next_hops.way_to(&super::target(running.backend.entry.destination()));
            let last = config::Backend { address, weight, state, mac: mac.map(Into::into) };
            self.backend_view(&vip.name, last, Backend::REMOVED, way, Some(running))
        }));
        let via = vip.via(&self.config().node);
        Vip {
            name: vip.name.clone(),
            address: vip.address,
            ports: vip.ports.iter().map(ToString::to_string).collect(),
            forward: vip.forward.to_string(),
            hash: vip.hash.to_string(),
            slots: vip.slots,
            tracking: vip.tracking.to_string(),
            tcp_idle: humantime::format_duration(vip.tcp_idle).to_string(),
            udp_idle: humantime::format_duration(vip.udp_idle).to_string(),
            vrf: Vrf::from(via.vrf).to_string(),
            mark: via.mark,
            backends,
        }
    }

    fn backend_view(
        &self,
        vip: &str,
        backend: config::Backend,
        state: &str,
        way: Result<&lb_common::NextHop, String>,
        running: Option<&Running>,
    ) -> Backend {
        let runs = running.map(|running| &running.backend);
        Backend {
            vip: vip.to_owned(),
            address: backend.address,
            weight: backend.weight,
            state: state.to_owned(),
            slots: running.map_or(0, |running| running.slots),
            flows: runs.map_or(0, |runs| runs.flows),
            held_slots: runs.map_or(0, |runs| runs.held_slots),
            // Rounded up: they are let go by the first sweep after that.
            held_seconds: runs.filter(|runs| runs.held_slots > 0).map_or(0, |runs| runs.held_for.as_secs() + 1),
            drained: runs.is_some_and(|runs| runs.drained),
            mac: backend.mac.map(|mac| mac.to_string()),
            next_hop: match way {
                Ok(next_hop) => NextHop::Known {
                    interface: self.interfaces.name(next_hop.ifindex),
                    mac: types::mac_name(next_hop.destination()),
                    vlan: next_hop.vlan,
                    mtu: next_hop.mtu,
                },
                Err(reason) => NextHop::Unknown { reason },
            },
        }
    }
}

impl Running {
    /// Adds another entry of the same real server.
    fn add(&mut self, other: tracking::Backend) {
        let all = &mut self.backend;
        let (flows, held_slots) = (all.flows + other.flows, all.held_slots + other.held_slots);
        let (held_for, drained) = (all.held_for.max(other.held_for), all.drained && other.drained);
        // The one that the config has says how it is reached; among others, the one that came last.
        if all.entry.removed {
            *all = other;
        }
        *all = tracking::Backend { flows, held_slots, held_for, drained, ..all.clone() };
    }
}

/// What to say to somebody who named a VIP that there is not.
fn remedy(name: &str, vips: &[config::Vip]) -> String {
    let closest =
        vips.iter().max_by(|a, b| strsim::jaro_winkler(&a.name, name).total_cmp(&strsim::jaro_winkler(&b.name, name)));
    match closest {
        Some(vip) => format!("did you mean `{}`? See `naru vip list`", vip.name),
        None => "there are no VIPs: see `naru vip add --help`".to_owned(),
    }
}
