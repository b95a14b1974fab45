//! The churn lab: real connections on three VIPs that differ in their tracking only, with one set of backends, while
//! the script changes those.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use naru_tests::{
    connections::{self, Habit, Population, Tally},
    lab::Lab,
    naru::{Naru, attach_decap},
    server::Server,
    vip_text::VipText,
};

use super::{
    report::{Outcome, Report, StepReport},
    script::{Action, BACKENDS, Backend, QUIET, State, Step, script},
};

/// How a VIP follows its flows, which is also its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Only where a change puts flows at risk.
    Adaptive,
    /// An entry for each flow.
    Always,
    /// Not at all.
    Never,
}

impl Mode {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 3] = [Self::Adaptive, Self::Always, Self::Never];

    /// As the config spells it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Adaptive => "adaptive",
            Self::Always => "always",
            Self::Never => "never",
        }
    }

    fn address(self) -> IpAddr {
        Ipv4Addr::new(203, 0, 113, 101 + self as u8).into()
    }

    fn target(self) -> SocketAddr {
        SocketAddr::new(self.address(), PORT)
    }
}

/// A moment for each mode.
type Moments = [Instant; Mode::ALL.len()];

const PORT: u16 = 7;
/// Hosts with clients: the connections of each VIP come from all of them.
const CLIENTS: usize = 4;
/// Weight of a backend that nothing was said about.
const WEIGHT: u32 = 100;
/// For opening, for an answer, for closing: longer than the first retransmissions of a SYN take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Seconds after which naru gives up silent connections: longer than any is silent here, and short enough that slots
/// settle again during the run.
const TCP_IDLE: u32 = 15;
/// No connection may take longer than this to be heard of: the longest pause, and twice the time-out.
const PATIENCE: Duration = Duration::from_secs(30);

/// Most talk a few times a second, one in a hundred all the time, one in ten hardly ever; two in ten come and go.
const HABITS: [Habit; 4] = [
    Habit { parts: 69, pause: Duration::from_millis(600), lifetime: None },
    Habit { parts: 1, pause: Duration::from_millis(20), lifetime: None },
    Habit { parts: 10, pause: Duration::from_secs(4), lifetime: None },
    Habit { parts: 20, pause: Duration::from_millis(400), lifetime: Some(Duration::from_secs(4)) },
];

/// Runs the script over `connections` connections on each VIP.
pub fn run(connections: usize) -> anyhow::Result<Report> {
    // Builds them, if need be, before anything waits.
    naru_tests::naru::naru_binary()?;
    naru_tests::naru::lab_binary()?;
    let mut site = Site::build(connections)?;
    let steps = script();
    let mut reports = Vec::new();
    for (number, step) in (1..).zip(&steps) {
        eprintln!("step {number} of {}: {} …", steps.len(), step.name);
        reports.push(site.run(step).with_context(|| format!("in the step `{}`", step.name))?);
        if step.name == QUIET {
            site.round_trips = site.populations.iter().flat_map(Population::round_trips).collect();
        }
    }
    site.end(connections, reports)
}

/// The lab with everything in it.
struct Site {
    /// Beside [`Mode::ALL`].
    populations: Vec<Population>,
    naru: Naru,
    /// In the order of the backends; `None` while one has crashed.
    servers: Vec<Option<Server>>,
    lab: Lab,
    started: Instant,
    /// Edits so far: each begins with another VIP.
    edits: usize,
    /// How long each command took.
    commands: Vec<Duration>,
    /// An exchange on each connection before anything was done.
    round_trips: Vec<Duration>,
}

impl Site {
    /// Builds the lab and waits until all connections are open.
    fn build(connections: usize) -> anyhow::Result<Self> {
        eprintln!("building the lab, opening {connections} connections on each of {} VIPs …", Mode::ALL.len());
        let vips = Mode::ALL.map(Mode::address);
        let lab = Lab::builder().clients(CLIENTS).backends(BACKENDS).vips(vips).build()?;
        lab.remove_on_interrupt()?;
        let targets = Mode::ALL.map(Mode::target);
        let start = |host| Server::start_talking(host, lab.dir(), &targets).map(Some);
        let servers = lab.backends().iter().map(start).collect::<Result<_, _>>()?;
        for backend in lab.backends() {
            attach_decap(&lab, backend)?;
        }
        let naru = Naru::start(&lab, &config(&lab))?;
        naru.wait_until_ready()?;
        let population = |mode: Mode| {
            let options =
                connections::Options { target: mode.target(), connections, habits: HABITS.to_vec(), timeout: TIMEOUT };
            Population::start(lab.clients(), options)
        };
        let populations = Mode::ALL.into_iter().map(population).collect::<Result<_, _>>()?;
        let (commands, round_trips) = (Vec::new(), Vec::new());
        let started = Instant::now();
        let site = Self { populations, naru, servers, lab, started, edits: 0, commands, round_trips };
        site.wait_until_heard(Instant::now())?;
        Ok(site)
    }

