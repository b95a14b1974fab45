//! The controller's state as the API and the metrics show it.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{Controller, Error};
use crate::{
    api::types::{
        self, Backend, BackendStats, ConfigStatus, DropStats, FileState, Interface, MapUsage, NextHop, Stats, Status,
        UnreachableBackend, Vip, VipStats,
    },
    config::{self, ReadError, Word as _},
    dataplane::{self, BackendSlots},
    metrics::Snapshot,
};

/// VIP and backend → number of slots.
type SlotCounts = HashMap<(String, IpAddr), u32>;

impl Controller {
    pub(super) fn status(&self) -> Result<Status, Error> {
        let config = self.config();
        let backends = || config.vips.iter().flat_map(|vip| &vip.backends);
        let maps = self.map_usage()?;
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            config: self.config_status(),
            interfaces: self.interfaces_view(),
            vips: config.vips.len(),
            backends: backends().count(),
            backends_active: backends().filter(|backend| backend.effective_weight() > 0).count(),
            unreachable: self.unreachable(),
            map_memory_bytes: maps.iter().map(|map| map.memory_bytes).sum(),
            maps,
            warnings: self.warnings(),
        })
    }

    pub(super) fn stats(&self) -> Result<Stats, Error> {
        let dataplane::Counts { vips, backends, drops, flow_packets: _ } = self.dataplane.counters()?;
        let of_vip: HashMap<_, _> = vips.iter().map(|(name, counters)| (name.as_str(), *counters)).collect();
        let of_backend: HashMap<_, _> =
            backends.iter().map(|backend| ((backend.vip.as_str(), backend.address), backend.counters)).collect();
        let vips = self.config().vips.iter().map(|vip| {
            let backends = vip.backends.iter().map(|config::Backend { address, .. }| {
                let counters = of_backend.get(&(vip.name.as_str(), *address)).copied().unwrap_or_default();
                BackendStats { address: *address, counts: counters.into() }
            });
            let counters = of_vip.get(vip.name.as_str()).copied().unwrap_or_default();
            VipStats { name: vip.name.clone(), counts: counters.into(), backends: backends.collect() }
        });
        let vips = vips.collect();
        let drops = drops.into_iter().map(|(reason, packets)| DropStats { reason: reason.name().to_owned(), packets });
        Ok(Stats { vips, drops: drops.collect() })
    }

    pub(super) fn vips(&mut self) -> Vec<Vip> {
        let slots = self.slots();
        self.config().vips.iter().map(|vip| self.vip_view(vip, &slots)).collect()
    }

    pub(super) fn vip(&mut self, name: &str) -> Result<Vip, Error> {
        let slots = self.slots();
        let vips = &self.config().vips;
        match vips.iter().find(|vip| vip.name == name) {
            Some(vip) => Ok(self.vip_view(vip, &slots)),
            None => Err(Error::NoSuchVip { name: name.to_owned(), remedy: remedy(name, vips) }),
        }
    }

    pub(super) fn interfaces_view(&self) -> Vec<Interface> {
        self.interfaces.view(&self.dataplane, &self.config().node)
    }

    pub(super) fn snapshot(&mut self) -> Result<Snapshot, Error> {
        Ok(Snapshot {
            stats: self.stats()?,
            vips: self.vips(),
            interfaces: self.interfaces_view(),
            maps: self.map_usage()?,
            applied_at: self.applied_at,
            applies: self.applies,
        })
    }

    fn config_status(&self) -> ConfigStatus {
        let file = match self.file.read(Some(&self.applied)) {
            Ok(contents) => match self.changes_to(&contents.config) {
                Ok(changes) if changes.is_empty() => FileState::Applied,
                Ok(_) => FileState::Changed,
                Err(error) => FileState::Invalid { error: error.to_string() },
            },
            Err(ReadError::Invalid(errors)) => FileState::Invalid { error: errors.to_string() },
            Err(error @ ReadError::Unreadable { .. }) => FileState::Unreadable { error: error.to_string() },
        };
        ConfigStatus { path: self.file.path.clone(), file, applied_at: unix_seconds(self.applied_at) }
    }

    fn unreachable(&self) -> Vec<UnreachableBackend> {
        let backends = self.config().vips.iter().flat_map(|vip| vip.backends.iter().map(move |backend| (vip, backend)));
        let unreachable = backends.filter_map(|(vip, backend)| {
            let reason = self.next_hops.way(vip.forward, backend.address).err()?;
            Some(UnreachableBackend { vip: vip.name.clone(), address: backend.address, reason })
        });
        unreachable.collect()
    }

    fn map_usage(&self) -> Result<Vec<MapUsage>, Error> {
        Ok(self.dataplane.map_usage()?)
    }

    fn slots(&mut self) -> SlotCounts {
        let slots = self.dataplane.slots_per_backend();
        slots.into_iter().map(|BackendSlots { vip, address, slots }| ((vip, address), slots)).collect()
    }

    fn vip_view(&self, vip: &config::Vip, slots: &SlotCounts) -> Vip {
        let backends = vip.backends.iter().map(|backend| Backend {
            vip: vip.name.clone(),
            address: backend.address,
            weight: backend.weight,
            state: backend.state.word().to_owned(),
            slots: slots.get(&(vip.name.clone(), backend.address)).copied().unwrap_or_default(),
            next_hop: match self.next_hops.way(vip.forward, backend.address) {
                Ok(next_hop) => NextHop::Known {
                    interface: self.interfaces.name(next_hop.ifindex),
                    mac: types::mac_name(next_hop.destination()),
                    vlan: next_hop.vlan,
                    mtu: next_hop.mtu,
                },
                Err(reason) => NextHop::Unknown { reason },
            },
        });
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
            backends: backends.collect(),
        }
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
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
