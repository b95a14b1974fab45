//! Chooses a next hop from a route, the interfaces and the neighbours. Plain data in, plain data out; never talks to
//! the kernel.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use lb_common::{NextHop, Via};
use nix::errno::Errno;

use super::InterfaceInfo;
use crate::model::Target;

/// Why there is no way to a target, for the operator who has to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// The routing tables have nothing for it.
    #[error("no route to {address}{}: add one, or correct the backend's address", by(via))]
    NoRoute {
        /// The target.
        address: IpAddr,
        /// By which routing tables.
        via: Via,
    },
    /// The VRF cannot be used.
    #[error("VRF {vrf} {reason}")]
    Vrf {
        /// Its name.
        vrf: String,
        /// What about it, and what to do.
        reason: &'static str,
    },
    /// There is no route now, and the interface of the last one is not usable.
    #[error("no route to {address} since {interface}, which led there, went down or away")]
    RouteLost {
        /// The target.
        address: IpAddr,
        /// Name of the interface.
        interface: String,
    },
    /// A route or rule that exists to refuse packets.
    #[error("the route to {address}{} refuses packets ({kind}): see `{}`", by(via), command(*address, via))]
    RouteRefuses {
        /// The target.
        address: IpAddr,
        /// By which routing tables.
        via: Via,
        /// `blackhole`, `unreachable`, `prohibit` or what the kernel answered.
        kind: &'static str,
    },
    /// The address is this host's own.
    #[error("the backend is this host: {address} is one of its own addresses, and a frame cannot be sent to oneself")]
    ThisHost {
        /// The target.
        address: IpAddr,
    },
    /// A broadcast, multicast or anycast address.
    #[error("{address} is a {kind} address on this host's networks, not the address of a backend")]
    NotUnicast {
        /// The target.
        address: IpAddr,
        /// Which kind of address.
        kind: &'static str,
    },
    /// The route wraps packets in headers that the data plane does not make (MPLS, segment routing, …).
    #[error("the route to {address}{} encapsulates (see `{}`): naru needs a plain \
             route", by(via), command(*address, via))]
    Encapsulated {
        /// The target.
        address: IpAddr,
        /// By which routing tables.
        via: Via,
    },
    /// The kernel answered with something else than a route.
    #[error("the kernel does not say how it routes to {address}: {reason}")]
    RouteUnknown {
        /// The target.
        address: IpAddr,
        /// What it says instead.
        reason: String,
    },
    /// `l2` rewrites the MAC address only, so the backend must be on the link.
    #[error(
        "{address} is behind gateway {gateway} on {interface}, and forward mode \"l2\" reaches only backends on the \
         link: use \"ipip\", or give this host an address in the backend's network"
    )]
    BehindGateway {
        /// The target.
        address: IpAddr,
        /// The route's gateway.
        gateway: IpAddr,
        /// Name of the interface that leads to the gateway.
        interface: String,
    },
    /// The route names an interface that is gone.
    #[error("the route to {address} leaves by an interface (ifindex {ifindex}) that is gone")]
    InterfaceGone {
        /// The target.
        address: IpAddr,
        /// Number of the interface.
        ifindex: u32,
    },
    /// The interface is administratively down.
    #[error("interface {interface} is down: `ip link set {interface} up`")]
    InterfaceDown {
        /// Its name.
        interface: String,
    },
    /// The interface is up but cannot carry packets.
    #[error("interface {interface} has no carrier: check its cable, its peer or the interface below it")]
    NoCarrier {
        /// Its name.
        interface: String,
    },
    /// The interface carries something else than Ethernet frames.
    #[error("interface {interface} ({kind}) carries no Ethernet frames: naru forwards on Ethernet interfaces only")]
    NotEthernet {
        /// Its name.
        interface: String,
        /// Its kind, such as `tun`.
        kind: String,
    },
    /// The interface sends nothing that native XDP redirects to it, and the data plane is attached in native mode.
    #[error(
        "interface {interface} ({kind}) cannot send what native XDP redirects to it: route to the backend by a port or \
         the device below it, or set `xdp_mode = \"generic\"` in [node]"
    )]
    TakesNoRedirects {
        /// Its name.
        interface: String,
        /// Its kind, such as `bridge`.
        kind: String,
    },
    /// A VLAN interface that the data plane cannot do without.
    #[error("VLAN interface {interface} {reason}: naru tags frames with one 802.1Q tag on a device of this namespace")]
    Vlan {
        /// Its name.
        interface: String,
        /// What about it.
        reason: &'static str,
    },
    /// Nobody has answered yet; the kernel is asking.
    #[error("waiting for neighbour {neighbour} on {interface} to answer")]
    NeighbourPending {
        /// The backend or the gateway.
        neighbour: IpAddr,
        /// Name of the interface.
        interface: String,
    },
    /// Nobody answers; the kernel is asked to try again every second or so.
    #[error("neighbour {neighbour} on {interface} does not answer")]
    NeighbourSilent {
        /// The backend or the gateway.
        neighbour: IpAddr,
        /// Name of the interface.
        interface: String,
    },
    /// Neighbours are not resolved on this interface.
    #[error(
        "interface {interface} does not resolve neighbours (NOARP): `ip neigh replace {neighbour} lladdr MAC dev \
         {interface} nud permanent`"
    )]
    NoArp {
        /// The backend or the gateway.
        neighbour: IpAddr,
        /// Name of the interface.
        interface: String,
    },
    /// The neighbour's link-layer address is no MAC address.
    #[error("neighbour {neighbour} on {interface} has no Ethernet address")]
    NeighbourWithoutMac {
        /// The backend or the gateway.
        neighbour: IpAddr,
        /// Name of the interface.
        interface: String,
    },
    /// The kernel's neighbour table is full.
    #[error(
        "the kernel's neighbour table has no room for {neighbour} on {interface}: raise \
         net.{}.neigh.default.gc_thresh3", if neighbour.is_ipv4() { "ipv4" } else { "ipv6" }
    )]
    NeighbourTableFull {
        /// The backend or the gateway.
        neighbour: IpAddr,
        /// Name of the interface.
        interface: String,
    },
    /// The kernel will not resolve the neighbour.
    #[error("the kernel refuses to resolve neighbour {neighbour} on {interface}: {errno}")]
    NeighbourRefused {
        /// The backend or the gateway.
        neighbour: IpAddr,
        /// Name of the interface.
        interface: String,
        /// Its answer.
        errno: Errno,
    },
}

