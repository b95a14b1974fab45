//! Ports that probes come from, and for how long each is one's own. A port is at one probe at a time, of each protocol,
//! and is used again as late as can be.

use std::{
    collections::{HashMap, VecDeque},
    fs,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use lb_common::{Be16, ProbeKey};

use crate::dataplane::{Error, Probes};

/// For so long packets of a socket that is closed are still a probe's: what it sends at the end, and what it does not
/// answer any more, goes the way of all before.
const LINGER: Duration = Duration::from_secs(1);

/// Fewer ports than this are not worth the while.
const FEW: u16 = 1024;
/// More are not needed.
const MANY: u16 = 8192;
/// Where others are taken by the host. What the host itself has under way from one of them to a VIP is then answered in
/// vain while a probe of the same VIP has the same port.
const SHARED: RangeInclusive<u16> = 61_000..=65_535;

/// The ports of a host that probes may come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The ports.
    pub ports: RangeInclusive<u16>,
    /// The host gives them to connections of its own as well.
    pub is_shared: bool,
}

impl Range {
    /// That of the host whose network namespace the calling thread is in.
    pub fn of_host() -> Self {
        let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let mut numbers = text.split_whitespace().map_while(|number| number.parse().ok());
        // What the kernel begins with.
        let (first, last) = numbers.next().zip(numbers.next()).unwrap_or((32_768, 60_999));
        Self::outside(first..=last)
    }

    /// Ports that a host does not give to its own connections, which get one of `ephemeral`.
    fn outside(ephemeral: RangeInclusive<u16>) -> Self {
        let (first, last) = ephemeral.into_inner();
        let above = last.saturating_add(1)..=last.saturating_add(MANY);
        let below = first.saturating_sub(MANY).max(1024)..=first.saturating_sub(1);
        let is_enough = |ports: &RangeInclusive<u16>| ports.end().saturating_sub(*ports.start()) >= FEW;
        match [above, below].into_iter().find(is_enough) {
            Some(ports) => Self { ports, is_shared: false },
            None => Self { ports: SHARED, is_shared: true },
        }
    }
}

/// Who has which port.
pub struct Ports {
    probes: Arc<Probes>,
    range: RangeInclusive<u16>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By protocol: free ports, that which is free for the longest time first.
    free: HashMap<u8, VecDeque<u16>>,
    /// Those that have been given back, until their time is over.
    given_back: VecDeque<(Instant, Taken)>,
}

#[derive(Clone, Copy)]
struct Taken {
    key: ProbeKey,
    protocol: u8,
    port: u16,
}

/// A port that is one probe's: as long as this is there, and for a moment longer, packets from it are that probe's.
pub struct Lease {
    ports: Arc<Ports>,
    taken: Taken,
}

impl Ports {
    /// The ports of `range`, all free.
    pub fn new(probes: Arc<Probes>, range: RangeInclusive<u16>) -> Self {
        Self { probes, range, state: Mutex::default() }
    }

    /// Takes a port for a probe of the backend with the id `backend` by its VIP; `None` where none is free.
    ///
    /// # Errors
    ///
    /// As [`Probes::enter`].
    pub fn take(self: &Arc<Self>, vip: std::net::IpAddr, protocol: u8, backend: u32) -> Result<Option<Lease>, Error> {
        self.tidy();
        let free = |state: &mut State| {
            let all = || self.range.clone().collect();
            state.free.entry(protocol).or_insert_with(all).pop_front()
        };
        let Some(port) = free(&mut self.state()) else { return Ok(None) };
        let taken = Taken { key: ProbeKey::new(vip.into(), Be16::new(port), protocol), protocol, port };
        // Given back where it fails.
        let lease = Lease { ports: Arc::clone(self), taken };
        self.probes.enter(taken.key, backend)?;
        Ok(Some(lease))
    }

    /// Frees those whose time is over.
    pub fn tidy(&self) {
        let now = Instant::now();
        let mut state = self.state();
        while let Some((_, Taken { key, protocol, port })) = state.given_back.pop_front_if(|(until, _)| *until <= now) {
            if let Err(error) = self.probes.remove(&key) {
                log::debug!("{error}");
            }
            state.free.entry(protocol).or_default().push_back(port);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// The port.
    pub fn port(&self) -> u16 {
        self.taken.port
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.ports.state().given_back.push_back((Instant::now() + LINGER, self.taken));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_those_that_the_host_does_not_give_away() {
        let range = |ports, is_shared| Range { ports, is_shared };
        for (ephemeral, expected) in [
            (32_768..=60_999, range(61_000..=65_535, false)),
            (1024..=40_000, range(40_001..=48_192, false)),
            (32_768..=65_535, range(24_576..=32_767, false)),
            (10_000..=65_000, range(1808..=9_999, false)),
            (1024..=65_535, range(SHARED, true)),
            (1500..=65_000, range(SHARED, true)),
        ] {
            assert_eq!(Range::outside(ephemeral.clone()), expected, "{ephemeral:?}");
        }
    }
}
