//! A data plane whose maps this version would make in another way: read by the layouts that they have, and brought into
//! a generation of today's, so that flows, moving slots, ids and counts go on.
//!
//! A map that is laid out as today is the same map in both, but for counters from which others are computed. Any other
//! one is made anew and its entries are converted: before the links are handed over, and what packets write once more
//! after it.

mod abi4;
mod bytes;
mod conversion;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::SystemTime,
};

use aya::maps::{MapData, MapType};
use lb_common::{FlowLine, Layout, SlotWord, maps};
use log::warn;
use nix::fcntl::Flock;

pub use self::conversion::Conversion;
use self::{
    bytes::{Bytes, index},
    conversion::{FORMER, How},
};
use super::{
    Error,
    generation::{loaded_at, maps_in, program_in},
    grace::grace,
    links::{Pinned, pinned},
    losses::losses_in,
    maps::{Carrying, JOURNAL, Journal, Maps, entries_needed, pin_of},
    place::{Place, generation, generations, links_of, lock, names, remove, remove_tree, roots},
};
use crate::{fault, plan::Capacity};

/// Maps that packets count in, each with the one that has what was counted before.
const COUNTERS: [(&str, &str); 3] = [
    (maps::BACKEND_COUNTERS, maps::BACKEND_CARRIED),
    (maps::VIP_DROPS, maps::VIP_DROPS_CARRIED),
    (maps::FLOW_COUNTERS, maps::FLOW_CARRIED),
];

/// What a daemon of another version left, or one of this version with maps of too few entries.
pub struct Former {
    root: PathBuf,
    /// Where its maps are pinned.
    pins: PathBuf,
    /// Held as its own daemon would hold it, where it is another version's.
    _lock: Option<Flock<File>>,
    maps: Vec<Found>,
    journal: Journal,
    loaded_at: Option<SystemTime>,
}

/// One of its maps.
struct Found {
    layout: &'static Layout,
    bytes: Bytes,
    conversion: Conversion,
}

impl Former {
    /// What is pinned in the directories of other versions than that of `place`: what interfaces run, and among several
    /// what was loaded last. One that nothing here reads is left alone; its links are taken over as interfaces are
    /// attached. What no interface runs and no daemon would go on with is removed.
    ///
    /// # Errors
    ///
    /// A daemon runs one of them, or the kernel does not let it be read.
    pub fn of_another_version(place: &Place) -> Result<Option<Self>, Error> {
        let mut newest: Option<Self> = None;
        for root in roots(place.bpffs())? {
            let abi = root.file_name().and_then(|name| name.to_str()?.strip_prefix('v')?.parse::<u32>().ok());
            if root == place.root() || abi.is_none_or(|abi| abi < Layout::OLDEST_ABI) {
                continue;
            }
            let lock = lock(&root)?;
            let directories = generations(&root)?.into_iter().map(|number| generation(&root, number));
            let Some(directory) = directories.into_iter().find(|directory| program_in(directory).exists()) else {
                if names(&links_of(&root))?.is_empty() {
                    remove_tree(&root)?;
                }
                continue;
            };
            match Self::read(root, directory, Some(lock), FORMER)? {
                Ok(former) => {
                    let ranks_first = match &newest {
                        Some(newest) => former.rank()? > newest.rank()?,
                        None => true,
                    };
                    if ranks_first {
                        newest = Some(former);
                    }
                }
                Err((root, map)) => warn!(
                    "the map {map} pinned under {} is laid out in a way that this version does not know: it takes the \
                     interfaces over from there, without tracked flows and counts",
                    root.display()
                ),
            }
        }
        if let Some(Carrying::Generation) = newest.as_ref().and_then(|newest| newest.journal.carrying) {
            warn!("another version's daemon was killed while its maps grew: what was counted before is lost");
        }
        Ok(newest)
    }

    /// What an interface runs ranks before what none does, then what was loaded last.
    ///
    /// # Errors
    ///
    /// What is pinned for links is none.
    pub fn rank(&self) -> Result<(bool, Option<SystemTime>), Error> {
        let has_links = pinned(&links_of(&self.root))?.values().any(|link| *link != Pinned::Gone);
        Ok((has_links, self.loaded_at))
    }

    /// A generation of this version.
    ///
    /// # Errors
    ///
    /// The kernel does not let it be read.
    pub fn of_this_version(place: &Place, number: u32) -> Result<Option<Self>, Error> {
        let read = Self::read(place.root().to_owned(), place.generation(number), None, FORMER)?;
        Ok(read.ok())
    }

