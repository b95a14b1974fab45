//! What the VIPs of a config need together. It adds up VIP by VIP, so that a change is as quick to add up as it is
//! small.

use std::ops::{AddAssign, SubAssign};

use lb_common::Features;

use super::record;
use crate::model::{Config, EchoReply, ProbeVia, Tracking, Vip};

/// What VIPs need together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// VIPs.
    pub vips: u64,
    /// IPv4 VIP keys and markers, at most: VIPs on one address share a marker.
    pub keys4: u64,
    /// IPv6 VIP keys and markers, at most.
    pub keys6: u64,
    /// Backends.
    pub backends: u64,
    /// Slots.
    pub slots: u64,
    /// By the number of a feature's bit: VIPs that need it.
    features: [u32; u32::BITS as usize],
}

impl Totals {
    /// Of all VIPs of a config.
    pub fn of(config: &Config) -> Self {
        let mut totals = Self::default();
        config.vips.iter().for_each(|vip| totals += Self::of_vip(vip));
        totals
    }

    /// Of `after`, where these are of `before`.
    pub fn after(mut self, before: &Config, after: &Config) -> Self {
        let difference = before.difference(after);
        difference.come.into_iter().for_each(|vip| self += Self::of_vip(vip));
        difference.gone.into_iter().for_each(|vip| self -= Self::of_vip(vip));
        self
    }

    /// The features that some VIP needs.
    pub fn features(&self) -> Features {
        let bits = (0..).zip(&self.features).filter(|(_, vips)| **vips > 0);
        Features(bits.fold(0, |all, (bit, _)| all | 1 << bit))
    }

    fn of_vip(vip: &Vip) -> Self {
        // Each protocol on an address has a marker beside the keys of its ports, and so have echo requests.
        let has = |protocol| u64::from(vip.ports.iter().any(|port| port.protocol == protocol));
        let markers = has(crate::model::Protocol::Tcp) + has(crate::model::Protocol::Udp) + u64::from(may_answer(vip));
        let keys = vip.ports.len() as u64 + markers;
        let (keys4, keys6) = if vip.address.is_ipv4() { (keys, 0) } else { (0, keys) };
        let mut totals = Self {
            vips: 1,
            keys4,
            keys6,
            backends: vip.backends.len() as u64,
            slots: vip.settings.slots.get().into(),
            features: [0; u32::BITS as usize],
        };
        let needed = features_of(vip).0;
        totals.features.iter_mut().enumerate().for_each(|(bit, vips)| *vips = needed >> bit & 1);
        totals
    }
}

/// The features that a program needs for a VIP.
fn features_of(vip: &Vip) -> Features {
    let mut features = if vip.address.is_ipv4() { Features::VIP4 } else { Features::VIP6 };
    if vip.ports.iter().any(|port| port.port.is_none()) {
        features = features.with(Features::ANY_PORT);
    }
    if vip.settings.tracking != Tracking::Never {
        features = features.with(Features::TRACKING);
    }
    if vip.healths().any(|health| health.via == ProbeVia::Path) {
        features = features.with(Features::PROBES);
    }
    if record::refuses(vip) {
        features = features.with(Features::REFUSALS);
    }
    // Where it answers none, the stack is not to answer either.
    features = features.with(Features::ECHO);
    let forwards = vip.backends.iter().map(|backend| vip.forward.way(backend.address).feature());
    forwards.fold(features, Features::with)
}

/// Whether its address may come to answer echo requests on account of this VIP.
fn may_answer(vip: &Vip) -> bool {
    vip.settings.echo != EchoReply::Never
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        let Self { vips, keys4, keys6, backends, slots, features } = other;
        self.vips += vips;
        self.keys4 += keys4;
        self.keys6 += keys6;
        self.backends += backends;
        self.slots += slots;
        self.features.iter_mut().zip(features).for_each(|(own, other)| *own += other);
    }
}

impl SubAssign for Totals {
    fn sub_assign(&mut self, other: Self) {
        let Self { vips, keys4, keys6, backends, slots, features } = other;
        self.vips -= vips;
        self.keys4 -= keys4;
        self.keys6 -= keys6;
        self.backends -= backends;
        self.slots -= slots;
        self.features.iter_mut().zip(features).for_each(|(own, other)| *own -= other);
    }
}

#[cfg(test)]
mod tests {
    use lb_common::Forward;

    use super::super::fixtures::{config, vip};
    use super::*;

    #[test]
    fn what_is_left_after_a_change_is_what_the_config_needs() {
        let before = config([
            vip("a", "192.0.2.1", &["tcp/80", "udp/any"], &["10.0.0.1"]),
            vip("b", "2001:db8::1", &["tcp/80"], &["2001:db8:1::1", "10.0.0.2"]),
        ]);
        let after = config([
            vip("a", "192.0.2.1", &["tcp/80"], &["10.0.0.1", "10.0.0.2"]),
            vip("c", "192.0.2.3", &["tcp/443"], &[]),
        ]);
        let totals = Totals::of(&before);
        assert_eq!((totals.vips, totals.keys4, totals.keys6, totals.backends), (2, 5, 3, 3));
        assert_eq!(totals.after(&before, &after), Totals::of(&after));
        let gone = Features::VIP6.with(Features::ANY_PORT).with(Forward::Ipip6.feature());
        assert!(totals.features().contains(gone));
        let left = Features::VIP4.with(Features::TRACKING).with(Features::ECHO).with(Forward::Ipip4.feature());
        assert_eq!(Totals::of(&after).features(), left);
        assert_eq!(Totals::of(&after).after(&after, &config([])), Totals::default());
    }
}