/// By which tables, for a sentence: nothing for the main routing.
fn by(via: &Via) -> String {
    let vrf = (!via.vrf.is_none()).then(|| format!("in VRF {}", via.vrf.as_str()));
    let mark = (via.mark != 0).then(|| format!("with mark {:#x}", via.mark));
    vrf.into_iter().chain(mark).map(|part| format!(" {part}")).collect()
}

/// The command by which an operator asks the same.
fn command(address: IpAddr, via: &Via) -> String {
    let vrf = if via.vrf.is_none() { String::new() } else { format!(" vrf {}", via.vrf.as_str()) };
    let mark = if via.mark == 0 { String::new() } else { format!(" mark {:#x}", via.mark) };
    format!("ip route get fibmatch {address}{vrf}{mark}")
}

/// What a route is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Lookup {
    /// Where to.
    pub address: IpAddr,
    /// By which tables.
    pub via: Via,
}

/// How the kernel would route to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Out of an interface.
    Hop(Hop),
    /// To this host itself.
    ThisHost,
    /// To many, or to any of several.
    NotUnicast(&'static str),
    /// Nowhere: nothing matches.
    None,
    /// Nowhere, by intention.
    Refused(&'static str),
    /// Through a tunnel that the route itself makes.
    Encapsulated,
    /// Nowhere, because of the VRF.
    Vrf(&'static str),
    /// It does not say.
    Unknown(String),
}

/// Where a route leaves this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    /// Outgoing interface.
    pub ifindex: u32,
    /// Next router; `None` where the destination is on the link. May be of the other IP version (RFC 5549).
    pub gateway: Option<IpAddr>,
    /// Largest packet in bytes, where the route knows of a limit.
    pub mtu: Option<u32>,
}

/// An entry of the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NeighbourKey {
    pub ifindex: u32,
    pub address: IpAddr,
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub standing: Standing,
    pub mac: Option<[u8; 6]>,
}

