//! What a next hop is looked up by.

use std::net::IpAddr;

use lb_common::Via;

use super::{Backend, Config, Difference, Node, Vip};

/// An address that frames are to be sent to: what a next hop is looked up by, in the kernel and in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The address.
    pub address: IpAddr,
    /// Whether it must be on a link of this host, so that a frame can be addressed to it directly: a route by a gateway
    /// is an error then.
    pub on_link: bool,
    /// By which routing tables. One address may be reached in several ways, each a target of its own.
    pub via: Via,
    /// Its MAC address, where that is not to be asked of the network. The route says by which interface.
    pub mac: Option<[u8; 6]>,
    /// The largest IP packet in bytes that the way carries, where its first hop does not say so.
    pub mtu: Option<u16>,
}

impl Target {
    /// By the main routing, with the MAC address that the network says.
    pub fn new(address: IpAddr, on_link: bool) -> Self {
        Self { address, on_link, via: Via::default(), mac: None, mtu: None }
    }

    /// Of a backend of `vip`. With `l2` the backend itself must be on the link.
    pub fn of(node: &Node, vip: &Vip, backend: &Backend) -> Self {
        Self {
            address: backend.address,
            on_link: vip.forward.is_on_link(),
            via: vip.via(node),
            mac: backend.mac.map(Into::into),
            mtu: vip.mtu_to(backend).bytes(),
        }
    }

    /// Of every backend of `config`.
    pub fn all(config: &Config) -> impl Iterator<Item = Self> {
        config.vips.iter().flat_map(|vip| Self::of_vip(&config.node, vip))
    }

    /// Of VIPs that only the config before has just so, and of those that only the config after has; each as often as
    /// backends are behind it.
    pub fn changed(before: &Config, after: &Config) -> (Vec<Self>, Vec<Self>) {
        if before.node.routing() != after.node.routing() {
            return (Self::all(before).collect(), Self::all(after).collect());
        }
        let Difference { gone, come } = before.difference(after);
        (
            gone.into_iter().flat_map(|vip| Self::of_vip(&before.node, vip)).collect(),
            come.into_iter().flat_map(|vip| Self::of_vip(&after.node, vip)).collect(),
        )
    }

    /// The second that [`Self::changed`] finds, without a list of them where that would be long.
    pub fn come<'c>(before: &Config, after: &'c Config) -> Box<dyn Iterator<Item = Self> + 'c> {
        match before.vips.is_empty() {
            true => Box::new(Self::all(after)),
            false => Box::new(Self::changed(before, after).1.into_iter()),
        }
    }

    fn of_vip(node: &Node, vip: &Vip) -> impl Iterator<Item = Self> {
        vip.backends.iter().map(|backend| Self::of(node, vip, backend))
    }
}

#[cfg(test)]
mod tests {
    use lb_common::VrfName;

    use super::*;

    const TWO: &str = "
        [[vip]]
        name = \"web\"
        address = \"203.0.113.10\"
        ports = [\"tcp/80\"]
        forward = \"ipip\"
        backends = [{ address = \"10.0.0.1\" }, { address = \"10.0.0.2\" }]
        [[vip]]
        name = \"dns\"
        address = \"203.0.113.53\"
        ports = [\"udp/53\"]
        forward = \"l2\"
        backends = [{ address = \"10.0.0.1\" }]
    ";

    fn config(text: &str) -> Config {
        Config::parse(text, "naru.toml".as_ref()).unwrap()
    }

    fn target(last: u8, on_link: bool) -> Target {
        Target::new([10, 0, 0, last].into(), on_link)
    }

    #[test]
    fn a_backend_of_two_modes_is_two_targets() {
        let expected = [target(1, false), target(2, false), target(1, true)];
        assert_eq!(Target::all(&config(TWO)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_backend_of_two_vips_that_reach_it_in_two_ways_is_two_targets() {
        let text = "
            [node]
            vrf = \"blue\"
            mark = 0x10
            [[vip]]
            name = \"web\"
            address = \"203.0.113.10\"
            ports = [\"tcp/80\"]
            forward = \"l2\"
            backends = [{ address = \"10.0.0.1\", mac = \"02:00:00:00:00:07\" }]
            [[vip]]
            name = \"dns\"
            address = \"203.0.113.53\"
            ports = [\"udp/53\"]
            forward = \"l2\"
            vrf = \"default\"
            mark = 0
            backends = [{ address = \"10.0.0.1\" }]
        ";
        let via = Via { vrf: VrfName::new("blue").unwrap(), mark: 0x10 };
        let by_vrf = Target { via, mac: Some([2, 0, 0, 0, 0, 7]), ..target(1, true) };
        assert_eq!(Target::all(&config(text)).collect::<Vec<_>>(), [by_vrf, target(1, true)]);
    }

    #[test]
    fn a_backend_whose_way_carries_less_is_a_target_of_its_own() {
        let narrow = TWO.replace("forward = \"ipip\"", "forward = \"ipip\"\nmtu = 1400");
        let narrow =
            narrow.replace("\"10.0.0.2\" }", "\"10.0.0.2\", mtu = 9000 }, { address = \"10.0.0.3\", mtu = \"none\" }");
        let mtus: Vec<_> = Target::all(&config(&narrow)).map(|target| target.mtu).collect();
        assert_eq!(mtus, [Some(1400), Some(9000), None, None]);
    }

    #[test]
    fn only_vips_that_differ_change_targets() {
        let before = config(TWO);
        assert_eq!(Target::changed(&Config::default(), &before), (vec![], Target::all(&before).collect()));
        let after = config(&TWO.replace("10.0.0.2", "10.0.0.3"));
        let [one, two, three] = [1, 2, 3].map(|last| target(last, false));
        assert_eq!(Target::changed(&before, &after), (vec![one, two], vec![one, three]));
        assert_eq!(Target::come(&before, &after).collect::<Vec<_>>(), [one, three]);
        assert_eq!(Target::come(&Config::default(), &after).count(), 3);
    }

    #[test]
    fn another_mark_of_the_node_is_another_way_to_everything() {
        let (before, after) = (config(TWO), config(&format!("[node]\nmark = 7\n{TWO}")));
        let (gone, come) = Target::changed(&before, &after);
        assert_eq!((gone, come.len()), (Target::all(&before).collect(), 3));
        assert!(come.iter().all(|target| target.via.mark == 7));
    }
}
