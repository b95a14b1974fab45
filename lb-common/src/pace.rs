//! How many packets of its own a CPU may send.

use crate::Tick;

/// What a CPU sends packets of its own for. Each has a pace of its own, so that nobody who asks for one has another kept
/// back.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A datagram for a VIP that refuses it: ICMP, port unreachable.
    Unreachable = 0,
    /// An echo request.
    Echo = 1,
    /// A packet that does not fit on the way to its backend: ICMP, fragmentation needed or packet too big.
    TooBig = 2,
}

impl Answer {
    /// Paces that each CPU has: more than there are answers.
    pub const ROOM: u32 = 8;
    /// How many of each a CPU sends in a tick at most, where nothing else is asked for: what Linux allows the host as a
    /// whole by default in a second (`icmp_msgs_per_sec`).
    pub const RATE: u32 = 1000;
}

/// What a CPU has sent in a tick.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// The tick since which [`Pace::sent`] counts.
    pub tick: u32,
    /// Packets.
    pub sent: u32,
}

impl Pace {
    /// Whether one more may be sent, of `most` in a tick; it counts as sent then.
    #[inline(always)]
    pub fn admits(&mut self, now: Tick, most: u32) -> bool {
        let Tick(now) = now;
        if self.tick != u32::from(now) {
            *self = Self { tick: now.into(), sent: 0 };
        }
        let is_admitted = self.sent < most;
        self.sent += u32::from(is_admitted);
        is_admitted
    }
}

super::pod!(Pace);

const _: () = assert!(size_of::<Pace>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_sent_in_each_tick() {
        let mut pace = Pace::default();
        for tick in [0, 1, 7, u16::MAX, 0] {
            let sent = (0..10).filter(|_| pace.admits(Tick(tick), 3)).count();
            assert_eq!(sent, 3, "{tick}");
        }
    }
}