/// How far its MAC address can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The kernel trusts it, is confirming it, or was told it by the operator.
    Usable,
    /// Good until proven otherwise; the kernel confirms it only when somebody uses it.
    Stale,
    /// The kernel has dropped the entry, to make room or because a link flapped. Its last MAC address serves until the
    /// kernel, asked again, says otherwise.
    Forgotten,
    /// Its interface resolves nobody; the address is the operator's, or a placeholder.
    NoArp,
    /// Being asked for the first time.
    Asking,
    /// Asked in vain.
    Silent,
    /// The kernel will not ask.
    Refused(Errno),
}

impl Neighbour {
    /// Whether frames can be sent to it.
    pub fn is_usable(&self) -> bool {
        matches!(self.standing, Standing::Usable | Standing::Stale | Standing::Forgotten | Standing::NoArp)
    }

    /// What to remember once the kernel's table says `new` of an entry of which `old` was known; `used`: whether some
    /// target depends on it.
    pub fn merge(old: Option<Self>, new: Option<Self>, used: bool) -> Option<Self> {
        let asking = match new {
            Some(new) if new.standing != Standing::Asking => return Some(new),
            Some(asking) => Some(asking),
            None => None,
        };
        if !used {
            return asking;
        }
        match old.map(|old| old.standing) {
            Some(Standing::Usable | Standing::Stale | Standing::Forgotten) => {
                old.map(|old| Self { standing: Standing::Forgotten, ..old })
            }
            // Still silent while the kernel tries once more, and while it forgets that it tried.
            Some(Standing::Silent) => old,
            Some(Standing::Refused(_)) if asking.is_none() => old,
            Some(Standing::NoArp | Standing::Asking | Standing::Refused(_)) | None => asking,
        }
    }
}

/// The index of the VRF that `via` names, to ask for routes in its tables; why it cannot be asked for.
pub(super) fn vrf_of(via: Via, interfaces: &Interfaces) -> Result<Option<u32>, Route> {
    if via.vrf.is_none() {
        return Ok(None);
    }
    match interfaces.values().find(|interface| interface.is_named(via.vrf.as_str())) {
        Some(vrf) if !vrf.is_vrf() => Err(Route::Vrf("is an interface, but not a VRF: correct `vrf` in the config")),
        Some(vrf) if !vrf.up => Err(Route::Vrf("is down: set it up with `ip link set … up`")),
        Some(vrf) => Ok(Some(vrf.ifindex)),
        None => Err(Route::Vrf(
            "does not exist here: make it with `ip link add … type vrf table …`, or correct `vrf` in \
                                the config",
        )),
    }
}

/// Interfaces by ifindex.
pub(super) type Interfaces = BTreeMap<u32, InterfaceInfo>;
/// Neighbours by interface and address.
pub(super) type Neighbours = HashMap<NeighbourKey, Neighbour>;

/// The neighbour that packets to `address` go through, where the route leads to one.
pub(super) fn neighbour_of(address: IpAddr, route: &Route) -> Option<NeighbourKey> {
    match route {
        Route::Hop(hop) => Some(NeighbourKey { ifindex: hop.ifindex, address: hop.gateway.unwrap_or(address) }),
        _ => None,
    }
}

/// The next hop to `target`, whose address the kernel routes by `route`.
pub(super) fn next_hop(
    target: Target,
    route: &Route,
    interfaces: &Interfaces,
    neighbours: &Neighbours,
) -> Result<NextHop, Unresolved> {
    let Target { address, on_link, via, mac, mtu: farther } = target;
    let hop = hop_of(Lookup { address, via }, route)?;
    let interface = interfaces.get(&hop.ifindex).ok_or(Unresolved::InterfaceGone { address, ifindex: hop.ifindex })?;
    if interface.loopback {
        return Err(Unresolved::ThisHost { address });
    }
    if on_link && let Some(gateway) = hop.gateway {
        return Err(Unresolved::BehindGateway { address, gateway, interface: interface.name.clone() });
    }
    let (source, device, vlan) = device_of(interface, interfaces)?;
    let destination = match mac {
        Some(mac) => mac,
        None => {
            let key = NeighbourKey { ifindex: hop.ifindex, address: hop.gateway.unwrap_or(address) };
            mac_of(key, interface, neighbours.get(&key))?
        }
    };
    let mtu = hop.mtu.into_iter().chain(farther.map(u32::from)).fold(interface.mtu, u32::min);
    Ok(NextHop::new(destination, source, device, mtu, vlan))
}

