//! How many entries the maps have, and how many a config needs.

use lb_common::{FlowLine, SlotWord, VipHash, maps};

use super::totals::Totals;
use crate::model::{Config, Node};

/// Entries of the maps. Id 0 of a VIP and of a backend is never given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Of everything that a VIP id indexes.
    pub vips: u32,
    /// IPv4 VIP keys.
    pub keys4: u32,
    /// IPv6 VIP keys.
    pub keys6: u32,
    /// Of everything that a backend id indexes.
    pub backends: u32,
    /// Slots: a multiple of those that a line has.
    pub slots: u32,
    /// What is said of slots that move.
    pub moves: u32,
    /// Tracked flows: a multiple of those that a group of places is made for.
    pub flows: u32,
}

impl Capacity {
    const MIN_VIPS: u32 = 64;
    const MIN_KEYS: u32 = 256;
    const MIN_BACKENDS: u32 = 256;
    /// 64 tables of the default size: 4 MB.
    const MIN_SLOTS: u32 = 64 * 16_381;

    /// So many slots share what is said of one that moves, at least: a change of one of 16 backends makes 15 different
    /// ones of a table of 16,381, one of all of them 240. Where small tables of thousands of VIPs come to need more at
    /// once, the change is made in new maps.
    const SLOTS_A_MOVE: u32 = 16;
    /// Enough for a few small tables all of whose slots move, each in another way: 128 KiB.
    const MIN_MOVES: u32 = 1 << 14;

    /// What `config` needs.
    pub fn needed(config: &Config) -> Self {
        Self::for_totals(&Totals::of(config), &config.node)
    }

    /// What VIPs with these totals need.
    pub(super) fn for_totals(totals: &Totals, node: &Node) -> Self {
        // A config keeps to its limits, which are numbers of this width, and those of ids below its largest.
        let entries = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            vips: entries(totals.vips + 1),
            keys4: entries(totals.keys4),
            keys6: entries(totals.keys6),
            backends: entries(totals.backends + 1),
            slots: entries(totals.slots),
            moves: 0,
            flows: Self::flows(node),
        }
    }

    /// What maps get that are made for `needed`: between one and a half times and three times as much, but at least
    /// enough for a handful of VIPs; an eighth more for slots, which are what takes memory. The limits of `node` cap
    /// it, since a config that needs more is refused anyway.
    #[must_use]
    pub fn with_headroom(needed: Self, node: &Node) -> Self {
        let grown = |needed: u32, least: u32, limit: u32| {
            let roomy = u64::from(needed) + u64::from(needed) / 2;
            let roomy = u32::try_from(roomy.next_power_of_two()).unwrap_or(u32::MAX);
            roomy.max(least).min(limit.max(needed))
        };
        let slots = needed.slots.saturating_add(needed.slots / 8);
        let slots = slots.max(Self::MIN_SLOTS).min(node.max_slots.max(needed.slots)).max(1);
        let slots = slots.next_multiple_of(SlotWord::A_LINE);
        Self {
            vips: grown(needed.vips, Self::MIN_VIPS, node.max_vips.saturating_add(1)),
            keys4: grown(needed.keys4, Self::MIN_KEYS, u32::MAX),
            keys6: grown(needed.keys6, Self::MIN_KEYS, u32::MAX),
            backends: grown(needed.backends, Self::MIN_BACKENDS, node.max_backends.saturating_add(1)),
            slots,
            moves: Self::moves(slots),
            flows: needed.flows,
        }
    }

    /// What there is to be said, at most, of those of so many slots that move.
    pub fn moves(slots: u32) -> u32 {
        (slots / Self::SLOTS_A_MOVE).max(Self::MIN_MOVES).min(slots)
    }

    /// The tracked flows that the table has room for: what the config says, else one for every 64 KiB of the host's
    /// memory, as a power of two between 2^16 and 2^20; or a few more, which share a group of places. A flow takes 67
    /// bytes.
    pub fn flows(node: &Node) -> u32 {
        const MEMORY_PER_FLOW: u64 = 64 * 1024;
        let flows = node.max_flows.unwrap_or_else(|| {
            let flows = host_memory() / MEMORY_PER_FLOW;
            1 << flows.checked_ilog2().unwrap_or(0).clamp(16, 20)
        });
        Self::flows_in_groups(flows)
    }

    /// The flows that groups of places are made for which have room for so many.
    pub fn flows_in_groups(flows: u32) -> u32 {
        flows.max(1).next_multiple_of(FlowLine::FLOWS_A_GROUP)
    }

    /// The groups of places for [`Self::flows`].
    pub fn flow_groups(self) -> u32 {
        self.flows.div_ceil(FlowLine::FLOWS_A_GROUP).max(1)
    }

    /// Room for this many VIPs and backends more.
    #[must_use]
    pub fn and(self, vips: usize, backends: usize) -> Self {
        let more = |count: u32, more: usize| count.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
        Self { vips: more(self.vips, vips), backends: more(self.backends, backends), ..self }
    }

    /// As large as `node` wants the flow table.
    #[must_use]
    pub fn with_flows_of(self, node: &Node) -> Self {
        Self { flows: Self::flows(node), ..self }
    }

    /// With as much room in one of the maps whose size does not follow from a config as any config may come to need
    /// that fits the others.
    #[must_use]
    pub fn with_room_in(self, map: &str) -> Self {
        match map {
            maps::MOVES => Self { moves: self.slots.saturating_add(1), ..self },
            _ => Self { keys4: self.keys4.saturating_mul(2), keys6: self.keys6.saturating_mul(2), ..self },
        }
    }

    /// Places for as many keys of VIPs: a power of two, at most half of which are taken.
    pub fn places(keys: u32) -> u32 {
        2 * power_of_two(keys)
    }

    /// Buckets of VIP keys, of which one has one key or less on average: a power of two.
    pub fn buckets(self) -> u32 {
        power_of_two(self.keys4.saturating_add(self.keys6)).max(VipHash::A_LINE)
    }

    /// At least as much as `other` everywhere.
    #[must_use]
    pub fn at_least(self, other: Self) -> Self {
        Self {
            vips: self.vips.max(other.vips),
            keys4: self.keys4.max(other.keys4),
            keys6: self.keys6.max(other.keys6),
            backends: self.backends.max(other.backends),
            slots: self.slots.max(other.slots),
            moves: self.moves.max(other.moves),
            flows: self.flows.max(other.flows),
        }
    }
}

