//! How a packet finds its VIP, and what the daemon remembers of one.
//!
//! The keys lie in a perfect hash table, by "hash and displace" (Belazzougui, Botelho and Dietzfelbinger, "Hash,
//! displace, and compress", ESA 2009, §2): a key's hash names a bucket, the bucket has a multiplier, and that and the
//! hash name the one place where the key is, if it is anywhere. The daemon, which knows all keys, chooses for each bucket
//! a multiplier with which its keys meet no other's. To change what is in a bucket it writes all of it to places where
//! nobody looks, and then the multiplier: one store, before which every packet finds what was there, and behind it what
//! is there now. A key that goes is cleared where it is.

use crate::{Address, Be16, Be32, Via};

/// Set in the protocol of a marker: a key with port 0 that says "some VIP serves this protocol on this address". It is
/// what a packet is looked up by whose ports cannot be read.
pub const MARKER: u8 = 0x80;

/// Protocol of the marker that says "this address answers echo requests", with port 0, of either family: that of ICMP.
pub const ECHO: u8 = 1 | MARKER;

/// Key of an IPv4 VIP: one 64-bit word.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vip4Key(u64);

/// Where a family's VIP key is, and what it leads to. Half a cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vip4Place {
    /// All zeros where nothing is.
    pub key: Vip4Key,
    /// What the key leads to.
    pub route: VipRoute,
    /// Always 0.
    pub reserved: u64,
}

/// The same of an IPv6 VIP. A cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vip6Place {
    /// Of no protocol where nothing is.
    pub key: Vip6Key,
    /// What the key leads to.
    pub route: VipRoute,
    /// Always 0.
    pub reserved: [u64; 3],
}

/// The multipliers of the buckets in one cache line: the map of buckets has lines for values.
pub type BucketLine = [u32; VipHash::A_LINE as usize];

/// The hash of a VIP key. Nobody but who writes the config chooses keys: it needs no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipHash(u64);

impl VipHash {
    /// Buckets in a line.
    pub const A_LINE: u32 = 16;

    /// The key's bucket. `mask`: number of buckets, a power of two, less one.
    #[inline(always)]
    pub const fn bucket(self, mask: u32) -> u32 {
        (self.0 >> 32) as u32 & mask
    }

    /// Where the key is if its bucket has this multiplier. `mask`: number of places, a power of two, less one.
    #[inline(always)]
    pub const fn place(self, multiplier: u32, mask: u32) -> u32 {
        (((self.0 & 0xffff_ffff) * multiplier as u64) >> 24) as u32 & mask
    }

    /// Odd factors of the golden ratio and of SplitMix64.
    const FACTORS: [u64; 4] =
        [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 0xd6e8_feb8_6659_fd93];

    #[inline(always)]
    const fn of(sum: u64) -> Self {
        Self((sum ^ sum >> 32).wrapping_mul(Self::FACTORS[3]))
    }
}

impl Vip4Key {
    /// What its place follows from.
    #[inline(always)]
    pub const fn hash(self) -> VipHash {
        VipHash::of(self.0.wrapping_mul(VipHash::FACTORS[0]))
    }

    /// Of a packet to this address and port, or of a VIP. `port`: 0 for any; `protocol`: IP protocol number, with
    /// [`MARKER`] in a marker.
    #[inline(always)]
    pub const fn new(address: Be32, port: Be16, protocol: u8) -> Self {
        Self(address.wire() as u64 | service(port, protocol) << 32)
    }

    /// Destination address of the packet.
    pub const fn address(self) -> Be32 {
        Be32::from_wire(self.0 as u32)
    }

    /// Destination port; 0 for any.
    pub const fn port(self) -> Be16 {
        Be16::from_wire((self.0 >> 32) as u16)
    }

    /// IP protocol number; with [`MARKER`] in a marker.
    pub const fn protocol(self) -> u8 {
        (self.0 >> 48) as u8
    }
}

/// Key of an IPv6 VIP; see [`Vip4Key`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vip6Key {
    address: [u64; 2],
    service: u64,
}

