//! What a sweep found.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use lb_common::FlowEntry;

use super::clients::Clients;
use crate::dataplane::{Spot, Wait};

/// What a sweep found.
#[derive(Clone, Debug)]
pub struct Swept {
    pub(super) generation: u32,
    pub(super) number: u64,
    /// What it has waited for, besides flows.
    pub(super) wait: Wait,
    /// Established and embryonic entries that are left.
    pub(super) entries: [u64; 2],
    /// By backend id: its entries.
    pub(super) by_backend: Vec<u64>,
    /// By VIP id: its entries.
    pub(super) by_vip: Vec<u64>,
    /// By VIP id: how many flows were ever refused.
    pub(super) refused: HashMap<u32, u64>,
    /// By backend id: whose flows those are that take no new ones.
    pub(super) clients: HashMap<u32, Clients>,
    /// A bit for each slot that a flow is on which does not belong to the slot's current owner.
    pub(super) pinned: Vec<u64>,
    /// What only the next sweep can put in order.
    pub(super) left: Left,
    /// By backend id: entries that were taken out as the deadline of its drain has passed.
    pub(super) cut: HashMap<u32, u64>,
    /// Entries that were taken out.
    pub expired: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// What two sweeps must find alike before the second puts it in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Left {
    /// By group and line: how many entries went past it, of which none is there any more.
    pub spilled: HashMap<(u32, u32), u32>,
    /// Places that were claimed for an entry whose name nobody has written.
    pub claimed: HashSet<(Spot, u64)>,
}

impl Left {
    /// Notes that a place is claimed; whether it was already when the sweep before noted it.
    pub fn is_abandoned(&mut self, before: &Self, spot: Spot, entry: FlowEntry) -> bool {
        self.claimed.insert((spot, entry.to_bits()));
        before.claimed.contains(&(spot, entry.to_bits()))
    }
}

impl Swept {
    /// Nothing yet, of a sweep that begins: see the fields.
    pub(crate) fn new(generation: u32, number: u64, slots: u32, backends: usize, vips: usize) -> Self {
        Self {
            generation,
            number,
            wait: Wait::default(),
            entries: [0; 2],
            by_backend: vec![0; backends],
            by_vip: vec![0; vips],
            refused: HashMap::new(),
            clients: HashMap::new(),
            pinned: vec![0; slots.div_ceil(u64::BITS) as usize],
            left: Left::default(),
            cut: HashMap::new(),
            expired: 0,
            elapsed: Duration::ZERO,
        }
    }

    /// Whether a flow is on this slot that does not belong to the slot's current owner.
    pub(crate) fn is_pinned(&self, slot: u32) -> bool {
        self.pinned.get(slot as usize / 64).is_some_and(|word| word & 1 << (slot % 64) != 0)
    }

    /// Whether a VIP has entries.
    pub(super) fn has_flows(&self, vip: u32) -> bool {
        self.by_vip.get(vip as usize).is_some_and(|entries| *entries > 0)
    }
}
