//! What the data plane knows of a backend of a VIP.

use crate::{Address, Be32};

/// One backend of one VIP, as packets read it: one cache line. A real server that serves two VIPs has two entries, for
/// each counts its own.
///
/// Everything but `state` and `hop` is written before any slot names the entry and stays until no slot does, so that the
/// data plane never sees half of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// Address of the real server; the outer destination of encapsulated packets.
    pub address: Address,
    /// First address that outer headers may have as source, an IPv4 address as [`Address::from_v4`].
    pub outer_source: Address,
    /// Bits of the last word of `outer_source` that come from the flow hash (RSS on the backend needs them to vary).
    pub outer_source_mask: Be32,
    /// What [`Backend::outer_sum`] gives, where the outer header is IPv4.
    pub outer_sum: u32,
    /// Id of the VIP; 0 where this entry is free.
    pub vip: u32,
    /// How packets reach the backend: [`Forward`](crate::Forward) as a number.
    pub forward: u32,
    /// [`BackendState`] as a number, and [`Backend::REMOVED`].
    pub state: u32,
    /// Where its next hop is in their map; 0 where there is none.
    pub hop: u32,
    /// Always 0 so far: room for what a forward mode must know of a backend.
    pub reserved: [u32; 2],
}

/// What the daemon must know of a backend besides, to adopt it after a restart. The data plane never reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendRecord {
    /// Weight in the config; the slots follow from it while the backend is active.
    pub weight: u16,
    /// The largest IP packet in bytes that the way to it carries, where the config says so: no more is in its next hop. Else 0,
    /// as versions before that left it.
    pub mtu: u16,
    /// Id of the entry that the same real server has now, where this one is another way to it that is no longer wanted;
    /// else 0.
    pub successor: u32,
    /// The MAC address that the operator has pinned: the next hop follows from it.
    pub pin: MacPin,
    /// Seconds after which flows are cut that a drain of it has left; 0 for never.
    pub drain_deadline: u32,
    /// [`BackendRecord::FAILS`], and how far a slow start is ([`SlowStart::marks`](crate::SlowStart::marks)); 0 of a backend
    /// that works and has all of its slots.
    pub marks: u32,
}

impl BackendRecord {
    /// Among the marks: the backend fails its probes. The state is what follows from that.
    pub const FAILS: u32 = 1;
}

/// TTL or hop limit of every outer header (the default that RFC 1700 gives).
pub const OUTER_TTL: u8 = 64;

/// Flags and fragment offset of every outer IPv4 header: don't fragment, which RFC 2003 §3.1 allows whatever the inner
/// header says. Outer packets that may be fragmented would need identifications that are unique for as long as packets
/// live, and 16 bits do not suffice at millions of packets a second; one that may not be needs none (RFC 6864 §4.1).
pub const OUTER_FRAGMENT: u16 = 0x4000;

impl Backend {
    /// Set in the state of a backend that the config does not have any more; it is there until its flows have ended.
    pub const REMOVED: u32 = 1 << 2;

    /// Whether its flows are lost, and go to the current owners of their slots.
    #[inline(always)]
    pub const fn is_down(&self) -> bool {
        matches!(BackendState::from_u32(self.state & !Self::REMOVED), BackendState::Down)
    }

    /// Whether it is to have new flows: it is neither drained nor down, and the config has it.
    #[inline(always)]
    pub const fn takes_flows(&self) -> bool {
        self.state == BackendState::Active as u32
    }

    /// The part of the outer IPv4 header's checksum that is the same for every packet, for [`Backend::outer_sum`]: the
    /// sum of the header's 16-bit words, in host byte order and without folding, for version and IHL, flags, TTL and
    /// protocol (4 or 41, as the inner packet is IPv4 or IPv6), and the destination.
    pub const fn outer_sum(inner_protocol: u8, destination: Be32) -> u32 {
        let destination = destination.host();
        let fixed = 0x4500 + OUTER_FRAGMENT as u32 + ((OUTER_TTL as u32) << 8) + inner_protocol as u32;
        fixed + (destination >> 16) + (destination & 0xffff)
    }
}