fn hop_of(Lookup { address, via }: Lookup, route: &Route) -> Result<Hop, Unresolved> {
    Err(match route {
        Route::Hop(hop) => return Ok(*hop),
        Route::ThisHost => Unresolved::ThisHost { address },
        Route::NotUnicast(kind) => Unresolved::NotUnicast { address, kind },
        Route::None => Unresolved::NoRoute { address, via },
        Route::Refused(kind) => Unresolved::RouteRefuses { address, via, kind },
        Route::Encapsulated => Unresolved::Encapsulated { address, via },
        Route::Vrf(reason) => Unresolved::Vrf { vrf: via.vrf.as_str().to_owned(), reason },
        Route::Unknown(reason) => Unresolved::RouteUnknown { address, reason: reason.clone() },
    })
}

/// The source MAC address of frames that leave by `interface`, the device below it that they leave by, and the id of
/// the VLAN to tag them with, 0 for none.
fn device_of(interface: &InterfaceInfo, interfaces: &Interfaces) -> Result<([u8; 6], u32, u16), Unresolved> {
    let Some(source) = interface.mac else {
        let kind = interface.kind.clone().unwrap_or_else(|| "not Ethernet".into());
        return Err(Unresolved::NotEthernet { interface: interface.name.clone(), kind });
    };
    ensure_running(interface)?;
    let Some(vlan) = interface.vlan else {
        return Ok((source, interface.ifindex, 0));
    };
    let unusable = |reason| Unresolved::Vlan { interface: interface.name.clone(), reason };
    let device = interface.lower.and_then(|lower| interfaces.get(&lower));
    let device = device.ok_or_else(|| unusable("sits on a device of another namespace"))?;
    if vlan.provider {
        return Err(unusable("is of protocol 802.1ad"));
    }
    if device.vlan.is_some() {
        return Err(unusable("is stacked on another VLAN"));
    }
    ensure_running(device)?;
    Ok((source, device.ifindex, vlan.id))
}

fn ensure_running(interface: &InterfaceInfo) -> Result<(), Unresolved> {
    let name = || interface.name.clone();
    match interface {
        InterfaceInfo { up: false, .. } => Err(Unresolved::InterfaceDown { interface: name() }),
        InterfaceInfo { carrier: false, .. } => Err(Unresolved::NoCarrier { interface: name() }),
        _ => Ok(()),
    }
}

fn mac_of(key: NeighbourKey, interface: &InterfaceInfo, known: Option<&Neighbour>) -> Result<[u8; 6], Unresolved> {
    let (neighbour, name) = (key.address, interface.name.clone());
    // Where the interface resolves nobody, the kernel fills in the interface's own address, or nothing.
    let placeholder = |mac: Option<[u8; 6]>| mac == interface.mac || mac == Some([0; 6]) || mac.is_none();
    match known.map_or((Standing::Asking, None), |known| (known.standing, known.mac)) {
        (Standing::NoArp, mac) if placeholder(mac) => Err(Unresolved::NoArp { neighbour, interface: name }),
        (Standing::Usable | Standing::Stale | Standing::Forgotten | Standing::NoArp, mac) => {
            mac.ok_or(Unresolved::NeighbourWithoutMac { neighbour, interface: name })
        }
        _ if !interface.arp => Err(Unresolved::NoArp { neighbour, interface: name }),
        (Standing::Asking, _) => Err(Unresolved::NeighbourPending { neighbour, interface: name }),
        (Standing::Silent, _) => Err(Unresolved::NeighbourSilent { neighbour, interface: name }),
        (Standing::Refused(Errno::ENOBUFS), _) => Err(Unresolved::NeighbourTableFull { neighbour, interface: name }),
        (Standing::Refused(errno), _) => Err(Unresolved::NeighbourRefused { neighbour, interface: name, errno }),
    }
}

#[cfg(test)]
mod tests {
    use lb_common::VrfName;

    use super::*;
    use crate::network::Vlan;

    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn ethernet(ifindex: u32, name: &str) -> InterfaceInfo {
        InterfaceInfo::ethernet(ifindex, name, OWN)
    }

    fn vlan(ifindex: u32, name: &str, lower: u32, id: u16) -> InterfaceInfo {
        InterfaceInfo {
            kind: Some("vlan".into()),
            mac: Some([2, 0, 0, 0, 9, 9]),
            mtu: 1496,
            lower: Some(lower),
            vlan: Some(Vlan { id, provider: false }),
            ..ethernet(ifindex, name)
        }
    }

