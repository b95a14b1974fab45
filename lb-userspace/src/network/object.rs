//! Next-hop objects (`ip nexthop`). A route that names one usually says as well where it leads, but not where
//! `net.ipv4.nexthop_compat_mode` is 0: then the objects are asked for. Knows the wire (`linux/nexthop.h`), keeps
//! nothing.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_core::{
    NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlaBuffer, NlasIterator,
};
use netlink_packet_route::route::RouteNextHopFlags;

use super::{
    multipath::{Share, pick},
    resolve::{Hop, Route},
};

/// A next-hop object is new or other than before; libc lacks it.
pub(super) const RTM_NEWNEXTHOP: u16 = 104;
/// A next-hop object is gone.
pub(super) const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;

const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_BLACKHOLE: u16 = 4;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_ENCAP: u16 = 8;

/// Length of `struct nhmsg`.
const HEADER: usize = 8;
/// Length of `struct nexthop_grp`.
const MEMBER: usize = 8;

/// Asks for the object of an id.
#[derive(Debug)]
pub(super) struct ObjectRequest(u32);

impl ObjectRequest {
    pub fn message(id: u32) -> NetlinkMessage<Self> {
        let mut message = NetlinkMessage::from(Self(id));
        message.header.flags = NLM_F_REQUEST;
        message
    }
}

impl From<ObjectRequest> for NetlinkPayload<ObjectRequest> {
    fn from(request: ObjectRequest) -> Self {
        Self::InnerMessage(request)
    }
}

impl NetlinkSerializable for ObjectRequest {
    fn message_type(&self) -> u16 {
        RTM_GETNEXTHOP
    }

    fn buffer_len(&self) -> usize {
        HEADER + 8
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
        buffer[HEADER..][..2].copy_from_slice(&8u16.to_ne_bytes());
        buffer[HEADER + 2..][..2].copy_from_slice(&NHA_ID.to_ne_bytes());
        buffer[HEADER + 4..][..4].copy_from_slice(&self.0.to_ne_bytes());
    }
}

/// Objects by id.
pub(super) type Objects = HashMap<u32, Object>;

/// A next-hop object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Object {
    /// One hop.
    Hop {
        ifindex: u32,
        gateway: Option<IpAddr>,
        /// Not dead, and its interface not without carrier.
        alive: bool,
    },
    /// Several: ids and weights.
    Group(Vec<(u32, u32)>),
    /// It drops packets.
    Blackhole,
    /// It wraps packets in headers.
    Encapsulated,
}

impl Object {
    /// The id and the object in the payload of an `RTM_NEWNEXTHOP`; `None` for one that leads nowhere known.
    pub fn read(payload: &[u8]) -> Option<(u32, Self)> {
        let flags = RouteNextHopFlags::from_bits_retain(*payload.get(4)?);
        let (mut id, mut group, mut ifindex, mut gateway) = (None, None, None, None);
        let (mut blackhole, mut encapsulated) = (false, false);
        for attribute in NlasIterator::new(payload.get(HEADER..)?) {
            let attribute: NlaBuffer<&[u8]> = attribute.ok()?;
            let value = attribute.value();
            match attribute.kind() {
                NHA_ID => id = word(value),
                NHA_GROUP => group = Some(members(value)),
                NHA_BLACKHOLE => blackhole = true,
                NHA_OIF => ifindex = word(value),
                NHA_GATEWAY => gateway = address(value),
                NHA_ENCAP => encapsulated = true,
                _ => {}
            }
        }
        let alive = !flags.intersects(RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown);
        let object = match (group, ifindex) {
            _ if blackhole => Self::Blackhole,
            (Some(members), _) => Self::Group(members),
            _ if encapsulated => Self::Encapsulated,
            (None, Some(ifindex)) => Self::Hop { ifindex, gateway, alive },
            (None, None) => return None,
        };
        Some((id?, object))
    }

    /// The objects that this one is made of.
    pub fn members(&self) -> impl Iterator<Item = u32> {
        let members = if let Self::Group(members) = self { members.as_slice() } else { &[] };
        members.iter().map(|(id, _)| *id)
    }
}

