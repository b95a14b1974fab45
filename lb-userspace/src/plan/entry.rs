//! A backend of a VIP, as the maps hold it.

use lb_common::{Address, Backend, BackendRecord, BackendState, Be32, MacPin, NextHop, SlowStart};

/// A backend of a VIP, as the maps hold it: what packets read of it ([`Backend`]), what the daemon must know of it
/// besides ([`BackendRecord`]), and its next hop. A real server that serves two VIPs has two entries, for each counts
/// its own.
///
/// While slots name it nothing of it becomes another but the last nine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// See [`Backend::address`].
    pub address: Address,
    /// See [`Backend::outer_source`].
    pub outer_source: Address,
    /// See [`Backend::outer_source_mask`].
    pub outer_source_mask: Be32,
    /// See [`Backend::outer_sum`].
    pub outer_sum: u32,
    /// Id of the VIP; 0 where this entry is free.
    pub vip: u32,
    /// How packets reach the backend: [`Forward`](lb_common::Forward) as a number.
    pub forward: u32,
    /// Weight in the config; the backend's place in the table follows from it.
    pub weight: u32,
    /// [`BackendState`] as a number, and [`Backend::REMOVED`].
    pub state: u32,
    /// See [`BackendRecord::successor`].
    pub successor: u32,
    /// Where frames to it go, if that is known.
    pub next_hop: Option<NextHop>,
    /// The MAC address that the operator has pinned, which `next_hop` follows from.
    pub pin: MacPin,
    /// See [`BackendRecord::mtu`]. `next_hop` has no larger one.
    pub mtu: u16,
    /// See [`BackendRecord::drain_deadline`].
    pub drain_deadline: u32,
    /// See [`BackendRecord::FAILS`].
    pub fails: bool,
    /// How far it is, where it has a part of its slots only.
    pub slow_start: Option<SlowStart>,
}

impl Entry {
    /// From what the maps hold.
    pub fn new(backend: Backend, record: BackendRecord, next_hop: Option<NextHop>) -> Self {
        let Backend { address, outer_source, outer_source_mask, outer_sum, vip, forward, state, hop: _, reserved: _ } =
            backend;
        let BackendRecord { weight, mtu, successor, pin, drain_deadline, marks } = record;
        Self {
            address,
            outer_source,
            outer_source_mask,
            outer_sum,
            vip,
            forward,
            weight: weight.into(),
            state,
            successor,
            next_hop,
            pin,
            mtu,
            drain_deadline,
            fails: marks & BackendRecord::FAILS != 0,
            slow_start: SlowStart::from_marks(marks),
        }
    }

    /// As the maps hold it, with its next hop at place `hop` of theirs.
    pub fn in_maps(&self, hop: u32) -> (Backend, BackendRecord) {
        let Self {
            address, outer_source, outer_source_mask, outer_sum, vip, forward, weight, state, successor, ..
        } = *self;
        let reserved = [0; 2];
        let backend =
            Backend { address, outer_source, outer_source_mask, outer_sum, vip, forward, state, hop, reserved };
        let Self { pin, mtu, drain_deadline, fails, slow_start, .. } = *self;
        let marks = if fails { BackendRecord::FAILS } else { 0 } | slow_start.map_or(0, SlowStart::marks);
        let weight = u16::try_from(weight).unwrap_or(u16::MAX);
        (backend, BackendRecord { weight, mtu, successor, pin, drain_deadline, marks })
    }

    /// What the operator wants of it, or wanted last.
    pub fn backend_state(&self) -> BackendState {
        BackendState::from_u32(self.state & !Backend::REMOVED)
    }

    /// Whether the config does not have it any more.
    pub fn is_removed(&self) -> bool {
        self.state & Backend::REMOVED != 0
    }

    /// Whether its flows are lost, and go to the current owners of their slots.
    pub fn is_down(&self) -> bool {
        self.backend_state() == BackendState::Down
    }

    /// The weight that it counts with in its VIP's table, and of how many eighths of its slots there it takes the flows;
    /// `None` where it has no place there.
    pub fn place_in_table(&self) -> Option<(u32, u32)> {
        let eighths = match self.backend_state() {
            BackendState::Active => self.slow_start.map_or(SlowStart::WHOLE, SlowStart::eighths),
            BackendState::Drain | BackendState::Down => 0,
        };
        (self.weight > 0 && !self.is_removed()).then_some((self.weight, eighths))
    }

    /// Whether it takes new flows.
    pub fn takes_flows(&self) -> bool {
        self.place_in_table().is_some_and(|(_, eighths)| eighths > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_maps_hold_comes_back() {
        let pin = MacPin::new(Some([2, 0, 0, 0, 0, 7]));
        let next_hop = Some(NextHop::new([1; 6], [2; 6], 3, 1500, 4));
        let state = BackendState::Drain as u32 | Backend::REMOVED;
        let slow = SlowStart::new(77).at(177, 300);
        for (fails, slow_start) in [(true, None), (false, slow), (false, None)] {
            let known = Entry { vip: 1, forward: 2, weight: 3, state, successor: 5, next_hop, ..Entry::default() };
            let entry = Entry { pin, mtu: 1400, fails, slow_start, ..known };
            let (backend, record) = entry.in_maps(9);
            assert_eq!(backend.hop, 9);
            assert_eq!(Entry::new(backend, record, next_hop), entry);
            assert!(entry.is_removed() && !entry.is_down() && !entry.takes_flows());
            let serves = Entry { state: BackendState::Active as u32, ..entry };
            assert_eq!(serves.place_in_table(), Some((3, if slow_start.is_some() { 2 } else { 8 })));
        }
    }
}
