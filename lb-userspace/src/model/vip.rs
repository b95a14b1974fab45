//! A virtual address, what is served on it, and by whom.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use lb_common::Via;

use super::{Backend, ForwardMode, Health, Mark, Node, Port, Settings, Slots, WayMtu};

/// A virtual address, what is served on it, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vip {
    /// What operators, metrics and the API call it; unique in a config.
    pub name: String,
    /// The address that clients dial.
    pub address: IpAddr,
    /// What is served on it; at least one, all different.
    pub ports: Vec<Port>,
    /// How packets reach the backends.
    pub forward: ForwardMode,
    /// Its values for the keys that have a default.
    pub settings: Settings,
    /// How it is found out whether its backends work; `None` where that is not.
    pub health: Option<Arc<Health>>,
    /// Backends that say themselves how they are asked, with all that the VIP says besides; `None` where they are not. There
    /// are none without `health`.
    pub asked_otherwise: BTreeMap<IpAddr, Option<Arc<Health>>>,
    /// That there is no `health` is meant so.
    pub waives_health: bool,
    /// Whether one of its backends has another tier than 0: what is over the config asks that of every VIP at each change.
    pub has_tiers: bool,
    /// The real servers, each address once.
    pub backends: Vec<Backend>,
}

impl Vip {
    /// Slots of a VIP that does not say.
    pub const DEFAULT_SLOTS: u32 = Slots::DEFAULT.get();

    /// How it is found out whether that backend works; `None` where it is not, and it counts as working.
    pub fn health_of(&self, backend: IpAddr) -> Option<&Arc<Health>> {
        match self.asked_otherwise.get(&backend) {
            Some(own) => own.as_ref(),
            None => self.health.as_ref(),
        }
    }

    /// All ways in which its backends may be asked.
    pub fn healths(&self) -> impl Iterator<Item = &Arc<Health>> {
        self.health.iter().chain(self.asked_otherwise.values().flatten())
    }

    /// The largest packet that the way to that backend of its own carries.
    pub fn mtu_to(&self, backend: &Backend) -> WayMtu {
        backend.mtu.unwrap_or(self.settings.mtu)
    }

    /// By which routing tables its backends are reached, on this node.
    pub fn via(&self, node: &Node) -> Via {
        let Settings { vrf, mark, .. } = &self.settings;
        let vrf = vrf.or(node.vrf).map(Into::into).unwrap_or_default();
        Via { vrf, mark: mark.map(Mark::get).or(node.mark).unwrap_or(0) }
    }

    /// Whether so few of its backends work that those serve as well which fail their probes.
    pub fn is_in_panic(&self) -> bool {
        self.backends.iter().any(|own| own.fails && own.effective_weight() > 0)
    }

    /// Its settings on this node: with the node's values where it does not say.
    pub fn settings_on(&self, node: &Node) -> Settings {
        let Via { vrf, mark } = self.via(node);
        let metrics_backends = Some(self.settings.metrics_backends.unwrap_or(node.metrics_backends));
        Settings { metrics_backends, vrf: Some(vrf.into()), mark: Some(mark.into()), ..self.settings.clone() }
    }
}
