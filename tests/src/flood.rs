//! A SYN flood against a VIP whose real connections go on meanwhile: while all slots are settled, and again while half
//! of them move. What became of connections, the flow table and memory, and whether that is what was promised.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use lb_common::FlowOutcome;
use lb_userspace::api::types::{self, Stats};
use patience::LIMIT;
use serde::Serialize;

use crate::{
    connections::{self, Cause, Habit, Population, Tally},
    lab::{Host, Lab},
    live::{Generator, SYN, Sink, Stream},
    maps,
    naru::{Naru, attach_decap},
    server::Server,
    vip_text::VipText,
};

/// What a run takes.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// SYNs that naru is to have counted in each phase.
    pub packets: u64,
    /// Connections in each group.
    pub connections: usize,
}

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Slots of the VIP.
    pub slots: usize,
    /// Flows that there is room for.
    pub room: u64,
    /// The flood against settled slots, then that against slots of which half move.
    pub phases: [Phase; 2],
}

/// One flood.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    /// Slots that moved when it began.
    pub moving_slots: usize,
    /// SYNs that were to be counted.
    pub wanted: u64,
    /// SYNs that the generator sent.
    pub sent: u64,
    /// New flows that naru counted for the VIP; those of real connections are among them.
    pub counted: u64,
    /// Packets that naru dropped, for whatever reason.
    pub dropped: u64,
    /// SYNs that came out of the load balancer.
    pub absorbed: u64,
    /// From the first SYN to the last.
    pub seconds: f64,
    /// The connections, by group.
    pub groups: Vec<Group>,
    /// Packets that the flow table was asked for meanwhile, by outcome; those that there were any of.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// What there was before the flood, and after it.
    pub usage: [Usage; 2],
    /// Established flows that were remembered before the flood, and are not any more.
    pub forgotten: usize,
}

/// Real connections of one kind, during a flood.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// When they were opened.
    pub name: &'static str,
    /// As many as there were to be at any time.
    pub wanted: usize,
    /// Open when the flood began.
    pub open: u64,
    /// Opened during the flood.
    pub opened: u64,
    /// Broken, by cause.
    pub broken: BTreeMap<Cause, usize>,
    /// Attempts to open one that failed.
    pub refused: usize,
}

/// What is in use at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Established and embryonic entries.
    pub entries: [u64; 2],
    /// Memory of all maps, in bytes, as `naru status` tells it.
    pub map_bytes: u64,
    /// Resident memory of the daemon in bytes.
    pub daemon_bytes: u64,
}

const VIP: &str = "flooded";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const PORT: u16 = 7;
const BACKENDS: usize = 8;
const CLIENTS: usize = 2;
/// SYNs that are sent by one call, at most.
const CALL: u64 = 1_000_000;
/// For opening, for an answer, for closing. While the flood takes both CPUs an answer takes its time.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How much the daemon may grow: what a sweep needs on its way, whatever the number of flows.
const DAEMON_GROWTH: u64 = 32 << 20;

/// Groups of connections, in the order in which they are opened.
const BEFORE: &str = "opened before the change";
const AFTER: &str = "opened after the change";
const DURING: &str = "coming and going";

/// Runs both floods; `progress` is told what is being done.
///
/// # Errors
///
/// When the lab cannot be built or the kernel has no live frames, but not when a promise is broken: see
/// [`Report::verdict`].
pub fn run(options: Options, progress: impl Fn(&str)) -> anyhow::Result<Report> {
    progress("building the lab …");
    let mut site = Site::build(options)?;
    let mut populations = vec![(BEFORE, site.population(None)?)];
    progress("flooding settled slots …");
    let settled = site.flood(&populations)?;
    for backend in &site.lab.backends()[..BACKENDS / 2] {
        site.naru.cli(&["backend", "drain", VIP, &backend.ipv4().to_string()])?;
    }
    populations.push((AFTER, site.population(None)?));
    progress("half of the slots move; flooding again …");
    let moving = site.flood(&populations)?;
    let status = site.naru.status()?;
    Ok(Report { slots: site.slots()?, room: status.tracking.max_flows, phases: [settled, moving] })
}