    /// Does what the step says and counts what became of the connections.
    fn run(&mut self, step: &Step) -> anyhow::Result<StepReport> {
        let before = self.tallies();
        let began = Instant::now();
        let mut downs = Vec::new();
        for action in &step.actions {
            downs.extend(self.act(*action)?);
        }
        self.wait_until_heard(Instant::now())?;
        // Of a flap nobody can tell which of the changes was noticed.
        let killed = match downs[..] {
            [moments] => Some(moments),
            _ => None,
        };
        let outcomes = self.outcomes(&before, &self.tallies(), step.victim, killed);
        let Step { name, victim, .. } = *step;
        Ok(StepReport { name, victim, seconds: began.elapsed().as_secs_f64(), outcomes })
    }

    /// What became of the connections between two counts.
    fn outcomes(
        &self,
        before: &[Tally],
        after: &[Tally],
        victim: Option<Backend>,
        killed: Option<Moments>,
    ) -> [Outcome; Mode::ALL.len()] {
        Mode::ALL.map(|mode| {
            let index = mode as usize;
            let killed = killed.map(|moments| moments[index]);
            Outcome::of(mode, (&before[index], &after[index]), victim, killed, self.started)
        })
    }

    /// Does one thing. A backend that was set down was so from the moments that are returned, one for each mode.
    fn act(&mut self, action: Action) -> anyhow::Result<Option<Moments>> {
        match action {
            Action::Add(backend) => {
                self.edit("add", backend, &["--weight", &WEIGHT.to_string()])?;
            }
            Action::Remove(backend) => {
                self.edit("remove", backend, &[])?;
            }
            Action::Weight(backend, weight) => {
                self.edit("set", backend, &["--weight", &weight.to_string()])?;
            }
            Action::State(backend, state) => {
                let moments = self.edit("set", backend, &["--state", state.word()])?;
                return Ok((state == State::Down).then_some(moments));
            }
            Action::Crash(Backend(index)) => {
                self.servers[index].take().context("it has crashed already")?.kill()?;
            }
            Action::Start(Backend(index)) => {
                let targets = Mode::ALL.map(Mode::target);
                let server = Server::start_talking(&self.lab.backends()[index], self.lab.dir(), &targets)?;
                self.servers[index] = Some(server);
            }
            Action::Cut(backend) => self.lab.router().ip(&format!("link set {backend} down\n"))?,
            Action::Mend(backend) => {
                self.lab.router().ip(&format!("link set {backend} up\n"))?;
                self.naru.wait_until_ready()?;
            }
            Action::Pause(pause) => sleep(pause),
        }
        Ok(None)
    }

    /// Runs a `naru backend` command for every VIP; returns when each of them ended.
    fn edit(&mut self, verb: &str, Backend(index): Backend, options: &[&str]) -> anyhow::Result<Moments> {
        let address = self.lab.backends()[index].ipv4().to_string();
        let mut moments = [Instant::now(); Mode::ALL.len()];
        for turn in 0..Mode::ALL.len() {
            let mode = Mode::ALL[(self.edits + turn) % Mode::ALL.len()];
            let began = Instant::now();
            self.naru.cli(&[&["backend", verb, mode.word(), &address], options].concat())?;
            self.commands.push(began.elapsed());
            moments[mode as usize] = Instant::now();
        }
        self.edits += 1;
        Ok(moments)
    }

    /// Waits until each connection has had an answer to something sent after `moment`, has broken or has been replaced.
    fn wait_until_heard(&self, moment: Instant) -> anyhow::Result<()> {
        let wait = |population: &Population| population.wait_until_heard(moment, PATIENCE);
        self.populations.iter().try_for_each(wait).context("give fewer by --connections")
    }

    fn tallies(&self) -> Vec<Tally> {
        self.populations.iter().map(Population::tally).collect()
    }

    /// Closes all connections, and reports on everything.
    fn end(mut self, connections: usize, mut steps: Vec<StepReport>) -> anyhow::Result<Report> {
        let seconds = self.started.elapsed().as_secs_f64();
        let before = self.tallies();
        let began = Instant::now();
        self.populations.iter().for_each(Population::close);
        let after: Vec<_> = self.populations.drain(..).map(Population::end).collect();
        let outcomes = self.outcomes(&before, &after, None, None);
        steps.push(StepReport { name: "close", victim: None, seconds: began.elapsed().as_secs_f64(), outcomes });
        Ok(Report::new(connections, seconds, [&self.round_trips, &self.commands], steps))
    }
}

/// Three VIPs that differ in address and tracking.
fn config(lab: &Lab) -> String {
    let vip = |mode: &Mode| {
        let vip =
            VipText::new(mode.word(), mode.address(), [format!("tcp/{PORT}")], "ipip").text("tracking", mode.word());
        let vip = vip.text("tcp_idle", format_args!("{TCP_IDLE}s"));
        let backends = lab.backends()[..BACKENDS - 1].iter();
        backends.fold(vip, |vip, host| vip.backend_with(host.ipv4(), &format!("weight = {WEIGHT}"))).to_string()
    };
    Mode::ALL.iter().map(vip).collect()
}
