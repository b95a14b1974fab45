//! Which maps there are, how large each is, and where it is pinned.

use std::path::{Path, PathBuf};

use aya::maps::MapData;
use lb_common::{Answer, FlowOutcome, Layout, OwnMac, SlotWord, VipHash, maps};

use super::Sweeps;
use crate::{dataplane::Error, plan::Capacity};

/// The ring buffer of aya-log.
pub const LOGS: &str = "AYA_LOGS";
/// The daemon's own notes: see [`Journal`](super::Journal).
pub const JOURNAL: &str = "JOURNAL";
/// Interfaces that packets can be redirected to: a bound that no host comes near, for a map of a few bytes each.
pub const DEVICES: u32 = 1024;
/// Probes that can be under way at a time: as many as there are ports to probe from, by TCP, and a few more. Memory is
/// taken for those that are.
pub const PROBES: u32 = 1 << 16;

/// The maps that the object declares, with the entries that they get; `None` for as many as the object says.
pub fn object_maps(capacity: Capacity) -> [(&'static str, Option<u32>); 20] {
    [
        (maps::VIP_BUCKETS, Some(capacity.buckets() / VipHash::A_LINE)),
        (maps::VIPS4, Some(Capacity::places(capacity.keys4))),
        (maps::VIPS6, Some(Capacity::places(capacity.keys6))),
        (maps::SLOTS, Some(capacity.slots.div_ceil(SlotWord::A_LINE))),
        (maps::MOVES, Some(capacity.moves)),
        (maps::BACKENDS, Some(capacity.backends)),
        // One more than backends: who gets another place gives his own back after that.
        (maps::NEXT_HOPS, Some(capacity.backends + 1)),
        (maps::FLOWS, Some(capacity.flow_groups())),
        (maps::FLOW_NAMES, Some(capacity.flow_groups())),
        (maps::ALLOWANCES, Some(capacity.vips)),
        (maps::INTAKES, Some(capacity.vips)),
        (maps::OWN_MACS, Some(OwnMac::PLACES)),
        (maps::PROBES, Some(PROBES)),
        (maps::PROBE_PATH, Some(1)),
        (maps::PACES, Some(Answer::ROOM)),
        (maps::DEVICES, Some(DEVICES)),
        (maps::BACKEND_COUNTERS, Some(capacity.backends)),
        (maps::VIP_DROPS, Some(capacity.vips)),
        (maps::FLOW_COUNTERS, Some(FlowOutcome::ROOM as u32)),
        (LOGS, None),
    ]
}

/// What the program must know of the sizes of maps.
pub struct Sizes {
    /// Numbers of VIP buckets, of places of IPv4 and of IPv6 VIPs, each less one.
    pub vip_masks: [u32; 3],
    /// Groups of the flow table.
    pub flow_groups: u32,
}

/// Those of the maps pinned in `pins`, or made there for `capacity`.
pub fn sizes(pins: &Path, capacity: Capacity) -> Result<Sizes, Error> {
    let [buckets, v4, v6, groups] = [maps::VIP_BUCKETS, maps::VIPS4, maps::VIPS6, maps::FLOWS].map(|name| {
        let pin = pin_in(pins, name);
        if !pin.exists() {
            let made = object_maps(capacity).into_iter().find(|(other, _)| *other == name);
            return Ok(made.and_then(|(_, entries)| entries).expect("its size follows from the capacity"));
        }
        let map = MapData::from_pin(pin).map_err(Error::map("open", name))?;
        Ok(map.info().map_err(Error::map("look at", name))?.max_entries())
    });
    Ok(Sizes { vip_masks: [buckets? * VipHash::A_LINE - 1, v4? - 1, v6? - 1], flow_groups: groups? })
}

/// The entries that this version needs of a map of a fixed size, such as a counter for each flow outcome; 0 of one that
/// is as large as its config needs.
pub fn entries_needed(name: &str) -> u32 {
    match name {
        maps::FLOW_COUNTERS | maps::FLOW_CARRIED => FlowOutcome::COUNT as u32,
        maps::OWN_MACS => OwnMac::PLACES,
        maps::SWEEPS => Sweeps::ENTRIES,
        maps::PACES => Answer::ROOM,
        _ => 0,
    }
}

/// Name of the pin of a map with that version of its layout.
pub fn pin_of(name: &str, version: u32) -> String {
    if version == 1 { name.to_owned() } else { format!("{name}_v{version}") }
}

/// Where in a directory a map of today is pinned.
pub fn pin_in(directory: &Path, name: &str) -> PathBuf {
    directory.join(pin_of(name, Layout::of(name).map_or(1, |layout| layout.version)))
}
