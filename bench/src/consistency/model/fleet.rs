//! The backends of the model, how they change, and the Maglev tables that follow from them.

use std::net::Ipv4Addr;

use lb_common::{NO_ID, SlowStart};
use lb_userspace::plan::{Owner, maglev::WeightedBackend, refill};
use rand::{Rng as _, rngs::SmallRng, seq::IndexedRandom as _};

/// Backends in rotation at the beginning.
const BACKENDS: usize = 100;
/// Backends that can be added.
const SPARES: usize = 10;
/// Slots of the table: a prime, as large as Katran's.
pub const SLOTS: u32 = 65_537;
/// Weights that a backend is given.
const WEIGHTS: [u32; 4] = [25, 50, 100, 200];

/// What a backend does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Takes new connections by its weight.
    Active,
    /// Keeps the connections that it has.
    Drained,
    /// Dead.
    Down,
    /// Not in the config; it keeps the connections that it has.
    Spare,
}

#[derive(Clone, Copy, Debug)]
struct Backend {
    state: State,
    weight: u32,
}

/// All backends. The id of one, as slots name it, is its place counted from 1.
#[derive(Clone, Debug)]
pub struct Fleet {
    backends: Vec<Backend>,
}

/// Who owns which slot.
pub struct Tables {
    /// Those that are active.
    pub current: Vec<u32>,
    /// Those that are active and those that may be at the next change: JET's table with the horizon.
    pub horizon: Vec<u32>,
}

impl Fleet {
    /// All as at the beginning.
    pub fn new() -> Self {
        let backend = |state| Backend { state, weight: 100 };
        let states = [vec![State::Active; BACKENDS], vec![State::Spare; SPARES]].concat();
        Self { backends: states.into_iter().map(backend).collect() }
    }

    /// Every id, from that of no backend on.
    pub fn ids(&self) -> impl Iterator<Item = u32> + use<> {
        NO_ID..=self.backends.len() as u32
    }

    /// What the backend does that a slot names; `None` of no backend.
    pub fn state(&self, id: u32) -> Option<State> {
        let place = (id as usize).checked_sub(1)?;
        Some(self.backends[place].state)
    }

    /// Changes one backend: of equal chance are the config (added, removed), operation (drained, active again), life
    /// (down, up again) and weight. What has left comes back the sooner the more have. Returns the backend, if it died.
    pub fn change(&mut self, random: &mut SmallRng) -> Option<u32> {
        let (from, to) = match random.random_range(0..4) {
            0 => self.to_and_fro(State::Spare, SPARES, random),
            1 => self.to_and_fro(State::Drained, 2, random),
            2 => self.to_and_fro(State::Down, 1, random),
            _ => (State::Active, State::Active),
        };
        let candidates: Vec<_> = (0..self.backends.len()).filter(|place| self.backends[*place].state == from).collect();
        let place = *candidates.choose(random).expect("a state is left only where some have it, and most are active");
        let backend = &mut self.backends[place];
        backend.state = to;
        if from == to {
            backend.weight = *WEIGHTS.choose(random).expect("there are weights");
        }
        (to == State::Down).then_some(place as u32 + 1)
    }

    /// The tables of the backends as they are.
    pub fn tables(&self) -> Tables {
        let is_configured = |state| state != State::Spare;
        Tables {
            current: self.table(is_configured, |state| state == State::Active),
            horizon: self.table(|_| true, |_| true),
        }
    }

    /// To `state`, or back from it; as likely as not where `usual` are in it.
    fn to_and_fro(&self, state: State, usual: usize, random: &mut SmallRng) -> (State, State) {
        let count = self.backends.iter().filter(|backend| backend.state == state).count();
        match random.random_range(0..count + usual) < count {
            true => (state, State::Active),
            false => (State::Active, state),
        }
    }

    fn table(&self, has_place: impl Fn(State) -> bool, serves: impl Fn(State) -> bool) -> Vec<u32> {
        let first = u32::from(Ipv4Addr::new(10, 0, 0, 1));
        let owner = |(place, backend): (u32, &Backend)| Owner {
            backend: WeightedBackend {
                key: std::net::IpAddr::from(Ipv4Addr::from(first + place)).into(),
                weight: if has_place(backend.state) { backend.weight } else { 0 },
            },
            id: place + 1,
            eighths: if serves(backend.state) { SlowStart::WHOLE } else { 0 },
        };
        let owners: Vec<_> = (0..).zip(&self.backends).map(owner).collect();
        refill::table(&owners, SLOTS).into_iter().map(|place| owners[place as usize].id).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn the_fleet_keeps_about_its_size_and_every_kind_of_change_occurs() {
        let mut random = SmallRng::seed_from_u64(1);
        let mut fleet = Fleet::new();
        let (mut deaths, mut drained, mut reweighted) = (0, false, false);
        for _ in 0..1000 {
            deaths += usize::from(fleet.change(&mut random).is_some());
            drained |= fleet.backends.iter().any(|backend| backend.state == State::Drained);
            reweighted |= fleet.backends.iter().any(|backend| backend.weight != 100);
            let away = fleet.backends.iter().filter(|backend| backend.state != State::Active).count();
            assert!((5..=30).contains(&away), "{away} of 110 are away");
        }
        assert!(drained && reweighted && (50..250).contains(&deaths), "{deaths} deaths");
    }

    #[test]
    fn only_active_backends_own_slots_and_all_do_in_the_horizon() {
        let mut fleet = Fleet::new();
        fleet.backends[0].state = State::Drained;
        fleet.backends[1].state = State::Down;
        let Tables { current, horizon } = fleet.tables();
        assert!(current.iter().all(|id| fleet.state(*id) == Some(State::Active)));
        assert!((1..=110).all(|id| horizon.contains(&id)));
    }
}
