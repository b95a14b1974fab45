//! The interfaces that the data plane is attached to: those of the config, as they come and go.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use nix::net::if_::{if_nameindex, if_nametoindex};

use super::{Error, next_hops::NextHops};
use crate::{
    api::types,
    config::{Config, Node, XdpMode},
    dataplane::{Attachment, Dataplane, Mode},
    netlink::{InterfaceChange, InterfaceInfo, Unresolved},
};

/// What the kernel says of the interfaces, and why some are not attached.
#[derive(Clone, Debug, Default)]
pub struct Interfaces {
    links: BTreeMap<String, InterfaceInfo>,
    problems: BTreeMap<String, String>,
}

impl Interfaces {
    /// Takes note of all interfaces.
    pub fn learn_all(&mut self, links: Vec<InterfaceInfo>) {
        self.links = links.into_iter().map(|link| (link.name.clone(), link)).collect();
    }

    /// Takes note of a change, and follows it: a configured interface that appears is attached, one that is gone is
    /// forgotten.
    pub fn learn(&mut self, dataplane: &mut Dataplane, node: &Node, change: InterfaceChange) {
        match change {
            InterfaceChange::Changed(link) => {
                self.links.insert(link.name.clone(), link);
            }
            InterfaceChange::Appeared(link) => {
                let name = link.name.clone();
                self.links.insert(name.clone(), link);
                if node.interfaces.contains(&name) {
                    self.attach_late(dataplane, node, &name);
                }
            }
            InterfaceChange::Vanished(link) => self.forget(dataplane, node, &link),
        }
    }

    /// Attaches the interfaces of `new` that exist, detaches all others. Those that do not exist are noted.
    ///
    /// An interface that `old` attaches the same way and that is in trouble is noted too, so that it stands in no
    /// other change's way; so is every one without `old`, when the daemon starts. Where the mode is another than in `old`, an interface in generic mode is tried in native
    /// mode again if `new` allows it, which takes the data plane off it for some microseconds.
    pub fn follow(&mut self, dataplane: &mut Dataplane, old: Option<&Node>, new: &Node) -> Result<(), Error> {
        self.problems.retain(|name, _| new.interfaces.contains(name));
        let mode_changed = old.is_some_and(|old| old.xdp_mode != new.xdp_mode);
        let attached = dataplane.attachments();
        for name in &new.interfaces {
            let Ok(ifindex) = if_nametoindex(name.as_str()) else {
                if self.problems.insert(name.clone(), MISSING.to_owned()).as_deref() != Some(MISSING) {
                    log::warn!("there is no interface {name}: it will be attached when it appears");
                }
                continue;
            };
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
        for Attachment { name, .. } in attached.iter().filter(|old| !new.interfaces.contains(&old.name)) {
            dataplane.detach(name)?;
            log::info!("detached from {name}");
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
        let missing: Vec<_> = added.filter(|name| if_nametoindex(name.as_str()).is_err()).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::NoSuchInterface { names: missing, existing: existing() })
    }

    /// Name of the interface with this index; its number where it has gone.
    pub fn name(&self, ifindex: u32) -> String {
        let link = self.links.values().find(|link| link.ifindex == ifindex);
        link.map_or_else(|| format!("#{ifindex}"), |link| link.name.clone())
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

    /// What to say of packets to backends that leave by an interface where the data plane is not attached: many drivers
    /// set up what sends redirected frames only once they have a program.
    pub fn warnings(&self, attachments: &[Attachment], config: &Config, next_hops: &NextHops) -> Vec<String> {
        let is_attached = |ifindex| attachments.iter().any(|attachment| attachment.ifindex == ifindex);
        if !is_native(attachments) || next_hops.interfaces().into_iter().all(is_attached) {
            return Vec::new();
        }
        let backends =
            config.vips.iter().flat_map(|vip| vip.backends.iter().map(move |backend| (vip, backend.address)));
        let mut leaving: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
        for (vip, address) in backends {
            if let Ok(next_hop) = next_hops.way(vip.forward, address)
                && !is_attached(next_hop.ifindex)
            {
                leaving.entry(next_hop.ifindex).or_default().insert(address);
            }
        }
        let warning = |(ifindex, addresses)| unattached(&self.name(ifindex), &addresses);
        leaving.into_iter().map(warning).collect()
    }

    /// The interfaces that are configured or attached, as the API shows them.
    pub fn view(&self, attachments: &[Attachment], node: &Node) -> Vec<types::Interface> {
        let mut attached: BTreeMap<_, _> = attachments.iter().map(|a| (a.name.clone(), a.clone())).collect();
        let configured = node.interfaces.iter().map(|name| (name.clone(), attached.remove(name), true));
        let configured: Vec<_> = configured.collect();
        let others = attached.into_iter().map(|(name, attachment)| (name, Some(attachment), false));
        configured
            .into_iter()
            .chain(others)
            .map(|(name, attachment, configured)| {
                let link = self.links.get(&name).map(|link| types::Link {
                    ifindex: link.ifindex,
                    mac: link.mac.map(types::mac_name),
                    mtu: link.mtu,
                    up: link.up && link.carrier,
                });
                let attached = attachment
                    .map(|attachment| types::Attached { mode: attachment.mode.to_string(), reason: attachment.reason });
                let problem = self.problems.get(&name).cloned();
                types::Interface { name, configured, link, attached, problem }
            })
            .collect()
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

    /// Attaches an interface that is there now; what goes wrong is noted and tried again.
    fn attach_late(&mut self, dataplane: &mut Dataplane, node: &Node, name: &str) {
        let Ok(ifindex) = if_nametoindex(name) else { return };
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
        self.links.remove(&link.name);
        let gone = dataplane.attachments().into_iter().any(|a| a.name == link.name && a.ifindex == link.ifindex);
        if gone && let Err(error) = dataplane.detach(&link.name) {
            log::error!("cannot remove the pin of {}, which has gone: {error}", link.name);
        }
        if node.interfaces.contains(&link.name) {
            log::warn!("the interface {} has gone: it will be attached when it returns", link.name);
            self.problems.insert(link.name.clone(), MISSING.to_owned());
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
