//! A datagram, and what comes back, as probes want it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::octets::Octets;

/// A datagram that is sent, and how a good answer begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// What is sent.
    pub send: Octets,
    /// The first bytes of a good answer; `None` where any is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Octets>,
}

impl Exchange {
    /// Most bytes of a datagram: what every link of IPv6 takes in one packet (RFC 8200), without the headers.
    pub const LONGEST: usize = 1280 - 40 - 8;
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { send, expect } = self;
        write!(f, "send {send}")?;
        expect.as_ref().map_or(Ok(()), |expect| write!(f, " expect {expect}"))
    }
}
