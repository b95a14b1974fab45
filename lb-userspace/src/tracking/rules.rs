//! The rules of the sweeper: what becomes of an entry of the flow table, of a slot, and of what the config no longer
//! has. Pure, so that the plans' tests walk by the same rules over simulated maps.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use lb_common::{Address, FlowEntry, FlowKey, FlowKind, FlowState, HashKey, NO_ID, Slot, Tick, VipFlags, VipRecord};
use lb_ebpf::{hash::FlowHash, wire::TCP};

use super::{MovingSlots, Swept};
use crate::{
    dataplane::Table,
    plan::{Entry, State},
};

/// Seconds after which the entry of a TCP connection that has sent nothing but a SYN, or has sent FIN or RST, is taken
/// out: an unanswered SYN is repeated for about that long (RFC 6298 §5, backing off from 1 s), and IPVS gives a
/// connection as much in `CLOSE_WAIT`.
const SHORT_IDLE: u16 = 60;

/// The same of a SYN, where the table is more than half full. Until an answer comes through, the SYN is repeated after 1
/// and after 2 seconds more, and the answer after as long: an honest client is not silent for longer. What is still
/// repeated later finds no entry, and begins anew.
const CROWDED_IDLE: u16 = 4;

/// Ticks by which an entry may be newer than the clock says, which was read a moment before: no idle time is as long as
/// what that is mistaken for.
const LATER: u16 = 64;

/// Ticks by which an entry may be older than its packet: programs tell the time a few milliseconds late.
const LATE: u16 = 1;

/// Ticks since the last packet of a flow. Seen since `now` was read, it seems to be of a round before.
pub fn age(entry: FlowEntry, now: Tick) -> u16 {
    let age = now.since(entry.seen());
    if age > u16::MAX - LATER { 0 } else { age }
}

/// What a sweep has to know of VIPs and backends, as of when it began.
#[derive(Debug)]
pub struct Rules {
    /// By VIP id.
    services: Vec<Option<Service>>,
    /// By backend id.
    dispositions: Vec<Disposition>,
    /// By backend id: its VIP.
    vip_of: Vec<u32>,
    /// By backend id: whether it takes no new flows, so that it is of interest whose it has.
    drains: Vec<bool>,
    /// By VIP id: whether slots of its table move. On others no flow is of somebody else than the slot.
    moves: Vec<bool>,
    /// Of the program that these flows go through.
    hash_key: HashKey,
    begun: Tick,
    /// The table is more than half full.
    is_crowded: bool,
}

/// What a sweep has to know of a VIP that is served.
#[derive(Clone, Copy, Debug)]
struct Service {
    address: Address,
    slot_base: u32,
    slots: u32,
    hashes_source: bool,
    /// Ticks.
    tcp_idle: u16,
    udp_idle: u16,
    short_idle: u16,
}

/// What becomes of the entries of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disposition {
    /// They stay, and are those of this id from now on: its own, or that of who took its place, or that one's.
    Stay(u32),
    /// They go, unless they are new: there was no such backend, or it is given up.
    Go,
    /// They go, for they are what is left of a drain whose deadline has passed.
    Cut,
}

impl Rules {
    /// Those for maps that hold `state` when the sweep begins; `is_cut` says of a backend that the deadline of its drain
    /// has passed, `moves` says whether slots of the table that begins at a
    /// slot move, `is_crowded` that the flow table is more than half full.
    pub fn new(
        state: &State,
        is_given_up: impl Fn(u32) -> bool,
        is_cut: impl Fn(u32) -> bool,
        moves: impl Fn(u32) -> bool,
        is_crowded: bool,
        begun: Tick,
    ) -> Self {
        let mut services = vec![None; state.capacity.vips as usize];
        let mut moving = vec![false; services.len()];
        for (id, record) in state.vips() {
            services[*id as usize] = Service::of(record);
            moving[*id as usize] = moves(record.slot_base);
        }
        let mut dispositions = vec![Disposition::Go; state.capacity.backends as usize];
        let mut vip_of = vec![NO_ID; dispositions.len()];
        let disposition = |id: u32, entry: &Entry| {
            let (mut id, mut entry) = (id, entry);
            // A backend that took another one's place may have lost its own to a third.
            for _ in 0..=state.backends().len() {
                match entry.successor {
                    _ if is_given_up(id) => return Disposition::Go,
                    _ if is_cut(id) => return Disposition::Cut,
                    NO_ID => return Disposition::Stay(id),
                    successor => match state.backends().get(&successor) {
                        Some(next) => (id, entry) = (successor, next),
                        None => return Disposition::Go,
                    },
                }
            }
            Disposition::Go
        };
        let mut drains = vec![false; dispositions.len()];
        for (id, entry) in state.backends() {
            vip_of[*id as usize] = entry.vip;
            drains[*id as usize] = !entry.takes_flows();
            dispositions[*id as usize] = disposition(*id, entry);
        }
        Self { services, dispositions, vip_of, drains, moves: moving, hash_key: *state.seed.key(), begun, is_crowded }
    }