impl Vip6Key {
    /// What its place follows from.
    #[inline(always)]
    pub const fn hash(self) -> VipHash {
        let [a, b, c] = VipHash::FACTORS.first_chunk::<3>().expect("there are more");
        let [first, second] = self.address;
        let sum = first.wrapping_mul(*a).wrapping_add(second.wrapping_mul(*b));
        VipHash::of(sum.wrapping_add(self.service.wrapping_mul(*c)))
    }

    /// See [`Vip4Key::new`].
    #[inline(always)]
    pub const fn new(Address([a, b, c, d]): Address, port: Be16, protocol: u8) -> Self {
        Self { address: [pair(a, b), pair(c, d)], service: service(port, protocol) }
    }

    /// Destination address of the packet.
    pub fn address(self) -> Address {
        let [ab, cd] = self.address;
        Address([ab, ab >> 32, cd, cd >> 32].map(|word| Be32::from_wire(word as u32)))
    }

    /// Destination port; 0 for any.
    pub const fn port(self) -> Be16 {
        Be16::from_wire(self.service as u16)
    }

    /// IP protocol number; with [`MARKER`] in a marker.
    pub const fn protocol(self) -> u8 {
        (self.service >> 16) as u8
    }
}

/// Two words as one.
#[inline(always)]
const fn pair(low: Be32, high: Be32) -> u64 {
    low.wire() as u64 | (high.wire() as u64) << 32
}

/// Port and protocol as keys have them.
#[inline(always)]
const fn service(port: Be16, protocol: u8) -> u64 {
    port.wire() as u64 | (protocol as u64) << 16
}

/// What the data plane needs of a VIP: all of it lies beside the key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VipRoute {
    /// Id of the VIP, index of its drops; 0 in a marker.
    pub id: u32,
    /// Index of the first slot of its table in the slots map.
    pub slot_base: u32,
    /// Number of slots in its table: a prime.
    pub slots: u32,
    /// [`VipFlags`], of which most bits are free for what a VIP is to have besides.
    pub flags: VipFlags,
}

/// Properties of a VIP that the data plane branches on.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VipFlags(pub u32);

impl VipFlags {
    /// The flow hash covers the source address alone, so that a client keeps its backend across connections.
    pub const HASH_SOURCE_IP: Self = Self(1);
    /// Every flow is in the flow table, not only those on slots that move.
    pub const TRACK_ALWAYS: Self = Self(1 << 1);
    /// No flow is: slots are settled always.
    pub const TRACK_NEVER: Self = Self(1 << 2);
    /// The config has no such VIP any more, and no key leads to it; it is there until its flows are out of the tables.
    pub const REMOVED: Self = Self(1 << 3);
    /// Its table is that of the configured weights, in which others have the slots of backends that take no flows. Versions
    /// before that, which do not know this flag, gave those backends no place: a table without it is computed anew.
    pub const KEEPS_PLACES: Self = Self(1 << 4);
    /// Where no backend takes flows, TCP segments are answered with RST, datagrams with an ICMP error.
    pub const REFUSES: Self = Self(1 << 5);
    /// A backend has a part of its slots only. Among what the daemon remembers of a VIP, for versions before that: they know
    /// of no parts, and compute a table anew whose flags are not those that they want. No key has it.
    pub const SLOW_START: Self = Self(1 << 6);

    /// Whether every flag of `other` is set.
    #[inline(always)]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags and those of `other`.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These flags without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// The name of a VIP in a map: UTF-8, at most [`VipName::MAX`] bytes, padded with zeros.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VipName([u8; Self::MAX]);

impl VipName {
    /// Longest name in bytes.
    pub const MAX: usize = 64;

    /// `None` where the name is empty, too long, or has a zero byte.
    pub fn new(name: &str) -> Option<Self> {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() > Self::MAX || bytes.contains(&0) {
            return None;
        }
        let mut padded = [0; Self::MAX];
        padded[..bytes.len()].copy_from_slice(bytes);
        Some(Self(padded))
    }

    /// The name; empty where the bytes are not a name.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|byte| *byte == 0).unwrap_or(Self::MAX);
        core::str::from_utf8(&self.0[..len]).unwrap_or_default()
    }
}

