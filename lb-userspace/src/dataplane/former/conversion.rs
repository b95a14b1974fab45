//! How entries of a former version of a map become entries of today's.

use lb_common::{Layout, maps};

use super::{abi4, bytes::Bytes};
use crate::dataplane::{Error, maps::Maps};

/// How a former version of a map is read.
#[derive(Clone, Copy)]
pub struct Conversion {
    /// Name of the map.
    pub map: &'static str,
    /// Its former version.
    pub version: u32,
    /// Size of a key of that version in bytes.
    pub key_size: usize,
    /// Size of a value of that version in bytes.
    pub value_size: usize,
    /// How what it holds comes to be in the maps of today.
    pub how: How,
}

/// How what a former map holds comes to be in the maps of today.
#[derive(Clone, Copy)]
pub enum How {
    /// Entry by entry.
    Entries {
        /// Makes a value of today, which has the size that the second slice has.
        value: fn(&[u8], &mut [u8]),
    },
    /// It means the same in maps of another shape, to which it is written as any change is.
    Meaning(Put),
}

/// Every former version that is read: those of releases from which an upgrade keeps flows and counts. Each stays here
/// until no such release is left.
pub const FORMER: &[Conversion] = &[
    Conversion::by_meaning(maps::VIPS4, 1, [8, 16], abi4::put_keys4),
    Conversion::by_meaning(maps::VIPS6, 1, [24, 16], abi4::put_keys6),
    Conversion::by_meaning(maps::SLOTS, 1, [4, 8], abi4::put_slots),
    Conversion {
        map: maps::OWN_MACS,
        version: 1,
        key_size: 4,
        value_size: 8,
        how: How::Entries { value: abi4::own_mac },
    },
    // What was reserved, and 0, is a deadline: none.
    Conversion { map: maps::VIP_RECORDS, version: 1, key_size: 4, value_size: 120, how: How::Entries { value: same } },
    Conversion {
        map: maps::BACKEND_RECORDS,
        version: 1,
        key_size: 4,
        value_size: 16,
        how: How::Entries { value: longer },
    },
    // `abi4::carry_flows` has what they mean, and those of another map.
    Conversion::by_meaning(maps::FLOWS, 1, [24, 8], |_, _| Ok(())),
    // `abi4::carry_counts` has what they mean.
    Conversion::by_meaning(maps::VIP_CARRIED, 1, [4, 24], |_, _| Ok(())),
    Conversion::by_meaning(maps::BACKENDS, 1, [4, abi4::BACKEND_LEN], abi4::put_backends),
];

/// Writes what a former map holds.
type Put = fn(&Bytes, &mut Maps) -> Result<(), Error>;

impl Conversion {
    /// Of a map with keys and values of these sizes that is written by what it means.
    const fn by_meaning(map: &'static str, version: u32, [key_size, value_size]: [usize; 2], put: Put) -> Self {
        Self { map, version, key_size, value_size, how: How::Meaning(put) }
    }

    /// Of a map that is as it was.
    pub const fn none(layout: &Layout) -> Self {
        let Layout { map, version, key, value, .. } = *layout;
        Self { map, version, key_size: key, value_size: value, how: How::Entries { value: same } }
    }
}

/// As it was, with zeros behind it.
fn longer(former: &[u8], today: &mut [u8]) {
    let (same, rest) = today.split_at_mut(former.len());
    same.copy_from_slice(former);
    rest.fill(0);
}

/// As it was.
pub fn same(former: &[u8], today: &mut [u8]) {
    today.copy_from_slice(former);
}
