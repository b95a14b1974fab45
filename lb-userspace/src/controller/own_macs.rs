//! Which MAC addresses frames for this host are addressed to: those of the interfaces that the data plane is attached
//! to, and of what sits on them or above them.

use std::collections::BTreeSet;

use crate::{dataplane::OwnMacs, network::InterfaceInfo};

/// Kinds of interfaces that take frames with addresses of their own off the one below them, for this host's stack. A
/// macvtap takes them too, but for a guest. keepalived's `use_vmac` makes a macvlan.
const ABOVE: [&str; 3] = ["vlan", "macvlan", "ipvlan"];
/// Kinds of interfaces that speak for their ports.
const MASTERS: [&str; 3] = ["bridge", "bond", "team"];
/// Those of them whose ports run the program in their stead.
const BUNDLES: [&str; 2] = ["bond", "team"];

/// The addresses by interface, its own first, of those that frames come in by ([`ingress`]). Interfaces without an
/// address have none here.
pub fn own_macs(links: &[&InterfaceInfo], ingress: &BTreeSet<u32>) -> OwnMacs {
    let macs = |ifindex: u32| {
        let mut macs = Vec::new();
        let mut seen = BTreeSet::new();
        collect(links, ifindex, &mut seen, &mut macs);
        (ifindex, macs)
    };
    ingress.iter().copied().map(macs).filter(|(_, macs)| !macs.is_empty()).collect()
}

/// The interfaces that frames come in by, by index: `attached`, which have the program, and the ports of those of them
/// that are bundles.
pub fn ingress(links: &[&InterfaceInfo], attached: &[u32]) -> BTreeSet<u32> {
    let at = |ifindex: u32| links.iter().copied().find(|link| link.ifindex == ifindex);
    let is_port = |link: &&&InterfaceInfo| {
        let master = link.master.filter(|master| attached.contains(master)).and_then(at);
        master.is_some_and(|master| is_of(master, &BUNDLES))
    };
    let ports = links.iter().filter(is_port).map(|link| link.ifindex);
    attached.iter().copied().chain(ports).collect()
}

/// The interfaces whose frames come in by those of `ingress`, by index: these, those that they are ports of, and what sits
/// on them.
pub fn served(links: &[&InterfaceInfo], ingress: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mut seen = BTreeSet::new();
    ingress.iter().for_each(|ifindex| collect(links, *ifindex, &mut seen, &mut Vec::new()));
    seen
}

/// Adds the addresses of an interface, of what it is a port of and of what sits on it.
fn collect(links: &[&InterfaceInfo], ifindex: u32, seen: &mut BTreeSet<u32>, macs: &mut Vec<[u8; 6]>) {
    let Some(link) = links.iter().find(|link| link.ifindex == ifindex) else { return };
    if !seen.insert(ifindex) {
        return;
    }
    macs.extend(link.mac.filter(|mac| !macs.contains(mac)));
    let master = links.iter().filter(|other| link.master == Some(other.ifindex) && is_of(other, &MASTERS));
    let above = links.iter().filter(|other| other.lower == Some(ifindex) && is_of(other, &ABOVE));
    for next in master.chain(above) {
        collect(links, next.ifindex, seen, macs);
    }
}

fn is_of(link: &InterfaceInfo, kinds: &[&str]) -> bool {
    link.kind.as_deref().is_some_and(|kind| kinds.contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(ifindex: u32, kind: Option<&str>, lower: Option<u32>, master: Option<u32>) -> InterfaceInfo {
        InterfaceInfo {
            name: format!("if{ifindex}"),
            altnames: Default::default(),
            ifindex,
            mac: Some(mac(ifindex)),
            mtu: 1500,
            up: true,
            carrier: true,
            loopback: false,
            arp: true,
            kind: kind.map(str::to_owned),
            master,
            lower,
            vlan: None,
        }
    }

    fn mac(ifindex: u32) -> [u8; 6] {
        [2, 0, 0, 0, 0, ifindex as u8]
    }

    /// The indices of the interfaces whose addresses frames by `of` are for.
    fn known(links: &[InterfaceInfo], attached: &[u32], of: u32) -> Vec<u8> {
        let links: Vec<_> = links.iter().collect();
        own_macs(&links, &ingress(&links, attached)).remove(&of).unwrap_or_default().iter().map(|mac| mac[5]).collect()
    }

    #[test]
    fn what_sits_on_an_interface_counts_and_its_neighbours_do_not() {
        let links = [
            link(2, None, None, None),
            link(3, None, None, None),
            link(4, Some("macvlan"), Some(2), None),
            link(5, Some("vlan"), Some(2), None),
            link(6, Some("macvlan"), Some(5), None),
            link(7, Some("macvtap"), Some(2), None),
            // The peer of a veth is no interface below it.
            link(8, Some("veth"), Some(2), None),
            link(9, Some("macvlan"), Some(3), None),
        ];
        assert_eq!(known(&links, &[2, 3], 2), [2, 4, 5, 6]);
        assert_eq!(known(&links, &[2, 3], 3), [3, 9]);
        assert!(known(&links, &[2], 3).is_empty());
    }

    #[test]
    fn a_port_is_addressed_by_its_bridge_and_runs_for_its_bond() {
        let links = [
            link(2, None, None, Some(10)),
            link(3, None, None, Some(11)),
            link(4, None, None, Some(11)),
            link(10, Some("bridge"), None, None),
            link(11, Some("bond"), None, None),
            link(12, Some("vlan"), Some(11), None),
        ];
        assert_eq!(known(&links, &[2], 2), [2, 10]);
        assert_eq!(known(&links, &[11], 11), [11, 12]);
        assert_eq!(known(&links, &[11], 4), [4, 11, 12]);
    }

    #[test]
    fn addresses_are_told_once_and_circles_end() {
        let mut links = [link(2, Some("vlan"), Some(3), None), link(3, Some("vlan"), Some(2), None)];
        assert_eq!(known(&links, &[2], 2), [2, 3]);
        links[1].mac = links[0].mac;
        assert_eq!(known(&links, &[2], 2), [2]);
        links[0].mac = None;
        links[1].mac = None;
        assert!(known(&links, &[2], 2).is_empty());
    }
}
