//! What a scrape shows: numbers by VIP and backend, small enough to be kept while a slow reader reads. The text is made
//! as it is read.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::SystemTime,
};

use lb_common::{BackendState, SlowStart};

use crate::{
    api::types::{
        BackendStats, Counts, DropStats, Interface, LossStats, MapUsage, Problem, Stats, TrackedStats, Tracking,
        VipStats,
    },
    controller::{Applies, Error, View},
    health::{Probed, Verdict},
    model::{self, Parts},
    server::show::{self, Running},
};

/// What a scrape shows.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// VIPs, in the order of the config.
    pub vips: Vec<VipSample>,
    /// Dropped packets per reason.
    pub drops: Vec<DropStats>,
    /// Frames that were sent and lost behind the data plane.
    pub losses: Vec<LossStats>,
    /// Packets that the flow table was asked for per outcome.
    pub tracked: Vec<TrackedStats>,
    /// Interfaces.
    pub interfaces: Vec<Interface>,
    /// What the data plane remembers of flows.
    pub tracking: Tracking,
    /// Maps.
    pub maps: Vec<MapUsage>,
    /// Probes that began more than 100 ms late.
    pub late_probes: u64,
    /// Backends whose state an operator has set by command.
    pub operations: u64,
    /// What is not as the config wants it.
    pub problems: Vec<Problem>,
    /// How often the task that follows next hops and interfaces was started anew.
    pub netlink_restarts: u64,
    /// When a config was last applied.
    pub applied_at: SystemTime,
    /// Applies since the daemon started.
    pub applies: Applies,
}

/// What is shown of a VIP.
#[derive(Clone, Debug)]
pub struct VipSample {
    /// Its name.
    pub name: String,
    /// What was sent to its backends.
    pub counts: Counts,
    /// Whether it can serve.
    pub is_ready: bool,
    /// Packets for it that were dropped, per reason that there was.
    pub drops: Vec<DropStats>,
    /// Its backends; none where the config wants none shown.
    pub backends: Vec<BackendSample>,
}

/// What is shown of a backend.
#[derive(Clone, Copy, Debug)]
pub struct BackendSample {
    /// Its address.
    pub address: IpAddr,
    /// What it counted.
    pub counts: Counts,
    /// Its weight in the config; none where that does not have it any more.
    pub weight: Option<u32>,
    /// Its state; none where the config does not have it any more.
    pub state: Option<BackendState>,
    /// Whether an operator has set that by command.
    pub is_by_hand: bool,
    /// Slots of the VIP's table that are its own.
    pub slots: u32,
    /// Whether the way to it is known.
    pub next_hop_up: bool,
    /// Entries of its flows in the flow table.
    pub flows: u64,
    /// What its probes say of it; none where there are none.
    pub health: Option<HealthSample>,
    /// The part of its slots that it has while it takes flows; none where it would have all of them at once.
    pub part: Option<f64>,
    /// Slots that are no longer its own and on which flows without an entry go to it still.
    pub held_slots: u32,
}

/// What is shown of a backend's probes.
#[derive(Clone, Copy, Debug)]
pub struct HealthSample {
    /// Whether it does not fail.
    pub up: bool,
    /// How often the verdict has changed.
    pub flips: u64,
    /// Probes with a good answer, without one, and of which nothing follows.
    pub probes: [u64; 3],
    /// How long the last one took, in seconds.
    pub took: f64,
}

impl Snapshot {
    /// What a scrape shows. Counters of backends that the config wants no series of are not read.
    pub fn of(view: &View) -> Result<Self, Error> {
        let Parts { node, vips } = &**view.config();
        let shown = vips.iter().filter(|vip| vip.settings.metrics_backends.unwrap_or(node.metrics_backends));
        let shown: HashSet<_> = shown.map(|vip| vip.name.as_str()).collect();
        let Stats { vips: counted, drops, tracked, losses } = show::stats_of(view, |vip| shown.contains(vip))?;
        let mut running = if shown.is_empty() { HashMap::new() } else { show::running(view) };
        let samples = vips.iter().zip(counted).map(|(vip, VipStats { name, counts, drops, backends })| {
            let running = running.remove(&name).unwrap_or_default();
            let backends =
                backends.into_iter().map(|counted| sample(view, vip, &counted, running.get(&counted.address)));
            let is_ready = show::not_ready(view, vip).is_none();
            VipSample { backends: backends.collect(), name, counts, is_ready, drops }
        });
        Ok(Self {
            vips: samples.collect(),
            drops,
            tracked,
            losses,
            interfaces: show::interfaces(view),
            tracking: show::tracking(view),
            maps: show::maps(view)?,
            late_probes: view.probes_begun.1,
            operations: view.operations().iter().count() as u64,
            problems: show::problems(view),
            netlink_restarts: view.netlink_restarts,
            applied_at: view.applied_at,
            applies: view.applies,
        })
    }
}

fn sample(view: &View, vip: &model::Vip, counted: &BackendStats, running: Option<&Running>) -> BackendSample {
    let BackendStats { address, removed, counts } = *counted;
    let configured = vip.backends.iter().find(|backend| backend.address == address);
    let way = match (running, configured) {
        (Some(running), _) if removed => Some(view.way_of(&running.backend.entry.target)),
        (_, configured) => configured.map(|backend| view.way_to(vip, backend)),
    };
    let starts_slowly = vip.health.as_ref().is_some_and(|health| health.slow_start.is_some());
    BackendSample {
        address,
        counts,
        weight: configured.map(|backend| backend.weight),
        state: configured.map(|backend| backend.state),
        is_by_hand: view.operations().of(&vip.name, address).is_some(),
        slots: running.map_or(0, |running| running.slots),
        next_hop_up: way.is_some_and(|way| way.is_ok()),
        flows: running.map_or(0, |running| running.backend.flows),
        health: view.probes.get(&vip.name).and_then(|probed| probed.get(&address)).map(|probed| health(probed)),
        part: configured.filter(|_| starts_slowly).map(part),
        held_slots: running.map_or(0, |running| running.backend.held_slots),
    }
}

fn part(backend: &model::Backend) -> f64 {
    let eighths = backend.slow_start.map_or(SlowStart::WHOLE, SlowStart::eighths);
    f64::from(eighths) / f64::from(SlowStart::WHOLE)
}

fn health(probed: &Probed) -> HealthSample {
    let status = probed.status();
    HealthSample {
        up: status.verdict() != Verdict::Down,
        flips: status.flips,
        probes: status.counts,
        took: status.last.as_ref().map_or(0.0, |last| last.took.as_secs_f64()),
    }
}
