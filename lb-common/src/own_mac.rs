//! Which MAC addresses frames for this host are addressed to, by the interface that they come in by.

/// A MAC address of an interface that the data plane is attached to, as one 64-bit word, so that one store changes it:
/// the address in the lower 48 bits, its first byte lowest, above it the lower 16 bits of the interface's index. Zero in
/// a free place.
///
/// An interface's words lie in its window of [`OwnMac::WINDOW`] places, the one that most frames are addressed to first
/// where that place is free. Interfaces whose indices are equal modulo [`OwnMac::WINDOWS`] share a window.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OwnMac(pub u64);

impl OwnMac {
    /// Places of a window.
    pub const WINDOW: u32 = 32;
    /// Windows of the map.
    pub const WINDOWS: u32 = 64;
    /// Places of the map.
    pub const PLACES: u32 = Self::WINDOW * Self::WINDOWS;
    /// A place that holds nothing.
    pub const FREE: Self = Self(0);

    const INTERFACE_SHIFT: u32 = 48;

    /// The word of the address that `destination`, the first two words of a frame, holds, on this interface.
    #[inline(always)]
    pub const fn of_frame([first, second]: [u32; 2], ifindex: u32) -> Self {
        let mac = u32::from_le(first) as u64 | (u32::from_le(second) as u64 & 0xffff) << 32;
        Self((ifindex as u64) << Self::INTERFACE_SHIFT | mac)
    }

    /// The word of an address of this interface.
    pub const fn new([a, b, c, d, e, f]: [u8; 6], ifindex: u32) -> Self {
        Self((ifindex as u64) << Self::INTERFACE_SHIFT | u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// The first place of the window of an interface.
    #[inline(always)]
    pub const fn window(ifindex: u32) -> u32 {
        ifindex % Self::WINDOWS * Self::WINDOW
    }

    /// Whether it is the address of a group: multicast or broadcast.
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether both are of one interface, as far as a word tells.
    #[inline(always)]
    pub const fn is_of_interface(self, other: Self) -> bool {
        (self.0 ^ other.0) >> Self::INTERFACE_SHIFT == 0
    }
}

super::pod!(OwnMac);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_same_word_in_a_frame_and_in_the_map() {
        let mac = [0x02, 0x11, 0x22, 0x33, 0x44, 0x55];
        let words = [[0x02, 0x11, 0x22, 0x33], [0x44, 0x55, 0xaa, 0xbb]].map(u32::from_ne_bytes);
        let own = OwnMac::new(mac, 0x0001_0007);
        assert_eq!(OwnMac::of_frame(words, 0x0001_0007), own);
        assert_ne!(OwnMac::of_frame(words, 8), own);
        assert!(OwnMac::new([1; 6], 7).is_of_interface(own) && !OwnMac::new(mac, 8).is_of_interface(own));
    }

    #[test]
    fn groups_are_told_by_the_first_bit_on_the_wire() {
        for (first, group) in [(0x02, false), (0x00, false), (0x01, true), (0x33, true), (0xff, true)] {
            assert_eq!(OwnMac::new([first, 0xff, 0, 0, 0, 0], 0xffff).is_group(), group);
        }
    }

    #[test]
    fn windows_lie_side_by_side_within_the_map() {
        let windows: [u32; OwnMac::WINDOWS as usize] = core::array::from_fn(|ifindex| OwnMac::window(ifindex as u32));
        assert!(windows.windows(2).all(|pair| pair[1] - pair[0] == OwnMac::WINDOW));
        assert_eq!(OwnMac::window(OwnMac::WINDOWS), 0);
        assert!(OwnMac::window(u32::MAX) + OwnMac::WINDOW <= OwnMac::PLACES);
    }
}
