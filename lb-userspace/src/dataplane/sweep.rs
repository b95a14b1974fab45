//! The sweeper: walks the flow tables beside everything else, takes out what has ended, and finds out which slots and
//! which backends the rest still needs.
//!
//! A sweep works on a copy of what it must know ([`Sweep`]), on any thread, and changes nothing but flow entries. What
//! it found ([`Swept`]) is taken in by the data plane's owner between two changes: slots age and are settled, and what
//! the config no longer has is freed. All that it needs is in the maps, so that it makes no difference which daemon
//! began.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::{Address, FlowEntry, FlowKey, FlowState, NO_ID, Slot, Tick, VipFlags, VipRecord};
use lb_ebpf::{flow_hash::FlowHash, parse::TCP};

use super::{
    Error,
    flows::{FlowTable, FlowTables},
    grace,
    maps::{Maps, MovingSlots, Slots, Sweeps, Table},
    sys,
};
use crate::plan::State;

/// Seconds after which the entry of a TCP connection that has sent nothing but a SYN, or has sent FIN or RST, is taken
/// out: an unanswered SYN is repeated for about that long (RFC 6298 §5, backing off from 1 s), and IPVS gives a
/// connection as much in `CLOSE_WAIT`.
const SHORT_IDLE: u16 = 60;

/// How long a backend is down before its silent connections are given up: should it come back later, its own side of
/// them is most likely gone.
pub const GIVEN_UP_AFTER: Duration = Duration::from_secs(60);

/// A walk over the flow tables to be made.
pub struct Sweep {
    /// Of the generation whose tables these are.
    generation: u32,
    /// Sweeps of this daemon are numbered.
    number: u64,
    tables: FlowTables,
    slots: Arc<Slots>,
    sweeps: Arc<Sweeps>,
    /// By VIP id.
    services: Vec<Option<Service>>,
    /// By backend id.
    fates: Vec<Fate>,
    /// Whether anything is to be freed, if the sweep finds no flow of it.
    frees: bool,
    inserted: [u64; 2],
    begun: Tick,
}

/// What a sweep has to know of a VIP that is served.
#[derive(Clone, Copy)]
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
enum Fate {
    /// They stay.
    Stay,
    /// They go, unless they are new: there was no such backend, or it is given up.
    Go,
    /// They are those of another id from now on.
    Move(u32),
}

/// What a sweep found.
#[derive(Clone, Debug)]
pub struct Swept {
    pub(super) generation: u32,
    pub(super) number: u64,
    /// Entries that are left in the established and in the embryonic table.
    pub(super) entries: [u64; 2],
    /// Entries that either table was ever given, as of the beginning.
    pub(super) inserted: [u64; 2],
    /// By backend id: its entries, in both tables.
    pub(super) by_backend: Vec<u64>,
    /// Ids of the VIPs that have entries.
    vips: HashSet<u32>,
    /// A bit for each slot that a flow is on which does not belong to the slot's current owner.
    pinned: Vec<u64>,
    /// Entries that were taken out.
    pub expired: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl Swept {
    /// Whether a flow is on this slot that does not belong to the slot's current owner.
    pub(super) fn is_pinned(&self, slot: u32) -> bool {
        self.pinned.get(slot as usize / 64).is_some_and(|word| word & 1 << (slot % 64) != 0)
    }

    /// Whether a VIP has entries.
    pub(super) fn has_flows(&self, vip: u32) -> bool {
        self.vips.contains(&vip)
    }
}

impl Sweep {
    /// A walk over the tables of `maps`, which hold `state`.
    pub(super) fn new(
        generation: u32,
        number: u64,
        maps: &Maps,
        state: &State,
        is_given_up: impl Fn(u32) -> bool,
    ) -> Result<Self, Error> {
        use lb_common::FlowOutcome::{Kept, Opened, Promoted};
        let mut services = vec![None; state.capacity.vips as usize];
        for (id, record) in &state.vips {
            services[*id as usize] = Service::of(record);
        }
        let mut fates = vec![Fate::Go; state.capacity.backends as usize];
        for (id, entry) in &state.backends {
            fates[*id as usize] = match entry.heir {
                _ if is_given_up(*id) => Fate::Go,
                NO_ID => Fate::Stay,
                heir => Fate::Move(heir),
            };
        }
        Ok(Self {
            generation,
            number,
            tables: maps.flows().clone(),
            slots: maps.slots(),
            sweeps: Arc::clone(maps.sweeps()),
            services,
            fates,
            frees: state.has_removed(),
            inserted: [maps.flow_packets(Promoted)?, maps.flow_packets(Opened)? + maps.flow_packets(Kept)?],
            begun: sys::now(),
        })
    }

