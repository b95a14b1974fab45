//! The outer IP headers of `ipip`: RFC 2003, RFC 4213 and RFC 2473.

use lb_common::{Backend, Be32, OUTER_FRAGMENT, OUTER_TTL};

use super::{Inner, fold, halves, vary};
use crate::{hash::FlowHash, wire::IPV4_LEN};

/// The outer IPv4 header (RFC 2003 §3.1, RFC 4213 §3.5).
#[inline(always)]
pub fn ipv4(backend: &Backend, inner: &Inner, hash: FlowHash) -> [u32; 5] {
    let [_, _, _, source] = backend.outer_source.0;
    let [_, _, _, destination] = backend.address.0;
    let source = vary(source, backend.outer_source_mask, hash);
    let total_len = inner.total_len + IPV4_LEN as u32;
    let variable = u32::from(inner.traffic_class) + total_len + halves(source);
    let checksum = !fold(backend.outer_sum + variable);
    [
        (0x4500_0000 | u32::from(inner.traffic_class) << 16 | total_len & 0xffff).to_be(),
        u32::from(OUTER_FRAGMENT).to_be(),
        (u32::from(OUTER_TTL) << 24 | u32::from(inner.protocol) << 16 | u32::from(checksum)).to_be(),
        source.wire(),
        destination.wire(),
    ]
}

/// The outer IPv6 header (RFC 2473 §6), with the flow label that RFC 6438 asks of tunnels.
#[inline(always)]
pub fn ipv6(backend: &Backend, inner: &Inner, hash: FlowHash) -> [u32; 10] {
    let [s0, s1, s2, s3] = backend.outer_source.0.map(Be32::wire);
    let [d0, d1, d2, d3] = backend.address.0.map(Be32::wire);
    let s3 = vary(Be32::from_wire(s3), backend.outer_source_mask, hash).wire();
    let flow_label = hash.entropy() & 0xf_ffff;
    [
        (0x6000_0000 | u32::from(inner.traffic_class) << 20 | flow_label).to_be(),
        (inner.total_len << 16 | u32::from(inner.protocol) << 8 | u32::from(OUTER_TTL)).to_be(),
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

    #[test]
    fn checksums_hold_for_every_flow_and_length() {
        let backend = backend("10.0.255.255", "172.16.0.0", 0xffff, 4);
        for port in 0..2_000 {
            let inner = Inner { traffic_class: port as u8, total_len: 20 + port * 32, protocol: 4, lifetime: port };
            let header = ipv4(&backend, &inner, hash(port));
            let sum: u32 = header.iter().map(|word| halves(Be32::from_wire(*word))).sum();
            assert_eq!(fold(sum), 0xffff, "{header:x?}");
            assert_eq!(u32::from(half_of(header[0], 1)), inner.total_len + 20);
        }
    }

    #[test]
    fn sources_vary_within_their_prefix_only() {
        let backend = backend("10.0.0.1", "172.16.0.0", 0xffff, 4);
        let inner = Inner { traffic_class: 0, total_len: 40, protocol: 4, lifetime: 0 };
        let mut seen = [false; 256];
        for port in 0..4_000 {
            let [.., source, destination] = ipv4(&backend, &inner, hash(port));
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
        let inner = Inner { traffic_class: 0xb9, total_len: 1500, protocol: 4, lifetime: 7 };
        let [first, second, s0, .., d3] = ipv6(&backend, &inner, hash(1));
        assert_eq!(u32::from_be(first) >> 20, 0x6b9);
        assert_eq!(u32::from_be(first) & 0xf_ffff, hash(1).entropy() & 0xf_ffff);
        assert_eq!((half_of(second, 0), byte_of(second, 2), byte_of(second, 3)), (1500, 4, 64));
        assert_eq!((u32::from_be(s0), u32::from_be(d3)), (0xfd6e_000e, 0xb));
    }
}
