//! The messages that naru sends to the kernel, and what it reads from those that come back. Knows the wire, keeps
//! nothing.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, Prop, VlanProtocol},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
        RouteType, RouteVia,
    },
};
use nix::errno::Errno;

use super::{
    InterfaceInfo, Vlan,
    multipath::{Share, pick},
    object::{RTM_DELNEXTHOP, RTM_NEWNEXTHOP},
    resolve::{Hop, Neighbour, NeighbourKey, Route, Standing},
};

/// A message to the kernel.
pub(super) type Request = NetlinkMessage<RouteNetlinkMessage>;

/// What an event says has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// An interface is new or other than before.
    Interface(InterfaceInfo),
    /// An interface is gone.
    InterfaceGone(u32),
    /// An entry of the neighbour table is new, other than before, or gone.
    Neighbour(NeighbourKey, Option<Neighbour>),
    /// Routes to these addresses.
    Routes(IpNet),
    /// Any route: a rule, an address of this host, a next-hop object.
    AllRoutes,
    /// Nothing that matters here.
    Nothing,
    /// It cannot be read.
    Unknown,
}

/// What an answer says of the way to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The way.
    Route(Route),
    /// That a next-hop object leads there, of which no more is said.
    Object {
        /// Id of the object.
        id: u32,
        /// Largest packet in bytes, where the route knows of a limit.
        mtu: Option<u32>,
    },
}

/// Asks which entry of the routing tables leads to `address` (`ip route get fibmatch`, kernel 4.13, for IPv6 4.16).
///
/// Not for the route that a packet would take: that one has what the kernel has learnt from ICMP since, and anybody may
/// send that. One forged "fragmentation needed" lowers its MTU to 552 for ten minutes, one forged redirect makes it
/// lead to another router. The entry is what the operator, or his routing daemon, has configured.
///
/// `vrf` is the index of the VRF whose tables are meant, `mark` what policy rules compare with.
pub(super) fn route_request(address: IpAddr, vrf: Option<u32>, mark: u32) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.flags = RouteFlags::FibMatch;
    message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
    message.attributes.push(RouteAttribute::Destination(address.into()));
    message.attributes.extend(vrf.map(RouteAttribute::Oif));
    message.attributes.extend((mark != 0).then_some(RouteAttribute::Mark(mark)));
    request(RouteNetlinkMessage::GetRoute(message), 0)
}

/// Has the kernel act as if it had a packet for a neighbour: resolve it where it is unknown, confirm it where it is
/// stale (`ip neigh add … use`).
pub(super) fn use_request(key: NeighbourKey) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = family(key.address);
    message.header.ifindex = key.ifindex;
    message.header.flags = NeighbourFlags::Use;
    message.attributes.push(NeighbourAttribute::Destination(key.address.into()));
    request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_ACK)
}

/// Asks for all interfaces.
pub(super) fn interfaces_request() -> Request {
    request(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)
}

/// Asks for the neighbour tables, of IPv4 and of IPv6.
pub(super) fn neighbours_request() -> Request {
    request(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()), NLM_F_DUMP)
}

/// What an event is about. Routes are not read further than to the addresses that they concern: on a host with the
/// Internet's table they come by the hundred a second.
pub(super) fn change(header: &NetlinkHeader, payload: &[u8]) -> Change {
    match header.message_type {
        libc::RTM_NEWADDR | libc::RTM_DELADDR | libc::RTM_NEWRULE | libc::RTM_DELRULE => Change::AllRoutes,
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => Change::AllRoutes,
        _ => match RouteNetlinkMessage::deserialize(header, payload) {
            Ok(RouteNetlinkMessage::NewLink(link)) => interface(&link).map_or(Change::Nothing, Change::Interface),
            // A bridge that lets go of a port says so with a deletion of its own family.
            Ok(RouteNetlinkMessage::DelLink(link)) if link.header.interface_family == AddressFamily::Unspec => {
                Change::InterfaceGone(link.header.index)
            }
            Ok(RouteNetlinkMessage::NewNeighbour(message)) => {
                neighbour(&message).map_or(Change::Nothing, |(key, neighbour)| Change::Neighbour(key, Some(neighbour)))
            }
            Ok(RouteNetlinkMessage::DelNeighbour(message)) => {
                neighbour(&message).map_or(Change::Nothing, |(key, _)| Change::Neighbour(key, None))
            }
            Ok(RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message)) => {
                destinations(&message)
            }
            Ok(_) => Change::Nothing,
            Err(error) => {
                log::debug!("netlink event of type {} cannot be read: {error}", header.message_type);
                Change::Unknown
            }
        },
    }
}

