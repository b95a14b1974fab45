//! Directories of pins and network namespaces for tests. All of it needs root.

use std::{fs, path::PathBuf};

use aya::maps::MapData;
use aya_obj::generated::{
    BPF_F_MMAPABLE,
    bpf_map_type::{self, BPF_MAP_TYPE_ARRAY},
};
use lb_common::maps;
use nix::{net::if_::if_nametoindex, unistd::geteuid};
use patience::{Namespace, ip};

use super::{Dataplane, detach_everything, place};
use crate::{
    model::Config,
    plan::fixtures::{config, vip},
};

/// Two VIPs, one of each family, with backends of both.
pub fn web() -> Config {
    config([
        vip("web", "203.0.113.10", &["tcp/80", "tcp/443"], &["10.0.1.11", "10.0.1.12", "2001:db8::13"]),
        vip("dns", "2001:db8::53", &["udp/any"], &["10.0.1.11"]),
    ])
}

/// The mirror is what a daemon would read that starts now.
pub fn assert_mirrors(dataplane: &Dataplane) {
    assert_eq!(dataplane.generation.maps.read().unwrap(), *dataplane.state);
}

/// A directory of pins that goes with the test.
pub struct Pins(pub PathBuf);

impl Pins {
    /// One that no other test has; it is made when something is pinned.
    pub fn new() -> Self {
        assert!(geteuid().is_root(), "this test loads eBPF programs: run it as root");
        Self(patience::pins())
    }

    /// The data plane pinned here.
    pub fn open(&self, config: &Config) -> Dataplane {
        Dataplane::open(&self.0, config).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Pins in the first generation, in the place of its map of what is said of slots that move, an empty one with so many
    /// places.
    pub fn make_moves(&self, places: u32) {
        let pin = place::root(&self.0).join("g1/maps").join(maps::MOVES);
        fs::remove_file(&pin).unwrap();
        map(BPF_MAP_TYPE_ARRAY, 8, places, BPF_F_MMAPABLE).pin(&pin).unwrap();
    }

    /// What is pinned in a directory of this ABI.
    pub fn names(&self, below: &str) -> Vec<String> {
        place::names(&place::root(&self.0).join(below)).unwrap()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        detach_everything(&self.0).unwrap();
        place::remove_tree(&self.0).unwrap();
    }
}

/// A new map that nobody has pinned, with keys of four bytes and values of `size`.
pub fn map(kind: bpf_map_type, size: usize, entries: u32, flags: u32) -> MapData {
    let map = aya_obj::Map::new_from_params(kind as u32, 4, size as u32, entries, flags);
    MapData::create(map, "test", None).unwrap()
}

/// A pair of veths in a network namespace that this thread, and its children, are in from now on; both go with it.
pub fn veth(name: &str, peer: &str) -> (u32, u32) {
    Namespace::unshare();
    ip(&format!("link add {name} type veth peer name {peer}"));
    let up = |name: &str| {
        ip(&format!("link set {name} up"));
        if_nametoindex(name).unwrap()
    };
    (up(name), up(peer))
}