impl Report {
    /// Whether what was promised was kept, and whether the run would have noticed.
    ///
    /// # Errors
    ///
    /// With everything that was not.
    pub fn verdict(&self) -> anyhow::Result<()> {
        let [settled, moving] = &self.phases;
        let mut wrong = Vec::new();
        for (name, phase) in [("settled", settled), ("moving", moving)] {
            wrong.extend(phase.faults(self.room).into_iter().map(|fault| format!("{name} slots: {fault}")));
        }
        if settled.moving_slots > 0 {
            wrong.push(format!("{} of the settled slots were moving", settled.moving_slots));
        }
        if settled.usage.iter().any(|usage| usage.entries != [0; 2]) || !settled.outcomes.is_empty() {
            let (entries, outcomes) = (settled.usage[1].entries, &settled.outcomes);
            wrong.push(format!("the flood on settled slots asked the flow table: {entries:?} entries, {outcomes:?}"));
        }
        if !(self.slots * 2 / 5..=self.slots * 3 / 5).contains(&moving.moving_slots) {
            wrong.push(format!("{} of {} slots moved instead of half of them", moving.moving_slots, self.slots));
        }
        let aimed = moving.packets(FlowOutcome::Opened) + moving.refused();
        if aimed < moving.wanted * 2 / 5 {
            wrong.push(format!("only {aimed} of {} new flows were on moving slots: it missed its aim", moving.wanted));
        }
        if moving.usage[0].entries[0] == 0 {
            wrong.push("no established flow was remembered when the second flood began".to_owned());
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    }
}

impl Phase {
    /// What no flood may do, and what makes it none.
    fn faults(&self, room: u64) -> Vec<String> {
        let mut faults = Vec::new();
        if self.counted < self.wanted {
            faults.push(format!("naru counted {} of {} SYNs, {} were sent", self.counted, self.wanted, self.sent));
        }
        if self.dropped > 0 {
            faults.push(format!("naru dropped {} packets", self.dropped));
        }
        // What is lost behind naru, where a ring was full, is not naru's to answer for; most is not.
        if self.absorbed < self.counted / 2 {
            faults.push(format!("of {} SYNs that were counted only {} came out", self.counted, self.absorbed));
        }
        for Group { name, wanted, open, opened, broken, refused } in &self.groups {
            if !broken.is_empty() || *refused > 0 {
                faults.push(format!("of the connections {name}, {broken:?} broke and {refused} were not opened"));
            }
            // Of those that come and go some are always about to.
            let (enough, none_came) = if *name == DURING { (wanted / 2, *opened == 0) } else { (*wanted, false) };
            if *open < enough as u64 || none_came {
                faults.push(format!("{open} connections {name} were open instead of {wanted}, {opened} were opened"));
            }
        }
        if self.forgotten > 0 {
            faults.push(format!("{} established flows that were remembered were forgotten", self.forgotten));
        }
        let [before, after] = self.usage;
        if after.map_bytes != before.map_bytes {
            faults.push(format!("the maps grew from {} to {} bytes", before.map_bytes, after.map_bytes));
        }
        if after.daemon_bytes > before.daemon_bytes + DAEMON_GROWTH {
            faults.push(format!("the daemon grew from {} to {} bytes", before.daemon_bytes, after.daemon_bytes));
        }
        if after.entries.iter().sum::<u64>() > room {
            faults.push(format!("{:?} flows are remembered where there is room for {room:?}", after.entries));
        }
        faults
    }

    /// Embryonic entries that were taken out: sweeps found that nothing had come for as long as is waited.
    pub fn gone_embryos(&self) -> u64 {
        let [before, after] = self.usage.map(|usage| usage.entries[1]);
        let entered = self.packets(FlowOutcome::Opened) + self.packets(FlowOutcome::Kept);
        (before + entered).saturating_sub(self.packets(FlowOutcome::Promoted) + after)
    }

    /// Flows that were not entered: there was no room, or none for more of the VIP.
    pub fn refused(&self) -> u64 {
        self.packets(FlowOutcome::TableFull) + self.packets(FlowOutcome::OverShare)
    }

    /// Packets that the flow table was asked for meanwhile, with one outcome.
    fn packets(&self, outcome: FlowOutcome) -> u64 {
        self.outcomes.get(outcome.name()).copied().unwrap_or(0)
    }

    /// SYNs that were lost between two programs: where a ring of 256 frames was full.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.absorbed + self.dropped)
    }
}

/// The lab with everything in it.
struct Site {
    generator: Generator,
    sink: Sink,
    naru: Naru,
    _servers: Vec<Server>,
    lab: Lab,
    options: Options,
}

impl Site {
    fn build(options: Options) -> anyhow::Result<Self> {
        let lab = Lab::builder().clients(CLIENTS).backends(BACKENDS).queue_per_cpu();
        let mut lab = lab.vips([IpAddr::from(ADDRESS)]).build()?;
        lab.remove_on_interrupt()?;
        let start = |host| Server::start_talking(host, lab.dir(), &[target()]);
        let servers = lab.backends().iter().map(start).collect::<Result<_, _>>()?;
        for backend in lab.backends() {
            attach_decap(&lab, backend)?;
        }
        let naru = Naru::start(&lab, &config(lab.backends()))?;
        naru.wait_until_ready()?;
        let sink = Sink::open(&mut lab)?;
        let stream = Stream { target: target(), flags: [SYN; 16], flow_bits: u32::BITS, row_bits: 0 };
        let generator = Generator::new(&lab, stream)?;
        Ok(Self { generator, sink, naru, _servers: servers, lab, options })
    }

