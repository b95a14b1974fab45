//! Maps of whatever layout, as bytes.

use std::{
    os::fd::AsFd as _,
    slice,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{
    maps::{MapData, MapError, MapType},
    util::nr_cpus,
};
use memmap2::MmapRaw;

use crate::dataplane::{Error, maps::memory, sys};

/// Entries that are read by one system call.
const BATCH: usize = 4096;

/// A map, as bytes.
pub struct Bytes {
    name: &'static str,
    map: MapData,
    /// What sort of map.
    pub kind: MapType,
    /// How many entries it has room for.
    pub entries: u32,
    /// Size of a key in bytes.
    pub key_size: usize,
    /// Size of a value in bytes.
    pub value_size: usize,
}

impl Bytes {
    /// Takes a map for bytes.
    pub fn of(name: &'static str, map: MapData) -> Result<Self, Error> {
        let info = map.info().map_err(Error::map("look at", name))?;
        let kind = info.map_type().map_err(Error::map("look at", name))?;
        let (key_size, value_size) = (info.key_size() as usize, info.value_size() as usize);
        Ok(Self { name, kind, entries: info.max_entries(), key_size, value_size, map })
    }

    /// The map.
    pub fn map(&self) -> &MapData {
        &self.map
    }

    /// Calls `take` with every key and value; with the values of all CPUs, one after the other, where each has its own.
    pub fn each(&self, mut take: impl FnMut(&[u8], &[u8]) -> Result<(), Error>) -> Result<(), Error> {
        match self.kind {
            MapType::Array => {
                let memory = self.memory()?;
                (0..self.entries).try_for_each(|index| take(&index.to_ne_bytes(), memory.value(index)))
            }
            MapType::PerCpuArray => {
                let cpus = nr_cpus().map_err(|(_, error)| self.failed("read")(error))?;
                let mut values = vec![0; cpus * self.stride()];
                (0..self.entries).try_for_each(|index| {
                    let key = index.to_ne_bytes();
                    sys::lookup(self.map.fd().as_fd(), &key, &mut values).map_err(self.failed("read"))?;
                    values.chunks(self.stride()).try_for_each(|value| take(&key, &value[..self.value_size]))
                })
            }
            _ => self.each_of_hash(take),
        }
    }

    fn each_of_hash(&self, mut take: impl FnMut(&[u8], &[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let mut batches = sys::Batches::of(self.map.fd().as_fd(), self.key_size, self.value_size, BATCH);
        while let Some(mut entries) = batches.read().map_err(self.failed("read"))? {
            entries.try_for_each(|(key, value)| take(key, value))?;
        }
        Ok(())
    }

    /// Puts an entry in place of whatever is there.
    #[cfg(test)]
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        sys::update_of(self.map.fd().as_fd(), key, value, 0).map_err(self.failed("write to"))
    }

    /// The values of a memory-mapped array.
    pub fn memory(&self) -> Result<Memory, Error> {
        let stride = self.stride();
        let mapped = memory(self.name, &self.map, self.entries as usize * stride)?;
        Ok(Memory { mapped, entries: self.entries, stride, size: self.value_size })
    }

    /// Values are that far from each other.
    fn stride(&self) -> usize {
        self.value_size.next_multiple_of(size_of::<u64>())
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let name = self.name;
        move |error| Error::map(action, name)(MapError::IoError(error))
    }
}

/// The key of an array.
pub fn index(key: &[u8]) -> u32 {
    u32::from_ne_bytes(key.try_into().expect("the keys of an array have four bytes"))
}

/// The values of a memory-mapped array, which nobody else writes while this is used.
pub struct Memory {
    mapped: MmapRaw,
    entries: u32,
    stride: usize,
    size: usize,
}

impl Memory {
    /// How many values there are.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// A value.
    pub fn value(&self, index: u32) -> &[u8] {
        // SAFETY: within the mapping (`at`), and nobody writes meanwhile.
        unsafe { slice::from_raw_parts(self.at(index), self.size) }
    }

    /// A value that is one 64-bit word; 0 where there are not as many.
    pub fn word(&self, index: u32) -> u64 {
        if index >= self.entries {
            return 0;
        }
        u64::from_ne_bytes(self.value(index).try_into().expect("the map has values of eight bytes"))
    }

    /// Puts a word in the place of a value that is one, in one store: packets may be reading it.
    pub fn store_word(&self, index: u32, word: u64) {
        // SAFETY: within the mapping (`at`), whose values of eight bytes are aligned.
        let cell = unsafe { &*self.at(index).cast::<AtomicU64>() };
        cell.store(word, Ordering::Release);
    }

    /// A value, to be written.
    pub fn value_mut(&mut self, index: u32) -> &mut [u8] {
        // SAFETY: within the mapping (`at`), and nobody else reads or writes meanwhile.
        unsafe { slice::from_raw_parts_mut(self.at(index), self.size) }
    }

    fn at(&self, index: u32) -> *mut u8 {
        assert!(index < self.entries, "value {index} of {}", self.entries);
        // SAFETY: the mapping has `entries` values, `stride` bytes apart.
        unsafe { self.mapped.as_mut_ptr().add(index as usize * self.stride) }
    }
}
