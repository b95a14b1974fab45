//! The flow tables as the daemon sees them: read in batches (kernel 5.6), so that a million flows cost some hundred
//! system calls, while packets go on using them.
//!
//! A walk sees every entry that is there from its beginning to its end. One that comes or goes meanwhile it may see or
//! not.

use std::{os::fd::AsFd as _, path::Path, sync::Arc};

use aya::maps::{MapData, MapError};
use aya_obj::generated::{BPF_EXIST, BPF_NOEXIST};
use lb_common::{FlowEntry, FlowKey, maps};

use super::layout::pin_in;
use crate::dataplane::{Error, sys};

/// Entries that are read by one system call.
const BATCH: usize = 4096;

/// Both tables. Clones read the same tables.
#[derive(Clone)]
pub struct FlowTables {
    /// Flows of which two packets were seen.
    pub established: FlowTable,
    /// Flows of which one packet was seen.
    pub embryonic: FlowTable,
}

/// One table.
#[derive(Clone)]
pub struct FlowTable {
    name: &'static str,
    map: Arc<MapData>,
}

impl FlowTables {
    /// The tables pinned in `directory`.
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        Ok(Self {
            established: FlowTable::open(directory, maps::FLOWS)?,
            embryonic: FlowTable::open(directory, maps::EMBRYOS)?,
        })
    }

    /// Pins them in another directory too.
    pub(super) fn pin(&self, directory: &Path) -> Result<(), Error> {
        for FlowTable { name, map } in [&self.established, &self.embryonic] {
            map.pin(pin_in(directory, name)).map_err(Error::pin(name))?;
        }
        Ok(())
    }

    /// Copies what `other` does not have.
    pub(super) fn copy_to(&self, other: &Self) -> Result<(), Error> {
        self.embryonic.copy_to(&other.embryonic)?;
        self.established.copy_to(&other.established)
    }
}

impl FlowTable {
    fn open(directory: &Path, name: &'static str) -> Result<Self, Error> {
        let map = MapData::from_pin(pin_in(directory, name)).map_err(Error::map("open", name))?;
        Ok(Self { name, map: Arc::new(map) })
    }

    /// Every entry, batch by batch. What comes after an error is not read.
    pub fn batches(&self) -> impl Iterator<Item = Result<Vec<(FlowKey, FlowEntry)>, Error>> {
        let mut cursor = Some(sys::Cursor::default());
        std::iter::from_fn(move || {
            let (mut keys, mut entries) = (vec![FlowKey::default(); BATCH], vec![FlowEntry::default(); BATCH]);
            let read = sys::lookup_batch(self.map.fd().as_fd(), cursor.take()?, &mut keys, &mut entries);
            match read {
                Ok((count, next)) => {
                    cursor = next;
                    Some(Ok(keys.into_iter().zip(entries).take(count).collect()))
                }
                Err(error) => Some(Err(Error::map("read", self.name)(MapError::IoError(error)))),
            }
        })
    }

    /// Deletes entries; those that are gone already are no failure. Returns how many this deleted.
    pub fn delete(&self, keys: &[FlowKey]) -> Result<usize, Error> {
        let (mut rest, mut deleted) = (keys, 0);
        while !rest.is_empty() {
            let (count, result) = sys::delete_batch(self.map.fd().as_fd(), rest);
            deleted += count;
            match result {
                Ok(()) => break,
                // The one behind those that were deleted was evicted meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) && count < rest.len() => {
                    rest = &rest[count + 1..]
                }
                Err(error) => return Err(Error::map("delete from", self.name)(MapError::IoError(error))),
            }
        }
        Ok(deleted)
    }

    /// Replaces an entry; one that is gone stays so.
    pub fn replace(&self, key: &FlowKey, entry: FlowEntry) -> Result<(), Error> {
        self.write(key, entry, BPF_EXIST.into())
    }

    /// Enters a flow as a packet does.
    #[cfg(test)]
    pub(crate) fn enter(&self, key: &FlowKey, entry: FlowEntry) {
        self.write(key, entry, BPF_NOEXIST.into()).unwrap();
    }

    fn copy_to(&self, other: &Self) -> Result<(), Error> {
        for batch in self.batches() {
            for (key, entry) in batch? {
                other.write(&key, entry, BPF_NOEXIST.into())?;
            }
        }
        Ok(())
    }

    fn write(&self, key: &FlowKey, entry: FlowEntry, flags: u64) -> Result<(), Error> {
        match sys::update(self.map.fd().as_fd(), key, &entry, flags) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EEXIST)) => {
                Err(Error::map("write to", self.name)(MapError::IoError(error)))
            }
            _ => Ok(()),
        }
    }
}
