//! What naru knows of a network interface, and how a change of one is told.

/// A network interface of this namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceInfo {
    /// Its name, such as `eth0`.
    pub name: String,
    /// Its other names (`ip link property add … altname …`), in their order.
    pub altnames: Vec<String>,
    /// The kernel's number for it; another one after the interface is deleted and made again.
    pub ifindex: u32,
    /// Its MAC address; `None` where it carries no Ethernet frames (`lo`, `tun`, `wireguard`, …).
    pub mac: Option<[u8; 6]>,
    /// Largest IP packet that it carries, in bytes.
    pub mtu: u32,
    /// Whether the operator has it up (`ip link set … up`).
    pub up: bool,
    /// Whether it is able to carry packets now (RFC 2863 "operationally up"): cable in, peer up, authenticated.
    pub carrier: bool,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// Whether neighbours are resolved on it (ARP, neighbour discovery).
    pub arp: bool,
    /// Its driver's kind where it is a virtual one: `veth`, `vlan`, `bond`, `bridge`, …
    pub kind: Option<String>,
    /// Ifindex of the bridge, bond or VRF that it belongs to.
    pub master: Option<u32>,
    /// Ifindex of the interface that it sits on (of a VLAN: the device below), where that is in the same namespace.
    pub lower: Option<u32>,
    /// Of a VLAN interface: which one.
    pub vlan: Option<Vlan>,
}

#[cfg(test)]
impl InterfaceInfo {
    /// A card that works, of its own.
    pub fn ethernet(ifindex: u32, name: &str, mac: [u8; 6]) -> Self {
        Self {
            name: name.to_owned(),
            altnames: Vec::new(),
            ifindex,
            mac: Some(mac),
            mtu: 1500,
            up: true,
            carrier: true,
            loopback: false,
            arp: true,
            kind: None,
            master: None,
            lower: None,
            vlan: None,
        }
    }
}

impl InterfaceInfo {
    /// Whether this is its name, or one of its other names.
    pub fn is_named(&self, name: &str) -> bool {
        self.name == name || self.altnames.iter().any(|altname| altname == name)
    }

    /// Whether it is a VRF: routing tables of their own for the interfaces that belong to it.
    pub fn is_vrf(&self) -> bool {
        self.kind.as_deref() == Some("vrf")
    }

    /// Whether it may be able to send frames that native XDP redirects to it: not if it is of a kind whose driver has
    /// no `ndo_xdp_xmit`. The kernel then drops such frames without counting them.
    pub fn takes_redirects(&self) -> bool {
        !self.kind.as_deref().is_some_and(|kind| WITHOUT_XDP_XMIT.contains(&kind))
    }
}

/// Kinds of Ethernet interfaces that send only what comes through the kernel's stack (Linux 6.18).
const WITHOUT_XDP_XMIT: [&str; 20] = [
    "bareudp",
    "batadv",
    "bridge",
    "dsa",
    "dummy",
    "erspan",
    "geneve",
    "gretap",
    "hsr",
    "ifb",
    "ip6erspan",
    "ip6gretap",
    "ipvlan",
    "ipvtap",
    "macsec",
    "macvlan",
    "macvtap",
    "team",
    "vrf",
    "vxlan",
];

/// The VLAN that an interface belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// VLAN id, 1 to 4094.
    pub id: u16,
    /// Whether its tag is that of a service provider (802.1ad) and not the customer's (802.1Q).
    pub provider: bool,
}

/// What happened to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceChange {
    /// It is new: it was created, or moved into this namespace.
    Appeared(InterfaceInfo),
    /// It is gone: deleted, or moved away. As it last was.
    Vanished(InterfaceInfo),
    /// It is the same one under another name.
    Renamed {
        /// Its name before.
        from: String,
        /// As it is now.
        interface: InterfaceInfo,
    },
    /// It is the same one, with something else than before: up or down, carrier, MAC address, MTU, other names, ….
    Changed(InterfaceInfo),
}
