//! Frames for tests and benchmarks: the one way to build them.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader,
};

/// MAC address that frames of clients come from.
pub const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0c];
/// MAC address of the load balancer.
pub const BALANCER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
/// MAC address of the next hop.
pub const NEXT_HOP_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0b];

/// An IP packet from a client, in parts that a test may change before it takes the bytes.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The IP header, with its length fields and checksum still to be set.
    pub ip: Ip,
    /// Extension headers or the rest of IPv4 options, as they stand between IP header and transport header.
    pub extensions: Vec<u8>,
    /// Everything behind.
    pub transport: Vec<u8>,
}

/// An IP header.
#[derive(Clone, Debug)]
pub enum Ip {
    /// IPv4.
    V4(Ipv4Header),
    /// IPv6.
    V6(Ipv6Header),
}

impl Packet {
    /// A TCP segment that opens a connection.
    pub fn syn(source: SocketAddr, destination: SocketAddr) -> Self {
        Self::tcp(source, destination, |tcp| tcp.syn = true, b"")
    }

    /// A TCP segment in the middle of a connection.
    pub fn data(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Self {
        let middle = |tcp: &mut TcpHeader| {
            tcp.ack = true;
            tcp.psh = true;
        };
        Self::tcp(source, destination, middle, payload)
    }

    /// A TCP segment with the flags that `flags` sets.
    pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: impl FnOnce(&mut TcpHeader), data: &[u8]) -> Self {
        let mut header = TcpHeader::new(source.port(), destination.port(), 1, 64_000);
        flags(&mut header);
        header.checksum = match (source.ip(), destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => header.calc_checksum_ipv4_raw(from.octets(), to.octets(), data),
            (IpAddr::V6(from), IpAddr::V6(to)) => header.calc_checksum_ipv6_raw(from.octets(), to.octets(), data),
            _ => panic!("{source} and {destination} are not of one family"),
        }
        .expect("the payload fits");
        Self::new(source.ip(), destination.ip(), IpNumber::TCP, [&header.to_bytes(), data].concat())
    }

