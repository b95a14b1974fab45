//! UDP.

use lb_common::DropReason;
use network_types::ip::IpProto;

use super::{Frame, Transport};
use crate::cold::cold;

/// IP protocol number of UDP.
pub const UDP: u8 = IpProto::Udp as u8;

/// Length of the header, in bytes.
const LEN: usize = 8;

/// The header at `offset`, with `len` bytes of the IP packet from there on.
#[inline(always)]
pub(super) fn parse<F: Frame + ?Sized>(
    frame: &F,
    offset: usize,
    len: usize,
    first_fragment: bool,
) -> Result<Transport, DropReason> {
    if len < LEN {
        return Err(cold(DropReason::Truncated));
    }
    let [ports] = frame.words(offset).ok_or_else(|| cold(DropReason::Truncated))?;
    Ok(Transport { protocol: UDP, ports, sequence: 0, fourth: 0, len: len as u32, first_fragment })
}
