//! Configs for tests, built without the parser.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use super::maglev::WeightedBackend;
use crate::model::{Backend, Config, ForwardMode, Parts, Settings, Slots, Vip};

/// Slots of a VIP in tests: few, so that simulating every slot is quick.
pub const SLOTS: u32 = 101;

/// A config of these VIPs.
pub fn config(vips: impl IntoIterator<Item = Vip>) -> Config {
    Config::new(Parts { vips: vips.into_iter().map(Arc::new).collect(), ..Parts::default() }).unwrap()
}

/// A VIP over `ipip` with backends of equal weight.
pub fn vip(name: &str, address: &str, ports: &[&str], backends: &[&str]) -> Vip {
    Vip {
        name: name.to_owned(),
        address: ip(address),
        ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
        forward: ForwardMode::Ipip,
        settings: Settings { slots: Slots::new(SLOTS), ..Settings::default() },
        health: None,
        asked_otherwise: Default::default(),
        waives_health: false,
        has_tiers: false,
        backends: backends.iter().map(|address| backend(address, 100)).collect(),
    }
}

/// An active backend.
pub fn backend(address: &str, weight: u32) -> Backend {
    Backend { weight, ..Backend::plain(ip(address)) }
}

/// `count` VIPs of `backends` backends each, no two of them alike.
pub fn many(count: usize, backends: usize, slots: u32) -> Config {
    let one = |number: usize| {
        let own = |backend: usize| IpAddr::from([10, (number >> 8) as u8, number as u8, backend as u8 + 1]);
        let mut vip = vip(&format!("vip{number}"), "192.0.2.1", &["tcp/80"], &[]);
        vip.address = IpAddr::from([198, 18, (number >> 8) as u8, number as u8]);
        vip.settings.slots = Slots::new(slots);
        vip.backends = (0..backends).map(|index| backend(&own(index).to_string(), 100)).collect();
        vip
    };
    config((0..count).map(one))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Backends of tables, 10.0.0.1 and on, with these weights.
pub fn weighted(weights: impl IntoIterator<Item = u32>) -> Vec<WeightedBackend> {
    let backend = |(host, weight)| {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + host);
        WeightedBackend { key: IpAddr::V4(address).into(), weight }
    };
    (0..).zip(weights).map(backend).collect()
}

/// The same, with equal weights.
pub fn equal(count: usize) -> Vec<WeightedBackend> {
    weighted(std::iter::repeat_n(100, count))
}