/// The way to `address` by the object of this id; `mtu` is the route's.
pub(super) fn route(objects: &Objects, id: u32, address: IpAddr, mtu: Option<u32>) -> Route {
    match objects.get(&id) {
        Some(Object::Hop { ifindex, gateway, .. }) => {
            Route::Hop(Hop { ifindex: *ifindex, gateway: gateway.filter(|gateway| *gateway != address), mtu })
        }
        Some(Object::Group(members)) => {
            let share = |(id, weight): &(u32, u32)| match objects.get(id) {
                Some(Object::Hop { ifindex, gateway, alive }) => {
                    Share { ifindex: *ifindex, gateway: *gateway, weight: *weight, alive: *alive }
                }
                _ => Share { ifindex: 0, gateway: None, weight: *weight, alive: false },
            };
            match pick(members, address, share) {
                // A group has no groups as members.
                Some((member, _)) if *member != id => route(objects, *member, address, mtu),
                _ => Route::Unknown(format!("its next-hop group {id} is empty")),
            }
        }
        Some(Object::Blackhole) => Route::Refused("blackhole"),
        Some(Object::Encapsulated) => Route::Encapsulated,
        None => Route::Unknown(format!("it does not tell its next-hop object {id}")),
    }
}

fn word(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
        _ => <[u8; 16]>::try_from(value).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
    }
}

/// Ids and weights; the kernel gives weights less one, their upper half since 6.13.
fn members(value: &[u8]) -> Vec<(u32, u32)> {
    let member = |entry: &[u8]| {
        let weight = u32::from(entry[4]) | u32::from(entry[5]) << 8;
        Some((word(&entry[..4])?, weight + 1))
    };
    value.chunks_exact(MEMBER).filter_map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = [(4 + value.len() as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(flags: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        [vec![2, 0, 0, 0, flags, 0, 0, 0], attributes.concat()].concat()
    }

    #[test]
    fn objects_are_read_as_the_kernel_writes_them() {
        let id = |id: u32| attribute(NHA_ID, &id.to_ne_bytes());
        let oif = attribute(NHA_OIF, &2u32.to_ne_bytes());
        let gateway = attribute(NHA_GATEWAY, &[10, 0, 0, 1]);
        let hop = |alive| Object::Hop { ifindex: 2, gateway: Some([10, 0, 0, 1].into()), alive };
        let group = attribute(NHA_GROUP, &[[7, 0, 0, 0, 0, 0, 0, 0], [8, 0, 0, 0, 2, 1, 0, 0]].concat());
        for (bytes, expected) in [
            (message(0, &[id(7), oif.clone(), gateway.clone()]), Some((7, hop(true)))),
            (message(1, &[id(7), oif.clone(), gateway.clone()]), Some((7, hop(false)))),
            (message(16, &[id(7), oif.clone(), gateway]), Some((7, hop(false)))),
            (message(0, &[id(9), group]), Some((9, Object::Group(vec![(7, 1), (8, 259)])))),
            (message(0, &[id(5), attribute(NHA_BLACKHOLE, &[])]), Some((5, Object::Blackhole))),
            (message(0, &[id(6), oif, attribute(NHA_ENCAP, &[0; 4])]), Some((6, Object::Encapsulated))),
            (message(0, &[id(4)]), None),
            (vec![2, 0], None),
        ] {
            let expected = expected.map(|(id, object): (u32, Object)| (id, object));
            assert_eq!(Object::read(&bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_group_leads_by_its_members_that_are_alive() {
        let hop = |ifindex, alive| Object::Hop { ifindex, gateway: None, alive };
        let group = Object::Group(vec![(1, 1), (2, 1), (9, 1)]);
        let objects = Objects::from([(1, hop(2, false)), (2, hop(3, true)), (7, group)]);
        for last in 0..50 {
            let found = route(&objects, 7, [10, 0, 0, last].into(), Some(1400));
            assert_eq!(found, Route::Hop(Hop { ifindex: 3, gateway: None, mtu: Some(1400) }));
        }
        assert!(matches!(route(&objects, 8, [10, 0, 0, 1].into(), None), Route::Unknown(_)));
    }
}
