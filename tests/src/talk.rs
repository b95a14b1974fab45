//! Long-lived connections in a lab: servers that talk on every backend, a daemon, and populations of clients that
//! notice when a connection breaks.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use anyhow::ensure;
use patience::LIMIT;

use crate::{
    connections::{Habit, Options, Population, Tally},
    lab::Lab,
    naru::{Naru, attach_decap},
    server::Server,
};

/// The port that servers talk on.
pub const PORT: u16 = 7;

/// Connections to some VIPs, each of which every backend serves.
pub struct Talk {
    /// The connections, by VIP.
    pub populations: Vec<Population>,
    /// The daemon.
    pub naru: Naru,
    _servers: Vec<Server>,
    /// The lab.
    pub lab: Lab,
}

impl Talk {
    /// Starts servers, and a daemon with `config`, about which `prepare` may do something first; then opens so many
    /// connections to each of `vips`, and waits until all are open.
    ///
    /// # Errors
    ///
    /// When any of that fails, or a connection breaks.
    pub fn start(
        backends: usize,
        vips: &[IpAddr],
        config: impl FnOnce(&Lab) -> String,
        prepare: impl FnOnce(&mut Naru),
        connections: usize,
        habits: &[Habit],
    ) -> anyhow::Result<Self> {
        let lab = Lab::builder().clients(2).backends(backends).vips(vips.iter().copied()).build()?;
        let targets: Vec<_> = vips.iter().map(|address| SocketAddr::new(*address, PORT)).collect();
        let start = |host| Server::start_talking(host, lab.dir(), &targets);
        let servers = lab.backends().iter().map(start).collect::<Result<_, _>>()?;
        for backend in lab.backends() {
            attach_decap(&lab, backend)?;
        }
        let mut naru = Naru::prepare(&lab, &Naru::node(&lab, &config(&lab)))?;
        prepare(&mut naru);
        naru.restart()?;
        naru.wait_until_ready()?;
        let population = |target| {
            let options = Options { target, connections, habits: habits.to_vec(), timeout: LIMIT };
            Population::start(lab.clients(), options)
        };
        let populations = targets.iter().copied().map(population).collect::<Result<_, _>>()?;
        let talk = Self { populations, naru, _servers: servers, lab };
        talk.wait_until_heard()?;
        Ok(talk)
    }

    /// What broke has been noticed when this returns.
    ///
    /// # Errors
    ///
    /// When that takes too long.
    pub fn wait_until_heard(&self) -> anyhow::Result<()> {
        let now = Instant::now();
        self.populations.iter().try_for_each(|population| population.wait_until_heard(now, LIMIT))
    }

    /// After `step`, no connection may have broken of the VIPs that have a name here, in their order.
    ///
    /// # Errors
    ///
    /// When one has.
    pub fn check<'n>(&self, step: &str, names: impl IntoIterator<Item = &'n str>) -> anyhow::Result<()> {
        self.wait_until_heard()?;
        for (name, population) in names.into_iter().zip(&self.populations) {
            let failures = population.tally().failures;
            ensure!(failures.is_empty(), "{step}: {} connections of {name} broke: {failures:?}", failures.len());
        }
        Ok(())
    }

    /// Ends all connections.
    pub fn end(self) -> Vec<Tally> {
        self.populations.into_iter().map(Population::end).collect()
    }
}
