//! Where the decapsulation is pinned.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use aya::maps::{Map, MapData};
use lb_common::DECAP_ABI;

use crate::dataplane::{DECAP, pin_name};

/// Where the decapsulation of one interface is pinned.
pub(super) struct Place {
    pub(super) interface: String,
    pub(super) root: PathBuf,
    pub(super) links: PathBuf,
    pub(super) maps: PathBuf,
    /// Where the maps are until the program runs.
    pub(super) staged: PathBuf,
}

impl Place {
    pub(super) fn base(bpffs: &Path) -> PathBuf {
        bpffs.join(format!("{DECAP}{DECAP_ABI}"))
    }

    pub(super) fn new(bpffs: &Path, interface: &str) -> Self {
        let root = Self::base(bpffs).join(pin_name(interface));
        let [links, maps, staged] = ["links", "maps", "maps_new"].map(|name| root.join(name));
        Self { interface: interface.to_owned(), links, maps, staged, root }
    }

    /// The pinned map `name` as a map of its kind; from where it was made, if an attach broke off before the maps were
    /// where they belong.
    pub(super) fn map<T>(&self, name: &str, kind: fn(MapData) -> Map) -> anyhow::Result<T>
    where
        T: TryFrom<Map, Error = aya::maps::MapError>,
    {
        let path = if self.maps.exists() { &self.maps } else { &self.staged }.join(name);
        let data = MapData::from_pin(&path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(kind(data).try_into()?)
    }
}
