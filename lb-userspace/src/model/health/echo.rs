//! An echo request, as probes send it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is to come back as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// Bytes behind the headers of IP and ICMP.
    pub size: u16,
}

impl Echo {
    /// Without `size`, as of ping(8).
    pub const SIZE: u16 = 56;
    /// Smallest `size`: it tells replies apart.
    pub const SHORTEST: u16 = 16;
    /// Largest `size`: frames are not much longer anywhere.
    pub const LONGEST: u16 = 9000;
}

impl fmt::Display for Echo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size } = self;
        if *size == Self::SIZE { Ok(()) } else { write!(f, " size {size}") }
    }
}
