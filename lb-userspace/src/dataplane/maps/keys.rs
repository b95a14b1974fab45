//! Keys of VIPs, and what they lead to: a perfect hash table, as [`lb_common::VipHash`] says.

use std::{mem, sync::atomic::Ordering};

use aya::maps::MapData;
use hashbrown::{HashMap, HashSet};
use lb_common::{BucketLine, Vip4Place, Vip6Place, VipHash, VipRoute, maps};

use super::{Maps, mmap::Mapped};
use crate::{
    dataplane::{Error, grace::grace},
    plan::{FamilyKey, VipKey},
};

/// Every key, and what it leads to.
pub(super) struct Keys {
    buckets: Mapped<BucketLine, 8>,
    v4: Mapped<Vip4Place, 4>,
    v6: Mapped<Vip6Place, 8>,
    book: Book,
}

/// Which keys there are. Nothing of it is in the maps: it is counted when they are read ([`Keys::take_account`]).
#[derive(Default)]
struct Book {
    /// By bucket: the keys in it and where they are.
    buckets: HashMap<u32, Vec<(VipKey, Place)>>,
    /// Places that have a key, or had one.
    taken: HashSet<Place>,
    /// Those of them that are no key's any more, but a packet may be on its way there: by bucket, with the key whose copy
    /// they still hold.
    left: HashMap<u32, Vec<(VipKey, Place)>>,
    /// The same of keys that were removed there.
    cleared: Vec<Place>,
}

/// A place in the map of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    V4(u32),
    V6(u32),
}

/// So many multipliers are tried for a bucket: of eight keys, where half of all places are taken, one in 256 will do.
const TRIED: u32 = 1 << 16;

impl Keys {
    pub(super) fn open(buckets: MapData, v4: MapData, v6: MapData) -> Result<Self, Error> {
        Ok(Self {
            buckets: Mapped::open(maps::VIP_BUCKETS, buckets)?,
            v4: Mapped::open(maps::VIPS4, v4)?,
            v6: Mapped::open(maps::VIPS6, v6)?,
            book: Book::default(),
        })
    }

    /// Keys of IPv4 and of IPv6 VIPs that there is room for: half of the places stay free.
    pub(super) fn room(&self) -> [u32; 2] {
        [self.v4.entries / 2, self.v6.entries / 2]
    }

    /// Every key, and what it leads to.
    pub(super) fn iter(&self) -> impl Iterator<Item = (VipKey, VipRoute)> {
        self.all()
            .filter(|(place, key, _)| self.place(key, self.multiplier(key)) == *place)
            .map(|(_, key, to)| (key, to))
    }

    /// Finds out which places are in use.
    pub(super) fn take_account(&mut self) {
        let mut book = Book::default();
        for (place, key, _) in self.all() {
            book.taken.insert(place);
            let is_found = self.place(&key, self.multiplier(&key)) == place;
            let keys = if is_found { &mut book.buckets } else { &mut book.left };
            keys.entry(self.bucket(&key)).or_default().push((key, place));
        }
        let v4 = self.v4.iter().filter(|(_, at)| at.key.protocol() == 0 && *at != Vip4Place::default());
        let v6 = self.v6.iter().filter(|(_, at)| at.key.protocol() == 0 && *at != Vip6Place::default());
        book.cleared.extend(v4.map(|(place, _)| Place::V4(place)).chain(v6.map(|(place, _)| Place::V6(place))));
        book.taken.extend(&book.cleared);
        self.book = book;
    }

    /// What is at all places, be it of use or not.
    fn all(&self) -> impl Iterator<Item = (Place, VipKey, VipRoute)> {
        let v4 = self.v4.iter().map(|(place, at)| (Place::V4(place), at.key.into(), at.route));
        let v6 = self.v6.iter().map(|(place, at)| (Place::V6(place), at.key.into(), at.route));
        v4.chain(v6).filter(|(_, key, _): &(Place, VipKey, VipRoute)| key.protocol != 0)
    }

    /// Inserts a key or replaces its route. A packet finds in the key's bucket all as it was or all as it is then.
    ///
    /// # Errors
    ///
    /// There is no multiplier for its bucket.
    fn put(&mut self, key: VipKey, route: VipRoute) -> Result<(), Error> {
        let bucket = self.bucket(&key);
        let before = self.book.buckets.get(&bucket).cloned().unwrap_or_default();
        if before.iter().any(|(other, place)| *other == key && self.route(*place) == route) {
            return Ok(());
        }
        let others =
            before.iter().filter(|(other, _)| *other != key).map(|(other, place)| (*other, self.route(*place)));
        let keys: Vec<_> = others.chain([(key, route)]).collect();
        let found = self.free_places(bucket, &keys).or_else(|| {
            self.wait();
            self.free_places(bucket, &keys)
        });
        let (multiplier, places) = found.ok_or(Error::NoPlace { map: maps::VIP_BUCKETS })?;
        for ((key, route), place) in keys.iter().zip(&places) {
            match (key.in_map(), place) {
                (FamilyKey::V4(key), Place::V4(place)) => {
                    self.v4.store(*place, Vip4Place { key, route: *route, ..Vip4Place::default() });
                }
                (FamilyKey::V6(key), Place::V6(place)) => {
                    self.v6.store(*place, Vip6Place { key, route: *route, ..Vip6Place::default() });
                }
                _ => unreachable!("a key's place is in the map of its family"),
            }
        }
        // With release: whoever sees it finds what was stored before.
        self.buckets.half(bucket).store(multiplier, Ordering::Release);
        self.book.left.entry(bucket).or_default().extend(before);
        self.book.taken.extend(&places);
        self.book.buckets.insert(bucket, keys.into_iter().map(|(key, _)| key).zip(places).collect());
        Ok(())
    }