    fn table(interfaces: impl IntoIterator<Item = InterfaceInfo>) -> Interfaces {
        interfaces.into_iter().map(|interface| (interface.ifindex, interface)).collect()
    }

    fn neighbour(ifindex: u32, address: &str, standing: Standing) -> Neighbours {
        let key = NeighbourKey { ifindex, address: ip(address) };
        Neighbours::from([(key, Neighbour { standing, mac: Some(PEER) })])
    }

    fn hop(ifindex: u32, gateway: Option<&str>, mtu: Option<u32>) -> Route {
        Route::Hop(Hop { ifindex, gateway: gateway.map(ip), mtu })
    }

    fn target(address: &str, on_link: bool) -> Target {
        Target::new(ip(address), on_link)
    }

    #[test]
    fn a_neighbour_on_the_link_is_the_next_hop() {
        let interfaces = table([ethernet(2, "eth0")]);
        for standing in [Standing::Usable, Standing::Stale, Standing::Forgotten, Standing::NoArp] {
            let neighbours = neighbour(2, "10.0.0.2", standing);
            for on_link in [false, true] {
                let found = next_hop(target("10.0.0.2", on_link), &hop(2, None, None), &interfaces, &neighbours);
                assert_eq!(found, Ok(NextHop::new(PEER, OWN, 2, 1500, 0)));
            }
        }
    }

    #[test]
    fn a_gateway_serves_tunnels_but_not_l2() {
        let interfaces = table([ethernet(2, "eth0")]);
        for gateway in ["10.0.0.1", "fe80::1"] {
            let (route, neighbours) = (hop(2, Some(gateway), None), neighbour(2, gateway, Standing::Usable));
            let found = next_hop(target("192.0.2.7", false), &route, &interfaces, &neighbours);
            assert_eq!(found, Ok(NextHop::new(PEER, OWN, 2, 1500, 0)));
            let refused = next_hop(target("192.0.2.7", true), &route, &interfaces, &neighbours).unwrap_err();
            let text = refused.to_string();
            assert!(text.contains(gateway) && text.contains("eth0") && text.contains("\"l2\""), "{text}");
        }
    }

    #[test]
    fn a_pinned_mac_address_counts_and_no_neighbour_does() {
        let interfaces = table([ethernet(2, "eth0")]);
        let (mac, on_link) = ([2, 0, 0, 0, 0, 0x77], hop(2, None, None));
        let pinned = Target { mac: Some(mac), ..target("10.0.0.2", true) };
        for neighbours in [Neighbours::new(), neighbour(2, "10.0.0.2", Standing::Usable)] {
            let found = next_hop(pinned, &on_link, &interfaces, &neighbours);
            assert_eq!(found, Ok(NextHop::new(mac, OWN, 2, 1500, 0)));
        }
        let behind = next_hop(pinned, &hop(2, Some("10.0.0.1"), None), &interfaces, &Neighbours::new());
        assert!(matches!(behind, Err(Unresolved::BehindGateway { .. })), "the route still says where it is");
    }

    #[test]
    fn the_smallest_mtu_of_the_way_counts() {
        let interfaces = table([ethernet(2, "eth0")]);
        let neighbours = neighbour(2, "10.0.0.2", Standing::Usable);
        let mtu = |farther, route| {
            let target = Target { mtu: farther, ..target("10.0.0.2", false) };
            next_hop(target, &hop(2, None, route), &interfaces, &neighbours).unwrap().mtu
        };
        assert_eq!([mtu(None, None), mtu(Some(1400), None), mtu(Some(9000), None)], [1500, 1400, 1500]);
        assert_eq!(
            [mtu(None, Some(1450)), mtu(Some(1400), Some(1450)), mtu(Some(1400), Some(1380))],
            [1450, 1400, 1380]
        );
    }