    /// VIPs that there is room for.
    pub fn vips(&self) -> usize {
        self.services.len()
    }

    /// Ids of the VIPs whose flows are remembered.
    pub fn tracked(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.services).filter(|(_, service)| service.is_some()).map(|(vip, _)| vip)
    }

    /// Backends that there is room for.
    pub fn backends(&self) -> usize {
        self.dispositions.len()
    }

    /// Index of the slot that a flow is on; `None` where none of the VIP's flows is remembered.
    pub fn slot(&self, key: &FlowKey) -> Option<u32> {
        Some(self.services.get(key.vip() as usize)?.as_ref()?.slot(&self.hash_key, key))
    }

    /// The entry as it stays at `now`; `None` where it goes.
    pub fn entry_after(&self, entry: FlowEntry, now: Tick) -> Option<FlowEntry> {
        if self.is_cut(entry) {
            return None;
        }
        let age = age(entry, now);
        match self.owner(entry) {
            Some((backend, idle)) => (age < idle).then(|| entry.of_backend(backend)),
            // Its VIP or its backend may have come since.
            None => (age <= now.since(self.begun).saturating_add(LATE)).then_some(entry),
        }
    }

    /// Whether an entry is what is left of a drain whose deadline has passed: it goes, however busy its flow is.
    pub fn is_cut(&self, entry: FlowEntry) -> bool {
        self.dispositions.get(entry.backend() as usize) == Some(&Disposition::Cut)
    }

    /// The backend that a flow belongs to from now on, and the ticks without a packet after which it has ended; `None`
    /// where there was no such VIP or backend when the sweep began.
    fn owner(&self, entry: FlowEntry) -> Option<(u32, u16)> {
        let Disposition::Stay(id) = *self.dispositions.get(entry.backend() as usize)? else { return None };
        let vip = *self.vip_of.get(entry.backend() as usize)?;
        let service = self.services.get(vip as usize)?.as_ref()?;
        Some((id, service.idle(entry, self.is_crowded)))
    }

    /// Notes in `swept` an entry that stays; `key` is the name of its flow, `slot` what is in the slot of that index.
    pub fn note(
        &self,
        entry: FlowEntry,
        key: impl FnOnce() -> FlowKey,
        slot: impl Fn(u32) -> Option<Slot>,
        swept: &mut Swept,
    ) {
        swept.entries[Table::of(entry) as usize] += 1;
        // The table may have flows already of a generation that has more ids.
        let Some(count) = swept.by_backend.get_mut(entry.backend() as usize) else { return };
        *count += 1;
        let vip = self.vip_of[entry.backend() as usize] as usize;
        swept.by_vip[vip] += 1;
        let drains = self.drains[entry.backend() as usize];
        if !drains && !self.moves[vip] {
            return;
        }
        let key = key();
        if drains {
            swept.clients.entry(entry.backend()).or_default().add(key.source);
        }
        let Some(index) = self.slot(&key).filter(|_| self.moves[vip]) else { return };
        if slot(index).is_some_and(|slot| slot.current() != entry.backend()) {
            swept.pinned[index as usize / 64] |= 1 << (index % 64);
        }
    }
}

impl Service {
    /// `None` where no flow is to be remembered of the VIP.
    fn of(record: &VipRecord) -> Option<Self> {
        let is = |flag| record.flags.contains(flag);
        is_tracked(record).then(|| Self {
            address: record.address,
            slot_base: record.slot_base,
            slots: record.slots,
            hashes_source: is(VipFlags::HASH_SOURCE_IP),
            tcp_idle: ticks(record.tcp_idle),
            udp_idle: ticks(record.udp_idle),
            short_idle: ticks(record.tcp_idle.min(SHORT_IDLE)),
        })
    }

