//! What the maps say of interfaces: which MAC addresses frames for this host have, and where packets can be redirected
//! to.

use std::collections::HashSet;

use aya::maps::MapError;
use lb_common::maps;

use super::{Maps, errno};
use crate::dataplane::{
    Error,
    egress::egress,
    own_macs::{self, LeftOut, OwnMacs},
};

impl Maps {
    /// Says which addresses frames for this host have, by the interface that they come in by. Returns those that there
    /// is no room for.
    pub fn put_own_macs(&self, wanted: &OwnMacs) -> Vec<LeftOut> {
        let now: Vec<_> = self.own_macs.iter().map(|(_, word)| word).collect();
        let (changes, left_out) = own_macs::changes(&now, wanted);
        changes.into_iter().for_each(|(place, word)| self.own_macs.store(place, word));
        left_out
    }

    /// Takes over from `old` which addresses frames for this host have.
    pub fn carry_own_macs_from(&self, old: &Self) {
        old.own_macs.iter().for_each(|(place, word)| self.own_macs.store(place, word));
    }

    /// Lets packets be redirected to an interface. `false` where there is no such interface any more.
    pub fn put_device(&mut self, ifindex: u32) -> Result<bool, Error> {
        if self.devices.get(&ifindex, 0).is_ok() {
            return Ok(true);
        }
        match self.devices.insert(ifindex, ifindex, 0) {
            Ok(()) => Ok(true),
            Err(error) if matches!(errno(&error), Some(libc::EINVAL | libc::ENODEV)) => Ok(false),
            Err(error) => Err(Error::map("write to", maps::DEVICES)(error)),
        }
    }

    /// Lets packets be redirected to every interface that frames to a backend leave by.
    pub fn put_devices_in_use(&mut self) -> Result<(), Error> {
        let used: HashSet<u32> = self.backends.iter().filter_map(|(_, entry)| egress(&entry)).collect();
        used.into_iter().try_for_each(|ifindex| self.put_device(ifindex).map(drop))
    }

    /// Takes back what [`Self::put_device`] did for all interfaces but `used`.
    pub fn keep_devices(&mut self, used: impl Fn(u32) -> bool) -> Result<(), Error> {
        let unused: Vec<u32> = self.devices.keys().filter_map(Result::ok).filter(|ifindex| !used(*ifindex)).collect();
        for ifindex in unused {
            match self.devices.remove(&ifindex) {
                // The kernel removes interfaces that go.
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) if errno(&error) == Some(libc::ENOENT) => {}
                Err(error) => return Err(Error::map("delete from", maps::DEVICES)(error)),
            }
        }
        Ok(())
    }
}