    #[test]
    fn a_vrf_is_found_by_its_name_or_told_why_not() {
        let vrf = |up| InterfaceInfo { up, kind: Some("vrf".into()), ..ethernet(9, "blue") };
        let via = |name| Via { vrf: VrfName::new(name).unwrap(), mark: 0x10 };
        let interfaces = table([ethernet(2, "eth0"), vrf(true)]);
        assert_eq!(vrf_of(via(""), &interfaces), Ok(None));
        assert_eq!(vrf_of(via("blue"), &interfaces), Ok(Some(9)));
        for (name, interfaces, expected) in [
            ("red", &interfaces, "VRF red does not exist here"),
            ("eth0", &interfaces, "VRF eth0 is an interface, but not a VRF"),
            ("blue", &table([vrf(false)]), "VRF blue is down"),
        ] {
            let route = vrf_of(via(name), interfaces).unwrap_err();
            let target = Target { via: via(name), ..target("10.0.0.2", false) };
            let text = next_hop(target, &route, interfaces, &Neighbours::new()).unwrap_err().to_string();
            assert!(text.starts_with(expected), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_by_a_vrf_or_a_mark_says_by_which() {
        let via = Via { vrf: VrfName::new("blue").unwrap(), mark: 0x10 };
        let text = |route: Route, via| {
            let target = Target { via, ..target("10.0.0.2", false) };
            next_hop(target, &route, &Interfaces::new(), &Neighbours::new()).unwrap_err().to_string()
        };
        assert!(text(Route::None, via).starts_with("no route to 10.0.0.2 in VRF blue with mark 0x10: add one"));
        let refused = text(Route::Refused("prohibit"), Via { mark: 7, ..Via::default() });
        let expected = "the route to 10.0.0.2 with mark 0x7 refuses packets (prohibit): see `ip route get fibmatch \
                        10.0.0.2 mark 0x7`";
        assert_eq!(refused, expected);
    }

    #[test]
    fn the_smaller_mtu_counts() {
        let (interfaces, neighbours) = (table([ethernet(2, "eth0")]), neighbour(2, "10.0.0.2", Standing::Usable));
        for (limit, expected) in [(None, 1500), (Some(1400), 1400), (Some(9000), 1500)] {
            let found = next_hop(target("10.0.0.2", false), &hop(2, None, limit), &interfaces, &neighbours);
            assert_eq!(found.unwrap().mtu, expected);
        }
    }

    #[test]
    fn a_vlan_interface_gives_its_id_and_the_device_below() {
        let interfaces = table([ethernet(2, "eth0"), vlan(5, "eth0.7", 2, 7)]);
        let neighbours = neighbour(5, "10.0.0.2", Standing::Usable);
        let found = next_hop(target("10.0.0.2", true), &hop(5, None, None), &interfaces, &neighbours);
        assert_eq!(found, Ok(NextHop::new(PEER, [2, 0, 0, 0, 9, 9], 2, 1496, 7)));
    }

    #[test]
    fn vlans_that_the_data_plane_cannot_tag_are_refused() {
        let neighbours = neighbour(5, "10.0.0.2", Standing::Usable);
        let provider = Some(Vlan { id: 7, provider: true });
        let cases = [
            (vec![vlan(5, "v7", 99, 7)], "another namespace"),
            (vec![InterfaceInfo { lower: None, ..vlan(5, "v7", 2, 7) }], "another namespace"),
            (vec![ethernet(2, "eth0"), InterfaceInfo { vlan: provider, ..vlan(5, "v7", 2, 7) }], "802.1ad"),
            (vec![ethernet(2, "eth0"), vlan(4, "v6", 2, 6), vlan(5, "v7", 4, 7)], "stacked"),
            (vec![InterfaceInfo { up: false, ..ethernet(2, "eth0") }, vlan(5, "v7", 2, 7)], "eth0 is down"),
        ];
        for (interfaces, expected) in cases {
            let found = next_hop(target("10.0.0.2", false), &hop(5, None, None), &table(interfaces), &neighbours);
            let text = found.unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn an_interface_that_carries_nothing_is_named() {
        let neighbours = neighbour(2, "10.0.0.2", Standing::Usable);
        let tun = InterfaceInfo { mac: None, carrier: false, kind: Some("tun".into()), ..ethernet(2, "tun0") };
        let cases = [
            (InterfaceInfo { up: false, carrier: false, ..ethernet(2, "eth0") }, "interface eth0 is down"),
            (InterfaceInfo { carrier: false, ..ethernet(2, "eth0") }, "interface eth0 has no carrier"),
            (tun, "interface tun0 (tun) carries no Ethernet frames"),
            (InterfaceInfo { loopback: true, mac: None, ..ethernet(2, "lo") }, "the backend is this host"),
        ];
        for (interface, expected) in cases {
            let found = next_hop(target("10.0.0.2", false), &hop(2, None, None), &table([interface]), &neighbours);
            let text = found.unwrap_err().to_string();
            assert!(text.starts_with(expected), "{text}");
        }
        let gone = next_hop(target("10.0.0.2", false), &hop(3, None, None), &Interfaces::new(), &neighbours);
        assert_eq!(gone, Err(Unresolved::InterfaceGone { address: ip("10.0.0.2"), ifindex: 3 }));
    }

    #[test]
    fn routes_that_lead_nowhere_say_so() {
        let cases = [
            (Route::None, "no route to 10.0.0.2"),
            (Route::ThisHost, "the backend is this host"),
            (Route::Refused("blackhole"), "the route to 10.0.0.2 refuses packets (blackhole)"),
            (Route::NotUnicast("broadcast"), "10.0.0.2 is a broadcast address"),
            (Route::Encapsulated, "the route to 10.0.0.2 encapsulates"),
            (Route::Unknown("EIO".into()), "the kernel does not say how it routes to 10.0.0.2: EIO"),
        ];
        for (route, expected) in cases {
            let found = next_hop(target("10.0.0.2", false), &route, &Interfaces::new(), &Neighbours::new());
            let text = found.unwrap_err().to_string();
            assert!(text.starts_with(expected), "{text}");
            assert_eq!(neighbour_of(ip("10.0.0.2"), &route), None);
        }
    }

    #[test]
    fn neighbours_without_a_mac_address_are_named() {
        let interfaces = table([ethernet(2, "eth0")]);
        let key = NeighbourKey { ifindex: 2, address: ip("10.0.0.2") };
        let cases = [
            (Standing::Asking, None, "waiting for neighbour 10.0.0.2 on eth0"),
            (Standing::Silent, None, "neighbour 10.0.0.2 on eth0 does not answer"),
            (Standing::Refused(Errno::ENOBUFS), None, "the kernel's neighbour table has no room for 10.0.0.2"),
            (Standing::Refused(Errno::EPERM), None, "the kernel refuses to resolve neighbour 10.0.0.2 on eth0: EPERM"),
            (Standing::Usable, None, "neighbour 10.0.0.2 on eth0 has no Ethernet address"),
            (Standing::NoArp, Some(OWN), "interface eth0 does not resolve neighbours"),
            (Standing::NoArp, None, "interface eth0 does not resolve neighbours"),
        ];
        for (standing, mac, expected) in cases {
            let neighbours = Neighbours::from([(key, Neighbour { standing, mac })]);
            let found = next_hop(target("10.0.0.2", false), &hop(2, None, None), &interfaces, &neighbours);
            let text = found.unwrap_err().to_string();
            assert!(text.starts_with(expected), "{text}");
        }
        let unknown = |interface| {
            next_hop(target("10.0.0.2", false), &hop(2, None, None), &table([interface]), &Neighbours::new())
        };
        assert!(matches!(unknown(ethernet(2, "eth0")), Err(Unresolved::NeighbourPending { .. })));
        let quiet = InterfaceInfo { arp: false, ..ethernet(2, "eth0") };
        assert!(matches!(unknown(quiet), Err(Unresolved::NoArp { .. })));
    }

    #[test]
    fn what_the_kernel_forgets_is_remembered_while_it_is_used() {
        let with = |standing| Some(Neighbour { standing, mac: Some(PEER) });
        let asking = Some(Neighbour { standing: Standing::Asking, mac: None });
        for known in [Standing::Usable, Standing::Stale, Standing::Forgotten] {
            assert_eq!(Neighbour::merge(with(known), None, true), with(Standing::Forgotten));
            assert_eq!(Neighbour::merge(with(known), asking, true), with(Standing::Forgotten));
            assert_eq!(Neighbour::merge(with(known), None, false), None);
            assert_eq!(Neighbour::merge(with(known), with(Standing::Silent), true), with(Standing::Silent));
        }
        assert_eq!(Neighbour::merge(with(Standing::Silent), asking, true), with(Standing::Silent));
        assert_eq!(Neighbour::merge(with(Standing::Silent), None, true), with(Standing::Silent));
        assert_eq!(Neighbour::merge(with(Standing::Silent), with(Standing::Usable), true), with(Standing::Usable));
        assert_eq!(Neighbour::merge(None, asking, true), asking);
        assert_eq!(Neighbour::merge(with(Standing::Refused(Errno::EIO)), asking, true), asking);
    }
}
