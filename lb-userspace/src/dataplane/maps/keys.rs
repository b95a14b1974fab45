//! Keys of VIPs, and what they lead to.

use std::mem;

use aya::maps::MapError;
use aya_obj::generated::{BPF_ANY, BPF_NOEXIST};
use lb_common::{VipRoute, maps};

use super::{Maps, errno};
use crate::{
    dataplane::{Error, grace::grace},
    plan::{FamilyKey, VipKey},
};

impl Maps {
    /// Inserts a VIP key or replaces its route: packets find the one or the other, and never another VIP's.
    ///
    /// The kernel does not change an element in place, but it hands the element of a key that was replaced or deleted
    /// to the next write at once (`htab_map_update_elem`, kernel/bpf/hashtab.c; without preallocation as well, since
    /// 6.1), while a packet that found the element before may be reading it. So a write that was left such an element
    /// first waits until no packet is on its way that may have found it: about 10 ms after each replacement, nothing
    /// where keys are only inserted or only removed.
    pub fn put_key(&mut self, key: VipKey, route: VipRoute) -> Result<(), Error> {
        if mem::take(&mut self.key_left) {
            grace();
        }
        match self.write_key(key, route, BPF_NOEXIST) {
            Err((_, error)) if errno(&error) == Some(libc::EEXIST) => {
                self.key_left = true;
                self.write_key(key, route, BPF_ANY)
            }
            result => result,
        }
        .map_err(|(name, error)| Error::map("write to", name)(error))
    }

    fn write_key(&mut self, key: VipKey, route: VipRoute, flags: u32) -> Result<(), (&'static str, MapError)> {
        match key.in_map() {
            FamilyKey::V4(key) => self.vips4.insert(key, route, flags.into()).map_err(|error| (maps::VIPS4, error)),
            FamilyKey::V6(key) => self.vips6.insert(key, route, flags.into()).map_err(|error| (maps::VIPS6, error)),
        }
    }

    /// Deletes a VIP key, and leaves its element to the next [`Self::put_key`].
    pub fn remove_key(&mut self, key: VipKey) -> Result<(), Error> {
        self.key_left = true;
        match key.in_map() {
            FamilyKey::V4(key) => self.vips4.remove(&key).map_err(Error::map("delete from", maps::VIPS4)),
            FamilyKey::V6(key) => self.vips6.remove(&key).map_err(Error::map("delete from", maps::VIPS6)),
        }
    }
}
