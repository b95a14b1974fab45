//! What the decapsulation accepts and what became of packets.

use std::{net::IpAddr, path::Path};

use aya::maps::{Array, HashMap, Map, PerCpuArray, lpm_trie::LpmTrie};
use ipnet::IpNet;
use lb_common::{Address, DecapCounters, DecapOutcome, DecapSource};
use serde::{Deserialize, Serialize};

use super::{
    accepted::{network, written},
    place::Place,
};
use crate::dataplane::{Mode, Pinned, interface_of, names, pinned};

/// The decapsulation on an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The interface.
    pub interface: String,
    /// How it is attached; `None` where it is not, or that cannot be seen from here.
    pub mode: Option<Mode>,
    /// What is wrong with it, and what to do.
    pub problem: Option<String>,
    /// Accepted outer sources.
    pub from: Vec<IpNet>,
    /// Accepted outer destinations.
    pub to: Vec<IpAddr>,
    /// Inner destinations that are delivered; none where that is whatever is local to the host.
    pub vips: Vec<IpNet>,
    /// Packets and bytes (from the outer IP header on) by what became of them.
    pub outcomes: Vec<Outcome>,
}

/// One row of a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Name of the outcome.
    pub outcome: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What there is, by interface. Changes nothing.
///
/// # Errors
///
/// A pin cannot be read.
pub fn status(bpffs: &Path) -> anyhow::Result<Vec<Status>> {
    names(&Place::base(bpffs))?.iter().map(|pin| status_of(&Place::new(bpffs, &interface_of(pin)))).collect()
}

fn status_of(place: &Place) -> anyhow::Result<Status> {
    let interface = place.interface.clone();
    let (mode, problem) = match pinned(&place.links)?.into_values().next() {
        Some(Pinned::Running { mode, .. }) => (Some(mode), None),
        Some(Pinned::Elsewhere) => (None, Some("is in another network namespace: ask there".to_owned())),
        Some(Pinned::Gone) => (None, Some(format!("has gone: `naru decap detach {interface}` tidies up"))),
        None => {
            let problem = format!(
                "is incomplete, an attach or a detach broke off: attach again, or tidy up with `naru decap detach \
                 {interface}`"
            );
            let (from, to, vips, outcomes) = Default::default();
            return Ok(Status { interface, mode: None, problem: Some(problem), from, to, vips, outcomes });
        }
    };
    let sources: Array<_, DecapSource> = place.map("SOURCES", Map::Array)?;
    let from = sources.iter().collect::<Result<Vec<_>, _>>()?.iter().filter_map(network).collect();
    let destinations: HashMap<_, Address, u32> = place.map("DESTINATIONS", Map::HashMap)?;
    let mut to: Vec<IpAddr> = destinations.keys().map(|key| key.map(IpAddr::from)).collect::<Result<_, _>>()?;
    to.sort();
    let delivered: LpmTrie<_, Address, u32> = place.map("VIPS", Map::LpmTrie)?;
    let vips = delivered.keys().map(|key| key.map(|key| written(&key)));
    let mut vips: Vec<IpNet> = vips.filter_map(Result::transpose).collect::<Result<_, _>>()?;
    vips.sort();
    let counters: PerCpuArray<_, DecapCounters> = place.map("OUTCOMES", Map::PerCpuArray)?;
    let outcome = |outcome: DecapOutcome| {
        let per_cpu = counters.get(&(outcome as u32), 0)?;
        let (packets, bytes) = per_cpu.iter().fold((0, 0), |sum, cpu| (sum.0 + cpu.packets, sum.1 + cpu.bytes));
        anyhow::Ok(Outcome { outcome: outcome.name().to_owned(), packets, bytes })
    };
    Ok(Status {
        interface,
        mode,
        problem,
        from,
        to,
        vips,
        outcomes: DecapOutcome::ALL.into_iter().map(outcome).collect::<Result<_, _>>()?,
    })
}