    /// Makes it, on this thread, for as long as it takes.
    ///
    /// # Errors
    ///
    /// The kernel does not let a table be read or written.
    pub fn run(self) -> Result<Swept, Error> {
        // Packets that were on their way when slots were last written have entered their flows.
        grace();
        let started = Instant::now();
        let mut swept = Swept {
            generation: self.generation,
            number: self.number,
            entries: [0; 2],
            inserted: self.inserted,
            by_backend: vec![0; self.fates.len()],
            vips: HashSet::new(),
            pinned: vec![0; self.slots.len().div_ceil(u64::BITS) as usize],
            expired: 0,
            elapsed: Duration::ZERO,
        };
        // Flows go from the embryonic table to the other one: in this order none is overlooked.
        self.walk(Table::Embryonic, &self.tables.embryonic, &mut swept)?;
        self.walk(Table::Established, &self.tables.established, &mut swept)?;
        swept.elapsed = started.elapsed();
        if self.frees {
            // Packets that found an entry before it was taken out have left.
            grace();
        }
        Ok(swept)
    }

    fn walk(&self, which: Table, table: &FlowTable, swept: &mut Swept) -> Result<(), Error> {
        for batch in table.batches() {
            let now = sys::now();
            let mut ended = Vec::new();
            for (key, entry) in batch? {
                match self.entry_after(&key, entry, now) {
                    None => ended.push(key),
                    Some(kept) => {
                        if kept != entry {
                            table.replace(&key, kept)?;
                        }
                        self.note(which, &key, kept, swept);
                    }
                }
            }
            let deleted = table.delete(&ended)? as u64;
            self.sweeps.add_deleted(which, deleted);
            swept.expired += deleted;
        }
        Ok(())
    }

    /// The entry as it stays; `None` where it goes.
    fn entry_after(&self, key: &FlowKey, entry: FlowEntry, now: Tick) -> Option<FlowEntry> {
        let age = now.since(entry.seen());
        match self.owner(key, entry) {
            Some((backend, idle)) => (age < idle).then(|| entry.of_backend(backend)),
            // Its VIP or its backend may have come since.
            None => (age <= now.since(self.begun)).then_some(entry),
        }
    }

    /// The backend that a flow belongs to from now on, and the ticks without a packet after which it has ended; `None`
    /// where there was no such VIP or backend when the sweep began.
    fn owner(&self, key: &FlowKey, entry: FlowEntry) -> Option<(u32, u16)> {
        let service = self.services.get(key.vip() as usize)?.as_ref()?;
        let idle = service.idle(key, entry);
        // A backend that took another one's place may have lost its own to a third.
        let mut id = entry.backend();
        for _ in 0..self.fates.len() {
            match self.fates.get(id as usize)? {
                Fate::Stay => return Some((id, idle)),
                Fate::Go => return None,
                Fate::Move(heir) => id = *heir,
            }
        }
        None
    }