    fn remove(&mut self, key: &VipKey) {
        let bucket = self.bucket(key);
        let Some(keys) = self.book.buckets.get_mut(&bucket) else { return };
        let Some(position) = keys.iter().position(|(other, _)| other == key) else { return };
        let (_, place) = keys.swap_remove(position);
        if keys.is_empty() {
            self.book.buckets.remove(&bucket);
        }
        // The key alone: who has found it may be reading the rest.
        match place {
            Place::V4(place) => self.v4.store(place, Vip4Place { key: Default::default(), ..self.v4.load(place) }),
            Place::V6(place) => {
                // Without the protocol it is none; the address stays, which no single store could take away.
                let at = self.v6.load(place);
                let key = lb_common::Vip6Key::new(at.key.address(), Default::default(), 0);
                self.v6.store(place, Vip6Place { key, ..at });
            }
        }
        self.book.cleared.push(place);
    }

    /// A multiplier for the bucket of these keys, and the places that they have by it: free ones, no two the same, and
    /// none where packets to the key look already, which would find half of what is written. Nor does any copy of a key
    /// that was in the bucket come to be in its place again: it may have been removed since.
    fn free_places(&self, bucket: u32, keys: &[(VipKey, VipRoute)]) -> Option<(u32, Vec<Place>)> {
        let mut places = Vec::with_capacity(keys.len());
        let copies = self.book.left.get(&bucket).map(Vec::as_slice).unwrap_or_default();
        let in_force = self.buckets.half(bucket).load(Ordering::Acquire);
        (0..TRIED).map(|number| number.wrapping_mul(0x9e37_79b9) | 1).find_map(|multiplier| {
            places.clear();
            if copies.iter().any(|(key, place)| self.place(key, multiplier) == *place) {
                return None;
            }
            for (key, _) in keys {
                let place = self.place(key, multiplier);
                let is_looked_at = place == self.place(key, in_force);
                if is_looked_at || self.book.taken.contains(&place) || places.contains(&place) {
                    return None;
                }
                places.push(place);
            }
            Some((multiplier, mem::take(&mut places)))
        })
    }

    /// Waits until no packet is on its way to a place that was left.
    fn wait(&mut self) {
        grace();
        let left = mem::take(&mut self.book.left).into_values().flatten().map(|(_, place)| place);
        for place in left.chain(mem::take(&mut self.book.cleared)) {
            match place {
                Place::V4(place) => self.v4.store(place, Vip4Place::default()),
                Place::V6(place) => self.v6.store(place, Vip6Place::default()),
            }
            self.book.taken.remove(&place);
        }
    }

    fn bucket(&self, key: &VipKey) -> u32 {
        hash(key).bucket(self.buckets.entries * VipHash::A_LINE - 1)
    }

    fn multiplier(&self, key: &VipKey) -> u32 {
        self.buckets.half(self.bucket(key)).load(Ordering::Acquire)
    }

    /// Where a key is if its bucket has this multiplier.
    fn place(&self, key: &VipKey, multiplier: u32) -> Place {
        let place = |entries: u32| hash(key).place(multiplier, entries - 1);
        match key.in_map() {
            FamilyKey::V4(_) => Place::V4(place(self.v4.entries)),
            FamilyKey::V6(_) => Place::V6(place(self.v6.entries)),
        }
    }

    fn route(&self, place: Place) -> VipRoute {
        match place {
            Place::V4(place) => self.v4.load(place).route,
            Place::V6(place) => self.v6.load(place).route,
        }
    }
}

impl Maps {
    /// Inserts a VIP key or replaces its route: packets find the one or the other, and never another VIP's.
    ///
    /// # Errors
    ///
    /// There is no room for it; no key is another one.
    pub fn put_key(&mut self, key: VipKey, route: VipRoute) -> Result<(), Error> {
        self.keys.put(key, route)
    }

    /// What a packet finds that looks for this key.
    #[cfg(test)]
    pub fn find(&self, key: &VipKey) -> Option<VipRoute> {
        let place = self.keys.place(key, self.keys.multiplier(key));
        let found = self.keys.all().find(|(other, ..)| *other == place);
        found.filter(|(_, other, _)| other == key).map(|(_, _, route)| route)
    }

    /// Deletes a VIP key.
    pub fn remove_key(&mut self, key: VipKey) {
        self.keys.remove(&key);
    }
}

fn hash(key: &VipKey) -> VipHash {
    match key.in_map() {
        FamilyKey::V4(key) => key.hash(),
        FamilyKey::V6(key) => key.hash(),
    }
}
