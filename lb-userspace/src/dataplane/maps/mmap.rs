//! Arrays in memory that packets read at the same time: written with atomic stores of 32 or 64 bits.

use std::{
    marker::PhantomData,
    mem,
    os::fd::{AsFd as _, AsRawFd as _},
    slice,
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
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

/// A memory-mapped array of 32-bit words, which are numbered through all entries. It is mapped in pieces, each when it is
/// first needed: the kernel enters every page of what is mapped, which takes it a tenth of a second for the slots of
/// thousands of VIPs.
pub(super) struct Pieces {
    name: &'static str,
    map: MapData,
    words: u32,
    pieces: Box<[OnceLock<MmapRaw>]>,
}

/// The first `length` bytes of a map with `BPF_F_MMAPABLE`, mapped.
pub fn memory(name: &str, map: &MapData, length: usize) -> Result<MmapRaw, Error> {
    memory_at(name, map, 0, length)
}

/// The same of what begins at a byte that a page begins at.
fn memory_at(name: &str, map: &MapData, first: u64, length: usize) -> Result<MmapRaw, Error> {
    let mapped = MmapOptions::new().offset(first).len(length).map_raw(map.fd().as_fd().as_raw_fd());
    mapped.map_err(|error| Error::map("map into memory", name)(MapError::IoError(error)))
}

/// How many entries a map has, which must be of `size` bytes each.
fn entries(name: &str, map: &MapData, size: usize) -> Result<u32, Error> {
    let info = map.info().map_err(Error::map("look at", name))?;
    let expected = size as u32;
    if info.value_size() != expected {
        return Err(Error::Layout { name: name.to_owned(), found: info.value_size(), expected });
    }
    Ok(info.max_entries())
}

impl<V: Pod, const WORDS: usize> Mapped<V, WORDS> {
    const FITS: () = assert!(size_of::<V>() == WORDS * size_of::<u64>() && align_of::<V>() <= align_of::<u64>());

    pub(super) fn open(name: &str, map: MapData) -> Result<Self, Error> {
        let () = Self::FITS;
        let entries = entries(name, &map, size_of::<V>())?;
        let memory = memory(name, &map, entries as usize * size_of::<V>())?;
        Ok(Self { memory, entries, _values: PhantomData })
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

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, V)> + Clone {
        (0..self.entries).map(|index| (index, self.load(index)))
    }
}

impl Pieces {
    /// Words of a piece: a mebibyte, which begins at a page however large pages are.
    const A_PIECE: u32 = 1 << 18;

    /// Of a map whose entries are as large as a `V`.
    pub(super) fn open<V: Pod>(name: &'static str, map: MapData) -> Result<Self, Error> {
        const { assert!(size_of::<V>().is_multiple_of(size_of::<u32>())) };
        let words = entries(name, &map, size_of::<V>())? * (size_of::<V>() / size_of::<u32>()) as u32;
        let pieces = (0..words.div_ceil(Self::A_PIECE)).map(|_| OnceLock::new()).collect();
        let opened = Self { name, map, words, pieces };
        // What cannot be mapped at all is told now.
        if let Some(first) = opened.pieces.first() {
            let _ = first.set(opened.mapped(0)?);
        }
        Ok(opened)
    }

    /// How many words there are.
    pub(super) fn words(&self) -> u32 {
        self.words
    }

    /// Maps `count` words in a row, if that is still to be done: before a change of them, so that it fails before it begins.
    ///
    /// # Errors
    ///
    /// The kernel has no memory for that.
    pub(super) fn need(&self, first: u32, count: u32) -> Result<(), Error> {
        let pieces = first / Self::A_PIECE..(first + count).div_ceil(Self::A_PIECE);
        for number in pieces {
            let piece = &self.pieces[number as usize];
            if piece.get().is_none() {
                // Another thread may have been faster.
                let _ = piece.set(self.mapped(number)?);
            }
        }
        Ok(())
    }

    /// A word, which the data plane may be reading.
    pub(super) fn word(&self, index: u32) -> &AtomicU32 {
        assert!(index < self.words, "word {index} of a map of {}", self.words);
        &self.piece(index / Self::A_PIECE)[(index % Self::A_PIECE) as usize]
    }

    /// `count` words in a row, in slices: the number of the first of each, and the words.
    pub(super) fn runs(&self, first: u32, count: u32) -> impl Iterator<Item = (u32, &[AtomicU32])> {
        let end = first + count;
        assert!(end <= self.words, "words up to {end} of a map of {}", self.words);
        (first / Self::A_PIECE..end.div_ceil(Self::A_PIECE)).map(move |number| {
            let base = number * Self::A_PIECE;
            let (from, to) = (first.max(base), end.min(base + Self::A_PIECE));
            (from, &self.piece(number)[(from - base) as usize..(to - base) as usize])
        })
    }

    /// The words of a piece.
    ///
    /// # Panics
    ///
    /// Where the kernel has no memory to map it.
    fn piece(&self, number: u32) -> &[AtomicU32] {
        let map = || self.mapped(number).unwrap_or_else(|error| panic!("{error}"));
        let memory = self.pieces[number as usize].get_or_init(map);
        // SAFETY: the mapping has so many words, starts at a page, stays as long as `self`, and is accessed by atomic
        // operations of this width only.
        unsafe { slice::from_raw_parts(memory.as_mut_ptr().cast(), self.words_of(number) as usize) }
    }

    fn words_of(&self, number: u32) -> u32 {
        (self.words - number * Self::A_PIECE).min(Self::A_PIECE)
    }

    fn mapped(&self, number: u32) -> Result<MmapRaw, Error> {
        let bytes = |words: u32| words as usize * size_of::<u32>();
        memory_at(self.name, &self.map, bytes(number * Self::A_PIECE) as u64, bytes(self.words_of(number)))
    }
}

#[cfg(test)]
mod tests {
    use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type::BPF_MAP_TYPE_ARRAY};
    use lb_common::SlotLine;

    use super::*;
    use crate::dataplane::fixtures::map;

    #[test]
    #[ignore = "needs root"]
    fn pieces_are_one_array() {
        let (lines, words) = (Pieces::A_PIECE / 16 * 2 + 3, Pieces::A_PIECE * 2 + 48);
        let array = |lines: u32| {
            let map = map(BPF_MAP_TYPE_ARRAY, size_of::<SlotLine>(), lines, BPF_F_MMAPABLE);
            Pieces::open::<SlotLine>("PIECES", map).unwrap()
        };
        let pieces = array(lines);
        assert_eq!(pieces.words(), words);
        (0..words).for_each(|index| pieces.word(index).store(index, Ordering::Relaxed));
        let inside = Pieces::A_PIECE;
        for (first, count) in [(0, words), (0, 0), (5, 7), (inside - 1, 2), (inside, inside), (inside + 3, inside + 45)]
        {
            let runs = pieces.runs(first, count).flat_map(|(first, words)| (first..).zip(words));
            let found: Vec<(u32, u32)> = runs.map(|(index, word)| (index, word.load(Ordering::Relaxed))).collect();
            assert_eq!(
                found,
                (first..first + count).map(|index| (index, index)).collect::<Vec<_>>(),
                "{first} {count}"
            );
        }
        // What is written is in the map, and not in this mapping alone.
        let again = memory("PIECES", &pieces.map, lines as usize * size_of::<SlotLine>()).unwrap();
        // SAFETY: an aligned word of the mapping, which lives as long.
        let last = unsafe { &*again.as_mut_ptr().cast::<AtomicU32>().add(words as usize - 1) };
        assert_eq!(last.load(Ordering::Relaxed), words - 1);
        assert_eq!(array(1).words(), 16);
    }
}
