//! From drafts to a config: what values must be to each other, within a VIP and among VIPs.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    error::Problems,
    read::{BackendDraft, Draft, VipDraft},
};
use crate::model::{Backend, Config, ForwardMode, Node, Port, Protocol, Vip, prime};

/// Notes every contradiction in `draft`, which was read from `text`.
pub(super) fn check(text: &str, draft: &Draft, problems: &mut Problems) {
    check_each(text, draft, problems);
    let mut check = Check { text, problems };
    check.outer_source(draft);
    let renamed = check.names(&draft.vips);
    check.overlaps(&draft.vips, &renamed);
    check.limits(draft);
    check.purpose(draft);
}

/// Notes what contradicts itself within one VIP: the part of [`check`] for which other VIPs do not matter.
pub(super) fn check_each(text: &str, draft: &Draft, problems: &mut Problems) {
    let mut check = Check { text, problems };
    for vip in &draft.vips {
        check.ports(vip);
        check.backends(vip);
        check.families(vip);
        check.pins(vip);
        check.weights(vip);
        check.slots(vip);
    }
}

/// Whether the VIPs of a config, each of them sound, go together, where those of `before` did: the part of [`check`]
/// that [`check_each`] leaves out. Says neither what is wrong nor where.
pub(super) fn go_together(before: &Config, config: &Config) -> bool {
    let Config { node, vips } = config;
    let Node { names_interfaces, max_vips, max_backends, max_slots, .. } = node;
    if vips.is_empty() && !names_interfaces {
        return false;
    }
    let come = before.difference(config).come;
    let (mut names, mut services) = (HashSet::new(), HashSet::new());
    for vip in &come {
        let has_no_source = |backend: &Backend| matches!(vip.forward.outer_source(backend.address, node), Some(Err(_)));
        if vip.backends.iter().any(has_no_source) {
            return false;
        }
        if !names.insert(vip.name.as_str()) || !vip.ports.iter().all(|port| services.insert((vip.address, *port))) {
            return false;
        }
    }
    let addresses: HashSet<IpAddr> = come.iter().map(|vip| vip.address).collect();
    let come: HashSet<*const Vip> = come.into_iter().map(Arc::as_ptr).collect();
    let (mut backends, mut slots) = (0, 0);
    for vip in vips {
        backends += vip.backends.len() as u64;
        slots += u64::from(vip.settings.slots.get());
        if names.is_empty() || come.contains(&Arc::as_ptr(vip)) {
            continue;
        }
        let serves = |port: &Port| services.contains(&(vip.address, *port));
        if names.contains(vip.name.as_str()) || addresses.contains(&vip.address) && vip.ports.iter().any(serves) {
            return false;
        }
    }
    vips.len() as u64 <= u64::from(*max_vips) && backends <= u64::from(*max_backends) && slots <= u64::from(*max_slots)
}

/// The config, where every part of the draft could be read.
pub(super) fn finish(draft: Draft) -> Option<Config> {
    let vips = draft.vips.into_iter().map(|draft| vip(draft).map(Arc::new)).collect::<Option<_>>()?;
    Some(Config { node: draft.node, vips })
}

fn vip(draft: VipDraft) -> Option<Vip> {
    let backends = draft.backends.into_iter().map(|backend| Backend {
        address: backend.address.into_inner(),
        weight: backend.weight.into_inner(),
        state: backend.state,
        mac: backend.mac.map(|mac| mac.into_inner()),
    });
    Some(Vip {
        name: draft.name?.into_inner(),
        address: draft.address?.into_inner(),
        ports: draft.ports.into_iter().map(|port| port.into_inner()).collect(),
        forward: draft.forward?.into_inner(),
        settings: draft.given.or_default(),
        backends: backends.collect(),
    })
}

struct Check<'c> {
    text: &'c str,
    problems: &'c mut Problems,
}