impl Default for VipName {
    fn default() -> Self {
        Self([0; Self::MAX])
    }
}

/// What a daemon must know of a VIP to adopt it after a restart. The data plane never reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VipRecord {
    /// Its name; empty where the id is free.
    pub name: VipName,
    /// Its address.
    pub address: Address,
    /// As in its [`VipRoute`].
    pub slot_base: u32,
    /// As in its [`VipRoute`].
    pub slots: u32,
    /// As in its [`VipRoute`].
    pub flags: VipFlags,
    /// Seconds after which a TCP flow without packets counts as ended.
    pub tcp_idle: u16,
    /// The same of a UDP flow.
    pub udp_idle: u16,
    /// By which routing tables its backends are reached.
    pub via: Via,
    /// Seconds after which flows are cut that a drain has left; 0 for never.
    pub drain_deadline: u32,
}

super::pod!(Vip4Key, Vip4Place, Vip6Key, Vip6Place, VipRoute, VipRecord);

const _: () = assert!(size_of::<Vip4Key>() == 8);
const _: () = assert!(size_of::<Vip6Key>() == 24);
const _: () = assert!(size_of::<VipRoute>() == 16);
const _: () = assert!(size_of::<Vip4Place>() == 32);
const _: () = assert!(size_of::<Vip6Place>() == 64);
const _: () = assert!(size_of::<VipRecord>() == 120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_what_they_were_made_of() {
        let v4 = Vip4Key::new(Be32::new(0xcb00_710a), Be16::new(443), 6 | MARKER);
        assert_eq!((v4.address().host(), v4.port().host(), v4.protocol()), (0xcb00_710a, 443, 6 | MARKER));
        let address = Address([1, 2, 3, 4].map(Be32::new));
        let v6 = Vip6Key::new(address, Be16::new(53), 17);
        assert_eq!((v6.address(), v6.port().host(), v6.protocol()), (address, 53, 17));
    }

    /// Keys as operators have them: addresses and ports in a row. As many meet in a bucket, and at a place, as of random
    /// ones.
    #[test]
    fn keys_in_a_row_spread() {
        const KEYS: u32 = 1 << 14;
        let v4 =
            |n: u32| Vip4Key::new(Be32::new(0xcb00_7100 + (n >> 1)), Be16::new(80), if n & 1 == 0 { 6 } else { 0x86 });
        let ports = |n: u32| Vip4Key::new(Be32::new(0xcb00_7101), Be16::new(n as u16), 6);
        let v6 = |n: u32| Vip6Key::new(Address([0x2001_0db8, 0, 0, n].map(Be32::new)), Be16::new(443), 17);
        let hashes: [&dyn Fn(u32) -> VipHash; 3] = [&|n| v4(n).hash(), &|n| ports(n).hash(), &|n| v6(n).hash()];
        for hash in hashes {
            for place in [&(|hash: VipHash| hash.bucket(KEYS - 1)) as &dyn Fn(VipHash) -> u32, &|hash| {
                hash.place(0x9e37_79b1, KEYS - 1)
            }] {
                let mut counts = [0u8; KEYS as usize];
                (0..KEYS).for_each(|n| counts[place(hash(n)) as usize] += 1);
                let empty = counts.iter().filter(|count| **count == 0).count() as f64 / f64::from(KEYS);
                // 1/e of random ones, to half a per cent; fewer are better still.
                assert!(empty < 0.385, "{empty} of all are empty");
                assert!(*counts.iter().max().unwrap() <= 10);
            }
        }
    }

    #[test]
    fn names_survive_padding() {
        let longest = core::str::from_utf8(&[b'x'; VipName::MAX]).unwrap();
        for name in ["web", longest] {
            assert_eq!(VipName::new(name).unwrap().as_str(), name);
        }
        let too_long = core::str::from_utf8(&[b'x'; VipName::MAX + 1]).unwrap();
        for name in ["", "a\0b", too_long] {
            assert!(VipName::new(name).is_none());
        }
    }
}
