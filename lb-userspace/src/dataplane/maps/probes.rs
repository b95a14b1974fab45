//! Which probes are under way, and how their answers come back. Both maps stay the same ones over all generations, so that
//! a probe that is under way as maps grow is answered as any other.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use aya::maps::{HashMap as KernelHashMap, Map, MapData, MapError};
use lb_common::{ProbeKey, ProbePath, maps};

use super::mmap::Mapped;
use crate::dataplane::Error;

/// Which probes are under way, and how their answers come back.
pub struct Probes {
    keys: Mutex<KernelHashMap<MapData, ProbeKey, u32>>,
    path: Mapped<ProbePath, 26>,
    /// How many keys there are.
    count: AtomicUsize,
}

impl Probes {
    pub(super) fn open(keys: MapData, path: MapData) -> Result<Self, Error> {
        let keys: KernelHashMap<_, ProbeKey, u32> =
            Map::HashMap(keys).try_into().map_err(Error::map("use", maps::PROBES))?;
        let left = keys.keys().filter(Result::is_ok).count();
        let count = AtomicUsize::new(left);
        Ok(Self { keys: Mutex::new(keys), path: Mapped::open(maps::PROBE_PATH, path)?, count })
    }

    /// Says that packets with this key, which is a new one, are probes of the backend with the id `backend`.
    ///
    /// # Errors
    ///
    /// There is no room for another key.
    pub fn enter(&self, key: ProbeKey, backend: u32) -> Result<(), Error> {
        self.keys().insert(key, backend, 0).map_err(Error::map("write to", maps::PROBES))?;
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Packets with this key are no probes any more.
    ///
    /// # Errors
    ///
    /// The kernel does not remove it.
    pub fn remove(&self, key: &ProbeKey) -> Result<(), Error> {
        match self.keys().remove(key) {
            Ok(()) => {
                self.count.fetch_sub(1, Ordering::Relaxed);
                Ok(())
            }
            Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(error) => Err(Error::map("delete from", maps::PROBES)(error)),
        }
    }

    /// Says how answers come back, to whom. Meanwhile none does.
    pub fn set_path(&self, path: ProbePath) {
        // The filter: without it nothing else is read.
        const FILTER: [usize; ProbePath::FILTER] = [0, 1, 2, 3, 4, 5, 6, 7];
        FILTER.iter().for_each(|word| self.path.cell(0)[*word].store(0, Ordering::Release));
        self.path.store_in_order(0, path, FILTER);
    }

    /// Forgets the path and the probes of a daemon before.
    ///
    /// # Errors
    ///
    /// As [`Self::remove`].
    pub fn reset(&self) -> Result<(), Error> {
        self.set_path(ProbePath::default());
        let keys: Vec<_> = self.keys().keys().filter_map(Result::ok).collect();
        keys.iter().try_for_each(|key| self.remove(key))
    }

    /// How many probes are under way.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn keys(&self) -> MutexGuard<'_, KernelHashMap<MapData, ProbeKey, u32>> {
        // Whoever panicked while he had it had no more than a handle.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