/// As many or more, up to 2^26.
fn power_of_two(count: u32) -> u32 {
    count.clamp(1, 1 << 26).next_power_of_two()
}

/// Memory of this host in bytes; 0 where the kernel does not say.
fn host_memory() -> u64 {
    // SAFETY: both calls take an integer and read what the C library knows.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    u64::try_from(pages).unwrap_or(0) * u64::try_from(size).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headroom_stops_at_the_limit_and_never_below_the_need() {
        let node = Node { max_vips: 100, max_backends: 1000, max_slots: 2_000_000, ..Node::default() };
        let needed = Capacity { vips: 90, keys4: 300, keys6: 0, backends: 1001, slots: 1_900_000, moves: 0, flows: 7 };
        let sized = Capacity::with_headroom(needed, &node);
        let (slots, moves) = (2_000_000, 125_000);
        assert_eq!(sized, Capacity { vips: 101, keys4: 512, keys6: 256, backends: 1001, slots, moves, flows: 7 });
    }

    #[test]
    fn flow_tables_follow_the_config_or_the_host() {
        let flows = |max_flows| Capacity::flows(&Node { max_flows, ..Node::default() });
        assert_eq!(flows(Some(5000)), 5016);
        assert!((1 << 16..=(1 << 20) + FlowLine::FLOWS_A_GROUP).contains(&flows(None)), "{}", flows(None));
    }

    #[test]
    fn a_small_config_gets_the_minimum() {
        let needed = Capacity { vips: 2, keys4: 2, keys6: 0, backends: 4, slots: 16_381, moves: 0, flows: 7 };
        let sized = Capacity::with_headroom(needed, &Node::default());
        let (slots, moves) = (64 * 16_381, 4 * 16_381);
        assert_eq!(sized, Capacity { vips: 64, keys4: 256, keys6: 256, backends: 256, slots, moves, flows: 7 });
    }
}
