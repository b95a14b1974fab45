//! How a packet finds its VIP, and what the daemon remembers of one.

use crate::{Address, Be16, Be32, Via};

/// Set in the protocol of a marker: a key with port 0 that says "some VIP serves this protocol on this address". It is
/// what a packet is looked up by whose ports cannot be read.
pub const MARKER: u8 = 0x80;

/// Key of an IPv4 VIP.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vip4Key {
    /// Destination address of the packet.
    pub address: Be32,
    /// Destination port; 0 for any port.
    pub port: Be16,
    /// IP protocol number; with [`MARKER`] in a marker.
    pub protocol: u8,
    /// Always 0.
    pub reserved: u8,
}

/// Key of an IPv6 VIP; see [`Vip4Key`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vip6Key {
    /// Destination address of the packet.
    pub address: Address,
    /// Destination port; 0 for any port.
    pub port: Be16,
    /// IP protocol number; with [`MARKER`] in a marker.
    pub protocol: u8,
    /// Always 0.
    pub reserved: u8,
}

/// What the data plane needs of a VIP: all of it comes with the one hash lookup.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VipRoute {
    /// Id of the VIP, index of its counters; 0 in a marker.
    pub id: u32,
    /// Index of the first slot of its table in the slots map.
    pub slot_base: u32,
    /// Number of slots in its table: a prime.
    pub slots: u32,
    /// [`VipFlags`].
    pub flags: VipFlags,
}

/// Properties of a VIP that the data plane branches on.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VipFlags(pub u32);

impl VipFlags {
    /// The flow hash covers the source address alone, so that a client keeps its backend across connections.
    pub const HASH_SOURCE_IP: Self = Self(1);
    /// Every flow is in the flow tables, not only those on slots that move.
    pub const TRACK_ALWAYS: Self = Self(1 << 1);
    /// No flow is: slots are settled always.
    pub const TRACK_NEVER: Self = Self(1 << 2);
    /// The config has no such VIP any more, and no key leads to it; it is there until its flows are out of the tables.
    pub const REMOVED: Self = Self(1 << 3);

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Always 0.
    pub reserved: u32,
}

super::pod!(Vip4Key, Vip6Key, VipRoute, VipRecord);

const _: () = assert!(size_of::<Vip4Key>() == 8);
const _: () = assert!(size_of::<Vip6Key>() == 20);
const _: () = assert!(size_of::<VipRoute>() == 16);
const _: () = assert!(size_of::<VipRecord>() == 120);

#[cfg(test)]
mod tests {
    use super::*;

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