    fn note(&self, which: Table, key: &FlowKey, entry: FlowEntry, swept: &mut Swept) {
        swept.entries[which as usize] += 1;
        // The tables may have flows already of a generation that has more ids.
        if let Some(count) = swept.by_backend.get_mut(entry.backend() as usize) {
            *count += 1;
        }
        swept.vips.insert(key.vip());
        let Some(Some(service)) = self.services.get(key.vip() as usize) else { return };
        let index = service.slot(key);
        if self.slots.at(index).is_some_and(|slot| slot.current() != entry.backend()) {
            swept.pinned[index as usize / 64] |= 1 << (index % 64);
        }
    }
}

impl Service {
    /// `None` where no flow is to be remembered of the VIP.
    fn of(record: &VipRecord) -> Option<Self> {
        let is = |flag| record.flags.contains(flag);
        if is(VipFlags::REMOVED) || is(VipFlags::TRACK_NEVER) {
            return None;
        }
        Some(Self {
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
    fn idle(&self, key: &FlowKey, entry: FlowEntry) -> u16 {
        match entry.state() {
            _ if key.protocol() != TCP => self.udp_idle,
            FlowState::Open => self.tcp_idle,
            FlowState::Syn | FlowState::Fin | FlowState::Rst => self.short_idle,
        }
    }

    /// Index of the slot that the flow is on, as the data plane computes it.
    fn slot(&self, key: &FlowKey) -> u32 {
        let (ports, protocol) = if self.hashes_source { (0, 0) } else { (key.ports, key.protocol()) };
        let hash = match (key.source.v4(), self.address.v4()) {
            (Some(source), Some(destination)) => FlowHash::v4(source, destination, ports, protocol),
            _ => FlowHash::v6(key.source, self.address, ports, protocol),
        };
        self.slot_base + hash.slot(self.slots)
    }
}

/// A slot after a sweep at `now`: `is_pinned` says that a flow is on it which does not belong to its current owner,
/// `idle` the ticks without a packet after which a TCP and a UDP flow without an entry counts as new, `is_given_up`
/// that its settled owner has been down for [`GIVEN_UP_AFTER`].
#[must_use]
pub fn after_sweep(slot: Slot, is_pinned: bool, now: Tick, idle: (u16, u16), is_given_up: bool) -> Slot {
    if slot.is_settling() {
        return if is_pinned { slot } else { slot.settle() };
    }
    let (tcp_idle, udp_idle) = if is_given_up { (0, 0) } else { idle };
    slot.aged(now, tcp_idle, udp_idle)
}

/// Whether a sweep at `now` may change any of a table's slots that move: most of the time they only wait for idle times
/// to end.
pub(super) fn is_due(moving: &MovingSlots, now: Tick, idle: (u16, u16), is_given_up: impl Fn(u32) -> bool) -> bool {
    let (tcp_idle, udp_idle) = idle;
    let soonest = if moving.keep_udp { udp_idle } else { tcp_idle.max(udp_idle) };
    moving.settling > 0 || now.since(moving.since) >= soonest || moving.held.keys().any(|id| is_given_up(*id))
}

/// At least so many seconds, in ticks.
pub(super) fn ticks(seconds: u16) -> u16 {
    let ticks = (u64::from(seconds) * 1_000_000_000).div_ceil(Tick::NANOSECONDS) + 1;
    u16::try_from(ticks).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{super::maps::Held, *};

    #[test]
    fn idle_times_are_never_shorter_than_said() {
        assert_eq!([0, 1, 60, 43_200].map(ticks), [1, 2, 57, 40_235]);
        assert_eq!(ticks(u16::MAX), 61_036);
    }

    #[test]
    fn a_slot_settles_once_nothing_on_it_can_break() {
        let (idle, since) = ((ticks(900), ticks(60)), Tick(1000));
        let slot = Slot::moving(2, 1, since);
        let after =
            |slot, pinned, seconds, given_up| after_sweep(slot, pinned, Tick(1000 + ticks(seconds)), idle, given_up);
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
            is_due(moving, Tick(since.0.wrapping_add(ticks)), (900, 100), |id| id == 7 && given_up)
        };
        assert_eq!([due(&moving, 99, false), due(&moving, 100, false)], [false, true]);
        let tcp = MovingSlots { keep_udp: false, ..moving.clone() };
        assert_eq!([due(&tcp, 899, false), due(&tcp, 900, false)], [false, true]);
        assert!(due(&tcp, 0, true), "its holder is given up");
        assert!(due(&MovingSlots { settling: 1, ..moving }, 0, false));
    }
}