/// A MAC address, or none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MacPin([u32; 2]);

impl MacPin {
    /// What tells an address from none: it is in the second word, behind the address.
    const SET: u8 = 1;

    /// From an address.
    pub fn new(mac: Option<[u8; 6]>) -> Self {
        let Some([a, b, c, d, e, f]) = mac else { return Self::default() };
        Self([u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, Self::SET, 0])])
    }

    /// The address.
    pub fn mac(&self) -> Option<[u8; 6]> {
        let [[a, b, c, d], [e, f, set, _]] = self.0.map(u32::to_ne_bytes);
        (set == Self::SET).then_some([a, b, c, d, e, f])
    }
}

/// Two next hops of which one is in use, or none: a new one is written to the idle half and put in use by one store. All
/// backends that are reached alike share a cell. It is a cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHopCell {
    /// 1 or 2: the half in use; [`NextHopCell::NONE`]: the next hop is not known.
    pub in_use: u32,
    /// Always 0: the halves lie in no 64-bit word with what says which is in use.
    pub reserved: u32,
    /// The halves.
    pub halves: [NextHop; 2],
    /// Always 0.
    pub rest: [u32; 2],
}

impl NextHopCell {
    /// Value of `in_use` while there is no way to the backend.
    pub const NONE: u32 = 0;

    /// The next hop in use.
    ///
    /// The daemon writes a half, then stores `in_use` with release. What is read of the half must not be older than
    /// that: here the address that is read from is computed from `in_use`, and reads are ordered behind the one that
    /// their address depends on by every architecture that Linux runs on (Linux memory model, "address dependency"; on
    /// arm64 "dependency-ordered-before", Arm ARM B2.3.3). A branch on `in_use` would order nothing: arm64 reads ahead
    /// of branches. (BPF has an acquire load only since Linux 6.15.)
    #[inline(always)]
    pub fn current(&self) -> Option<&NextHop> {
        // SAFETY: aligned, and as long-lived as `self`. Volatile, so that it is read once: the daemon may store
        // another.
        let in_use = unsafe { (&raw const self.in_use).read_volatile() };
        self.halves.get(in_use.wrapping_sub(1) as usize)
    }

    /// The cell with `next_hop` in its idle half and that in use.
    #[must_use]
    pub const fn turned(self, next_hop: Option<NextHop>) -> Self {
        let mut turned = self;
        match next_hop {
            Some(next_hop) => {
                let idle = if self.in_use == 1 { 1 } else { 0 };
                turned.halves[idle] = next_hop;
                turned.in_use = idle as u32 + 1;
            }
            None => turned.in_use = Self::NONE,
        }
        turned
    }
}

/// The interface and the addresses that a forwarded frame leaves with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// Destination and source MAC address as the first twelve bytes of the frame.
    pub macs: [u32; 3],
    /// Index of the interface that the frame leaves by (the physical one, where the route names a VLAN interface).
    pub ifindex: u32,
    /// Largest IP packet in bytes that the interface and the route carry.
    pub mtu: u32,
    /// VLAN id to tag the frame with; 0 for none.
    pub vlan: u32,
}

impl NextHop {
    /// From parts; `mtu` in bytes.
    pub fn new(destination: [u8; 6], source: [u8; 6], ifindex: u32, mtu: u32, vlan: u16) -> Self {
        let [a, b, c, d, e, f] = destination;
        let [g, h, i, j, k, l] = source;
        let macs = [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes);
        Self { macs, ifindex, mtu, vlan: u32::from(vlan) }
    }

    /// Whether a frame that begins with these words comes from where frames to this next hop go.
    #[inline(always)]
    pub const fn is_source_of(&self, frame: [u32; 3]) -> bool {
        // Both with their first byte lowest, as the words of a little-endian machine are already.
        let [_, second, third] = frame;
        let [to_first, to_second, _] = self.macs;
        let source = u32::from_le(second) as u64 >> 16 | (u32::from_le(third) as u64) << 16;
        let destination = u32::from_le(to_first) as u64 | (u32::from_le(to_second) as u64 & 0xffff) << 32;
        source == destination
    }