    /// A whole generation in `root`; where a map is laid out in a way that nothing here reads, that map's name.
    pub(super) fn read(
        root: PathBuf,
        directory: PathBuf,
        lock: Option<Flock<File>>,
        conversions: &[Conversion],
    ) -> Result<Result<Self, (PathBuf, &'static str)>, Error> {
        let pins = maps_in(&directory);
        let names = names(&pins)?;
        let mut found = Vec::new();
        for layout in &Layout::ALL {
            let former = conversions.iter().copied().filter(|former| former.map == layout.map);
            let mut known = [Conversion::none(layout)].into_iter().chain(former);
            let pinned = known.find(|known| names.contains(&pin_of(known.map, known.version)));
            let Some(conversion) = pinned else {
                if layout.came_later {
                    continue;
                }
                return Ok(Err((root, layout.map)));
            };
            let bytes = open(&pins, layout.map, conversion.version)?;
            if (bytes.key_size, bytes.value_size) != (conversion.key_size, conversion.value_size) {
                return Ok(Err((root, layout.map)));
            }
            found.push(Found { layout, bytes, conversion });
        }
        if !names.iter().any(|name| name == JOURNAL) {
            return Ok(Err((root, JOURNAL)));
        }
        let words = open(&pins, JOURNAL, 1)?.memory()?;
        let journal = Journal::from_words(|index| words.word(index));
        let loaded_at = loaded_at(&directory)?;
        Ok(Ok(Self { root, pins, _lock: lock, maps: found, journal, loaded_at }))
    }

    /// Where all of it is pinned.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What its daemon noted last.
    pub fn journal(&self) -> Journal {
        self.journal
    }

    /// How many entries the maps of today need for what its maps have.
    ///
    /// # Errors
    ///
    /// The kernel does not let one be read.
    pub fn capacity(&self) -> Result<Capacity, Error> {
        let entries = |name| self.find(name).bytes.entries;
        let (slots, moves) = match self.find(maps::SLOTS) {
            Found { bytes, conversion: Conversion { version: 1, .. }, .. } => abi4::slot_capacity(bytes)?,
            _ => (entries(maps::SLOTS) * SlotWord::A_LINE, entries(maps::MOVES)),
        };
        let keys = |name| match self.find(name) {
            Found { bytes, conversion: Conversion { version: 1, .. }, .. } => bytes.entries,
            Found { bytes, .. } => bytes.entries / 2,
        };
        Ok(Capacity {
            vips: entries(maps::VIP_RECORDS),
            keys4: keys(maps::VIPS4),
            keys6: keys(maps::VIPS6),
            backends: entries(maps::BACKENDS),
            slots,
            moves,
            flows: match self.has_hashed_flows() {
                true => Capacity::flows_in_groups(entries(maps::FLOWS)),
                false => entries(maps::FLOWS) * FlowLine::FLOWS_A_GROUP,
            },
        })
    }

    /// Pins in the directory `pins` the maps that today's generation has as they are.
    pub fn share(&self, pins: &Path) -> Result<(), Error> {
        for Found { layout, bytes, .. } in self.maps.iter().filter(|found| self.is_shared(found)) {
            let pin = pins.join(pin_of(layout.map, layout.version));
            bytes.map().pin(pin).map_err(Error::pin(layout.map))?;
        }
        Ok(())
    }

    /// Converts what the others hold into `today`, the maps pinned in `pins`, which no packet reads yet.
    pub fn copy_to(&self, pins: &Path, today: &mut Maps) -> Result<(), Error> {
        for found in self.maps.iter().filter(|found| !self.is_shared(found)) {
            match (found.conversion.how, found.bytes.kind) {
                (How::Meaning(put), _) => put(&found.bytes, today)?,
                (How::Entries { value }, MapType::Array) => convert_array(found, value, pins)?,
                (How::Entries { .. }, _) => {}
            }
        }
        Ok(())
    }

    /// Enters the flows that it has in hash tables, where packets do not meet the maps of `today` yet. From then on until
    /// they do, no flow that it enters is missing here: see [`abi4::Shut`], which the caller must keep or let go.
    pub fn copy_flows(&self, today: &Maps) -> Result<Option<abi4::Shut>, Error> {
        if !self.has_hashed_flows() {
            return Ok(None);
        }
        let slots = self.find(maps::SLOTS);
        // Slots of today's layout are those of today's generation too: nothing is to be written there. So it is with
        // what was never released.
        let shut = match slots.conversion.version {
            1 => Some(abi4::Shut::new(slots.bytes.memory()?, open(&self.pins, JOURNAL, 1)?.memory()?)),
            _ => None,
        };
        grace();
        abi4::carry_flows(&self.pins, today.flows())?;
        Ok(shut)
    }

