//! IP addresses and numbers in network byte order.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A 16-bit number in network byte order, as it stands in a packet.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Be16(u16);

impl Be16 {
    /// From host byte order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// From the value that a plain load of the packet's bytes gives.
    #[inline(always)]
    pub const fn from_wire(wire: u16) -> Self {
        Self(wire)
    }

    /// The value that a plain store writes to the packet.
    #[inline(always)]
    pub const fn wire(self) -> u16 {
        self.0
    }

    /// In host byte order.
    #[inline(always)]
    pub const fn host(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// A 32-bit number in network byte order, as it stands in a packet.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Be32(u32);

impl Be32 {
    /// From host byte order.
    #[inline(always)]
    pub const fn new(host: u32) -> Self {
        Self(host.to_be())
    }

    /// From the value that a plain load of the packet's bytes gives.
    #[inline(always)]
    pub const fn from_wire(wire: u32) -> Self {
        Self(wire)
    }

    /// The value that a plain store writes to the packet.
    #[inline(always)]
    pub const fn wire(self) -> u32 {
        self.0
    }

    /// In host byte order.
    #[inline(always)]
    pub const fn host(self) -> u32 {
        u32::from_be(self.0)
    }
}

/// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2), in four 32-bit words because byte
/// arrays compare byte by byte in eBPF.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address(pub [Be32; 4]);

impl Address {
    /// The IPv4 address `v4`.
    #[inline(always)]
    pub const fn from_v4(v4: Be32) -> Self {
        Self([Be32::new(0), Be32::new(0), Be32::new(0xffff), v4])
    }

    /// The IPv4 address, where this is one.
    #[inline(always)]
    pub fn v4(self) -> Option<Be32> {
        let [a, b, c, d] = self.0;
        (a.wire() == 0 && b.wire() == 0 && c == Be32::new(0xffff)).then_some(d)
    }

    /// All zeros: no address.
    pub fn is_unspecified(self) -> bool {
        self == Self::default()
    }
}

impl From<Ipv4Addr> for Be32 {
    fn from(address: Ipv4Addr) -> Self {
        Self::new(address.to_bits())
    }
}

impl From<Be32> for Ipv4Addr {
    fn from(address: Be32) -> Self {
        Self::from_bits(address.host())
    }
}

impl From<Ipv6Addr> for Address {
    fn from(address: Ipv6Addr) -> Self {
        let bits = address.to_bits();
        Self([96, 64, 32, 0].map(|shift| Be32::new((bits >> shift) as u32)))
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::from_v4(v4.into()),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        match address.v4() {
            Some(v4) => Self::V4(v4.into()),
            None => {
                let bits = address.0.iter().fold(0u128, |bits, word| bits << 32 | u128::from(word.host()));
                Self::V6(Ipv6Addr::from_bits(bits))
            }
        }
    }
}

super::pod!(Address, Be16, Be32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_into_words_and_back() {
        for text in ["203.0.113.10", "::", "2001:db8::1", "fe80::1:2:3:4", "ffff::"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Address::from(ip)), ip);
        }
    }

    #[test]
    fn words_hold_wire_order() {
        let address = Address::from("10.1.2.3".parse::<IpAddr>().unwrap());
        assert_eq!(address.0[3].wire().to_ne_bytes(), [10, 1, 2, 3]);
        assert_eq!(Be16::new(0x0102).wire().to_ne_bytes(), [1, 2]);
    }
}
