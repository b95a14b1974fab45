//! Answers to probes over the clients' path that the data plane cannot see, as far as that is known before they are
//! missed: every probe from such an address fails, whatever the backend does.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    Controller,
    own_macs::{ingress, served},
};
use crate::{
    dataplane::Mode,
    model::{Health, ProbeVia, ProblemKind},
    network::{InterfaceInfo, takes_tags},
    prober::interfaces_of,
};

/// Probes from an address that is in use come as often as this many intervals, at least.
const INTERVALS: u32 = 3;

impl Controller {
    /// Takes note of addresses that probes come from, and answers do not come to.
    pub(super) fn note_answers(&mut self) {
        const WHAT: &str = "answers";
        let time = |health: &Health| health.interval.max(health.timeout);
        let healths = self.health.probes().values().flat_map(BTreeMap::values).map(|probed| probed.health());
        let longest = healths.filter(|health| health.via == ProbeVia::Path).map(|health| time(health)).max();
        let since = Instant::now().checked_sub(INTERVALS * longest.unwrap_or_default().max(Duration::from_secs(1)));
        let sources = since.map(|since| self.probing.sources(since)).unwrap_or_default();
        let attached: Vec<_> = self.dataplane.attachments().iter().map(|own| (own.ifindex, own.mode)).collect();
        let links: Vec<_> = self.interfaces.links().collect();
        let lost = lost_answers(&interfaces_of(&sources), &links, &attached, takes_tags);
        match lost.is_empty() {
            true => self.problems.mend(ProblemKind::Health, WHAT),
            false => self.problems.note(ProblemKind::Health, WHAT, &lost.join("; ")),
        }
    }
}

/// Why answers to probes from some addresses of this host are lost, a sentence for each interface. `sources`: the
/// interfaces that have the addresses, by name. `attached`: those that the data plane is attached to, and how.
/// `takes_tags`: whether one takes VLAN tags out of frames.
pub fn lost_answers(
    sources: &BTreeMap<IpAddr, String>,
    links: &[&InterfaceInfo],
    attached: &[(u32, Mode)],
    takes_tags: impl Fn(&str) -> io::Result<bool>,
) -> Vec<String> {
    let by = |mode: Option<Mode>| {
        let of = |(ifindex, own): &(u32, Mode)| mode.is_none_or(|mode| mode == *own).then_some(*ifindex);
        served(links, &ingress(links, &attached.iter().filter_map(of).collect::<Vec<_>>()))
    };
    let (seen, native) = (by(None), by(Some(Mode::Native)));
    let at = |ifindex| links.iter().find(|link| link.ifindex == ifindex);
    let mut addresses = BTreeMap::<&str, Vec<IpAddr>>::new();
    sources.iter().for_each(|(address, name)| addresses.entry(name).or_default().push(*address));
    let lost = |(name, addresses): (&str, Vec<IpAddr>)| {
        let link = links.iter().find(|link| link.name == name)?;
        // An address of an interface that no frames come in by says nothing of where answers come.
        let is_card = link.mac.is_some() && link.arp && !link.loopback && !link.is_vrf();
        let first = addresses[0];
        let consequence = "every probe from there fails, and the backends with it";
        if is_card && !seen.contains(&link.ifindex) {
            return Some(format!(
                "answers to probes from {first} come by {name}, where naru is not attached: {consequence}; `naru \
                 interface attach {name}`, or write `via = \"address\"` in `health`"
            ));
        }
        let card = link.vlan.and(link.lower).and_then(at)?;
        let is_generic = seen.contains(&card.ifindex) && !native.contains(&card.ifindex);
        (is_generic && takes_tags(&card.name).unwrap_or(false)).then(|| {
            format!(
                "answers to probes from {first} come by the VLAN {name}, whose tags {} takes out of the frames, which \
                 generic mode does not support: {consequence}; `ethtool -K {0} rxvlan off`, or write `via = \
                 \"address\"` in `health`",
                card.name
            )
        })
    };
    addresses.into_iter().filter_map(lost).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Vlan;

    fn link(ifindex: u32, name: &str) -> InterfaceInfo {
        InterfaceInfo::ethernet(ifindex, name, [2, 0, 0, 0, 0, ifindex as u8])
    }

    fn lost(name: &str, links: &[InterfaceInfo], attached: &[(u32, Mode)], has_offload: bool) -> Vec<String> {
        let sources = BTreeMap::from([(IpAddr::from([10, 0, 0, 1]), name.to_owned())]);
        lost_answers(&sources, &links.iter().collect::<Vec<_>>(), attached, |_| Ok(has_offload))
    }

    #[test]
    fn an_interface_without_the_program_is_told_and_what_sits_on_others_is_not() {
        let kind = |kind: &str| Some(kind.to_owned());
        let lo = InterfaceInfo { loopback: true, mac: None, ..link(1, "lo") };
        let dummy = InterfaceInfo { arp: false, kind: kind("dummy"), ..link(4, "anycast") };
        let bond = InterfaceInfo { kind: kind("bond"), ..link(5, "bond0") };
        let port = InterfaceInfo { master: Some(5), ..link(6, "eth6") };
        let bridge = InterfaceInfo { kind: kind("bridge"), ..link(7, "br0") };
        let leg = InterfaceInfo { master: Some(7), ..link(8, "eth8") };
        let links = [lo, link(2, "eth0"), link(3, "eth1"), dummy, bond, port, bridge, leg];
        let attached = [(2, Mode::Native), (5, Mode::Native), (8, Mode::Native)];
        for name in ["lo", "eth0", "anycast", "bond0", "br0", "gone"] {
            assert_eq!(lost(name, &links, &attached, true), [""; 0], "{name}");
        }
        assert_eq!(
            lost("eth1", &links, &attached, true),
            [
                "answers to probes from 10.0.0.1 come by eth1, where naru is not attached: every probe from there fails, and \
              the backends with it; `naru interface attach eth1`, or write `via = \"address\"` in `health`"
            ]
        );
    }

    #[test]
    fn a_vlan_whose_tags_generic_mode_does_not_see_is_told() {
        let vlan = Some(Vlan { id: 7, provider: false });
        let links =
            [link(2, "eth0"), InterfaceInfo { kind: Some("vlan".into()), lower: Some(2), vlan, ..link(3, "eth0.7") }];
        let generic = [(2, Mode::Generic)];
        assert_eq!(lost("eth0.7", &links, &[(2, Mode::Native)], true), [""; 0]);
        assert_eq!(lost("eth0.7", &links, &generic, false), [""; 0]);
        assert_eq!(lost("eth0", &links, &generic, true), [""; 0]);
        let [told] = lost("eth0.7", &links, &generic, true).try_into().unwrap();
        assert!(told.contains("VLAN eth0.7") && told.contains("`ethtool -K eth0 rxvlan off`"), "{told}");
        let [told] = lost("eth0.7", &links, &[], true).try_into().unwrap();
        assert!(told.contains("by eth0.7, where naru is not attached"), "{told}");
    }
}