    /// Brings over what packets have entered since [`Self::copy_to`], and what they counted, once none meets these maps
    /// any more. May be repeated.
    pub fn carry_to(&self, pins: &Path, today: &Maps) -> Result<(), Error> {
        if self.counts_vips() {
            abi4::carry_counts(&self.pins, pins)?;
        }
        for (counters, carried) in COUNTERS {
            let (Some(counters), Some(carried)) = (self.get(counters), self.get(carried)) else { continue };
            if self.is_shared(counters) {
                continue;
            }
            let [How::Entries { value: convert }, How::Entries { value: convert_carried }] =
                [counters, carried].map(|found| found.conversion.how)
            else {
                continue;
            };
            // Set before anything is added.
            convert_array(carried, convert_carried, pins)?;
            let mut sums = open(pins, carried.layout.map, carried.layout.version)?.memory()?;
            let mut converted = vec![0; counters.layout.value];
            counters.bytes.each(|key, value| {
                convert(value, &mut converted);
                add(sums.value_mut(index(key)), &converted);
                Ok(())
            })?;
        }
        if self.has_hashed_flows() {
            abi4::carry_flows(&self.pins, today.flows())?;
        }
        Ok(())
    }

    /// Removes what another version had pinned, but for links that are still there; `place` goes on counting losses
    /// where it did.
    pub fn remove(self, place: &Place) -> Result<(), Error> {
        let root = &self.root;
        if root == place.root() || !names(&links_of(root))?.is_empty() {
            return Ok(());
        }
        let [from, to] = [root, place.root()].map(losses_in);
        if from.exists() && !to.exists() {
            fs::rename(&from, &to).map_err(Error::file("rename the directory", &from))?;
        }
        // Without a program nobody takes it for a data plane, should this break off.
        for number in generations(root)? {
            remove(&program_in(&generation(root, number)))?;
        }
        fault::point("remove the maps of another version");
        remove_tree(root)
    }

    /// Whether today's generation has this map as it is.
    fn is_shared(&self, found: &Found) -> bool {
        let Found { layout, bytes, conversion } = found;
        // What is brought over is added to what was: to that of a map of its own, or a repetition would add it twice.
        let counters = COUNTERS.iter().find(|(_, carried)| *carried == layout.map);
        // VIPs follow from backends as of one moment: no packet is to count on both sides of it.
        let is_compared = layout.map == maps::BACKEND_COUNTERS && self.counts_vips();
        conversion.version == layout.version
            && !is_compared
            && bytes.entries >= entries_needed(layout.map)
            && counters.is_none_or(|(counters, _)| self.get(counters).is_some_and(|counters| self.is_shared(counters)))
    }

    /// Whether packets for a VIP were counted beside those to its backends: by ABI 4.
    fn counts_vips(&self) -> bool {
        self.find(maps::VIP_CARRIED).conversion.version == 1
    }

    /// Whether its flows are in two hash tables: up to ABI 19.
    fn has_hashed_flows(&self) -> bool {
        self.find(maps::FLOWS).conversion.version == 1
    }

    /// A map that came later may be missing.
    fn get(&self, name: &str) -> Option<&Found> {
        self.maps.iter().find(|found| found.layout.map == name)
    }

    fn find(&self, name: &str) -> &Found {
        self.get(name).expect("a former data plane has every map that did not come later")
    }
}

type Convert = fn(&[u8], &mut [u8]);

fn convert_array(found: &Found, convert: Convert, pins: &Path) -> Result<(), Error> {
    let today = open(pins, found.layout.map, found.layout.version)?;
    let mut memory = today.memory()?;
    found.bytes.each(|key, value| {
        // What is beyond a map of a fixed size is of no meaning to this version.
        if index(key) < today.entries {
            convert(value, memory.value_mut(index(key)));
        }
        Ok(())
    })
}

/// The map pinned in `pins` with that version of its layout.
fn open(pins: &Path, name: &'static str, version: u32) -> Result<Bytes, Error> {
    let map = MapData::from_pin(pins.join(pin_of(name, version)));
    Bytes::of(name, map.map_err(Error::map("open", name))?)
}

/// Adds counters, which are 64-bit words, to others.
fn add(sums: &mut [u8], counted: &[u8]) {
    for (sum, counted) in sums.as_chunks_mut().0.iter_mut().zip(counted.as_chunks().0) {
        *sum = u64::from_ne_bytes(*sum).wrapping_add(u64::from_ne_bytes(*counted)).to_ne_bytes();
    }
}