    /// Ticks without a packet after which the flow has ended.
    fn idle(&self, entry: FlowEntry, is_crowded: bool) -> u16 {
        match entry.state() {
            _ if entry.kind() == FlowKind::Datagrams => self.udp_idle,
            FlowState::Open => self.tcp_idle,
            FlowState::Syn if is_crowded => self.short_idle.min(ticks(CROWDED_IDLE)),
            FlowState::Syn | FlowState::Fin | FlowState::Rst => self.short_idle,
        }
    }

    /// Index of the slot that the flow is on, as the data plane computes it.
    fn slot(&self, hash_key: &HashKey, key: &FlowKey) -> u32 {
        let (ports, protocol) = if self.hashes_source { (0, 0) } else { (key.ports, key.protocol()) };
        let hash = match (key.source.v4(), self.address.v4()) {
            (Some(source), Some(destination)) => FlowHash::v4(hash_key, source, destination, ports, protocol),
            _ => FlowHash::v6(hash_key, key.source, self.address, ports, protocol),
        };
        self.slot_base + hash.slot(self.slots)
    }
}

/// Whether any flow of a VIP is to be remembered.
pub fn is_tracked(record: &VipRecord) -> bool {
    !record.flags.contains(VipFlags::REMOVED) && !record.flags.contains(VipFlags::TRACK_NEVER)
}

/// A slot after a sweep at `now`: `is_pinned` says that a flow is on it which does not belong to its current owner,
/// `idle` the ticks without a packet after which a TCP and a UDP flow without an entry counts as new, `is_given_up`
/// that its settled owner has been down for [`GIVEN_UP_AFTER`](super::GIVEN_UP_AFTER), and `quiet` the ticks since a flow
/// of the VIP was last refused: such a flow is in no table and yet not from before the change.
#[must_use]
pub fn after_sweep(slot: Slot, is_pinned: bool, now: Tick, idle: (u16, u16), quiet: u16, is_given_up: bool) -> Slot {
    if slot.is_settling() {
        return if is_pinned { slot } else { slot.settle() };
    }
    if is_given_up {
        return slot.aged(now, 0, 0);
    }
    let (tcp_idle, udp_idle) = idle;
    let age = now.since(slot.since()).min(quiet);
    slot.aged(Tick(slot.since().0.wrapping_add(age)), tcp_idle, udp_idle)
}

/// What may be freed: ids of removed VIPs of which a sweep found no flow, and of removed backends that no flow is with,
/// no other backend's flows are to come to, and no slot is held for. `holds` says whether the table that begins at a
/// slot may hold some for a backend.
pub fn freeable(state: &State, swept: &Swept, holds: impl Fn(u32, u32) -> bool) -> (Vec<u32>, Vec<u32>) {
    let removed = state.removed_vips().map(|(id, _)| id);
    let vips: Vec<u32> = removed.filter(|id| !swept.has_flows(*id)).collect();
    let successors: HashSet<u32> = state.backends().values().map(|entry| entry.successor).collect();
    let is_free = |(id, entry): &(u32, &Entry)| {
        let Some(record) = state.vips().get(&entry.vip) else { return true };
        // The table of a removed VIP, which may be served again, names its backends.
        if record.flags.contains(VipFlags::REMOVED) {
            return vips.contains(&entry.vip);
        }
        let has_none = swept.by_backend.get(*id as usize) == Some(&0);
        // Flows of an entry that leads to this one are yet to come.
        has_none && !successors.contains(id) && !holds(record.slot_base, *id)
    };
    let backends = state.removed_backends().filter(is_free).map(|(id, _)| id).collect();
    (vips, backends)
}

/// Whether a backend is left with the flows that it has. Not so one that is down, for those are lost, nor one whose flows
/// are another entry's from the next sweep on.
pub fn is_draining(entry: &Entry) -> bool {
    !entry.takes_flows() && !entry.is_down() && entry.successor == NO_ID
}

/// By VIP id: the ticks without a packet after which a TCP and a UDP flow without an entry counts as new; none where
/// the VIP does not serve the protocol.
pub fn idle_times(state: &State) -> HashMap<u32, (u16, u16)> {
    let mut idle: HashMap<u32, (u16, u16)> = HashMap::new();
    for (key, route) in state.keys().iter().filter(|(key, _)| !key.is_marker()) {
        let Some(record) = state.vips().get(&route.id) else { continue };
        let (tcp, udp) = idle.entry(route.id).or_default();
        if key.protocol == TCP {
            *tcp = ticks(record.tcp_idle);
        } else {
            *udp = ticks(record.udp_idle);
        }
    }
    idle
}

