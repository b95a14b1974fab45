//! The addresses of this host that probes come from: as many as the data plane looks for, and of those that nobody uses any
//! more, the oldest goes when another comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use lb_common::ProbePath;

/// Longer than a probe takes: its answers must find it.
const UNUSED: Duration = Duration::from_secs(3600 + 60);

/// Each address, and when it was used last.
#[derive(Default)]
pub struct Sources(BTreeMap<IpAddr, Instant>);

impl Sources {
    /// Takes an address in. Whether it was there; `None` where there is no room.
    pub fn admit(&mut self, source: IpAddr, now: Instant) -> Option<bool> {
        if let Some(used) = self.0.get_mut(&source) {
            *used = now;
            return Some(true);
        }
        if self.0.len() >= ProbePath::ADDRESSES {
            let oldest = self.0.iter().min_by_key(|(_, used)| **used).map(|(source, used)| (*source, *used))?;
            if now.duration_since(oldest.1) < UNUSED {
                return None;
            }
            self.0.remove(&oldest.0);
        }
        self.0.insert(source, now);
        Some(false)
    }

    /// Takes an address out.
    pub fn remove(&mut self, source: IpAddr) {
        self.0.remove(&source);
    }

    /// Those that were used since then.
    pub fn used_since(&self, then: Instant) -> BTreeSet<IpAddr> {
        self.0.iter().filter(|(_, used)| **used >= then).map(|(source, _)| *source).collect()
    }

    /// All of them.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.0.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_so_many_and_the_oldest_unused_one_goes() {
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let mut sources = Sources::default();
        let first = Instant::now();
        for last in 0..ProbePath::ADDRESSES as u8 {
            assert_eq!(sources.admit(address(last), first), Some(false));
        }
        let later = first + UNUSED - Duration::from_secs(1);
        assert_eq!((sources.admit(address(0), later), sources.admit(address(100), later)), (Some(true), None));
        assert_eq!(sources.admit(address(100), first + UNUSED), Some(false));
        let addresses = sources.addresses();
        assert!(addresses.contains(&address(0)) && !addresses.contains(&address(1)));
        assert_eq!(addresses.len(), ProbePath::ADDRESSES);
        assert_eq!(sources.used_since(later), BTreeSet::from([address(0), address(100)]));
    }
}