impl Check<'_> {
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
        let mut seen = HashMap::with_capacity(vip.backends.len());
        for backend in &vip.backends {
            let (address, span) = (*backend.address.get_ref(), backend.address.span());
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
            "`mac` pins the MAC address of an `l2` backend, and frames of a VIP with `forward = \"{forward}\"` may go to \
             a router; remove the key (a router's address is pinned by `ip neigh replace ADDRESS lladdr MAC dev \
             INTERFACE nud permanent`)"
        );
        self.problems.add(span, message);
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
            "`{forward}` reaches the backend `{}` inside IPv6, for which packets need a source address; write into [node] a prefix \
             of your own that no host uses and that backends accept, for instance `encap_source6 = \
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

    /// Notes names that are taken, and returns the indexes of their VIPs.
    fn names(&mut self, vips: &[VipDraft]) -> HashSet<usize> {
        let mut seen = HashMap::with_capacity(vips.len());
        let mut taken = HashSet::new();
        for (index, name) in vips.iter().enumerate().filter_map(|(index, vip)| Some((index, vip.name.as_ref()?))) {
            let first = *seen.entry(name.get_ref()).or_insert(name.span().start);
            if first != name.span().start {
                let (name, line) = (name.get_ref(), self.line(first));
                let message = format!("VIP name `{name}` is already taken in line {line}; rename one of the two");
                self.problems.add(vips[index].name.as_ref().map_or(0..0, |name| name.span()), message);
                taken.insert(index);
            }
        }
        taken
    }

    /// Notes the first port of each VIP that another VIP serves on the same address. VIPs in `skip`, which are most
    /// likely a copy that has no name of its own yet, were told of already.
    fn overlaps(&mut self, vips: &[VipDraft], skip: &HashSet<usize>) {
        let mut seen: HashMap<(IpAddr, Port), usize> = HashMap::with_capacity(vips.len());
        for (index, vip) in vips.iter().enumerate().filter(|(index, _)| !skip.contains(index)) {
            let Some(address) = vip.address.as_ref().map(|address| *address.get_ref()) else { continue };
            let mut told = false;
            for port in &vip.ports {
                let first = *seen.entry((address, *port.get_ref())).or_insert(index);
                if first != index && !told {
                    told = true;
                    let other = &vips[first];
                    let name = other
                        .name
                        .as_ref()
                        .map_or("another VIP".to_owned(), |name| format!("VIP `{}`", name.get_ref()));
                    let message = format!(
                        "`{}` on {address} is already served by {name} in line {}; change the port or the address of \
                         one of the two",
                        port.get_ref(),
                        self.line(other.header.start),
                    );
                    self.problems.add(port.span(), message);
                }
            }
        }
    }

    /// Notes the first VIP with which a limit of `[node]` is passed.
    fn limits(&mut self, draft: &Draft) {
        let Node { max_vips, max_backends, max_slots, .. } = draft.node;
        self.limit(draft, "max_vips", max_vips, "VIPs", |_| 1);
        self.limit(draft, "max_backends", max_backends, "backends", |vip| vip.backends.len() as u64);
        self.limit(draft, "max_slots", max_slots, "slots", |vip| u64::from(vip.slots()));
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

    fn limit(&mut self, draft: &Draft, key: &str, max: u32, what: &str, of: impl Fn(&VipDraft) -> u64) {
        let mut sum = 0;
        let mut beyond = None;
        for vip in &draft.vips {
            sum += of(vip);
            if sum > u64::from(max) && beyond.is_none() {
                beyond = Some(vip.header.clone());
            }
        }
        if let Some(span) = beyond {
            let message = format!(
                "the config has {sum} {what}, above `{key}`, which is {max}; write `{key} = {sum}` or more in [node]"
            );
            self.problems.add(span, message);
        }
    }

    fn line(&self, offset: usize) -> usize {
        self.text[..offset].matches('\n').count() + 1
    }
}

fn protocol(port: &toml::Spanned<Port>) -> Protocol {
    port.get_ref().protocol
}
