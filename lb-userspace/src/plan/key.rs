//! Keys of VIPs.

use std::net::{IpAddr, Ipv4Addr};

use lb_common::{Be16, ECHO, Features, MARKER, Vip4Key, Vip6Key};

/// What a packet is looked up by, of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipKey {
    /// Address of the VIP.
    pub address: IpAddr,
    /// IP protocol number; with [`MARKER`] in a marker.
    pub protocol: u8,
    /// Port; 0 for any, and in the marker.
    pub port: u16,
}

impl VipKey {
    /// What comes before every other key.
    pub(super) const FIRST: Self = Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), protocol: 0, port: 0 };

    /// The marker beside this key of a port: some VIP serves this protocol on this address.
    #[must_use]
    pub fn marker(self) -> Self {
        Self { protocol: self.protocol | MARKER, port: 0, ..self }
    }

    /// The marker that an address answers echo requests. It stands beside no key of its protocol.
    #[must_use]
    pub fn echo(address: IpAddr) -> Self {
        Self { address, protocol: ECHO, port: 0 }
    }

    /// Whether this is a marker.
    pub fn is_marker(&self) -> bool {
        self.protocol & MARKER != 0
    }

    /// As the map of its family has it.
    pub fn in_map(&self) -> FamilyKey {
        let (port, protocol) = (Be16::new(self.port), self.protocol);
        match self.address {
            IpAddr::V4(v4) => FamilyKey::V4(Vip4Key::new(v4.into(), port, protocol)),
            IpAddr::V6(v6) => FamilyKey::V6(Vip6Key::new(v6.into(), port, protocol)),
        }
    }

    pub(super) fn features(&self) -> Features {
        let family = if self.address.is_ipv4() { Features::VIP4 } else { Features::VIP6 };
        match self.protocol {
            ECHO => family.with(Features::ECHO),
            _ if self.port == 0 && !self.is_marker() => family.with(Features::ANY_PORT),
            _ => family,
        }
    }
}

/// A key in the map of its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKey {
    /// In `VIPS4`.
    V4(Vip4Key),
    /// In `VIPS6`.
    V6(Vip6Key),
}

impl From<Vip4Key> for VipKey {
    fn from(key: Vip4Key) -> Self {
        Self { address: Ipv4Addr::from(key.address()).into(), protocol: key.protocol(), port: key.port().host() }
    }
}

impl From<Vip6Key> for VipKey {
    fn from(key: Vip6Key) -> Self {
        Self { address: key.address().into(), protocol: key.protocol(), port: key.port().host() }
    }
}
