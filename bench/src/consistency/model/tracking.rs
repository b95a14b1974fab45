//! What a load balancer remembers of connections, and where it therefore sends their packets.

use lb_common::{FlowOutcome, Slot, Tick};
use lb_ebpf::{
    rules::tracking::{self, Backends, Seen},
    wire::{TcpFlags, Transport},
};
use lb_userspace::tracking::{GIVEN_UP_AFTER, after_sweep};

use super::fleet::{Fleet, State, Tables};

/// Where a packet goes, and whether an entry says so from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The backend.
    pub backend: u32,
    /// Whether the connection has an entry.
    pub tracked: bool,
}

/// What a packet tells without an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// The first of its connection.
    Syn,
    /// Another.
    Later,
}

/// A way to keep connections with their backends. Packets of connections that have an entry go where it says.
pub trait Tracking {
    /// Takes a change in, at `now` in seconds.
    fn change(&mut self, fleet: &Fleet, tables: &Tables, now: f64);

    /// Where a packet of a connection without an entry goes.
    fn route(&self, slot: u32, packet: Packet) -> Route;

    /// Whether an entry for this backend keeps a slot from being settled.
    fn pins(&self, _slot: u32, _backend: u32) -> bool {
        false
    }

    /// Looks after the slots; `pinned` are those with entries that pin them.
    fn sweep(&mut self, _pinned: &[bool], _now: f64) {}
}

/// naru: slots that are settled or moving, by the rules that the data plane and the daemon have, with `adaptive`
/// tracking.
pub struct Adaptive {
    slots: Vec<Slot>,
    /// When each backend went down; `None` of those that are not.
    down: Vec<Option<f64>>,
    /// Ticks.
    tcp_idle: u16,
}

impl Adaptive {
    /// With every slot settled; connections that are silent for `tcp_idle` seconds are given up.
    pub fn new(tables: &Tables, tcp_idle: u32) -> Self {
        let slots = tables.current.iter().map(|owner| Slot::settled(*owner)).collect();
        Self { slots, down: Vec::new(), tcp_idle: tick(f64::from(tcp_idle)).0 }
    }
}

impl Backends for Adaptive {
    fn is_down(&self, id: u32) -> bool {
        self.down.get(id as usize).is_some_and(Option::is_some)
    }

    /// Nothing here uses a port again.
    fn takes_flows(&self, id: u32) -> bool {
        !self.is_down(id)
    }
}

impl Tracking for Adaptive {
    fn change(&mut self, fleet: &Fleet, tables: &Tables, now: f64) {
        let before = std::mem::take(&mut self.down);
        let since = |id: u32| before.get(id as usize).copied().flatten().unwrap_or(now);
        self.down = fleet.ids().map(|id| (fleet.state(id) == Some(State::Down)).then(|| since(id))).collect();
        for (slot, owner) in self.slots.iter_mut().zip(&tables.current) {
            *slot = slot.given_to(*owner, tick(now));
        }
    }

    fn route(&self, slot: u32, packet: Packet) -> Route {
        let slot = self.slots[slot as usize];
        if !slot.is_moving() {
            return Route { backend: slot.current(), tracked: false };
        }
        let flags = match packet {
            Packet::Syn => TcpFlags::SYN,
            Packet::Later => TcpFlags::ACK,
        };
        let transport = Transport::segment(0, flags, 0, 0);
        let decision = tracking::decide(&Seen::default(), slot, &transport, Tick(0), false, self);
        let tracked = matches!(decision.outcome, FlowOutcome::Opened | FlowOutcome::Kept);
        Route { backend: decision.entry.backend(), tracked }
    }

    fn pins(&self, slot: u32, backend: u32) -> bool {
        self.slots[slot as usize].current() != backend
    }

    fn sweep(&mut self, pinned: &[bool], now: f64) {
        let Self { slots, down, tcp_idle } = self;
        for (slot, pinned) in slots.iter_mut().zip(pinned) {
            let since = down.get(slot.settled_owner() as usize).copied().flatten();
            let is_given_up = since.is_some_and(|since| now - since >= GIVEN_UP_AFTER.as_secs_f64());
            *slot = after_sweep(*slot, *pinned, tick(now), (*tcp_idle, 0), u16::MAX, is_given_up);
        }
    }
}

/// Load balancers that look a table up, and differ in when they make an entry.
pub struct Plain {
    current: Vec<u32>,
    horizon: Vec<u32>,
    /// By the owner in the current table and with the horizon.
    tracks: fn(u32, u32) -> bool,
}

impl Plain {
    /// An entry for each connection, as Katran and IPVS have.
    pub fn always(tables: &Tables) -> Self {
        Self::new(tables, |_, _| true)
    }

    /// No entries.
    pub fn never(tables: &Tables) -> Self {
        Self::new(tables, |_, _| false)
    }

    /// JET (Mendelson et al., "Load Balancing with JET", CoNEXT 2021): an entry for each connection that the arrival of
    /// the horizon, that is of all backends that might be added, would move.
    pub fn jet(tables: &Tables) -> Self {
        Self::new(tables, |current, horizon| current != horizon)
    }

    fn new(Tables { current, horizon }: &Tables, tracks: fn(u32, u32) -> bool) -> Self {
        Self { current: current.clone(), horizon: horizon.clone(), tracks }
    }
}

impl Tracking for Plain {
    fn change(&mut self, _: &Fleet, tables: &Tables, _: f64) {
        self.current.clone_from(&tables.current);
        self.horizon.clone_from(&tables.horizon);
    }

    fn route(&self, slot: u32, _: Packet) -> Route {
        let (backend, horizon) = (self.current[slot as usize], self.horizon[slot as usize]);
        Route { backend, tracked: (self.tracks)(backend, horizon) }
    }
}

/// The data plane's measure of time, of seconds. It comes round after 19 hours; a slot that stays as it is for so long
/// is looked after many times meanwhile.
fn tick(seconds: f64) -> Tick {
    Tick::at((seconds * 1e9) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(current: u32, horizon: u32) -> Tables {
        Tables { current: vec![current], horizon: vec![horizon] }
    }

    #[test]
    fn a_slot_that_moves_keeps_its_connections_and_settles_when_they_are_gone() {
        let fleet = Fleet::new();
        let mut adaptive = Adaptive::new(&tables(1, 1), 900);
        assert_eq!(adaptive.route(0, Packet::Syn), Route { backend: 1, tracked: false });
        adaptive.change(&fleet, &tables(2, 2), 10.0);
        assert_eq!(adaptive.route(0, Packet::Later), Route { backend: 1, tracked: true });
        assert_eq!(adaptive.route(0, Packet::Syn), Route { backend: 2, tracked: true });
        adaptive.sweep(&[true], 1000.0);
        assert_eq!(adaptive.route(0, Packet::Syn), Route { backend: 2, tracked: false });
        assert!(adaptive.pins(0, 1) && !adaptive.pins(0, 2));
        adaptive.sweep(&[false], 1001.0);
        assert!(!adaptive.slots[0].is_moving());
    }

    #[test]
    fn tables_differ_in_what_they_track() {
        let same = Route { backend: 1, tracked: false };
        let entered = Route { backend: 1, tracked: true };
        for (tables, jet) in [(tables(1, 1), same), (tables(1, 7), entered)] {
            assert_eq!(Plain::never(&tables).route(0, Packet::Syn), same);
            assert_eq!(Plain::always(&tables).route(0, Packet::Syn), entered);
            assert_eq!(Plain::jet(&tables).route(0, Packet::Syn), jet);
        }
    }
}
