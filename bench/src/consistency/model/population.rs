//! The connections of the model: how long they live, when they speak, and what becomes of them.

use rand::{Rng as _, RngCore as _, rngs::SmallRng};

use super::{
    fleet::{Fleet, SLOTS, State},
    tracking::{Packet, Route, Tracking},
};

/// Connections of one kind. Lifetimes and the times between packets are exponential, so that what has been says nothing
/// of what will be; a mixture of such lifetimes stands for a heavy tail (Feldmann and Whitt, 1998).
#[derive(Clone, Copy, Debug)]
struct Kind {
    /// Its share of new connections.
    share: f64,
    /// Mean lifetime in seconds.
    lifetime: f64,
    /// Mean time between packets in seconds.
    pause: f64,
}

/// Nearly all are short; of those that are open at a time, 8 in a hundred live for ten minutes and 10 for two hours.
const KINDS: [Kind; 3] = [
    Kind { share: 0.990, lifetime: 60.0, pause: 1.0 },
    Kind { share: 0.009, lifetime: 600.0, pause: 10.0 },
    Kind { share: 0.001, lifetime: 7200.0, pause: 60.0 },
];

/// As the report describes them.
pub const DESCRIPTION: &str = "lifetimes exponential with means of 60 s (99 % of new ones),\n10 min (0.9 %) and 2 h \
                               (0.1 %), that is 82 %, 8 % and 10 % of the open ones; a packet each 1 s, 10 s and 60 s \
                               on average";

/// What became of connections between two changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Events {
    /// Sent to another backend although their own was active.
    pub broken: u64,
    /// Sent to another backend although their own, drained or removed, still served them.
    pub evicted: u64,
    /// Of backends that were down.
    pub lost: u64,
}

/// A fixed number of connections: one that ends is followed by another.
pub struct Population {
    connections: Vec<Connection>,
    random: SmallRng,
    /// By slot: somebody's entry keeps it from being settled.
    pinned: Vec<bool>,
    tracked: usize,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    slot: u32,
    backend: u16,
    kind: u8,
    tracked: bool,
    /// Its backend has been down, and no entry leads to it: where its packets go since is chance.
    doomed: bool,
}

/// Thresholds that a random `u32` is below with a given probability.
#[derive(Clone, Copy)]
struct Chances {
    ends: u32,
    speaks: u32,
}

impl Population {
    /// `count` connections as they are after a long time without changes.
    pub fn new(count: usize, tracking: &impl Tracking, mut random: SmallRng) -> Self {
        let open = KINDS.map(|kind| kind.share * kind.lifetime);
        let all: f64 = open.iter().sum();
        let connection = |_| {
            let mut place = random.random::<f64>() * all;
            let kind = open.iter().position(|share| {
                place -= share;
                place < 0.0
            });
            Connection::open(kind.unwrap_or(0) as u8, tracking, &mut random)
        };
        let connections: Vec<_> = (0..count).map(connection).collect();
        let tracked = connections.iter().filter(|connection| connection.tracked).count();
        Self { connections, random, pinned: vec![false; SLOTS as usize], tracked }
    }

    /// What a backend's death does.
    pub fn doom(&mut self, backend: u32) {
        for connection in &mut self.connections {
            connection.doomed |= u32::from(connection.backend) == backend;
        }
    }

    /// Lets `seconds` pass in which nothing changes.
    pub fn pass(&mut self, seconds: f64, tracking: &impl Tracking, fleet: &Fleet) -> Events {
        let chances = KINDS
            .map(|kind| Chances { ends: threshold(seconds / kind.lifetime), speaks: threshold(seconds / kind.pause) });
        let mut events = Events::default();
        let Self { connections, random, pinned, tracked } = self;
        pinned.fill(false);
        *tracked = 0;
        for connection in connections {
            let chance = chances[usize::from(connection.kind)];
            let dice = random.next_u64();
            if (dice as u32) < chance.ends {
                *connection = Connection::open(connection.kind, tracking, random);
            } else if ((dice >> 32) as u32) < chance.speaks && !connection.speak(tracking, fleet) {
                events.count(*connection, fleet);
                // Its client opens another.
                *connection = Connection::open(connection.kind, tracking, random);
            }
            if connection.tracked {
                *tracked += 1;
                pinned[connection.slot as usize] |= tracking.pins(connection.slot, connection.backend.into());
            }
        }
        events
    }

    /// The share of the connections that have an entry.
    pub fn tracked(&self) -> f64 {
        self.tracked as f64 / self.connections.len() as f64
    }

    /// By slot, whether somebody's entry keeps it from being settled.
    pub fn pinned(&self) -> &[bool] {
        &self.pinned
    }
}

impl Connection {
    fn open(kind: u8, tracking: &impl Tracking, random: &mut SmallRng) -> Self {
        let slot = random.random_range(0..SLOTS);
        let Route { backend, tracked } = tracking.route(slot, Packet::Syn);
        Self { slot, backend: backend as u16, kind, tracked, doomed: false }
    }

    /// Sends a packet; `false` where the backend does not get it, or is down.
    fn speak(&mut self, tracking: &impl Tracking, fleet: &Fleet) -> bool {
        let backend = u32::from(self.backend);
        if !self.tracked {
            let route = tracking.route(self.slot, Packet::Later);
            if route.backend != backend {
                return false;
            }
            self.tracked = route.tracked;
        }
        self.doomed &= !self.tracked;
        fleet.state(backend) != Some(State::Down)
    }
}

impl Events {
    fn count(&mut self, connection: Connection, fleet: &Fleet) {
        let count = match fleet.state(connection.backend.into()) {
            Some(State::Down) => &mut self.lost,
            _ if connection.doomed => &mut self.lost,
            Some(State::Drained | State::Spare) => &mut self.evicted,
            Some(State::Active) | None => &mut self.broken,
        };
        *count += 1;
    }
}

/// Of an event that happens once in a time unit on average: that it happens within `units`.
fn threshold(units: f64) -> u32 {
    (-(-units).exp_m1() * f64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::{
        super::{fleet::Tables, tracking::Plain},
        *,
    };

    fn tables(owner: u32) -> Tables {
        Tables { current: vec![owner; SLOTS as usize], horizon: vec![owner; SLOTS as usize] }
    }

    #[test]
    fn a_table_that_gives_all_slots_away_breaks_what_is_not_tracked() {
        let fleet = Fleet::new();
        let moved = |mut tracking: Plain| {
            let mut population = Population::new(10_000, &tracking, SmallRng::seed_from_u64(1));
            tracking.change(&fleet, &tables(2), 0.0);
            population.pass(10.0, &tracking, &fleet)
        };
        let never = moved(Plain::never(&tables(1)));
        // In ten seconds nearly all of the short ones speak that do not end, and some of the others.
        assert!((7_000..8_000).contains(&never.broken), "{never:?}");
        assert_eq!((never.lost, never.evicted), (0, 0));
        assert_eq!(moved(Plain::always(&tables(1))).broken, 0);
    }

    #[test]
    fn connections_of_the_dead_are_lost_and_not_broken() {
        let fleet = Fleet::new();
        let mut tracking = Plain::never(&tables(1));
        let mut population = Population::new(10_000, &tracking, SmallRng::seed_from_u64(1));
        population.doom(1);
        tracking.change(&fleet, &tables(2), 0.0);
        let events = population.pass(10.0, &tracking, &fleet);
        assert!(events.lost > 7_000 && events.broken == 0, "{events:?}");
    }
}
