//! The interfaces that the data plane is attached to: those of the config, as they come, go and change their names.
//!
//! The config may call an interface by any of its names (`altname`). One that is attached stays so when it loses that
//! name: a rename is no wish to stop serving. Only when another interface gets the name, that one is attached as well.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use lb_common::OwnMac;
use nix::net::if_::if_nameindex;

use super::{
    Error,
    own_macs::{ingress, own_macs},
};
use crate::{
    dataplane::{Attachment, Dataplane, LeftOut, Mode},
    model::{Config, Mac, Node, Target, XdpMode},
    network::{self, InterfaceChange, InterfaceInfo, Unresolved, Ways},
};

/// What the kernel says of the interfaces, and why some are not attached.
#[derive(Clone, Debug, Default)]
pub struct Interfaces {
    /// By index.
    links: BTreeMap<u32, InterfaceInfo>,
    /// By the name in the config.
    problems: BTreeMap<String, String>,
    /// MAC addresses of this host that the data plane has no room for.
    left_out: Vec<LeftOut>,
}

/// An interface that is configured or attached.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name, as the config has it.
    pub name: String,
    /// Whether the config names it.
    pub configured: bool,
    /// What the kernel says of it; absent while there is no such interface.
    pub link: Option<InterfaceInfo>,
    /// How the data plane is attached to it; absent while it is not.
    pub attached: Option<Attachment>,
    /// Why the data plane is not attached although the config names the interface.
    pub problem: Option<String>,
}

impl Interfaces {
    /// Takes note of all interfaces.
    pub fn update_all(&mut self, links: Vec<InterfaceInfo>) {
        self.links = links.into_iter().map(|link| (link.ifindex, link)).collect();
    }

    /// Takes note of a change, and follows it: a configured interface that appears is attached, one that is gone is
    /// forgotten.
    pub fn update(&mut self, dataplane: &mut Dataplane, node: &Node, change: InterfaceChange) {
        match change {
            InterfaceChange::Appeared(link) | InterfaceChange::Changed(link) => {
                self.attach_named(dataplane, node, link);
            }
            InterfaceChange::Renamed { from, interface } => {
                log::warn!("the interface {from} is called {} from now on", interface.name);
                self.attach_named(dataplane, node, interface);
            }
            InterfaceChange::Vanished(link) => self.forget(dataplane, node, &link),
        }
    }

    /// Takes note of the interfaces as they are, where changes of them may have been lost.
    pub fn replace(&mut self, dataplane: &mut Dataplane, node: &Node, links: Vec<InterfaceInfo>) {
        let present: BTreeSet<u32> = links.iter().map(|link| link.ifindex).collect();
        let gone: Vec<_> = self.links.values().filter(|link| !present.contains(&link.ifindex)).cloned().collect();
        gone.iter().for_each(|link| self.forget(dataplane, node, link));
        links.into_iter().for_each(|link| self.attach_named(dataplane, node, link));
    }

