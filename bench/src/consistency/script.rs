//! What happens to the backends, step by step.

use std::{fmt, time::Duration};

use serde::Serialize;

/// Backends of the lab. All but the last are in the config from the beginning.
pub const BACKENDS: usize = 6;

/// The step in which nothing is done.
pub const QUIET: &str = "quiet";

/// A backend, counted from 0; it shows as the name of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend(pub usize);

/// Changes whose effects are counted together. After a step, every connection is waited for until it has had an answer
/// or has broken, so that what breaks does so in the step that broke it.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its name in the report.
    pub name: &'static str,
    /// What is done, in this order.
    pub actions: Vec<Action>,
    /// The backend that is killed: its own connections end with it.
    pub victim: Option<Backend>,
}

/// Something that is done to one backend, for all VIPs.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// `naru backend add`, with the weight that all have.
    Add(Backend),
    /// `naru backend remove`.
    Remove(Backend),
    /// `naru backend set --weight`.
    Weight(Backend, u32),
    /// `naru backend set --state`.
    State(Backend, State),
    /// Its server's process is killed.
    Crash(Backend),
    /// Its server is started again.
    Start(Backend),
    /// Its cable is pulled.
    Cut(Backend),
    /// Its cable is plugged in again, and naru knows the way to it.
    Mend(Backend),
    /// Nothing.
    Pause(Duration),
}

/// The states of a backend, as the command line spells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It takes new connections.
    Active,
    /// It keeps the connections that it has.
    Drain,
    /// It is dead.
    Down,
}

/// The whole script.
pub fn script() -> Vec<Step> {
    use Action::{Add, Crash, Cut, Mend, Pause, Remove, Start, State as Set, Weight};
    use State::{Active, Down, Drain};

    let [first, second, third, fourth, fifth, last] = std::array::from_fn(Backend);
    let moment = Pause(Duration::from_secs(1));
    // What monitoring takes to notice.
    let unnoticed = Pause(Duration::from_millis(500));
    let flap = [Set(first, Down), Set(first, Active)];
    let slow_flap = [Set(second, Down), moment, Set(second, Active), moment];
    let restart = |backend| [Set(backend, Drain), moment, Set(backend, Active), moment];
    vec![
        Step::harmless(QUIET, []),
        Step::harmless("add", [Add(last)]),
        Step::harmless("reweight", [Weight(first, 25), moment, Weight(first, 300), moment, Weight(first, 100)]),
        Step::harmless("drain", [Set(second, Drain)]),
        Step::harmless("recovery after drain", [Set(second, Active)]),
        Step::harmless("removal", [Remove(third)]),
        Step::harmless("add again", [Add(third)]),
        Step::deadly("down", fourth, [Set(fourth, Down)]),
        Step::harmless("recovery after down", [Set(fourth, Active)]),
        Step::deadly("flaps, at once", first, [flap; 3].concat()),
        Step::deadly("flaps, a second each", second, [slow_flap; 3].concat()),
        Step::deadly("crashed server, down", fifth, [Crash(fifth), unnoticed, Set(fifth, Down)]),
        Step::harmless("recovery after crash", [Start(fifth), Set(fifth, Active)]),
        Step::deadly("pulled cable, down", last, [Cut(last), unnoticed, Set(last, Down)]),
        Step::harmless("recovery after cable", [Mend(last), Set(last, Active)]),
        Step::harmless("rolling restart", (0..BACKENDS).map(Backend).flat_map(restart)),
    ]
}

impl Step {
    fn harmless(name: &'static str, actions: impl IntoIterator<Item = Action>) -> Self {
        Self { name, actions: actions.into_iter().collect(), victim: None }
    }

    fn deadly(name: &'static str, victim: Backend, actions: impl IntoIterator<Item = Action>) -> Self {
        Self { victim: Some(victim), ..Self::harmless(name, actions) }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}", self.0 + 1)
    }
}

impl Serialize for Backend {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl State {
    /// As the command line spells it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Drain => "drain",
            Self::Down => "down",
        }
    }
}
