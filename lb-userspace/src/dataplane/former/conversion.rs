//! How entries of a former version of a map become entries of today's.

use lb_common::Layout;

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
    /// Makes a key of today, which has the size that the second slice has.
    pub key: fn(&[u8], &mut [u8]),
    /// Makes a value of today.
    pub value: fn(&[u8], &mut [u8]),
}

/// Every former version that is read: those of releases from which an upgrade keeps flows and counts. Each stays here
/// until no such release is left.
pub const FORMER: &[Conversion] = &[];

impl Conversion {
    /// Of a map that is as it was.
    pub const fn none(layout: &Layout) -> Self {
        let Layout { map, version, key, value, .. } = *layout;
        Self { map, version, key_size: key, value_size: value, key: same, value: same }
    }
}

/// As it was.
pub fn same(former: &[u8], today: &mut [u8]) {
    today.copy_from_slice(former);
}
