//! Probes of backends over the path of clients: which packets are probes, and how their answers come back to the prober.
//!
//! A prober sits behind the far end of a veth pair, and its packets carry a source address of the node. That they are
//! probes, and for which backend, follows from the VIP, the prober's port and the protocol.

use crate::{Address, Be16};

/// What names a probe: in its own packets, in answers, in ICMP errors that quote it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProbeKey {
    /// Address of the VIP: destination of a probe, source of an answer.
    pub vip: Address,
    /// The prober's port in the lower half, the protocol above it.
    service: u32,
}

/// How answers come back to the prober, and which addresses they are for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbePath {
    /// A bit for each of the addresses, by its hash: what most packets are asked alone. A cache line, so that few others
    /// have the same bit: those are asked more, which takes ten times as long.
    filter: [u64; Self::FILTER],
    /// Index of the veth pair's end on this host; 0 while there is none.
    pub ifindex: u32,
    /// The MAC addresses of an answer: that of the veth pair's far end, then that of the end on this host. As words of a
    /// frame.
    pub macs: [u32; 3],
    /// Addresses of the node that probes come from; all zeros in places that are free.
    pub addresses: [Address; Self::ADDRESSES],
}

impl ProbeKey {
    /// Of a probe of this VIP from this port. `protocol`: IP protocol number.
    #[inline(always)]
    pub const fn new(vip: Address, port: Be16, protocol: u8) -> Self {
        Self { vip, service: port.wire() as u32 | (protocol as u32) << 16 }
    }
}

impl ProbePath {
    /// Most addresses that probes come from.
    pub const ADDRESSES: usize = 8;
    /// Words of the filter.
    pub const FILTER: usize = 8;

    /// The path whose far end has the MAC address `prober`; the end on this host has `host`, and the index `ifindex`.
    /// Addresses beyond [`Self::ADDRESSES`] are left out.
    pub fn new(ifindex: u32, prober: [u8; 6], host: [u8; 6], addresses: impl IntoIterator<Item = Address>) -> Self {
        let [a, b, c, d, e, f] = prober;
        let [g, h, i, j, k, l] = host;
        let macs = [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes);
        let mut path = Self { filter: [0; Self::FILTER], ifindex, macs, addresses: Default::default() };
        for (place, address) in path.addresses.iter_mut().zip(addresses) {
            *place = address;
            let (word, bit) = Self::place(address);
            path.filter[word] |= bit;
        }
        path
    }

    /// Whether probes may come from `address`: `false` is certain, `true` is not. A few instructions, however many
    /// addresses there are.
    #[inline(always)]
    pub fn may_have(&self, address: Address) -> bool {
        let (word, bit) = Self::place(address);
        let Some(word) = self.filter.get(word) else { return false };
        // SAFETY: a reference. Volatile, so that it is read where it is asked for: the daemon may store another.
        let word = unsafe { core::ptr::from_ref(word).read_volatile() };
        word & bit != 0
    }

    /// Whether probes come from `address`.
    #[inline(always)]
    pub fn has(&self, address: Address) -> bool {
        let mut has = false;
        for own in &self.addresses {
            has |= *own == address;
        }
        has
    }

    /// The address's bit in the filter, and in which word: by the upper bits of a multiplication (Knuth, TAOCP 3, §6.4),
    /// after which every bit of the word counts.
    #[inline(always)]
    const fn place(Address([_, _, _, last]): Address) -> (usize, u64) {
        let hash = last.host().wrapping_mul(0x9e37_79b9);
        ((hash >> 29) as usize % Self::FILTER, 1 << (hash >> 23 & 63))
    }
}

const _: () = assert!(size_of::<ProbeKey>() == 20 && size_of::<ProbePath>() == 208);
super::pod!(ProbeKey, ProbePath);

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn a_key_differs_by_all_that_it_is_of() {
        let key = |vip, port, protocol| ProbeKey::new(address(vip), Be16::new(port), protocol);
        let one = key("203.0.113.1", 61_000, 6);
        assert_eq!(one, key("203.0.113.1", 61_000, 6));
        for other in [key("203.0.113.2", 61_000, 6), key("203.0.113.1", 61_001, 6), key("203.0.113.1", 61_000, 17)] {
            assert_ne!(other, one);
        }
    }

    #[test]
    fn a_path_knows_its_addresses_and_few_others() {
        let own = ["10.0.1.2", "10.0.2.2", "2001:db8::2"].map(address);
        let path = ProbePath::new(7, [2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9], own);
        assert!(own.iter().all(|own| path.may_have(*own) && path.has(*own)));
        assert!(!path.has(address("10.0.1.3")));
        let clients = (0..=u16::MAX).map(|client| Address::from_v4(crate::Be32::new(0xc633_0000 | u32::from(client))));
        let taken = clients.filter(|client| path.may_have(*client)).count();
        assert!(taken < 2 * 3 * 65_536 / 512, "{taken}");
        assert!(own.iter().all(|own| !ProbePath::default().may_have(*own)));
    }

    #[test]
    fn its_mac_addresses_are_those_of_a_frame() {
        let path = ProbePath::new(7, [1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12], []);
        let bytes: [[u8; 4]; 3] = path.macs.map(u32::to_ne_bytes);
        assert_eq!(bytes.as_flattened(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    }
}
