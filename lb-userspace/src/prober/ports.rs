//! Ports that probes come from, and for how long each is one's own. Probes of different VIPs, or by different protocols,
//! may have the same port at the same time; of one VIP each has its own, drawn by chance.

use std::{
    collections::{HashSet, VecDeque},
    fs,
    net::IpAddr,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use lb_common::{Be16, ProbeKey};

use crate::dataplane::{Error, Probes};

/// For so long packets of a socket that is closed are still a probe's: what it sends at the end, and what comes too late,
/// goes the way of all before. (A late answer is then refused by RST, and the server's end is over too.)
const LINGER: Duration = Duration::from_secs(3);

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
    taken: HashSet<ProbeKey>,
    /// Keys whose sockets are closed, until their time is over.
    given_back: VecDeque<(Instant, ProbeKey)>,
}

/// A port that is one probe's: as long as this is there, and for a moment longer, packets from it are that probe's.
pub struct Lease {
    ports: Arc<Ports>,
    key: ProbeKey,
    port: u16,
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
    pub fn take(self: &Arc<Self>, vip: IpAddr, protocol: u8, backend: u32) -> Result<Option<Lease>, Error> {
        self.tidy();
        let key = |port| ProbeKey::new(vip.into(), Be16::new(port), protocol);
        let Some(port) = self.state().take(&self.range, key) else { return Ok(None) };
        // Given back where it fails.
        let lease = Lease { ports: Arc::clone(self), key: key(port), port };
        self.probes.enter(lease.key, backend)?;
        Ok(Some(lease))
    }

    /// Frees those whose time is over.
    pub fn tidy(&self) {
        let now = Instant::now();
        let mut state = self.state();
        while let Some((_, key)) = state.given_back.pop_front_if(|(until, _)| *until <= now) {
            if let Err(error) = self.probes.remove(&key) {
                log::debug!("{error}");
            }
            state.taken.remove(&key);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A port of which nobody has the key: one by chance, or the next that is free, so that nobody knows beforehand which a
    /// probe will have.
    fn take(&mut self, range: &RangeInclusive<u16>, key: impl Fn(u16) -> ProbeKey) -> Option<u16> {
        let (first, last) = (*range.start(), *range.end());
        let by_chance = first + (getrandom::u32().unwrap_or_default() % range.len() as u32) as u16;
        (by_chance..=last).chain(first..by_chance).find(|port| self.taken.insert(key(*port)))
    }
}

impl Lease {
    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.ports.state().given_back.push_back((Instant::now() + LINGER, self.key));
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

    #[test]
    fn each_probe_of_a_vip_has_a_port_of_its_own_by_chance() {
        let key = |vip: u8| {
            move |port| ProbeKey::new(IpAddr::from([203, 0, 113, vip]).into(), Be16::new(port), libc::IPPROTO_TCP as u8)
        };
        let (mut state, range) = (State::default(), 61_000..=61_063);
        let mut taken: Vec<_> = range.clone().map(|_| state.take(&range, key(1)).unwrap()).collect();
        let in_order = taken.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
        assert!(in_order < 40, "{taken:?}");
        taken.sort_unstable();
        assert!(taken.iter().copied().eq(range.clone()));
        assert_eq!(state.take(&range, key(1)), None);
        assert!(state.take(&range, key(2)).is_some());
        state.taken.remove(&key(1)(61_007));
        assert_eq!(state.take(&range, key(1)), Some(61_007));
    }
}
