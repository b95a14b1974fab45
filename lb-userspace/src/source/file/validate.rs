//! From drafts to a config: what values must be to each other, within a VIP and among VIPs.

use std::{net::IpAddr, sync::Arc};

use hashbrown::{HashMap, HashSet};

use super::{
    error::Problems,
    read::{BackendDraft, Draft, VipDraft},
};
use crate::model::{
    Backend, Claims, Config, Conflict, ForwardMode, Health, Node, Parts, Port, Protocol, Slots, Vip, WayMtu, Word as _,
    conflicts, prime,
};

/// The config of a draft, which was read from `text`, if it is one; notes every contradiction.
pub(super) fn config(text: &str, draft: &Draft, problems: &mut Problems) -> Option<Config> {
    check_each(text, draft, problems);
    let config = match vips(draft) {
        Some(vips) => Config::new(Parts { node: draft.node.clone(), vips }),
        None => Err(conflicts(&draft.node, &draft.vips)),
    };
    let mut check = Check { text, problems };
    check.outer_source(draft);
    config.as_ref().err().into_iter().flatten().for_each(|conflict| check.conflict(&draft.vips, conflict));
    check.purpose(draft);
    config.ok()
}

/// Notes what contradicts itself within one VIP: the part of [`config`] for which other VIPs do not matter.
pub(super) fn check_each(text: &str, draft: &Draft, problems: &mut Problems) {
    let mut check = Check { text, problems };
    for vip in &draft.vips {
        check.ports(vip);
        check.backends(vip);
        check.families(vip);
        check.pins(vip);
        check.mtus(vip);
        check.weights(vip);
        check.slots(vip);
        check.health(vip);
    }
}

/// Whether `vips` of a config with this node have all that they need of it.
pub(super) fn suits(node: &Node, vips: &[Arc<Vip>]) -> bool {
    let has_source =
        |vip: &Arc<Vip>, backend: &Backend| !matches!(vip.forward.outer_source(backend.address, node), Some(Err(_)));
    vips.iter().all(|vip| vip.backends.iter().all(|backend| has_source(vip, backend)))
}

/// The VIPs, where every part of the draft could be read.
pub(super) fn vips(draft: &Draft) -> Option<Vec<Arc<Vip>>> {
    draft.vips.iter().map(|draft| vip(draft).map(Arc::new)).collect()
}

fn vip(draft: &VipDraft) -> Option<Vip> {
    let backends = draft.backends.iter().map(|backend| Backend {
        weight: *backend.weight.get_ref(),
        state: backend.state,
        mac: backend.mac.as_ref().map(|mac| *mac.get_ref()),
        mtu: backend.mtu.as_ref().map(|mtu| *mtu.get_ref()),
        tier: backend.tier.as_ref().map_or(0, |tier| *tier.get_ref()),
        ..Backend::plain(*backend.address.get_ref())
    });
    let health = draft.health.as_ref().and_then(|health| health.get_ref().clone()).map(Arc::new);
    let own = |backend: &BackendDraft| {
        let own = backend.health.as_ref()?.get_ref().clone();
        Some((*backend.address.get_ref(), own.map(Arc::new)))
    };
    let asked_otherwise = draft.backends.iter().filter(|_| health.is_some()).filter_map(own).collect();
    Some(Vip {
        name: draft.name.as_ref()?.get_ref().clone(),
        address: *draft.address.as_ref()?.get_ref(),
        ports: draft.ports().collect(),
        forward: *draft.forward.as_ref()?.get_ref(),
        settings: draft.given.clone().or_default(),
        health,
        asked_otherwise,
        waives_health: draft.health.as_ref().is_some_and(|health| health.get_ref().is_none()),
        has_tiers: draft.backends.iter().filter_map(|own| own.tier.as_ref()).any(|tier| *tier.get_ref() > 0),
        backends: backends.collect(),
    })
}

impl Claims for VipDraft {
    fn name(&self) -> Option<&str> {
        self.name.as_ref().map(|name| name.get_ref().as_str())
    }

    fn address(&self) -> Option<IpAddr> {
        self.address.as_ref().map(|address| *address.get_ref())
    }

    fn ports(&self) -> impl Iterator<Item = Port> {
        self.ports.iter().map(|port| *port.get_ref())
    }

    fn backends(&self) -> usize {
        self.backends.len()
    }

    fn slots(&self) -> u32 {
        self.given.slots.unwrap_or(Slots::DEFAULT).get()
    }
}

struct Check<'c> {
    text: &'c str,
    problems: &'c mut Problems,
}

