//! The kernel's count of jiffies, by which programs read the time without a call.

use aya::{
    EbpfLoader,
    programs::{ProgramError, TestRun as _, TestRunOptions, Xdp},
};
use log::{info, warn};
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
    pub const UNKNOWN: Self = Self { nanoseconds: 0, none: 0 };

    /// As the kernel counts them now.
    pub fn now() -> Self {
        match Self::counted() {
            Ok(Some(jiffies)) => jiffies,
            Ok(None) => {
                info!(
                    "this kernel's timers are coarse: programs ask it what time it is, by a call for each tracked packet"
                );
                Self::UNKNOWN
            }
            Err(error) => {
                warn!(
                    "jiffies cannot be read, programs ask the kernel what time it is, by a call for each tracked packet: {error}"
                );
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
        for _ in 0..TRIED {
            let before = sys::nanoseconds();
            let count = count(program).map_err(failed)?;
            // Else something else ran meanwhile, for who knows how long.
            if sys::nanoseconds() - before <= nanoseconds {
                // The beginning: so programs are behind the daemon's clock and not ahead of it.
                let none = before.wrapping_sub(nanoseconds).wrapping_sub(count.wrapping_mul(nanoseconds));
                return Ok(Some(Self { nanoseconds, none }));
            }
        }
        Err(Error::Load { reason: format!("this machine is too busy: {TRIED} times it took more than a jiffy") })
    }
}

/// How often jiffies are counted before they are given up.
const TRIED: u32 = 100;

/// How many jiffies there were.
fn count(program: &Xdp) -> Result<u64, ProgramError> {
    let mut out = [0; FRAME];
    let frame = TestRunOptions { data_in: Some(&[0; FRAME]), data_out: Some(&mut out), ..TestRunOptions::new() };
    program.test_run(frame)?;
    let ([low, high, ..], _) = out.as_chunks::<4>() else { unreachable!("a frame has two words") };
    let [low, high] = [low, high].map(|word| u64::from(u32::from_ne_bytes(*word)));
    Ok(high << 32 | low)
}

/// Bytes of a frame that programs may be run over.
const FRAME: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel begins to count five minutes below zero, modulo 2^32 (`INITIAL_JIFFIES`), some moments after its clock
    /// begins: that is where they still agree, however long ago it was.
    #[test]
    #[ignore = "needs root"]
    fn they_have_followed_the_monotonic_clock_since_the_kernel_began() {
        let Jiffies { nanoseconds, none } = Jiffies::now();
        if nanoseconds == 0 {
            return patience::not_tested("time by jiffies", "this kernel's timers are coarse");
        }
        let initial = (1 << 32) - 300 * 1_000_000_000u64.div_ceil(nanoseconds);
        let begun = none.wrapping_add(initial.wrapping_mul(nanoseconds)).cast_signed();
        assert!(begun.abs() < 5_000_000_000, "{begun} ns apart, {} s after the start", sys::seconds());
    }
}
