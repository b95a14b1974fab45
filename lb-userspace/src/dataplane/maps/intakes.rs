//! What each VIP may enter into the flow table until the next sweep, and what it was refused.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use aya::maps::{Map, MapData, PerCpuArray};
use lb_common::{Allowance, Intake, maps};

use super::{layout::pin_in, mmap::Mapped};
use crate::dataplane::Error;

/// Allowances, and what was taken of them.
pub struct Intakes {
    allowances: Mapped<Allowance, 1>,
    taken: PerCpuArray<MapData, Intake>,
    /// Nobody may enter anything any more.
    is_shut: Mutex<bool>,
}

impl Intakes {
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let data = |name: &str| MapData::from_pin(pin_in(directory, name)).map_err(Error::map("open", name));
        Ok(Self {
            allowances: Mapped::open(maps::ALLOWANCES, data(maps::ALLOWANCES)?)?,
            taken: Map::PerCpuArray(data(maps::INTAKES)?).try_into().map_err(Error::map("use", maps::INTAKES))?,
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
    pub fn refused(&self, vip: u32) -> Result<u64, Error> {
        let counted = self.taken.get(&vip, 0).map_err(Error::map("read", maps::INTAKES))?;
        Ok(counted.iter().fold(0, |sum, intake| sum.wrapping_add(intake.refused)))
    }
}
