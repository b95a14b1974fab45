//! Explicit congestion notification across a tunnel (RFC 6040). The two bits are the low ones of the traffic class.

use network_types::ecn_codepoint::EcnCodepoint;

/// What decapsulation does with the ECN field of the inner header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// Leave it.
    Keep,
    /// Set it to this.
    Set(u8),
    /// Drop the packet: congestion must be signalled and the transport cannot hear it.
    Drop,
}

/// Not ECN-capable.
const NOT_ECT: u8 = 0;
const ECT0: u8 = EcnCodepoint::Ect0 as u8;
const ECT1: u8 = EcnCodepoint::Ect1 as u8;
const CE: u8 = EcnCodepoint::Ce as u8;

/// The inner field as it leaves the tunnel (RFC 6040 §4.2, figure 4), from the inner and the outer one as they arrived.
#[inline(always)]
pub const fn egress(inner: u8, outer: u8) -> Egress {
    match (inner & 0b11, outer & 0b11) {
        (NOT_ECT, CE) => Egress::Drop,
        (ECT0 | ECT1, CE) => Egress::Set(CE),
        (ECT0, ECT1) => Egress::Set(ECT1),
        _ => Egress::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_rfc_6040() {
        let row = |inner| [NOT_ECT, ECT0, ECT1, CE].map(|outer| egress(inner, outer));
        use Egress::{Drop, Keep, Set};
        assert_eq!(row(NOT_ECT), [Keep, Keep, Keep, Drop]);
        assert_eq!(row(ECT0), [Keep, Keep, Set(ECT1), Set(CE)]);
        assert_eq!(row(ECT1), [Keep, Keep, Keep, Set(CE)]);
        assert_eq!(row(CE), [Keep, Keep, Keep, Keep]);
    }
}
