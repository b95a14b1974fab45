//! The veth pair between this host and the namespace of probes, with all that makes packets arrive through it.
//!
//! | what | without it |
//! | --- | --- |
//! | the far end finishes checksums before it sends; with that go scatter-gather and segmentation offload | sums that nobody finishes, segments of 64 kB |
//! | the far end has GRO, and with it NAPI (kernel 5.13) | nothing arrives that native XDP redirects there |
//! | an MTU of 65535 on this end, the network's on the far end | what a card in generic mode has merged is too large for it |
//! | the far end without ARP and with default routes | nobody answers ARP, for nothing but probes comes through |
//! | no IPv6 addresses of the ends' own | they would look for others that have them, and say so to neighbours |

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
    time::{Duration, Instant},
};

use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use super::{error::Error, namespace::Namespace, netlink};
use crate::network::{ETHTOOL_SGRO, ETHTOOL_STXCSUM, interface_named, link_of, set_feature};

/// This end. One name for all, so that whoever manages the interfaces of a host can leave it alone.
pub const NAME: &str = "naru-probe";
/// The far end.
const FAR: &str = "probe";
/// Largest MTU that there is.
const LARGEST: u32 = 65_535;
/// Gateways that are not there: the far end has no ARP, and everything it sends reaches this end.
const GATEWAYS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(169, 254, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1))];
/// So long the pair of a daemon that was killed may take to go.
const GOING: Duration = Duration::from_millis(500);

/// The pair.
pub struct Pair {
    /// Index of this end.
    pub ifindex: u32,
    /// MAC address of this end.
    pub mac: [u8; 6],
    /// MAC address of the far end.
    pub far_mac: [u8; 6],
    far: u32,
    addresses: BTreeSet<IpAddr>,
    /// Behind all else: it takes both ends along.
    _link: Link,
}

/// The interface with this index, until this is dropped.
struct Link(u32);

impl Drop for Link {
    fn drop(&mut self) {
        // It may be gone already.
        if let Err(error) = netlink::remove(self.0) {
            log::debug!("{NAME}: {error}");
        }
    }
}

impl Pair {
    /// Makes the pair, from the network namespace of the calling thread to `namespace`. `mtu` is the network's.
    ///
    /// # Errors
    ///
    /// The kernel refuses something; another daemon of this host probes.
    pub fn make(namespace: &Namespace, mtu: u32) -> Result<Self, Error> {
        let failed = |action: &'static str| move |source| Error::Pair { name: NAME, action, source };
        let until = Instant::now() + GOING;
        while let Err(error) = netlink::add_pair(NAME, LARGEST, FAR, mtu, namespace.fd()) {
            if error.raw_os_error() != Some(libc::EEXIST) || Instant::now() >= until {
                return Err(failed("make it")(error));
            }
            // The kernel removes that of a killed daemon, with its namespace, a moment later.
            thread::sleep(Duration::from_millis(20));
        }
        let (ifindex, _) = interface_named(NAME).map_err(failed("find its end on this host"))?;
        let link = Link(ifindex);
        let mac = mac(ifindex).map_err(failed("find its MAC address"))?;
        let (far, far_mac) = namespace.run(prepare).map_err(failed("set up its end for probes"))?;
        // Behind the far end: the kernel looks as this end comes up whether the far end has GRO, and lets nobody redirect
        // here where it has not (6.3).
        netlink::set_up(ifindex, LinkFlags::empty()).map_err(failed("set it up"))?;
        Ok(Self { ifindex, mac, far_mac, far, addresses: BTreeSet::new(), _link: link })
    }

    /// Whether packets can still pass: somebody may have taken an end down, or away.
    pub fn is_whole(&self) -> bool {
        let is_up = |link: LinkMessage| link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
        link_of(self.ifindex).is_ok_and(is_up)
    }

    /// Gives the far end these addresses, and no others.
    ///
    /// # Errors
    ///
    /// The kernel refuses one.
    pub fn set_addresses(&mut self, namespace: &Namespace, addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
        let far = self.far;
        let added: Vec<_> = addresses.difference(&self.addresses).copied().collect();
        let gone: Vec<_> = self.addresses.difference(addresses).copied().collect();
        let work = move || {
            for address in added {
                netlink::add_address(far, address)?;
                let [v4, v6] = GATEWAYS;
                netlink::add_default_route(far, if address.is_ipv4() { v4 } else { v6 })?;
            }
            gone.into_iter().try_for_each(|address| netlink::remove_address(far, address))
        };
        namespace.run(work).map_err(|source| Error::Pair {
            name: NAME,
            action: "give it addresses of this host",
            source,
        })?;
        self.addresses.clone_from(addresses);
        Ok(())
    }
}

/// Sets up the far end, in its namespace. Returns its index and MAC address.
fn prepare() -> io::Result<(u32, [u8; 6])> {
    let (loopback, _) = interface_named("lo")?;
    netlink::set_up(loopback, LinkFlags::empty())?;
    let (far, _) = interface_named(FAR)?;
    set_feature(FAR, ETHTOOL_STXCSUM, 0)?;
    set_feature(FAR, ETHTOOL_SGRO, 1)?;
    netlink::set_up(far, LinkFlags::Noarp)?;
    Ok((far, mac(far)?))
}

fn mac(ifindex: u32) -> io::Result<[u8; 6]> {
    let attributes = link_of(ifindex)?.attributes;
    let mac = attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(address) => address.try_into().ok(),
        _ => None,
    });
    mac.ok_or_else(|| io::Error::other("the kernel does not say the MAC address"))
}
