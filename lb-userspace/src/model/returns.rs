//! Backends that have failed, are back, and get their slots back in parts (`slow_start`): how far each of them is.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use lb_common::SlowStart;
use nix::time::{ClockId, clock_gettime};

/// How far backends are that have a part of their slots only, by VIP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Returns(BTreeMap<String, OfVip>);

/// The same of one VIP.
pub(super) type OfVip = BTreeMap<IpAddr, SlowStart>;

/// The unit of times of a [`SlowStart`].
const TICK: Duration = Duration::from_millis(100);

/// What time it is, as a [`SlowStart`] has it.
pub fn slow_start_now() -> u32 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every kernel that runs this has this clock");
    slow_start_time(time.into())
}

/// A time in the unit of a [`SlowStart`], modulo 2^32.
pub fn slow_start_time(time: Duration) -> u32 {
    (time.as_millis() / TICK.as_millis()) as u32
}

/// A time of a [`SlowStart`].
pub fn slow_start_duration(time: u32) -> Duration {
    TICK.saturating_mul(time)
}

impl Returns {
    /// Whether all have all of their slots.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Name of the VIP, address of the backend, and how far it is.
    pub fn iter(&self) -> impl Iterator<Item = (&str, IpAddr, SlowStart)> {
        self.0.iter().flat_map(|(vip, of_vip)| of_vip.iter().map(move |(backend, own)| (vip.as_str(), *backend, *own)))
    }

    /// How far a backend is; `None` where it has all of its slots.
    pub fn of(&self, vip: &str, backend: IpAddr) -> Option<SlowStart> {
        self.0.get(vip)?.get(&backend).copied()
    }

    /// Those of a VIP.
    pub(super) fn of_vip(&self, vip: &str) -> Option<&OfVip> {
        self.0.get(vip)
    }

    /// Takes note of how far a backend is.
    pub fn set(&mut self, vip: &str, backend: IpAddr, own: SlowStart) {
        self.0.entry(vip.to_owned()).or_default().insert(backend, own);
    }

    /// Takes note that a backend has all of its slots; whether that is news.
    pub fn end(&mut self, vip: &str, backend: IpAddr) -> bool {
        let before = self.of(vip, backend);
        self.advance(|name, address, own| ((name, address) != (vip, backend)).then_some(own));
        before.is_some()
    }

    /// Takes note of how far all are.
    pub(super) fn advance(&mut self, far: impl Fn(&str, IpAddr, SlowStart) -> Option<SlowStart>) {
        self.0.retain(|vip, of_vip| {
            of_vip.retain(|backend, own| far(vip, *backend, *own).inspect(|after| *own = *after).is_some());
            !of_vip.is_empty()
        });
    }
}