/// The interface that a message describes; `None` where it describes only some side of one.
pub(super) fn interface(message: &LinkMessage) -> Option<InterfaceInfo> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let flags = message.header.flags;
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let (mut name, mut mtu, mut foreign) = (None, None, false);
    let mut info = InterfaceInfo {
        name: String::new(),
        altnames: Vec::new(),
        ifindex: message.header.index,
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::Running),
        loopback: flags.contains(LinkFlags::Loopback),
        arp: !flags.contains(LinkFlags::Noarp),
        kind: None,
        master: None,
        lower: None,
        vlan: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value.clone()),
            LinkAttribute::Mtu(value) => mtu = Some(*value),
            LinkAttribute::Address(value) if ethernet => info.mac = value.as_slice().try_into().ok(),
            LinkAttribute::Link(value) => info.lower = Some(*value),
            LinkAttribute::LinkNetNsId(_) => foreign = true,
            LinkAttribute::Controller(value) => info.master = Some(*value),
            LinkAttribute::PropList(properties) => info.altnames = altnames(properties),
            LinkAttribute::LinkInfo(parts) => (info.kind, info.vlan) = kind(parts),
            _ => {}
        }
    }
    if foreign {
        info.lower = None;
    }
    // Messages about a radio's or a port's own affairs carry the name but not the MTU.
    Some(InterfaceInfo { name: name?, mtu: mtu?, ..info })
}

/// The neighbour that a message describes; `None` for entries of other tables (a bridge's, a proxy's).
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(NeighbourKey, Neighbour)> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(value)) => address = Some(IpAddr::V4(*value)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(value)) => address = Some(IpAddr::V6(*value)),
            NeighbourAttribute::LinkLayerAddress(value) => mac = value.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let standing = match message.header.state {
        NeighbourState::Reachable | NeighbourState::Delay | NeighbourState::Probe | NeighbourState::Permanent => {
            Standing::Usable
        }
        NeighbourState::Stale => Standing::Stale,
        NeighbourState::Noarp => Standing::NoArp,
        NeighbourState::Failed => Standing::Silent,
        _ => Standing::Asking,
    };
    Some((NeighbourKey { ifindex: message.header.ifindex, address: address? }, Neighbour { standing, mac }))
}

/// The way to `address` that the kernel's answer describes.
pub(super) fn route(message: &RouteMessage, address: IpAddr) -> Found {
    match message.header.kind {
        RouteType::Unicast => unicast(&message.attributes, address),
        other => Found::Route(not_unicast(other)),
    }
}

/// What it means that the kernel refuses to name a route.
pub(super) fn no_route(errno: Errno) -> Route {
    match errno {
        Errno::ENETUNREACH | Errno::ESRCH => Route::None,
        Errno::EHOSTUNREACH => Route::Refused("unreachable"),
        Errno::EACCES => Route::Refused("prohibit"),
        Errno::EINVAL => Route::Refused("blackhole, or not the address of a host"),
        Errno::EAGAIN => Route::Refused("throw"),
        other => Route::Unknown(other.to_string()),
    }
}