impl Check<'_> {
    /// Probes need a port.
    fn health(&mut self, vip: &VipDraft) {
        let is_served =
            |wanted: Protocol| vip.ports.iter().any(|port| protocol(port) == wanted && port.get_ref().port.is_some());
        let lacking =
            |health: &Health| health.check.protocol().filter(|wanted| health.port.is_none() && !is_served(*wanted));
        let all = vip.health.iter().chain(vip.backends.iter().filter_map(|backend| backend.health.as_ref()));
        // What is wrong with the VIP's is not said of each backend.
        let mut said = HashSet::new();
        for own in all {
            let Some(wanted) = own.get_ref().as_ref().and_then(lacking).filter(|wanted| said.insert(*wanted)) else {
                continue;
            };
            let wanted = wanted.word().to_uppercase();
            let message =
                format!("the VIP serves no {wanted} port by its number; say at which one probes are: `port = 80`");
            self.problems.add(own.span(), message);
        }
    }

    fn ports(&mut self, vip: &VipDraft) {
        let mut seen = HashSet::new();
        let any: HashSet<Protocol> =
            vip.ports.iter().filter(|port| port.get_ref().port.is_none()).map(protocol).collect();
        for port in &vip.ports {
            let Port { protocol, port: number } = *port.get_ref();
            if !seen.insert(port.get_ref()) {
                let message = format!("port `{}` is listed twice; remove one of the two", port.get_ref());
                self.problems.add(port.span(), message);
            } else if number.is_some() && any.contains(&protocol) {
                let message = format!("`{protocol}/any` already covers `{}`; remove one of the two", port.get_ref());
                self.problems.add(port.span(), message);
            }
        }
    }

    fn backends(&mut self, vip: &VipDraft) {
        let own = vip.address.as_ref().map(|address| *address.get_ref());
        let is_probed = vip.health.as_ref().is_some_and(|health| health.get_ref().is_some());
        let mut seen = HashMap::with_capacity(vip.backends.len());
        for backend in &vip.backends {
            let (address, span) = (*backend.address.get_ref(), backend.address.span());
            if let Some(tier) = backend.tier.as_ref().filter(|tier| *tier.get_ref() > 0 && !is_probed) {
                let message = "nobody asks whether the backends of tiers before work; write `health` for the VIP";
                self.problems.add(tier.span(), message);
            }
            if Some(address) == own {
                let message = "this is the VIP's own address, from where packets would come back here; write the real \
                               server's own address";
                self.problems.add(span, message);
            } else if let Some(first) = seen.insert(address, span.start) {
                let line = self.line(first);
                let message = format!("backend `{address}` is already listed in line {line}; remove one of the two");
                self.problems.add(span, message);
            }
        }
    }

    /// Not every mode reaches every backend.
    fn families(&mut self, vip: &VipDraft) {
        let (Some(address), Some(forward)) = (&vip.address, &vip.forward) else { return };
        let (address, forward) = (*address.get_ref(), *forward.get_ref());
        let is_beyond = |backend: &&BackendDraft| forward.obstacle(address, *backend.address.get_ref(), 0).is_some();
        let mut beyond = vip.backends.iter().filter(is_beyond);
        let Some(first) = beyond.next() else { return };
        if let Some(message) = forward.obstacle(address, *first.address.get_ref(), beyond.count()) {
            self.problems.add(first.address.span(), message);
        }
    }

    /// Only where the next hop is the backend itself, whatever the routes say, is its MAC address known.
    fn pins(&mut self, vip: &VipDraft) {
        let Some(forward) = vip.forward.as_ref().map(|forward| *forward.get_ref()) else { return };
        let pinned = |backend: &BackendDraft| backend.mac.as_ref().map(toml::Spanned::span);
        let Some(span) = vip.backends.iter().find_map(pinned).filter(|_| !forward.is_on_link()) else { return };
        let message = format!(
            "`mac` pins the MAC address of an `l2` backend, and frames of a VIP with `forward = \"{forward}\"` may go \
             to a router; remove the key (a router's address is pinned by `ip neigh replace ADDRESS lladdr MAC dev \
             INTERFACE nud permanent`)"
        );
        self.problems.add(span, message);
    }

    /// Whatever IPv6 goes over carries packets of a certain size: nobody makes his packets smaller than that, so that there
    /// must be room for what the forward mode adds as well.
    fn mtus(&mut self, vip: &VipDraft) {
        let is_six = vip.address.as_ref().is_some_and(|address| address.get_ref().is_ipv6());
        let forward = vip.forward.as_ref().map(|forward| *forward.get_ref());
        let least_by = |backend| {
            let added = forward.map_or(0, |forward| forward.way(backend).overhead());
            u32::from(WayMtu::MIN_IPV6) + if is_six { added } else { 0 }
        };
        let of_vip = vip.given.mtu.map(|mtu| (mtu, vip.places.get("mtu").unwrap_or(&vip.header).clone()));
        let the_vip = || is_six.then(|| "the VIP".to_owned());
        let alone = of_vip.iter().cloned().map(|(mtu, span)| (mtu, span, the_vip(), WayMtu::MIN_IPV6.into()));
        let all = vip.backends.iter().filter_map(|backend| {
            let own = backend.mtu.as_ref().map(|mtu| (*mtu.get_ref(), mtu.span()));
            let (mtu, span) = own.or_else(|| of_vip.clone())?;
            let address = *backend.address.get_ref();
            let whose = the_vip().or_else(|| address.is_ipv6().then(|| format!("the backend `{address}`")));
            Some((mtu, span, whose, least_by(address)))
        });
        // What is wrong with the VIP's is not said of each backend.
        let mut said = HashSet::new();
        let is_below = |mtu: WayMtu, least| mtu.bytes().is_some_and(|bytes| u32::from(bytes) < least);
        for (mtu, span, whose, least) in all.chain(alone).filter(|(mtu, .., least)| is_below(*mtu, *least)) {
            let Some(whose) = whose.filter(|_| said.insert(span.start)) else { continue };
            let message = format!(
                "`mtu` is {mtu}, and {whose} has an IPv6 address, for which ways carry {least} at least; write `mtu = \
                 {least}` or more"
            );
            self.problems.add(span, message);
        }
    }

    /// An outer IPv6 header needs a source address, and there is no prefix that is free everywhere.
    fn outer_source(&mut self, draft: &Draft) {
        if draft.has_encap_source6 {
            return;
        }
        let needs = |backend: &BackendDraft, forward: ForwardMode| {
            matches!(forward.outer_source(*backend.address.get_ref(), &draft.node), Some(Err(_)))
        };
        let first = draft.vips.iter().find_map(|vip| {
            let forward = *vip.forward.as_ref()?.get_ref();
            Some((vip.backends.iter().find(|backend| needs(backend, forward))?, forward))
        });
        let Some((first, forward)) = first else { return };
        let message = format!(
            "`{forward}` reaches the backend `{}` inside IPv6, for which packets need a source address; write into \
             [node] a prefix of your own that no host uses and that backends accept, for instance `encap_source6 = \
             \"fd12:3456:789a:e::/64\"`",
            first.address.get_ref()
        );
        self.problems.add(first.address.span(), message);
    }

    fn weights(&mut self, vip: &VipDraft) {
        let Some(first) = vip.backends.first() else { return };
        if vip.backends_complete && vip.backends.iter().all(|backend| *backend.weight.get_ref() == 0) {
            let message = "every backend of this VIP has weight 0, so none would take traffic; give at least one a \
                           weight, or take backends out with `state = \"drain\"`";
            self.problems.add(first.weight.span(), message);
        }
    }

    fn slots(&mut self, vip: &VipDraft) {
        let backends = u32::try_from(vip.backends.len()).unwrap_or(u32::MAX);
        let slots = vip.slots();
        if slots >= backends {
            return;
        }
        let enough = prime::at_least(backends.saturating_mul(100));
        let span = vip.places.get("slots").unwrap_or(&vip.header).clone();
        let message = format!("{slots} slots are too few for {backends} backends; write `slots = {enough}`");
        self.problems.add(span, message);
    }

    /// Notes why VIPs do not go together, but for what is noted of one VIP and its values on their own.
    fn conflict(&mut self, vips: &[VipDraft], conflict: &Conflict) {
        let (span, message) = match *conflict {
            Conflict::LongName { .. } => return,
            Conflict::Service { vip, first, .. } if vip == first => return,
            Conflict::Name { vip, first } => {
                let (Some(name), Some(taken)) = (&vips[vip].name, &vips[first].name) else { return };
                let (line, span) = (self.line(taken.span().start), name.span());
                let name = name.get_ref();
                (span, format!("VIP name `{name}` is already taken in line {line}; rename one of the two"))
            }
            Conflict::Service { vip, port, first } => {
                let (Some(address), port, other) = (vips[vip].address(), &vips[vip].ports[port], &vips[first]) else {
                    return;
                };
                let name = other.name().map_or("another VIP".to_owned(), |name| format!("VIP `{name}`"));
                let message = format!(
                    "`{}` on {address} is already served by {name} in line {}; change the port or the address of \
                     one of the two",
                    port.get_ref(),
                    self.line(other.header.start),
                );
                (port.span(), message)
            }
            Conflict::Limit { vip, key, max, what, sum } => {
                let message = format!(
                    "the config has {sum} {what}, above `{key}`, which is {max}; write `{key} = {sum}` or more in \
                     [node]"
                );
                (vips[vip].header.clone(), message)
            }
        };
        self.problems.add(span, message);
    }

    /// An empty file, or one that was cut off above everything that matters, is an accident.
    fn purpose(&mut self, draft: &Draft) {
        // Where something else is wrong, that is why.
        if self.problems.0.is_empty() && draft.vips.is_empty() && !draft.node.names_interfaces {
            let message = "the config has neither `interfaces` nor a [[vip]]: is it all there? If nothing is to be \
                           served, write `interfaces = []` in [node]";
            self.problems.add(0..0, message);
        }
    }

    fn line(&self, offset: usize) -> usize {
        self.text[..offset].matches('\n').count() + 1
    }
}

fn protocol(port: &toml::Spanned<Port>) -> Protocol {
    port.get_ref().protocol
}
