//! The outer IP headers of `ipip`: RFC 2003, RFC 4213 and RFC 2473.

use lb_common::{Backend, Be32, OUTER_FRAGMENT, OUTER_TTL};

use super::{Outer, halves, vary};
use crate::{
    hash::FlowHash,
    wire::{Family, IPV4_LEN, Ipv4, Ipv6, fold},
};

/// RFC 2003 §3.1, RFC 4213 §3.5. DSCP and ECN are copied: uniform model of RFC 2983, normal mode of RFC 6040 §4.1.
impl Outer<5> for Ipv4 {
    #[inline(always)]
    fn outer<H: Family>(backend: &Backend, inner: &H, hash: FlowHash) -> [u32; 5] {
        let [_, _, _, source] = backend.outer_source.0;
        let [_, _, _, destination] = backend.address.0;
        let source = vary(source, backend.outer_source_mask, hash);
        let total_len = inner.total_len() + IPV4_LEN as u32;
        let traffic_class = u32::from(inner.traffic_class());
        let checksum = !fold(backend.outer_sum + traffic_class + total_len + halves(source));
        [
            (0x4500_0000 | traffic_class << 16 | total_len & 0xffff).to_be(),
            u32::from(OUTER_FRAGMENT).to_be(),
            (u32::from(OUTER_TTL) << 24 | u32::from(H::PROTOCOL) << 16 | u32::from(checksum)).to_be(),
            source.wire(),
            destination.wire(),
        ]
    }
}

/// RFC 2473 §6, with the flow label that RFC 6438 asks of tunnels; DSCP and ECN as in IPv4.
impl Outer<10> for Ipv6 {
    #[inline(always)]
    fn outer<H: Family>(backend: &Backend, inner: &H, hash: FlowHash) -> [u32; 10] {
        let [s0, s1, s2, s3] = backend.outer_source.0.map(Be32::wire);
        let [d0, d1, d2, d3] = backend.address.0.map(Be32::wire);
        let s3 = vary(Be32::from_wire(s3), backend.outer_source_mask, hash).wire();
        let flow_label = hash.entropy() & 0xf_ffff;
        [
            (0x6000_0000 | u32::from(inner.traffic_class()) << 20 | flow_label).to_be(),
            (inner.total_len() << 16 | u32::from(H::PROTOCOL) << 8 | u32::from(OUTER_TTL)).to_be(),
            s0,
            s1,
            s2,
            s3,
            d0,
            d1,
            d2,
            d3,
        ]
    }
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr};

    use lb_common::Address;

    use super::*;
    use crate::wire::frame::{byte_of, half_of};

    fn backend(address: &str, source: &str, mask: u32, inner_protocol: u8) -> Backend {
        let address: Address = address.parse::<IpAddr>().unwrap().into();
        Backend {
            address,
            outer_source: source.parse::<IpAddr>().unwrap().into(),
            outer_source_mask: Be32::new(mask),
            outer_sum: address.v4().map_or(0, |v4| Backend::outer_sum(inner_protocol, v4)),
            ..Backend::default()
        }
    }

    fn hash(port: u32) -> FlowHash {
        FlowHash::v4(&lb_common::HashKey::PUBLIC, Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into(), port, 6)
    }

    fn inner(traffic_class: u8, total_len: u32) -> Ipv4 {
        Ipv4([(0x4500_0000 | u32::from(traffic_class) << 16 | total_len).to_be(), 0, 0, 0, 0])
    }

    #[test]
    fn checksums_hold_for_every_flow_and_length() {
        let backend = backend("10.0.255.255", "172.16.0.0", 0xffff, 4);
        for port in 0..2_000 {
            let inner = inner(port as u8, 20 + port * 32);
            let header = Ipv4::outer(&backend, &inner, hash(port));
            let sum: u32 = header.iter().map(|word| halves(Be32::from_wire(*word))).sum();
            assert_eq!(fold(sum), 0xffff, "{header:x?}");
            assert_eq!(u32::from(half_of(header[0], 1)), inner.total_len() + 20);
        }
    }

    #[test]
    fn sources_vary_within_their_prefix_only() {
        let backend = backend("10.0.0.1", "172.16.0.0", 0xffff, 4);
        let inner = inner(0, 40);
        let mut seen = [false; 256];
        for port in 0..4_000 {
            let [.., source, destination] = Ipv4::outer(&backend, &inner, hash(port));
            assert_eq!(half_of(source, 0), 0xac10);
            assert_eq!(destination, backend.address.0[3].wire());
            seen[usize::from(byte_of(source, 3))] = true;
        }
        assert!(seen.iter().all(|seen| *seen));
    }

    #[test]
    fn an_outer_ipv6_header_to_the_byte() {
        let mut backend = backend("2001:db8::b", "fd6e:e::", 0, 4);
        backend.outer_source_mask = Be32::new(0);
        let [first, second, s0, .., d3] = Ipv6::outer(&backend, &inner(0xb9, 1500), hash(1));
        assert_eq!(u32::from_be(first) >> 20, 0x6b9);
        assert_eq!(u32::from_be(first) & 0xf_ffff, hash(1).entropy() & 0xf_ffff);
        assert_eq!((half_of(second, 0), byte_of(second, 2), byte_of(second, 3)), (1500, 4, 64));
        assert_eq!((u32::from_be(s0), u32::from_be(d3)), (0xfd6e_000e, 0xb));
    }
}