/// Whether a sweep at `now` may change any of a table's slots that move: most of the time they only wait for idle times
/// to end. `quiet` is as in [`after_sweep`].
pub fn is_due(
    moving: &MovingSlots,
    now: Tick,
    idle: (u16, u16),
    quiet: u16,
    is_given_up: impl Fn(u32) -> bool,
) -> bool {
    let (tcp_idle, udp_idle) = idle;
    let soonest = if moving.keep_udp { udp_idle } else { tcp_idle.max(udp_idle) };
    let age = now.since(moving.since).min(quiet);
    moving.settling > 0 || age >= soonest || moving.held.keys().any(|id| is_given_up(*id))
}

/// At least so many seconds, in ticks.
pub fn ticks(seconds: u16) -> u16 {
    let ticks = (u64::from(seconds) * 1_000_000_000).div_ceil(Tick::NANOSECONDS) + 1;
    u16::try_from(ticks).unwrap_or(u16::MAX)
}

/// Whole ticks since a moment.
pub fn ticks_since(moment: Instant) -> u16 {
    let ticks = moment.elapsed().as_nanos() / u128::from(Tick::NANOSECONDS);
    u16::try_from(ticks).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use lb_common::{FlowParts, Position, Progress};

    use super::{super::Held, *};

    #[test]
    fn idle_times_are_never_shorter_than_said() {
        assert_eq!([0, 1, 60, 43_200].map(ticks), [1, 2, 57, 40_235]);
        assert_eq!(ticks(u16::MAX), 61_036);
    }

    /// Whose VIP or backend came when the sweep had begun; programs tell the time a little late.
    #[test]
    fn flows_that_are_new_stay() {
        let begun = Tick(100);
        let rules = Rules::new(&State::default(), |_| false, |_| false, |_| false, false, begun);
        let entry = |seen| {
            let (kind, progress, next) = (FlowKind::Opened, Progress::Once, Position::default());
            FlowParts { backend: 1, kind, progress, seen: Tick(seen), next, level: 0, jumped: false }.pack()
        };
        for (seen, stays) in [(98, false), (99, true), (100, true), (101, true)] {
            assert_eq!(rules.entry_after(entry(seen), begun).is_some(), stays, "seen at {seen}");
            assert_eq!(rules.entry_after(entry(seen), Tick(103)).is_some(), stays, "seen at {seen}, walked by later");
        }
    }

    #[test]
    fn a_slot_settles_once_nothing_on_it_can_break() {
        let (idle, since) = ((ticks(900), ticks(60)), Tick(1000));
        let slot = Slot::moving(2, 1, since);
        let after_refusal = |slot, pinned, seconds, quiet, given_up| {
            after_sweep(slot, pinned, Tick(1000 + ticks(seconds)), idle, quiet, given_up)
        };
        let after = |slot, pinned, seconds, given_up| after_refusal(slot, pinned, seconds, u16::MAX, given_up);
        assert!(!after_refusal(slot, false, 2000, ticks(900) - 1, false).is_settling());
        assert!(after_refusal(slot, false, 2000, ticks(900), false).is_settling());
        assert!(after_refusal(slot, false, 1, 0, true).is_settling());
        assert_eq!(after(slot, false, 500, false).settled_owner(), 1);
        assert!(after(slot, false, 1, true).is_settling(), "whoever is given up has no flows");
        let settling = after(slot, true, 900, false);
        assert!(settling.is_settling());
        assert_eq!(after(settling, true, 9000, false), settling);
        assert_eq!(after(settling, false, 900, false), Slot::settled(2));
    }

    #[test]
    fn tables_are_looked_at_when_something_may_change() {
        let since = Tick(u16::MAX);
        let held = HashMap::from([(7, Held { slots: 3, since })]);
        let moving = MovingSlots { count: 3, settling: 0, keep_udp: true, since, held };
        let due = |moving: &MovingSlots, ticks: u16, given_up: bool| {
            is_due(moving, Tick(since.0.wrapping_add(ticks)), (900, 100), u16::MAX, |id| id == 7 && given_up)
        };
        assert_eq!([due(&moving, 99, false), due(&moving, 100, false)], [false, true]);
        let tcp = MovingSlots { keep_udp: false, ..moving.clone() };
        assert_eq!([due(&tcp, 899, false), due(&tcp, 900, false)], [false, true]);
        assert!(due(&tcp, 0, true), "its holder is given up");
        assert!(due(&MovingSlots { settling: 1, ..moving }, 0, false));
    }
}