fn not_unicast(kind: RouteType) -> Route {
    match kind {
        RouteType::Local => Route::ThisHost,
        RouteType::Broadcast => Route::NotUnicast("broadcast"),
        RouteType::Multicast => Route::NotUnicast("multicast"),
        RouteType::Anycast => Route::NotUnicast("anycast"),
        RouteType::BlackHole => Route::Refused("blackhole"),
        RouteType::Unreachable => Route::Refused("unreachable"),
        RouteType::Prohibit => Route::Refused("prohibit"),
        RouteType::Throw => Route::Refused("throw"),
        other => Route::Unknown(format!("it answers with a route of type {other:?}")),
    }
}

fn unicast(attributes: &[RouteAttribute], address: IpAddr) -> Found {
    let mut hop = HopAttributes::read(attributes);
    if let Some(next) = hop.multipath.and_then(|hops| pick(hops, address, share)) {
        let mtu = hop.mtu;
        hop = HopAttributes::read(&next.attributes);
        hop.ifindex = Some(next.interface_index);
        hop.mtu = hop.mtu.or(mtu);
    }
    Found::Route(match hop {
        HopAttributes { encapsulated: true, .. } => Route::Encapsulated,
        HopAttributes { ifindex: Some(ifindex), gateway, mtu, .. } => {
            Route::Hop(Hop { ifindex, gateway: gateway.filter(|gateway| *gateway != address), mtu })
        }
        HopAttributes { object: Some(id), mtu, .. } => return Found::Object { id, mtu },
        _ => Route::Unknown("it answers with a route that leaves by no interface".into()),
    })
}

fn request(message: RouteNetlinkMessage, flags: u16) -> Request {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    request
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn altnames(properties: &[Prop]) -> Vec<String> {
    let altname = |property: &Prop| if let Prop::AltIfName(name) = property { Some(name.clone()) } else { None };
    let mut altnames: Vec<String> = properties.iter().filter_map(altname).collect();
    altnames.sort_unstable();
    altnames
}

fn kind(parts: &[LinkInfo]) -> (Option<String>, Option<Vlan>) {
    let (mut kind, mut vlan) = (None, None);
    for part in parts {
        match part {
            LinkInfo::Kind(value) => kind = Some(value.to_string()),
            LinkInfo::Data(InfoData::Vlan(attributes)) => vlan = vlan_of(attributes),
            _ => {}
        }
    }
    (kind, vlan)
}

fn vlan_of(attributes: &[InfoVlan]) -> Option<Vlan> {
    let (mut id, mut provider) = (None, false);
    for attribute in attributes {
        match attribute {
            InfoVlan::Id(value) => id = Some(*value),
            InfoVlan::Protocol(protocol) => provider = *protocol == VlanProtocol::Ieee8021Ad,
            _ => {}
        }
    }
    Some(Vlan { id: id?, provider })
}

/// The destinations of a route that came or went.
fn destinations(message: &RouteMessage) -> Change {
    let header = &message.header;
    if header.flags.contains(RouteFlags::Cloned) || header.kind == RouteType::Multicast {
        return Change::Nothing;
    }
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    let any: Option<IpAddr> = match header.address_family {
        AddressFamily::Inet => Some([0; 4].into()),
        AddressFamily::Inet6 => Some([0; 16].into()),
        _ => return Change::Nothing,
    };
    let network = destination.or(any).and_then(|address| IpNet::new(address, header.destination_prefix_length).ok());
    network.map_or(Change::Unknown, Change::Routes)
}

/// The attributes of a route, or of one hop of it, that say where packets go.
#[derive(Default)]
struct HopAttributes<'a> {
    ifindex: Option<u32>,
    gateway: Option<IpAddr>,
    mtu: Option<u32>,
    encapsulated: bool,
    multipath: Option<&'a [RouteNextHop]>,
    object: Option<u32>,
}

