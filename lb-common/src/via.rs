//! By which of the host's routing tables a backend is reached. For the daemon only; the data plane never reads it.

/// The name of a VRF in a map: at most [`VrfName::MAX`] bytes of UTF-8, padded with zeros. Empty: no VRF, the host's
/// main routing.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VrfName([u8; Self::SIZE]);

impl VrfName {
    /// Longest name in bytes: that of an interface.
    pub const MAX: usize = Self::SIZE - 1;
    /// No name is after this one.
    pub const LAST: Self = Self([0xff; Self::SIZE]);
    const SIZE: usize = 16;

    /// `None` where the name is too long or has a zero byte.
    pub fn new(name: &str) -> Option<Self> {
        let bytes = name.as_bytes();
        if bytes.len() > Self::MAX || bytes.contains(&0) {
            return None;
        }
        let mut padded = [0; Self::SIZE];
        padded[..bytes.len()].copy_from_slice(bytes);
        Some(Self(padded))
    }

    /// The name; empty where there is none.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|byte| *byte == 0).unwrap_or(Self::SIZE);
        core::str::from_utf8(&self.0[..len]).unwrap_or_default()
    }

    /// Whether this is no VRF.
    pub fn is_none(&self) -> bool {
        self.0[0] == 0
    }
}

/// By which routing tables a backend is reached.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Via {
    /// The VRF.
    pub vrf: VrfName,
    /// What policy rules (`ip rule … fwmark`) compare with; 0 for no mark. Of the lookup only: no packet carries it.
    pub mark: u32,
}

impl Via {
    /// None is after this one.
    pub const LAST: Self = Self { vrf: VrfName::LAST, mark: u32::MAX };
}

super::pod!(VrfName, Via);

const _: () = assert!(size_of::<Via>() == 20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_padding() {
        for name in ["", "blue", "0123456789abcde"] {
            let padded = VrfName::new(name).unwrap();
            assert_eq!((padded.as_str(), padded.is_none()), (name, name.is_empty()));
        }
        for name in ["0123456789abcdef", "a\0b"] {
            assert_eq!(VrfName::new(name), None);
        }
    }

    #[test]
    fn the_last_is_after_all_others() {
        let via = |vrf, mark| Via { vrf: VrfName::new(vrf).unwrap(), mark };
        for other in [Via::default(), via("blue", 0), via("zzzzzzzzzzzzzzz", u32::MAX)] {
            assert!(Via::default() <= other && other < Via::LAST);
        }
    }
}
