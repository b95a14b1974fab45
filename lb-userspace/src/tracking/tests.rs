//! Sweeps over the flow table of the real object in the real kernel. All of it needs root.

use std::{
    thread,
    time::{Duration, Instant},
};

use lb_common::{Address, BackendState, FlowKey, FlowKind, FlowParts, Position, Progress};

use super::*;
use crate::{
    dataplane::{
        Applied, BackendSlots, Dataplane,
        fixtures::{Pins, assert_mirrors, web},
        now,
    },
    model::{Config, IdleTime, Slots},
    plan::fixtures::{SLOTS, backend, config, many, vip},
};

/// A data plane and who keeps its tables in order.
struct Bed {
    dataplane: Dataplane,
    upkeep: Upkeep,
    /// The last, so that it is dropped last.
    pins: Pins,
}

impl Bed {
    fn with(config: &Config) -> Self {
        let pins = Pins::new();
        let mut dataplane = pins.open(config);
        let upkeep = Upkeep::of(&mut dataplane);
        let mut bed = Self { dataplane, upkeep, pins };
        bed.apply(config);
        bed
    }

    fn apply(&mut self, config: &Config) -> Applied {
        let applied = self.dataplane.apply(config).unwrap();
        self.upkeep.follow(&mut self.dataplane);
        applied
    }

    fn begin(&mut self) -> Sweep {
        self.upkeep.sweep(&mut self.dataplane)
    }

    fn end(&mut self, swept: Swept) {
        self.upkeep.apply_sweep(&mut self.dataplane, swept).unwrap();
    }

    /// Sweeps once.
    fn sweep(&mut self) {
        let swept = self.begin().run().unwrap();
        self.end(swept);
    }

    fn backends(&self) -> Vec<Backend> {
        self.upkeep.view().backends(&self.dataplane.view())
    }

    fn usage(&self) -> Usage {
        self.upkeep.view().usage(&self.dataplane.view())
    }

    /// Slots that move, and slots that are settled.
    fn slots(&self) -> (u64, u64) {
        let usage = self.usage();
        (usage.moving_slots, usage.settled_slots)
    }
}

#[test]
#[ignore = "needs root"]
fn a_drained_backend_has_no_slots_and_a_removed_one_no_entry() {
    let mut config = web();
    let mut bed = Bed::with(&config);

    config.vip_mut(0).backends[0].state = BackendState::Drain;
    let applied = bed.apply(&config);
    assert_eq!(
        applied.changes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["vip web: backend 10.0.1.11 state active → drain"]
    );
    let drained = |slots: Vec<BackendSlots>| slots.into_iter().find(|own| own.vip == "web").unwrap();
    assert_eq!(drained(bed.dataplane.view().slots_per_backend()).slots, 0);

    config.vip_mut(0).backends.remove(0);
    assert!(bed.apply(&config).writes > 1, "without its place the table is another one");
    assert_mirrors(&bed.dataplane);
    assert_eq!(bed.backends().iter().filter(|backend| backend.entry.removed).count(), 1);
    assert!(bed.backends()[0].held_slots > 0, "connections that are open and silent still belong to it");
    bed.sweep();
    assert_eq!(bed.backends().len(), 4);

    // Once it counts as idle what is silent for a second, the slots settle and the backend goes.
    config.vip_mut(0).settings.tcp_idle = IdleTime::from_seconds(1);
    bed.apply(&config);
    let deadline = Instant::now() + patience::LIMIT;
    while bed.backends().len() > 3 {
        assert!(Instant::now() < deadline, "{:?}", bed.backends());
        thread::sleep(Duration::from_millis(100));
        bed.sweep();
    }
    bed.sweep();
    assert_eq!(bed.usage().moving_slots, 0);
    assert_mirrors(&bed.dataplane);
}

/// Enters an established flow of a client that is about just now.
fn enter(dataplane: &Dataplane, client: u16, vip: u32, backend: u32) {
    let key = FlowKey::new(Address::default(), client.to_be().into(), vip, 6);
    let (kind, progress, seen, next) = (FlowKind::Kept, Progress::Open, now(), Position::default());
    let entry = FlowParts { backend, kind, progress, seen, next, level: 0, jumped: false }.pack();
    assert!(dataplane.flow_table().enter(&key, entry));
}

/// Ids of the backends of all established flows.
fn tracked(dataplane: &Dataplane) -> Vec<u32> {
    let mut backends: Vec<_> = dataplane.flow_table().entries().map(|(_, entry)| entry.backend()).collect();
    backends.sort_unstable();
    backends
}

#[test]
#[ignore = "needs root"]
fn a_sweep_leaves_the_flows_of_what_came_after_it_began() {
    let mut config = many(8, 8, SLOTS);
    let mut bed = Bed::with(&config);

    let begun = bed.begin();
    config.vip_mut(0).backends.push(backend("10.0.0.100", 100));
    config.vips.push(vip("new", "192.0.2.1", &["tcp/80"], &["10.0.1.1"]).into());
    bed.apply(&config);
    let (old, new) = (64, [65, 66]);
    enter(&bed.dataplane, 1, 8, old);
    enter(&bed.dataplane, 2, 1, new[0]);
    enter(&bed.dataplane, 3, 9, new[1]);
    let swept = begun.run().unwrap();
    bed.end(swept);
    assert_eq!(tracked(&bed.dataplane), [old, new[0], new[1]]);

    // The same where maps grow: the tables of flows stay, and have flows of ids that there were none of.
    let begun = bed.begin();
    bed.apply(&many(300, 8, SLOTS));
    assert_eq!(bed.pins.names(""), ["g2", "links"]);
    enter(&bed.dataplane, 4, 300, 2400);
    let swept = begun.run().unwrap();
    bed.end(swept);
    assert!(tracked(&bed.dataplane).contains(&2400));
}