    /// A UDP datagram.
    pub fn udp(source: SocketAddr, destination: SocketAddr, data: &[u8]) -> Self {
        let (from, to) = (source.port(), destination.port());
        let header = match (source.ip(), destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let ip =
                    Ipv4Header { source: source.octets(), destination: destination.octets(), ..Default::default() };
                UdpHeader::with_ipv4_checksum(from, to, &ip, data)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let ip =
                    Ipv6Header { source: source.octets(), destination: destination.octets(), ..Default::default() };
                UdpHeader::with_ipv6_checksum(from, to, &ip, data)
            }
            _ => panic!("{source} and {destination} are not of one family"),
        };
        let header = header.expect("the payload fits");
        Self::new(source.ip(), destination.ip(), IpNumber::UDP, [&header.to_bytes(), data].concat())
    }

    /// Any IP packet.
    pub fn new(source: IpAddr, destination: IpAddr, protocol: IpNumber, transport: Vec<u8>) -> Self {
        let ip = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Ip::V4(Ipv4Header {
                identification: 0x1234,
                dont_fragment: true,
                time_to_live: 63,
                protocol,
                source: source.octets(),
                destination: destination.octets(),
                ..Default::default()
            }),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Ip::V6(Ipv6Header {
                flow_label: Ipv6FlowLabel::try_new(0x54321).expect("20 bits"),
                next_header: protocol,
                hop_limit: 63,
                source: source.octets(),
                destination: destination.octets(),
                ..Default::default()
            }),
            _ => panic!("{source} and {destination} are not of one family"),
        };
        Self { ip, extensions: Vec::new(), transport }
    }

    /// Changes the IPv4 header.
    #[must_use]
    pub fn v4(mut self, change: impl FnOnce(&mut Ipv4Header)) -> Self {
        match &mut self.ip {
            Ip::V4(header) => change(header),
            Ip::V6(_) => panic!("an IPv6 packet"),
        }
        self
    }

    /// Gives an IPv4 header this many words of options, at most 10, each of which says nothing.
    #[must_use]
    pub fn options(self, words: usize) -> Self {
        self.v4(|header| header.options = [1; 40][..4 * words].try_into().expect("whole words"))
    }

    /// Changes the IPv6 header.
    #[must_use]
    pub fn v6(mut self, change: impl FnOnce(&mut Ipv6Header)) -> Self {
        match &mut self.ip {
            Ip::V6(header) => change(header),
            Ip::V4(_) => panic!("an IPv4 packet"),
        }
        self
    }

    /// Marks an IPv4 packet as a fragment; `offset` in units of 8 bytes.
    #[must_use]
    pub fn fragment(self, offset: u16, more: bool) -> Self {
        self.v4(|header| {
            header.dont_fragment = false;
            header.more_fragments = more;
            header.fragment_offset = IpFragOffset::try_new(offset).expect("13 bits");
        })
    }

    /// Puts an IPv6 extension header in front of what there is: its number, and its bytes without the next header.
    #[must_use]
    pub fn extension(mut self, number: IpNumber, rest: &[u8]) -> Self {
        let Ip::V6(header) = &mut self.ip else { panic!("an IPv4 packet") };
        let next = std::mem::replace(&mut header.next_header, number);
        self.extensions = [&[next.0], rest, &self.extensions].concat();
        self
    }

    /// The bytes of the IP packet, with lengths and checksum set.
    pub fn ip_bytes(&self) -> Vec<u8> {
        let payload = [self.extensions.as_slice(), &self.transport].concat();
        let header = match &self.ip {
            Ip::V4(header) => {
                let mut header = header.clone();
                header.set_payload_len(payload.len()).expect("the payload fits");
                header.header_checksum = header.calc_header_checksum();
                header.to_bytes().to_vec()
            }
            Ip::V6(header) => {
                let mut header = header.clone();
                header.set_payload_length(payload.len()).expect("the payload fits");
                header.to_bytes().to_vec()
            }
        };
        [header, payload].concat()
    }

    /// The frame in which it comes to the load balancer.
    pub fn frame(&self) -> Vec<u8> {
        ethernet(CLIENT_MAC, BALANCER_MAC, &[], &self.ip_bytes())
    }

    /// The frame with VLAN tags, each the EtherType and the id.
    pub fn tagged(&self, tags: &[(u16, u16)]) -> Vec<u8> {
        ethernet(CLIENT_MAC, BALANCER_MAC, tags, &self.ip_bytes())
    }

    /// The packet after one hop: one less in its TTL or hop limit.
    #[must_use]
    pub fn aged(&self) -> Self {
        let mut aged = self.clone();
        match &mut aged.ip {
            Ip::V4(header) => header.time_to_live -= 1,
            Ip::V6(header) => header.hop_limit -= 1,
        }
        aged
    }

    /// The same with this TTL or hop limit.
    #[must_use]
    pub fn lifetime(mut self, hops: u8) -> Self {
        match &mut self.ip {
            Ip::V4(header) => header.time_to_live = hops,
            Ip::V6(header) => header.hop_limit = hops,
        }
        self
    }

    /// The frame in which it leaves for the next hop, one hop older.
    pub fn forwarded(&self) -> Vec<u8> {
        to_next_hop(&self.aged().ip_bytes())
    }
}

/// An IP packet as it leaves for the next hop.
pub fn to_next_hop(packet: &[u8]) -> Vec<u8> {
    ethernet(BALANCER_MAC, NEXT_HOP_MAC, &[], packet)
}

/// A frame around an IP packet.
pub fn ethernet(source: [u8; 6], destination: [u8; 6], tags: &[(u16, u16)], packet: &[u8]) -> Vec<u8> {
    let ether_type = if packet.first().is_some_and(|byte| byte >> 4 == 6) { EtherType::IPV6 } else { EtherType::IPV4 };
    let header = Ethernet2Header { source, destination, ether_type };
    let mut frame = header.to_bytes().to_vec();
    let end = frame.split_off(12);
    for (tpid, id) in tags {
        frame.extend(tpid.to_be_bytes());
        frame.extend(id.to_be_bytes());
    }
    [frame, end, packet.to_vec()].concat()
}
