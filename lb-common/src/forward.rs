//! How a packet reaches its backend, as the data plane knows it.

use crate::Features;

/// Declares the ways, each with its number in the maps.
macro_rules! forwards {
    ($($(#[$doc:meta])* $way:ident = $number:literal,)+) => {
        /// How a packet reaches its backend: the forward mode of the config with the outer family settled.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Forward {
            $($(#[$doc])* $way = $number,)+
        }

        impl Forward {
            /// Every way.
            pub const ALL: &'static [Self] = &[$(Self::$way,)+];

            /// From the number in a map.
            #[inline(always)]
            pub const fn from_u32(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$way),)+
                    _ => None,
                }
            }
        }
    };
}

forwards! {
    /// Rewrite the Ethernet addresses, leave the packet as it is.
    L2 = 1,
    /// Encapsulate in IPv4 (RFC 2003, RFC 4213).
    Ipip4 = 2,
    /// Encapsulate in IPv6 (RFC 2473).
    Ipip6 = 3,
}

impl Forward {
    /// The feature that a program needs to forward this way: the first three have the bits of their numbers, later ones
    /// those behind the other features.
    pub const fn feature(self) -> Features {
        let number = self as u32;
        Features(1 << if number <= 3 { number } else { Features::BITS_BEFORE_FORWARDS + number })
    }

    /// What it puts in front of a packet, in bytes.
    pub const fn overhead(self) -> u32 {
        match self {
            Self::L2 => 0,
            Self::Ipip4 => 20,
            Self::Ipip6 => 40,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_maps_name_the_same_thing_both_ways() {
        for forward in Forward::ALL {
            assert_eq!(Forward::from_u32(*forward as u32), Some(*forward));
        }
        assert_eq!(Forward::from_u32(0), None);
    }

    #[test]
    fn each_way_is_a_feature_of_its_own() {
        let others = [
            Features::ANY_PORT,
            Features::VIP4,
            Features::VIP6,
            Features::LOG,
            Features::MULTI_BUFFER,
            Features::TRACKING,
            Features::PROBES,
            Features::REFUSALS,
            Features::ECHO,
        ];
        let all = Forward::ALL.iter().map(|forward| forward.feature()).chain(others);
        let sum = all.clone().fold(Features::default(), Features::with);
        assert_eq!(sum.0.count_ones() as usize, all.count());
    }
}