#[test]
#[ignore = "needs root"]
fn slots_that_no_vip_has_any_more_are_not_counted() {
    let mut config = web();
    let mut bed = Bed::with(&config);
    config.vip_mut(0).backends[0].state = BackendState::Drain;
    bed.apply(&config);
    assert!(bed.usage().moving_slots > 0);
    // Another number of slots puts the table elsewhere.
    config.vip_mut(0).settings.slots = Slots::new(211);
    bed.apply(&config);
    assert_eq!(bed.slots(), (0, 211 + u64::from(SLOTS)));

    config.vip_mut(0).backends[0].state = BackendState::Active;
    bed.apply(&config);
    assert!(bed.usage().moving_slots > 0);
    config.vips.remove(0);
    bed.apply(&config);
    assert_eq!(bed.slots(), (0, SLOTS.into()));
    bed.sweep();
    assert_eq!(bed.slots(), (0, SLOTS.into()));
}

#[test]
#[ignore = "needs root"]
fn an_id_is_not_free_while_another_entry_leads_to_it() {
    let mut config = config([vip("web", "203.0.113.10", &["tcp/80"], &["10.0.1.11", "2001:db8::13"])]);
    let mut bed = Bed::with(&config);
    // Slots are held for it, then it is reached in another way, which is none for the owners of slots, then it is
    // removed.
    config.vip_mut(0).backends[0].state = BackendState::Drain;
    bed.apply(&config);
    config.node.encap_source4 = "172.20.0.0/16".parse().unwrap();
    bed.apply(&config);
    config.vip_mut(0).backends.remove(0);
    bed.apply(&config);
    for _ in 0..3 {
        bed.sweep();
        let backends = bed.dataplane.state().backends();
        for (id, entry) in backends {
            let successor = entry.successor;
            assert!(
                successor == lb_common::NO_ID || backends.contains_key(&successor),
                "{id} leads to {successor}, which is free"
            );
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_server_that_is_reached_in_another_way_drains_as_long_as_it_did() {
    let mut config = config([vip("web", "203.0.113.10", &["tcp/80"], &["10.0.1.11", "10.0.1.12"])]);
    config.vip_mut(0).backends[0].state = BackendState::Drain;
    let mut bed = Bed::with(&config);
    let before = bed.dataplane.drains();
    thread::sleep(Duration::from_millis(1100));
    config.node.encap_source4 = "172.20.0.0/16".parse().unwrap();
    bed.apply(&config);
    let after = bed.dataplane.drains();
    assert!(before.keys().ne(after.keys()), "it has another entry");
    // The other one's entry of before takes no new flows either, but that is no drain.
    assert_eq!((after.len(), after.values().next()), (1, before.values().next()));
}

#[test]
#[ignore = "needs root"]
fn a_deadline_that_comes_late_is_that_of_removed_backends_too() {
    let mut config = web();
    let mut bed = Bed::with(&config);
    config.vip_mut(0).backends.remove(0);
    bed.apply(&config);
    config.vip_mut(0).settings.drain_deadline = "10m".parse().unwrap();
    bed.apply(&config);
    let removed: Vec<_> = bed.dataplane.state().removed_backends().map(|(_, entry)| entry.drain_deadline).collect();
    assert_eq!(removed, [600]);
}

#[test]
#[ignore = "needs root"]
fn what_was_removed_again_during_a_sweep_stays_until_the_next() {
    let config = web();
    let mut without = web();
    without.vips.remove(0);
    let mut bed = Bed::with(&config);
    bed.apply(&without);

    let begun = bed.begin();
    let swept = begun.run().unwrap();
    bed.apply(&config);
    enter(&bed.dataplane, 1, 1, 2);
    bed.apply(&without);
    bed.end(swept);
    assert_eq!(bed.dataplane.state().removed_vips().count(), 1, "a flow was entered that the sweep has not seen");
    // Within two ticks that flow is one of before the sweep.
    let deadline = Instant::now() + patience::LIMIT;
    while bed.dataplane.state().removed_vips().count() > 0 {
        assert!(Instant::now() < deadline, "{:?}", bed.dataplane.state().vips());
        bed.sweep();
        thread::sleep(Duration::from_millis(100));
    }
    assert!(tracked(&bed.dataplane).is_empty());
    assert_mirrors(&bed.dataplane);
}

#[test]
#[ignore = "needs root"]
fn a_sweep_that_frees_nothing_copies_nothing_for_who_has_a_view() {
    let mut config = web();
    let mut bed = Bed::with(&config);
    config.vip_mut(0).backends.remove(0);
    bed.apply(&config);
    let view = bed.dataplane.view();
    bed.sweep();
    assert_eq!(bed.backends().len(), 4, "slots are held for what was removed");
    assert!(std::ptr::eq(view.state(), bed.dataplane.state()));
}
