//! How far a backend is that has failed, is back, and gets its slots back in parts. For the daemon only: it is kept beside
//! the verdict, so that a restart goes on where it was.

use crate::BackendRecord;

/// The slow start of a backend: which part of its slots it has, and since when.
///
/// Times are tenths of a second since the machine booted (CLOCK_BOOTTIME), modulo 2^29.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlowStart {
    /// When it began.
    began: u32,
    /// Index into [`Self::PARTS`].
    part: u32,
}

impl SlowStart {
    /// Eighths of its slots that a backend has, in turn; each part lasts for the same time, and after them it has all.
    pub const PARTS: [u32; 3] = [1, 2, 4];

    /// All of a backend's slots, in eighths.
    pub const WHOLE: u32 = 8;

    const COUNT: u32 = Self::PARTS.len() as u32;

    // Among the marks of a record, above that of the verdict: the part, counted from 1, and the begin.
    const PART_SHIFT: u32 = BackendRecord::FAILS.trailing_zeros() + 1;
    const PART_BITS: u32 = 2;
    const BEGAN_SHIFT: u32 = Self::PART_SHIFT + Self::PART_BITS;
    const BEGAN_MASK: u32 = u32::MAX >> Self::BEGAN_SHIFT;

    /// One that begins now.
    pub const fn new(now: u32) -> Self {
        Self { began: now & Self::BEGAN_MASK, part: 0 }
    }

    /// Eighths of its slots that the backend has.
    pub const fn eighths(self) -> u32 {
        Self::PARTS[self.part as usize]
    }

    /// How far it is by now, where it takes `time` in all; `None` where it is over. It never goes back.
    #[must_use]
    pub fn at(self, now: u32, time: u32) -> Option<Self> {
        let part = u64::from(self.age(now)) * u64::from(Self::COUNT) / u64::from(time.max(1));
        let part = part.max(u64::from(self.part));
        (part < u64::from(Self::COUNT)).then_some(Self { part: part as u32, ..self })
    }

    /// How long until the next part.
    pub fn until_next(self, now: u32, time: u32) -> u32 {
        let begins = (u64::from(self.part + 1) * u64::from(time)).div_ceil(u64::from(Self::COUNT));
        begins.saturating_sub(u64::from(self.age(now))) as u32
    }

    /// How long until it is over.
    pub fn until_whole(self, now: u32, time: u32) -> u32 {
        time.saturating_sub(self.age(now))
    }

    fn age(self, now: u32) -> u32 {
        now.wrapping_sub(self.began) & Self::BEGAN_MASK
    }

    /// From the marks of a record; `None` where the backend has all of its slots.
    pub const fn from_marks(marks: u32) -> Option<Self> {
        let part = marks >> Self::PART_SHIFT & ((1 << Self::PART_BITS) - 1);
        let began = marks >> Self::BEGAN_SHIFT;
        match part {
            0 => None,
            part => Some(Self { began, part: part - 1 }),
        }
    }

    /// As marks of a record.
    pub const fn marks(self) -> u32 {
        (self.part + 1) << Self::PART_SHIFT | self.began << Self::BEGAN_SHIFT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_keep_it_beside_the_verdict() {
        for marks in [0, BackendRecord::FAILS] {
            assert_eq!(SlowStart::from_marks(marks), None);
        }
        for began in [0, 7, SlowStart::BEGAN_MASK] {
            for part in 0..SlowStart::COUNT {
                let own = SlowStart { part, ..SlowStart::new(began) };
                assert_eq!(own.marks() & BackendRecord::FAILS, 0);
                assert_eq!(SlowStart::from_marks(own.marks() | BackendRecord::FAILS), Some(own));
            }
        }
    }

    #[test]
    fn parts_follow_on_one_another_in_equal_times() {
        let begin = SlowStart::new(1_000);
        let eighths = |age: u32| begin.at(1_000 + age, 300).map_or(SlowStart::WHOLE, SlowStart::eighths);
        assert_eq!([0, 99, 100, 199, 200, 299, 300, 100_000].map(eighths), [1, 1, 2, 2, 4, 4, 8, 8]);
        // It is just then that the next one comes, also where the time is no multiple of three.
        for time in [10, 11, 300, 36_000] {
            let (mut own, mut now) = (begin, 1_000);
            for next in [2, 4, 8] {
                let left = own.until_next(now, time);
                assert_eq!(own.at(now + left - 1, time), Some(own));
                now += left;
                match own.at(now, time) {
                    Some(after) => own = after,
                    None => assert_eq!((next, now), (8, 1_000 + time)),
                }
                assert!(next == 8 || own.eighths() == next);
            }
        }
        assert_eq!((begin.until_whole(1_120, 300), begin.until_whole(2_000, 300)), (180, 0));
    }

    #[test]
    fn it_never_goes_back_and_clocks_may_wrap() {
        let half = SlowStart::new(0).at(250, 300).unwrap();
        assert_eq!(half.at(260, 3_000), Some(half), "it takes longer from now on");
        assert_eq!(half.until_next(260, 3_000), 2_740);
        let begin = SlowStart::new(u32::MAX);
        assert_eq!(begin.at(99, 300).map(SlowStart::eighths), Some(2));
    }
}
