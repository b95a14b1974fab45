//! The kernel's count of jiffies, by which programs read the time without a call.

use aya::{
    EbpfLoader,
    programs::{ProgramError, TestRun as _, TestRunOptions, Xdp},
};
use log::debug;
use nix::{
    sys::time::TimeValLike as _,
    time::{ClockId, clock_getres},
};

use super::{Error, sys};
use crate::objects;

/// What time it is by the count of jiffies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jiffies {
    /// Nanoseconds in a jiffy; 0 where jiffies do not tell the time.
    pub nanoseconds: u64,
    /// The time of the monotonic clock in nanoseconds, modulo 2^64, at which there would have been none.
    pub none: u64,
}

impl Jiffies {
    /// Where programs have to ask the clock.
    const UNKNOWN: Self = Self { nanoseconds: 0, none: 0 };

    /// As the kernel counts them now.
    pub fn now() -> Self {
        match Self::counted() {
            Ok(Some(jiffies)) => jiffies,
            Ok(None) => {
                debug!("this kernel's timers are coarse: programs ask it what time it is");
                Self::UNKNOWN
            }
            Err(error) => {
                debug!("jiffies cannot be read, programs ask the kernel what time it is: {error}");
                Self::UNKNOWN
            }
        }
    }

    /// `None` where interrupts are counted, of which some may be missed: the count follows the monotonic clock only
    /// with high-resolution timers, by which the clock itself has a resolution of a nanosecond
    /// (`tick_do_update_jiffies64` and `hrtimer_get_res` of the kernel).
    fn counted() -> Result<Option<Self>, Error> {
        let resolution = |clock| clock_getres(clock).map(|time| time.num_nanoseconds()).unwrap_or_default();
        if resolution(ClockId::CLOCK_MONOTONIC) != 1 {
            return Ok(None);
        }
        // That of coarse clocks is a jiffy (kernel, `KTIME_LOW_RES`).
        let nanoseconds = resolution(ClockId::CLOCK_MONOTONIC_COARSE).cast_unsigned();
        if nanoseconds == 0 {
            return Ok(None);
        }
        let failed = |error: ProgramError| Error::load(&error);
        let mut ebpf = EbpfLoader::new().load(objects::JIFFIES).map_err(|error| Error::load(&error))?;
        let program = ebpf.program_mut("jiffies");
        let program =
            program.ok_or_else(|| Error::Load { reason: "its object has no program named jiffies".into() })?;
        let program: &mut Xdp = program.try_into().map_err(failed)?;
        program.load().map_err(failed)?;
        // Read before: so programs are behind the daemon's clock and not ahead of it.
        let before = sys::nanoseconds();
        let mut out = [0; FRAME];
        let frame = TestRunOptions { data_in: Some(&[0; FRAME]), data_out: Some(&mut out), ..TestRunOptions::new() };
        program.test_run(frame).map_err(failed)?;
        let ([low, high, ..], _) = out.as_chunks::<4>() else { unreachable!("a frame has two words") };
        let [low, high] = [low, high].map(|word| u64::from(u32::from_ne_bytes(*word)));
        let count = high << 32 | low;
        let none = before.wrapping_sub(nanoseconds).wrapping_sub(count.wrapping_mul(nanoseconds));
        Ok(Some(Self { nanoseconds, none }))
    }
}

/// Bytes of a frame that programs may be run over.
const FRAME: usize = 64;

#[cfg(test)]
mod tests {
    use std::{thread::sleep, time::Duration};

    use super::*;

    #[test]
    #[ignore = "needs root"]
    fn they_follow_the_monotonic_clock() {
        let Jiffies { nanoseconds, none } = Jiffies::now();
        if nanoseconds == 0 {
            return patience::not_tested("time by jiffies", "this kernel's timers are coarse");
        }
        assert!((1_000_000..=10_000_000).contains(&nanoseconds), "{nanoseconds} ns in a jiffy");
        for _ in 0..20 {
            let other = Jiffies::now();
            assert_eq!(other.nanoseconds, nanoseconds);
            let apart = other.none.wrapping_sub(none).cast_signed().unsigned_abs();
            assert!(apart <= 2 * nanoseconds, "{apart} ns apart");
            sleep(Duration::from_millis(13));
        }
    }
}
