//! What each VIP may enter into the flow table until the next sweep, and what it was refused.

use std::{
    io,
    mem::offset_of,
    os::fd::AsFd as _,
    path::Path,
    sync::{Mutex, PoisonError},
};

use aya::{
    maps::{MapData, MapError},
    util::nr_cpus,
};
use lb_common::{Allowance, Intake, maps};

use super::{layout::pin_in, mmap::Mapped};
use crate::dataplane::{Error, sys};

/// VIPs of which the kernel is asked at once.
const BATCH: usize = 256;

/// Allowances, and what was taken of them.
pub struct Intakes {
    allowances: Mapped<Allowance, 1>,
    /// An [`Intake`] of each CPU for each VIP.
    taken: MapData,
    /// Nobody may enter anything any more.
    is_shut: Mutex<bool>,
}

impl Intakes {
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let data = |name: &str| MapData::from_pin(pin_in(directory, name)).map_err(Error::map("open", name));
        Ok(Self {
            allowances: Mapped::open(maps::ALLOWANCES, data(maps::ALLOWANCES)?)?,
            taken: data(maps::INTAKES)?,
            is_shut: Mutex::new(false),
        })
    }

    /// Lets each CPU enter so many flows more for a VIP, from now on.
    pub fn allow(&self, vip: u32, flows: u32) {
        // Held until it is written: a sweep that is under way opens nothing that is shut.
        let is_shut = self.is_shut.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_shut {
            self.set(vip, flows);
        }
    }

    fn set(&self, vip: u32, flows: u32) {
        if vip < self.allowances.entries {
            let sweep = self.allowances.load(vip).sweep().wrapping_add(1).max(1);
            self.allowances.store(vip, Allowance::new(sweep, flows));
        }
    }

    /// Whether somebody has said what a VIP may enter.
    pub fn is_met(&self, vip: u32) -> bool {
        vip < self.allowances.entries && self.allowances.load(vip).sweep() != 0
    }

    /// Nobody has said what this VIP may enter, where no packet is for it.
    pub(super) fn forget(&self, vip: u32) {
        self.allowances.store(vip, Allowance::default());
    }

    /// Lets nobody enter anything more, until [`Self::reopen`].
    pub fn shut(&self) {
        *self.is_shut.lock().unwrap_or_else(PoisonError::into_inner) = true;
        (0..self.allowances.entries).for_each(|vip| self.set(vip, 0));
    }

    /// The next sweep says again what may be entered.
    pub fn reopen(&self) {
        *self.is_shut.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// How many flows of a VIP were ever refused.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn refused(&self, vip: u32) -> Result<u64, Error> {
        let mut intakes = vec![0; size_of_all()?];
        sys::lookup(self.taken.fd().as_fd(), &vip.to_ne_bytes(), &mut intakes).map_err(failed)?;
        Ok(sum(&intakes))
    }

    /// The same of every VIP, by its id, in few calls (batches of per-CPU arrays: kernel 5.13).
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn all_refused(&self) -> Result<Vec<u64>, Error> {
        let mut refused = vec![0; self.allowances.entries as usize];
        let mut batches = sys::Batches::of(self.taken.fd().as_fd(), size_of::<u32>(), size_of_all()?, BATCH);
        while let Some(entries) = batches.read().map_err(failed)? {
            for (id, intakes) in entries {
                let id = id.first_chunk().map(|id| u32::from_ne_bytes(*id));
                if let Some(refused) = id.and_then(|id| refused.get_mut(id as usize)) {
                    *refused = sum(intakes);
                }
            }
        }
        Ok(refused)
    }
}

/// Bytes of what all CPUs have of a VIP.
fn size_of_all() -> Result<usize, Error> {
    nr_cpus().map(|cpus| cpus * size_of::<Intake>()).map_err(|(_, error)| failed(error))
}

/// What all CPUs refused.
fn sum(intakes: &[u8]) -> u64 {
    const REFUSED: usize = offset_of!(Intake, refused);
    let refused = intakes.chunks_exact(size_of::<Intake>()).filter_map(|intake| intake[REFUSED..].first_chunk());
    refused.fold(0, |sum, refused| sum.wrapping_add(u64::from_ne_bytes(*refused)))
}

fn failed(error: io::Error) -> Error {
    Error::map("read", maps::INTAKES)(MapError::IoError(error))
}

#[cfg(test)]
mod tests {
    use aya_obj::generated::{
        BPF_F_MMAPABLE,
        bpf_map_type::{BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY},
    };

    use super::*;
    use crate::dataplane::fixtures::map;

    #[test]
    #[ignore = "needs root"]
    fn what_was_refused_of_all_vips_is_what_was_refused_of_each() {
        let batch = BATCH as u32;
        for entries in [1, batch - 1, batch, batch + 1, 3 * batch + 7] {
            let allowances = map(BPF_MAP_TYPE_ARRAY, size_of::<Allowance>(), entries, BPF_F_MMAPABLE);
            let taken = map(BPF_MAP_TYPE_PERCPU_ARRAY, size_of::<Intake>(), entries, 0);
            for vip in 0..entries {
                let words = (0..nr_cpus().unwrap() as u64).flat_map(|cpu| [7, u64::from(vip) + cpu]);
                let intakes: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
                sys::update_of(taken.fd().as_fd(), &vip.to_ne_bytes(), &intakes, 0).unwrap();
            }
            let allowances = Mapped::open("test", allowances).unwrap();
            let intakes = Intakes { allowances, taken, is_shut: Mutex::default() };
            let all = intakes.all_refused().unwrap();
            let each: Vec<u64> = (0..entries).map(|vip| intakes.refused(vip).unwrap()).collect();
            assert_eq!((&all, all.len()), (&each, entries as usize));
            assert_eq!(
                all.last().copied().unwrap_or_default() - all[0],
                u64::from(entries - 1) * nr_cpus().unwrap() as u64
            );
        }
    }
}