    /// Attaches the interfaces of `new` that exist, detaches all others. Those that do not exist are noted.
    ///
    /// An interface that `old` attaches the same way and that is in trouble is noted too, so that it stands in no
    /// other change's way; so is every one without `old`, when the daemon starts. Where the mode is another than in
    /// `old`, an interface in generic mode is tried in native mode again if `new` allows it, which takes the data plane
    /// off it for some microseconds.
    ///
    /// When the daemon starts, nothing is detached while an interface of the config is missing: a name that was
    /// mistyped would take the traffic off the one that was meant.
    pub fn follow(&mut self, dataplane: &mut Dataplane, old: Option<&Node>, new: &Node) -> Result<(), Error> {
        self.problems.retain(|name, _| new.interfaces.contains(name));
        let mode_changed = old.is_some_and(|old| old.xdp_mode != new.xdp_mode);
        let attached = dataplane.attachments();
        let mut taken: BTreeMap<u32, &String> = BTreeMap::new();
        let mut missing = None;
        for name in &new.interfaces {
            let Ok((ifindex, _)) = network::interface_named(name) else {
                self.note_missing(dataplane, name);
                missing = Some(name);
                continue;
            };
            if let Some(other) = taken.insert(ifindex, name) {
                self.problems
                    .insert(name.clone(), format!("it is {other}, which is listed too: remove one of the two"));
                taken.insert(ifindex, other);
                continue;
            }
            let generic = attached.iter().any(|old| old.name == *name && old.mode == Mode::Generic);
            if mode_changed && generic && new.xdp_mode != XdpMode::Generic {
                dataplane.detach(name)?;
            }
            let is_old = !mode_changed && old.is_none_or(|old| old.interfaces.contains(name));
            match self.attach(dataplane, new, name, ifindex) {
                Err(error) if is_old => self.note(name, error.to_string()),
                result => result?,
            }
        }
        // As they are now: one may have been attached under another name.
        for Attachment { name, .. } in dataplane.attachments() {
            if new.interfaces.contains(&name) {
                continue;
            }
            if let (None, Some(missing)) = (old, missing) {
                log::warn!(
                    "{name} stays attached although the config does not name it: it names {missing}, which is missing"
                );
                continue;
            }
            match dataplane.detach(&name) {
                Ok(_) => log::info!("detached from {name}"),
                Err(error) if old.is_none() => log::error!("cannot detach from {name}: {error}"),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Tries again to attach what could not be attached and exists now.
    pub fn retry(&mut self, dataplane: &mut Dataplane, node: &Node) {
        let names: Vec<_> = self.problems.keys().cloned().collect();
        for name in names {
            self.attach_late(dataplane, node, &name);
        }
    }

    /// Why some interfaces of the config are not attached, by name.
    pub fn problems(&self) -> &BTreeMap<String, String> {
        &self.problems
    }

    /// Refuses `new` where it names interfaces that do not exist and that `old` does not name.
    pub fn refuse_missing(old: &Node, new: &Node) -> Result<(), Error> {
        let added = new.interfaces.iter().filter(|name| !old.interfaces.contains(name));
        let missing: Vec<_> = added.filter(|name| network::interface_named(name).is_err()).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::NoSuchInterface { names: missing, existing: existing() })
    }

    /// Name of the interface with this index; its number where it has gone.
    pub fn name(&self, ifindex: u32) -> String {
        self.links.get(&ifindex).map_or_else(|| format!("#{ifindex}"), |link| link.name.clone())
    }

    /// The interfaces that no packet can leave by as the data plane is attached now, by index, and why: those that send
    /// nothing that native XDP redirects to them. What generic XDP redirects, every interface sends.
    pub fn barred(&self, dataplane: &Dataplane) -> HashMap<u32, Unresolved> {
        if !is_native(&dataplane.attachments()) {
            return HashMap::new();
        }
        let barred = self.links.values().filter(|link| !link.takes_redirects());
        let reason = |link: &InterfaceInfo| Unresolved::TakesNoRedirects {
            interface: link.name.clone(),
            kind: link.kind.clone().unwrap_or_default(),
        };
        barred.map(|link| (link.ifindex, reason(link))).collect()
    }

    /// Tells the data plane the MAC addresses that frames for this host have on the interfaces that they come in by.
    pub fn follow_macs(&mut self, dataplane: &mut Dataplane, ingress: &BTreeSet<u32>) {
        let links: Vec<_> = self.links.values().collect();
        self.left_out = dataplane.set_own_macs(&own_macs(&links, ingress));
    }

    /// The interfaces that frames come in by, by index.
    pub fn ingress(&self, dataplane: &Dataplane) -> BTreeSet<u32> {
        let attached: Vec<_> = dataplane.attachments().iter().map(|attachment| attachment.ifindex).collect();
        let links: Vec<_> = self.links.values().collect();
        ingress(&links, &attached)
    }

    /// All interfaces, as far as they are known.
    pub fn links(&self) -> impl Iterator<Item = &InterfaceInfo> {
        self.links.values()
    }

    /// Whether there is an interface with this index.
    pub fn exists(&self, ifindex: u32) -> bool {
        self.links.contains_key(&ifindex)
    }

    /// What to say of MAC addresses that the data plane has no room for.
    pub fn left_out(&self) -> impl Iterator<Item = String> {
        self.left_out.iter().map(|(ifindex, mac)| {
            let (interface, mac) = (self.name(*ifindex), Mac::from(*mac));
            format!(
                "packets for VIPs that come in by {interface} for the MAC address {mac} go to the stack: the interface \
                 and those on top of it have more than {} addresses; let VIPs share some",
                OwnMac::WINDOW
            )
        })
    }

    /// What to say of packets to backends that leave by an interface where the data plane is not attached: many drivers
    /// set up what sends redirected frames only once they have a program.
    pub fn warnings(&self, attachments: &[Attachment], config: &Config, ways: &Ways) -> Vec<String> {
        let is_attached = |ifindex| attachments.iter().any(|attachment| attachment.ifindex == ifindex);
        if !is_native(attachments) || ways.interfaces().into_iter().all(is_attached) {
            return Vec::new();
        }
        let backends = config.vips.iter().flat_map(|vip| vip.backends.iter().map(move |backend| (vip, backend)));
        let mut leaving: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
        for (vip, backend) in backends {
            if let Ok(next_hop) = ways.way_to(&Target::of(&config.node, vip, backend))
                && !is_attached(next_hop.ifindex)
            {
                leaving.entry(next_hop.ifindex).or_default().insert(backend.address);
            }
        }
        let warning = |(ifindex, addresses)| unattached(&self.name(ifindex), &addresses);
        leaving.into_iter().map(warning).collect()
    }

    /// The interfaces that are configured, and those that are attached besides.
    pub fn list(&self, attachments: &[Attachment], node: &Node) -> Vec<Interface> {
        let mut attached: BTreeMap<_, _> = attachments.iter().map(|a| (a.name.clone(), a.clone())).collect();
        let configured = node.interfaces.iter().map(|name| (name.clone(), attached.remove(name), true));
        let configured: Vec<_> = configured.collect();
        let others = attached.into_iter().map(|(name, attachment)| (name, Some(attachment), false));
        let interface = |(name, attached, configured): (String, Option<Attachment>, bool)| Interface {
            link: self.link(&name, attached.as_ref()).cloned(),
            problem: self.problems.get(&name).cloned(),
            name,
            configured,
            attached,
        };
        configured.into_iter().chain(others).map(interface).collect()
    }

    fn attach(&mut self, dataplane: &mut Dataplane, node: &Node, name: &str, ifindex: u32) -> Result<(), Error> {
        let before = dataplane.attachments();
        let attachment = dataplane.attach(name, ifindex, node.xdp_mode)?;
        self.problems.remove(name);
        if !before.contains(&attachment) {
            let reason = attachment.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            log::info!("attached to {name} in {} mode{reason}", attachment.mode);
        }
        Ok(())
    }

    /// Takes note of an interface, and attaches it under a name that the config calls it by. One that is attached under
    /// a name of the config stays so, with a word about it where it does not have that name any more.
    fn attach_named(&mut self, dataplane: &mut Dataplane, node: &Node, link: InterfaceInfo) {
        self.links.insert(link.ifindex, link.clone());
        let attached = dataplane.attachments().into_iter().filter(|attachment| attachment.ifindex == link.ifindex);
        let attached = attached.map(|attachment| attachment.name).find(|name| node.interfaces.contains(name));
        let is_rightly = attached.as_ref().is_some_and(|name| link.is_named(name));
        let other = node.interfaces.iter().find(|name| link.is_named(name)).filter(|_| !is_rightly);
        match (&attached, other) {
            (_, Some(name)) => self.attach_late(dataplane, node, name),
            (Some(name), None) if is_rightly => drop(self.problems.remove(name)),
            (Some(name), None) => self.note_renamed(name, &link.name),
            (None, None) => {}
        }
    }

    fn note_renamed(&mut self, name: &str, now: &str) {
        let reason = format!(
            "{name} is called {now} now, and attached all the same: correct the name in `interfaces` of [node]"
        );
        if self.problems.get(name) != Some(&reason) {
            log::warn!("interface {reason}");
        }
        self.problems.insert(name.to_owned(), reason);
    }

    /// Attaches an interface that is there now; what goes wrong is noted and tried again.
    fn attach_late(&mut self, dataplane: &mut Dataplane, node: &Node, name: &str) {
        let Ok((ifindex, _)) = network::interface_named(name) else { return };
        let is_named = |name: &str| self.links.get(&ifindex).is_some_and(|link| link.is_named(name));
        let is_same =
            |old: &Attachment| old.ifindex == ifindex && old.name != name && node.interfaces.contains(&old.name);
        // Under another of its names, which the config has as well.
        if dataplane.attachments().into_iter().any(|old| is_same(&old) && is_named(&old.name)) {
            return;
        }
        if let Err(error) = self.attach(dataplane, node, name, ifindex) {
            self.note(name, error.to_string());
        }
    }

    /// Takes note of why an interface is not attached. Said once, not at each try.
    fn note(&mut self, name: &str, reason: String) {
        if self.problems.get(name) != Some(&reason) {
            log::error!("cannot attach to {name}: {reason}; trying again");
        }
        self.problems.insert(name.to_owned(), reason);
    }

    fn forget(&mut self, dataplane: &mut Dataplane, node: &Node, link: &InterfaceInfo) {
        self.links.remove(&link.ifindex);
        let attached = dataplane.attachments().into_iter().filter(|attachment| attachment.ifindex == link.ifindex);
        let attached: Vec<String> = attached.map(|attachment| attachment.name).collect();
        for name in &attached {
            if let Err(error) = dataplane.detach(name) {
                log::error!("cannot remove the pin of {name}, which has gone: {error}");
            }
        }
        for name in node.interfaces.iter().filter(|name| attached.contains(name) || link.is_named(name)) {
            log::warn!("the interface {name} has gone: it will be attached when it returns");
            self.problems.insert(name.clone(), MISSING.to_owned());
        }
    }

    /// Takes note that no interface has this name of the config. One that is attached under it goes on.
    fn note_missing(&mut self, dataplane: &Dataplane, name: &str) {
        let attached = dataplane.attachments().into_iter().find(|attachment| attachment.name == name);
        match attached.and_then(|attachment| self.links.get(&attachment.ifindex)).map(|link| link.name.clone()) {
            Some(now) => self.note_renamed(name, &now),
            None => {
                if self.problems.insert(name.to_owned(), MISSING.to_owned()).as_deref() != Some(MISSING) {
                    log::warn!("there is no interface {name}: it will be attached when it appears");
                }
            }
        }
    }

    /// The interface that is attached under this name, or that has it.
    fn link(&self, name: &str, attachment: Option<&Attachment>) -> Option<&InterfaceInfo> {
        match attachment {
            Some(attachment) => self.links.get(&attachment.ifindex),
            None => self.links.values().find(|link| link.is_named(name)),
        }
    }
}

fn is_native(attachments: &[Attachment]) -> bool {
    attachments.iter().any(|attachment| attachment.mode == Mode::Native)
}

fn unattached(interface: &str, addresses: &BTreeSet<IpAddr>) -> String {
    let first = addresses.first().map(ToString::to_string).unwrap_or_default();
    let more = match addresses.len() {
        ..=1 => String::new(),
        count => format!(" and {} more backends", count - 1),
    };
    format!(
        "packets to {first}{more} leave by {interface}, where naru is not attached: many drivers then drop them; \
         `naru interface attach {interface}`"
    )
}

const MISSING: &str = "there is no such interface; it is attached when it appears";

/// Names of all interfaces but the loopback.
pub fn existing() -> Vec<String> {
    let Ok(interfaces) = if_nameindex() else { return Vec::new() };
    let names = interfaces.iter().map(|interface| interface.name().to_string_lossy().into_owned());
    names.filter(|name| name != "lo").collect()
}