    /// Connections that last as long as they are let, or for so long on average.
    fn population(&self, lifetime: Option<Duration>) -> anyhow::Result<Population> {
        let habits = vec![Habit { parts: 1, pause: Duration::from_millis(250), lifetime }];
        let Options { connections, .. } = self.options;
        let options = connections::Options { target: target(), connections, habits, timeout: TIMEOUT };
        let population = Population::start(self.lab.clients(), options)?;
        wait_until_heard(&population)?;
        Ok(population)
    }

    /// Floods the VIP while these connections, and others that come and go, talk on.
    fn flood(&mut self, lasting: &[(&'static str, Population)]) -> anyhow::Result<Phase> {
        // Twice: the first packet of a flow makes an entry, the next one shows that the flow is established.
        for _ in 0..2 {
            lasting.iter().try_for_each(|(_, population)| wait_until_heard(population))?;
        }
        let moving_slots = maps::moving_slots(self.naru.bpffs())?;
        let (usage, outcomes) = (self.usage()?, maps::flow_packets(self.naru.bpffs())?);
        let remembered = maps::established(self.naru.bpffs())?;
        let passing = [(DURING, self.population(Some(Duration::from_secs(2)))?)];
        let all = || lasting.iter().chain(&passing);
        let tallies: Vec<_> = all().map(|(_, population)| population.tally()).collect();
        let counts = self.counts()?;
        let began = Instant::now();
        let sent = self.send(counts.new_flows)?;
        let seconds = began.elapsed().as_secs_f64();
        all().try_for_each(|(_, population)| wait_until_heard(population))?;
        let counted = self.counts()?;
        let groups =
            all().zip(&tallies).map(|((name, population), before)| self.group(name, before, &population.tally()));
        let groups = groups.collect();
        let forgotten = remembered.difference(&maps::established(self.naru.bpffs())?).count();
        for (_, population) in passing {
            population.end();
        }
        Ok(Phase {
            moving_slots,
            wanted: self.options.packets,
            sent,
            counted: counted.new_flows - counts.new_flows,
            dropped: counted.dropped - counts.dropped,
            absorbed: counted.absorbed - counts.absorbed,
            seconds,
            groups,
            outcomes: difference(outcomes, maps::flow_packets(self.naru.bpffs())?),
            usage: [usage, self.usage()?],
            forgotten,
        })
    }

    /// What became of the connections of a group between two tallies.
    fn group(&self, name: &'static str, before: &Tally, after: &Tally) -> Group {
        let failures = &after.failures[before.failures.len()..];
        let mut broken = BTreeMap::new();
        for failure in failures.iter().filter(|failure| failure.backend.is_some()) {
            *broken.entry(failure.cause).or_default() += 1;
        }
        let refused = failures.iter().filter(|failure| failure.backend.is_none()).count();
        let (wanted, opened) = (self.options.connections, after.opened - before.opened);
        Group { name, wanted, open: before.open_now(), opened, broken, refused }
    }

    /// Sends until naru has counted as many new flows as are wanted beyond `before`; how many that took. Gives up at
    /// twice as many.
    fn send(&mut self, before: u64) -> anyhow::Result<u64> {
        let wanted = self.options.packets;
        let mut sent = 0;
        loop {
            let missing = (before + wanted).saturating_sub(self.counts()?.new_flows);
            if missing == 0 || sent >= 2 * wanted {
                return Ok(sent);
            }
            let call = missing.min(CALL);
            self.generator.send(call as u32)?;
            sent += call;
        }
    }

    fn counts(&self) -> anyhow::Result<Counts> {
        let stats: Stats = self.naru.read(&["stats"])?;
        let vip = stats.vips.iter().find(|vip| vip.name == VIP).context("naru does not count for the VIP")?;
        let dropped = stats.drops.iter().map(|drop| drop.packets).sum();
        Ok(Counts { new_flows: vip.counts.new_flows, dropped, absorbed: self.sink.absorbed()? })
    }

    fn usage(&self) -> anyhow::Result<Usage> {
        let status = self.naru.status()?;
        Ok(Usage {
            entries: maps::flow_entries(self.naru.bpffs())?,
            map_bytes: status.map_memory_bytes,
            daemon_bytes: self.naru.memory("VmRSS")?,
        })
    }

    fn slots(&self) -> anyhow::Result<usize> {
        let vip: types::Vip = self.naru.read(&["vip", "show", VIP])?;
        Ok(vip.settings.slots.get() as usize)
    }
}

/// What naru has counted, and what the sink has.
struct Counts {
    new_flows: u64,
    dropped: u64,
    absorbed: u64,
}

/// Packets by outcome that came in between; those that there were any of.
fn difference(before: [u64; FlowOutcome::COUNT], after: [u64; FlowOutcome::COUNT]) -> BTreeMap<&'static str, u64> {
    let outcomes = FlowOutcome::ALL.into_iter().zip(after.iter().zip(before));
    let outcomes = outcomes.map(|(outcome, (after, before))| (outcome.name(), after - before));
    outcomes.filter(|(_, packets)| *packets > 0).collect()
}

/// Waits until each connection has had an answer to something sent from now on, or is a new one.
fn wait_until_heard(population: &Population) -> anyhow::Result<()> {
    population.wait_until_heard(Instant::now(), LIMIT)
}

fn target() -> SocketAddr {
    SocketAddr::new(ADDRESS.into(), PORT)
}

fn config(backends: &[Host]) -> String {
    let vip = VipText::new(VIP, ADDRESS, [format!("tcp/{PORT}")], "ipip");
    vip.backends(backends.iter().map(Host::ipv4)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let usage = |entries| Usage { entries, map_bytes: 1 << 20, daemon_bytes: 1 << 20 };
        let group = |name| Group { name, wanted: 5, open: 5, opened: 0, broken: BTreeMap::new(), refused: 0 };
        let passing = || Group { open: 3, opened: 2, ..group(DURING) };
        let settled = Phase {
            moving_slots: 0,
            wanted: 100,
            sent: 110,
            counted: 104,
            dropped: 0,
            absorbed: 100,
            seconds: 1.0,
            groups: vec![group(BEFORE), passing()],
            outcomes: BTreeMap::new(),
            usage: [usage([0, 0]); 2],
            forgotten: 0,
        };
        let moving = Phase {
            moving_slots: 8,
            groups: vec![group(BEFORE), group(AFTER), passing()],
            outcomes: [(FlowOutcome::Opened.name(), 52), (FlowOutcome::Promoted.name(), 2)].into(),
            usage: [usage([5, 0]), usage([7, 40])],
            ..settled.clone()
        };
        Report { slots: 16, room: 200, phases: [settled, moving] }
    }

    fn faults(change: impl FnOnce(&mut [Phase; 2])) -> String {
        let mut report = report();
        change(&mut report.phases);
        report.verdict().map_or_else(|faults| faults.to_string(), |()| String::new())
    }

    #[test]
    fn a_run_that_kept_everything_is_told_in_full() {
        assert_eq!(faults(|_| {}), "");
        let [_, moving] = report().phases;
        assert_eq!((moving.lost(), moving.gone_embryos()), (10, 10));
    }

    #[test]
    fn every_broken_promise_is_told() {
        let broken = faults(|[_, moving]| moving.groups[1].broken = [(Cause::Reset, 3)].into());
        assert_eq!(
            broken,
            "moving slots: of the connections opened after the change, {Reset: 3} broke and 0 were not opened"
        );
        assert!(
            faults(|[settled, _]| settled.usage[1].entries = [0, 1]).contains("asked the flow table: [0, 1] entries")
        );
        assert!(faults(|[settled, _]| settled.outcomes = [("passed", 1)].into()).contains("asked the flow table"));
        assert!(faults(|[_, moving]| moving.forgotten = 1).contains("1 established flows that were remembered were"));
        assert!(faults(|[settled, _]| settled.dropped = 1).contains("settled slots: naru dropped 1 packets"));
        assert!(faults(|[_, moving]| moving.usage[1].entries[1] = 194).contains("where there is room for 200"));
        assert!(faults(|[_, moving]| moving.usage[1].map_bytes += 1).contains("the maps grew"));
        assert!(faults(|[_, moving]| moving.usage[1].daemon_bytes += 1 << 26).contains("the daemon grew"));
    }

    #[test]
    fn a_flood_that_was_none_is_told() {
        assert!(faults(|[settled, _]| settled.counted = 99).contains("settled slots: naru counted 99 of 100 SYNs"));
        assert!(faults(|[_, moving]| moving.moving_slots = 4).contains("4 of 16 slots moved"));
        assert!(faults(|[_, moving]| moving.outcomes.clear()).contains("missed its aim"));
        assert!(
            faults(|[settled, _]| settled.absorbed = 51).contains("of 104 SYNs that were counted only 51 came out")
        );
        assert!(faults(|[_, moving]| moving.usage[0].entries[0] = 0).contains("no established flow was remembered"));
        assert!(
            faults(|[_, moving]| moving.groups[0].open = 4).contains("4 connections opened before the change were")
        );
        assert!(faults(|[_, moving]| moving.groups[2].open = 1).contains("1 connections coming and going were open"));
        assert!(faults(|[_, moving]| moving.groups[2].opened = 0).contains("instead of 5, 0 were opened"));
    }
}