impl<'a> HopAttributes<'a> {
    fn read(attributes: &'a [RouteAttribute]) -> Self {
        let mut read = Self::default();
        for attribute in attributes {
            match attribute {
                RouteAttribute::Oif(value) => read.ifindex = Some(*value),
                RouteAttribute::Gateway(value) => read.gateway = ip(value),
                RouteAttribute::Via(RouteVia::Inet(value)) => read.gateway = Some(IpAddr::V4(*value)),
                RouteAttribute::Via(RouteVia::Inet6(value)) => read.gateway = Some(IpAddr::V6(*value)),
                RouteAttribute::Encap(_) => read.encapsulated = true,
                RouteAttribute::Metrics(metrics) => read.mtu = mtu_of(metrics),
                RouteAttribute::MultiPath(hops) => read.multipath = Some(hops),
                RouteAttribute::NhId(id) => read.object = Some(*id),
                _ => {}
            }
        }
        read
    }
}

fn mtu_of(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(value) if *value > 0 => Some(*value),
        _ => None,
    })
}

fn share(hop: &RouteNextHop) -> Share {
    Share {
        ifindex: hop.interface_index,
        gateway: HopAttributes::read(&hop.attributes).gateway,
        // The kernel gives weights less one.
        weight: u32::from(hop.hops) + 1,
        alive: !hop.flags.intersects(RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown),
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(value) => Some(IpAddr::V4(*value)),
        RouteAddress::Inet6(value) => Some(IpAddr::V6(*value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkPayload;
    use netlink_packet_route::link::InfoKind;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn link(attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up | LinkFlags::Running;
        message.attributes = attributes;
        message
    }

    fn unicast_message(attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.kind = RouteType::Unicast;
        message.attributes = attributes;
        message
    }

    /// What `change` makes of a message after its way over the wire.
    fn change_of(message: RouteNetlinkMessage) -> Change {
        let mut message = request(message, 0);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        change(&message.header, &bytes[16..])
    }

    #[test]
    fn a_vlan_interface_is_read_with_its_id_and_the_device_below() {
        let message = link(vec![
            LinkAttribute::IfName("eth0.7".into()),
            LinkAttribute::Mtu(1496),
            LinkAttribute::Link(2),
            LinkAttribute::Address(MAC.to_vec()),
            LinkAttribute::PropList(vec![Prop::AltIfName("wan".into()), Prop::AltIfName("enP65536p1s0f0np0.7".into())]),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(7), InfoVlan::Protocol(VlanProtocol::Ieee8021Q)])),
            ]),
        ]);
        let read = interface(&message).unwrap();
        assert_eq!((read.name.as_str(), read.ifindex, read.mtu), ("eth0.7", 7, 1496));
        assert_eq!((read.mac, read.lower), (Some(MAC), Some(2)));
        assert_eq!((read.kind.as_deref(), read.vlan), (Some("vlan"), Some(Vlan { id: 7, provider: false })));
        assert!(read.up && read.carrier && read.arp && !read.loopback);
        assert_eq!(read.altnames, ["enP65536p1s0f0np0.7", "wan"]);
        assert!(["eth0.7", "wan"].iter().all(|name| read.is_named(name)) && !read.is_named("eth0"));
        assert_eq!(change_of(RouteNetlinkMessage::NewLink(message)), Change::Interface(read));
    }

    #[test]
    fn a_device_below_in_another_namespace_is_not_taken_for_one_of_this() {
        let name = LinkAttribute::IfName("veth0".into());
        let message = link(vec![LinkAttribute::Link(2), LinkAttribute::LinkNetNsId(0), name, LinkAttribute::Mtu(1500)]);
        assert_eq!(interface(&message).unwrap().lower, None);
    }

    #[test]
    fn messages_about_one_side_of_an_interface_change_nothing() {
        let partial = link(vec![LinkAttribute::IfName("wlan0".into())]);
        assert_eq!(change_of(RouteNetlinkMessage::NewLink(partial)), Change::Nothing);
        let mut port = link(vec![LinkAttribute::IfName("eth0".into()), LinkAttribute::Mtu(1500)]);
        port.header.interface_family = AddressFamily::Bridge;
        assert_eq!(change_of(RouteNetlinkMessage::NewLink(port.clone())), Change::Nothing);
        assert_eq!(change_of(RouteNetlinkMessage::DelLink(port)), Change::Nothing);
        assert_eq!(change_of(RouteNetlinkMessage::DelLink(link(vec![]))), Change::InterfaceGone(7));
    }

    #[test]
    fn neighbour_states_are_told_apart() {
        let cases = [
            (NeighbourState::Reachable, Standing::Usable),
            (NeighbourState::Delay, Standing::Usable),
            (NeighbourState::Probe, Standing::Usable),
            (NeighbourState::Permanent, Standing::Usable),
            (NeighbourState::Stale, Standing::Stale),
            (NeighbourState::Noarp, Standing::NoArp),
            (NeighbourState::Failed, Standing::Silent),
            (NeighbourState::Incomplete, Standing::Asking),
            (NeighbourState::None, Standing::Asking),
        ];
        let key = NeighbourKey { ifindex: 3, address: address("10.0.0.2") };
        for (state, standing) in cases {
            let mut message = NeighbourMessage::default();
            message.header.family = AddressFamily::Inet;
            message.header.ifindex = 3;
            message.header.state = state;
            message.attributes = vec![
                NeighbourAttribute::Destination(key.address.into()),
                NeighbourAttribute::LinkLayerAddress(MAC.to_vec()),
            ];
            let known = Neighbour { standing, mac: Some(MAC) };
            let new = change_of(RouteNetlinkMessage::NewNeighbour(message.clone()));
            assert_eq!(new, Change::Neighbour(key, Some(known)));
            assert_eq!(change_of(RouteNetlinkMessage::DelNeighbour(message)), Change::Neighbour(key, None));
        }
    }

    #[test]
    fn entries_of_a_bridge_and_proxy_entries_are_no_neighbours() {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.attributes = vec![NeighbourAttribute::LinkLayerAddress(MAC.to_vec())];
        assert_eq!(neighbour(&message), None);
        message.header.flags = NeighbourFlags::Proxy;
        message.attributes.push(NeighbourAttribute::Destination(address("10.0.0.2").into()));
        assert_eq!(neighbour(&message), None);
    }

    #[test]
    fn gateways_of_either_family_are_read() {
        let cases = [
            (RouteAttribute::Gateway(address("10.0.0.1").into()), Some("10.0.0.1")),
            (RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap())), Some("fe80::1")),
            // A route that names the destination itself as gateway is a route to the link.
            (RouteAttribute::Gateway(address("192.0.2.7").into()), None),
        ];
        for (attribute, gateway) in cases {
            let message = unicast_message(vec![
                RouteAttribute::Oif(3),
                attribute,
                RouteAttribute::Metrics(vec![RouteMetric::Lock(4), RouteMetric::Mtu(1400)]),
            ]);
            let expected = Hop { ifindex: 3, gateway: gateway.map(address), mtu: Some(1400) };
            assert_eq!(route(&message, address("192.0.2.7")), Found::Route(Route::Hop(expected)));
        }
    }

    #[test]
    fn several_hops_are_shared_by_weight_and_dead_ones_left_out() {
        let hop = |ifindex, hops, flags| {
            let mut hop = RouteNextHop::default();
            (hop.interface_index, hop.hops, hop.flags) = (ifindex, hops, flags);
            hop.attributes = vec![RouteAttribute::Gateway(address("10.0.0.1").into())];
            hop
        };
        let by = |hops: &[RouteNextHop]| -> Vec<u32> {
            let message = unicast_message(vec![
                RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]),
                RouteAttribute::MultiPath(hops.to_vec()),
            ]);
            let hop = |last: u8| match route(&message, IpAddr::from([192, 0, 2, last])) {
                Found::Route(Route::Hop(Hop { ifindex, gateway, mtu: Some(1400) })) if gateway.is_some() => ifindex,
                other => panic!("{other:?}"),
            };
            (0..=255).map(hop).collect()
        };
        let alive = RouteNextHopFlags::empty();
        let heavy = by(&[hop(2, 0, alive), hop(3, 3, alive)]).into_iter().filter(|ifindex| *ifindex == 3).count();
        assert!((170..240).contains(&heavy), "{heavy} of 256 by a hop of weight 4 beside one of weight 1");
        for flag in [RouteNextHopFlags::Dead, RouteNextHopFlags::Linkdown] {
            assert_eq!(by(&[hop(2, 9, flag), hop(3, 0, alive)]), [3; 256]);
        }
    }

    #[test]
    fn a_route_that_names_an_object_only_is_told_as_such() {
        let message =
            unicast_message(vec![RouteAttribute::NhId(7), RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)])]);
        assert_eq!(route(&message, address("192.0.2.7")), Found::Object { id: 7, mtu: Some(1400) });
        let message = unicast_message(vec![RouteAttribute::NhId(7), RouteAttribute::Oif(3)]);
        let hop = Hop { ifindex: 3, gateway: None, mtu: None };
        assert_eq!(route(&message, address("192.0.2.7")), Found::Route(Route::Hop(hop)));
    }

    #[test]
    fn a_question_says_by_which_vrf_and_mark_and_what_is_not_said_is_not_sent() {
        let attributes = |vrf, mark| match route_request(address("192.0.2.7"), vrf, mark).payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::GetRoute(message)) => {
                assert_eq!(message.header.flags, RouteFlags::FibMatch);
                assert_eq!(message.header.destination_prefix_length, 32);
                message.attributes
            }
            other => panic!("{other:?}"),
        };
        let destination = || RouteAttribute::Destination(address("192.0.2.7").into());
        assert_eq!(attributes(None, 0), [destination()]);
        assert_eq!(attributes(Some(9), 0), [destination(), RouteAttribute::Oif(9)]);
        let both = [destination(), RouteAttribute::Oif(9), RouteAttribute::Mark(0x10)];
        assert_eq!(attributes(Some(9), 0x10), both);
    }

    #[test]
    fn route_events_name_the_addresses_they_concern() {
        let mut message = unicast_message(vec![RouteAttribute::Destination(address("10.1.0.0").into())]);
        message.header.destination_prefix_length = 16;
        let expected = Change::Routes("10.1.0.0/16".parse().unwrap());
        assert_eq!(change_of(RouteNetlinkMessage::NewRoute(message.clone())), expected);
        assert_eq!(change_of(RouteNetlinkMessage::DelRoute(message.clone())), expected);
        message.header.flags = RouteFlags::Cloned;
        assert_eq!(change_of(RouteNetlinkMessage::NewRoute(message)), Change::Nothing);

        let default = Change::Routes("0.0.0.0/0".parse().unwrap());
        assert_eq!(change_of(RouteNetlinkMessage::DelRoute(unicast_message(vec![]))), default);
    }

    #[test]
    fn what_cannot_be_read_asks_for_a_look_at_everything() {
        let mut header = NetlinkHeader::default();
        for (message_type, payload, expected) in [
            (libc::RTM_NEWLINK, [0xff; 3], Change::Unknown),
            (9999, [0; 3], Change::Unknown),
            (RTM_NEWNEXTHOP, [0; 3], Change::AllRoutes),
            (libc::RTM_DELADDR, [0; 3], Change::AllRoutes),
            (libc::RTM_NEWRULE, [0; 3], Change::AllRoutes),
        ] {
            header.message_type = message_type;
            assert_eq!(change(&header, &payload), expected);
        }
    }
}
