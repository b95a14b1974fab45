//! What of a VIP's keys the data plane holds, in its record, and back.

use lb_common::{VipFlags, VipName, VipRecord};

use crate::model::{self, DrainDeadline, Fail, FlowHash, IdleTime, Node, Settings, Slots, Tracking};

/// Keys of a VIP that its record holds: what differs in them is found in the maps.
pub const KEYS: [&str; 8] = ["hash", "slots", "tracking", "tcp_idle", "udp_idle", "drain_deadline", "vrf", "mark"];

/// The record of a VIP whose table begins at `slot_base`; `None` where its name does not fit.
pub(super) fn record(vip: &model::Vip, node: &Node, slot_base: u32) -> Option<VipRecord> {
    let Settings { slots, tcp_idle, udp_idle, drain_deadline, .. } = &vip.settings;
    let starts_slowly = vip.backends.iter().any(|backend| backend.slow_start.is_some());
    let own = [(refuses(vip), VipFlags::REFUSES), (starts_slowly, VipFlags::SLOW_START)];
    let own = own.into_iter().filter_map(|(has, flag)| has.then_some(flag));
    Some(VipRecord {
        name: VipName::new(&vip.name)?,
        address: vip.address.into(),
        slot_base,
        slots: slots.get(),
        flags: own.fold(flags(&vip.settings), VipFlags::with),
        tcp_idle: tcp_idle.seconds(),
        udp_idle: udp_idle.seconds(),
        via: vip.via(node),
        drain_deadline: drain_deadline.seconds(),
    })
}

/// What a record says of a VIP's keys; those that it does not hold have their default.
pub(super) fn settings(record: &VipRecord) -> Settings {
    let VipRecord { slots, flags, tcp_idle, udp_idle, drain_deadline, via, .. } = record;
    let is = |flag| flags.contains(flag);
    Settings {
        hash: if is(VipFlags::HASH_SOURCE_IP) { FlowHash::SourceIp } else { FlowHash::FiveTuple },
        slots: Slots::new(*slots),
        tracking: match () {
            () if is(VipFlags::TRACK_ALWAYS) => Tracking::Always,
            () if is(VipFlags::TRACK_NEVER) => Tracking::Never,
            () => Tracking::Adaptive,
        },
        tcp_idle: IdleTime::from_seconds(*tcp_idle),
        udp_idle: IdleTime::from_seconds(*udp_idle),
        drain_deadline: DrainDeadline::from_seconds(*drain_deadline),
        vrf: Some(via.vrf.into()),
        mark: Some(via.mark.into()),
        ..Settings::default()
    }
}

/// Whether it tells clients that no backend takes flows.
pub(super) fn refuses(vip: &model::Vip) -> bool {
    vip.health.as_ref().is_some_and(|health| health.fail == Fail::Closed)
}

fn flags(settings: &Settings) -> VipFlags {
    let hash = match settings.hash {
        FlowHash::FiveTuple => VipFlags::default(),
        FlowHash::SourceIp => VipFlags::HASH_SOURCE_IP,
    };
    let tracking = match settings.tracking {
        Tracking::Adaptive => VipFlags::default(),
        Tracking::Always => VipFlags::TRACK_ALWAYS,
        Tracking::Never => VipFlags::TRACK_NEVER,
    };
    hash.with(tracking).with(VipFlags::KEEPS_PLACES)
}

#[cfg(test)]
mod tests {
    use super::{super::fixtures::vip, *};
    use crate::model::keys::SETTINGS;

    #[test]
    fn what_a_record_holds_comes_back() {
        let mut config = vip("web", "192.0.2.1", &["tcp/80"], &[]);
        let node = Node { mark: Some(7), ..Node::default() };
        for hash in [FlowHash::FiveTuple, FlowHash::SourceIp] {
            for tracking in [Tracking::Adaptive, Tracking::Always, Tracking::Never] {
                let [tcp_idle, udp_idle] = ["12h", "7s"].map(|time| time.parse().unwrap());
                config.settings = Settings {
                    hash,
                    slots: Slots::new(211),
                    tracking,
                    tcp_idle,
                    udp_idle,
                    vrf: Some("blue".parse().unwrap()),
                    ..Settings::default()
                };
                let held = settings(&record(&config, &node, 5).unwrap());
                assert_eq!(held, Settings { metrics_backends: None, ..config.settings_on(&node) });
            }
        }
        assert!(KEYS.iter().all(|key| SETTINGS.iter().any(|setting| setting.name == *key)));
    }
}