    /// Destination MAC address.
    pub fn destination(&self) -> [u8; 6] {
        let [[a, b, c, d], [e, f, ..], _] = self.macs.map(u32::to_ne_bytes);
        [a, b, c, d, e, f]
    }

    /// Source MAC address.
    pub fn source(&self) -> [u8; 6] {
        let [_, [.., g, h], [i, j, k, l]] = self.macs.map(u32::to_ne_bytes);
        [g, h, i, j, k, l]
    }
}

/// What the operator wants of a backend.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BackendState {
    /// Takes new flows according to its weight.
    #[default]
    Active = 0,
    /// Takes no new flows; those that it has may end.
    Drain = 1,
    /// Takes nothing; the flows that it had go to others.
    Down = 2,
}

impl BackendState {
    /// From the number in a map; anything unknown is `Down`.
    pub const fn from_u32(number: u32) -> Self {
        match number {
            0 => Self::Active,
            1 => Self::Drain,
            _ => Self::Down,
        }
    }
}

super::pod!(Backend, BackendRecord, MacPin, NextHop, NextHopCell);

const _: () = assert!(size_of::<Backend>() == 64);
const _: () = assert!(size_of::<BackendRecord>() == 24);
const _: () = assert!(size_of::<NextHopCell>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_an_address_or_none() {
        assert_eq!(MacPin::default().mac(), None);
        for mac in [None, Some([0; 6]), Some([2, 0, 0, 0, 0, 7])] {
            assert_eq!(MacPin::new(mac).mac(), mac);
        }
    }

    #[test]
    fn macs_lie_as_in_a_frame() {
        let next_hop = NextHop::new([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12], 3, 1500, 0);
        let bytes: [[u8; 4]; 3] = next_hop.macs.map(u32::to_ne_bytes);
        assert_eq!(bytes.as_flattened(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(next_hop.destination(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(next_hop.source(), [7, 8, 9, 10, 11, 12]);
    }

    #[test]
    fn a_frame_of_the_next_hop_is_told_by_its_source() {
        let next_hop = |destination, source| NextHop::new(destination, source, 3, 1500, 0);
        let here = next_hop([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]);
        assert!(here.is_source_of(next_hop([9; 6], [1, 2, 3, 4, 5, 6]).macs));
        assert!(!here.is_source_of(here.macs));
        for index in 0..6 {
            let mut other = [1, 2, 3, 4, 5, 6];
            other[index] ^= 1;
            assert!(!here.is_source_of(next_hop([9; 6], other).macs), "byte {index}");
        }
    }

    #[test]
    fn the_half_in_use_is_the_one_that_counts() {
        let [one, two] = [1, 2].map(|ifindex| NextHop { ifindex, ..NextHop::default() });
        let cell = |in_use| NextHopCell { in_use, halves: [one, two], ..NextHopCell::default() };
        assert_eq!(
            [1, 2, NextHopCell::NONE, 3, u32::MAX].map(|in_use| cell(in_use).current().copied()),
            [Some(one), Some(two), None, None, None]
        );
        for in_use in [1, 2, NextHopCell::NONE] {
            let before = cell(in_use);
            let three = NextHop { ifindex: 3, ..one };
            let after = before.turned(Some(three));
            assert_eq!((after.current(), after.turned(None).current()), (Some(&three), None));
            assert_ne!(after.in_use, in_use);
            let used = (in_use as usize).wrapping_sub(1);
            assert_eq!(after.halves.get(used), before.halves.get(used), "the half in use was written");
        }
    }

    #[test]
    fn numbers_in_maps_name_the_same_thing_both_ways() {
        for state in [BackendState::Active, BackendState::Drain, BackendState::Down] {
            assert_eq!(BackendState::from_u32(state as u32), state);
        }
    }
}
