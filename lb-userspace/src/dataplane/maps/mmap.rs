//! Arrays in memory that packets read at the same time: written with atomic stores of 32 or 64 bits.

use std::{
    marker::PhantomData,
    mem,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use aya::{
    Pod,
    maps::{MapData, MapError},
};
use memmap2::{MmapOptions, MmapRaw};

use crate::dataplane::Error;

/// A memory-mapped array of values of `WORDS` 64-bit words.
pub(super) struct Mapped<V, const WORDS: usize> {
    memory: MmapRaw,
    pub(super) entries: u32,
    _values: PhantomData<V>,
}

/// The first `length` bytes of a map with `BPF_F_MMAPABLE`, mapped.
pub fn memory(name: &str, map: &MapData, length: usize) -> Result<MmapRaw, Error> {
    let mapped = MmapOptions::new().len(length).map_raw(map.fd().as_fd().as_raw_fd());
    mapped.map_err(|error| Error::map("map into memory", name)(MapError::IoError(error)))
}

impl<V: Pod, const WORDS: usize> Mapped<V, WORDS> {
    const FITS: () = assert!(size_of::<V>() == WORDS * size_of::<u64>() && align_of::<V>() <= align_of::<u64>());

    pub(super) fn open(name: &str, map: MapData) -> Result<Self, Error> {
        let () = Self::FITS;
        let info = map.info().map_err(Error::map("look at", name))?;
        let expected = size_of::<V>() as u32;
        if info.value_size() != expected {
            return Err(Error::Layout { name: name.to_owned(), found: info.value_size(), expected });
        }
        let memory = memory(name, &map, info.max_entries() as usize * size_of::<V>())?;
        Ok(Self { memory, entries: info.max_entries(), _values: PhantomData })
    }

    /// The words of an entry, which the data plane may be reading.
    pub(super) fn cell(&self, index: u32) -> &[AtomicU64; WORDS] {
        assert!(index < self.entries, "entry {index} of a map of {}", self.entries);
        let words = self.memory.as_mut_ptr().cast::<[AtomicU64; WORDS]>();
        // SAFETY: the mapping has `entries` entries of this size, starts at a page, stays as long as `self`, and is
        // accessed by atomic operations only.
        unsafe { &*words.add(index as usize) }
    }

    /// A 32-bit word, which the data plane may be reading. They are numbered through all entries.
    pub(super) fn half(&self, index: u32) -> &AtomicU32 {
        assert!(index as usize / (2 * WORDS) < self.entries as usize, "word {index} of a map of {}", self.entries);
        // SAFETY: as in `cell`; nobody accesses words of this map by another width at the same time.
        unsafe { &*self.memory.as_mut_ptr().cast::<AtomicU32>().add(index as usize) }
    }

    /// The words of 32 bits of an entry, which the data plane may be reading: as [`Self::half`] has them.
    pub(super) fn halves<const HALVES: usize>(&self, index: u32) -> &[AtomicU32; HALVES] {
        const { assert!(HALVES == 2 * WORDS) };
        // SAFETY: those of `cell`, of the same size and of no larger alignment; otherwise as in `half`.
        unsafe { &*std::ptr::from_ref(self.cell(index)).cast() }
    }

    pub(super) fn load(&self, index: u32) -> V {
        let words = self.cell(index).each_ref().map(|word| word.load(Ordering::Acquire));
        // SAFETY: of the same size (`FITS`), and any bytes are a value of a `Pod`.
        unsafe { mem::transmute_copy(&words) }
    }

    pub(super) fn store(&self, index: u32, value: V) {
        self.store_in_order(index, value, []);
    }

    /// Stores the words that differ: those at the positions `last` after all others, in their order.
    pub(super) fn store_in_order<const N: usize>(&self, index: u32, value: V, last: [usize; N]) {
        // SAFETY: of the same size (`FITS`), and a `Pod` has no padding.
        let words: [u64; WORDS] = unsafe { mem::transmute_copy(&value) };
        let cell = self.cell(index);
        let first = (0..WORDS).filter(|position| !last.contains(position));
        for position in first.chain(last) {
            if cell[position].load(Ordering::Relaxed) != words[position] {
                cell[position].store(words[position], Ordering::Release);
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, V)> {
        (0..self.entries).map(|index| (index, self.load(index)))
    }
}
