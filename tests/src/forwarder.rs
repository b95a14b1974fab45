//! The real forwarder, loaded by the real data plane from a config and run over single frames by the kernel
//! (BPF_PROG_TEST_RUN), attached nowhere.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use aya::programs::{ProgramFd, TestRun, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use lb_common::{ABI, NextHop};
use lb_userspace::{
    dataplane::{Dataplane, OwnMacs},
    model::{Config, XdpMode},
    seed::HashSeed,
    tracking::{Upkeep, Usage},
};
use nix::net::if_::if_nametoindex;

use crate::{
    frames::{BALANCER_MAC, NEXT_HOP_MAC},
    limits::allow_many_files,
    vip_text::probed,
};

/// Outer source addresses of packets in IPv6.
pub const SOURCE6: &str = "fd6e:6172:75:e::/64";
/// Index of the interface that test runs come in by: the loopback of any namespace.
pub const INGRESS: u32 = 1;

/// A loaded forwarder with the maps of a config.
pub struct Forwarder {
    dataplane: Dataplane,
    upkeep: Upkeep,
    program: Xdp,
    next_hop: Option<NextHop>,
    /// Interfaces that frames come in by, all with the address [`BALANCER_MAC`].
    own_macs: OwnMacs,
    pins: Pins,
}

/// A directory of pins that goes with this.
struct Pins(PathBuf);

/// What the program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// What the program returned.
    pub verdict: Verdict,
    /// The frame as it left it.
    pub frame: Vec<u8>,
}

/// What an XDP program returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Something went wrong that has no reason of its own.
    Aborted,
    /// Dropped.
    Drop,
    /// To the stack.
    Pass,
    /// Out by the interface that it came in by.
    Tx,
    /// Out by another.
    Redirect,
}

impl Forwarder {
    /// Loads the forwarder with this config, whose `[node]` section may be left out. The next hop of every backend is
    /// [`next_hop`].
    pub fn new(config: &str) -> anyhow::Result<Self> {
        Self::with_next_hop(config, Some(next_hop()))
    }

    /// Loads the forwarder; every backend has this next hop.
    pub fn with_next_hop(config: &str, next_hop: Option<NextHop>) -> anyhow::Result<Self> {
        Self::load(parse(config)?, next_hop)
    }

    /// Loads the forwarder with all that it has for probes; every backend has this next hop.
    pub fn with_probes(config: &str, next_hop: NextHop) -> anyhow::Result<Self> {
        Self::load(parse(&probed(config))?, Some(next_hop))
    }

    fn load(config: Config, next_hop: Option<NextHop>) -> anyhow::Result<Self> {
        allow_many_files()?;
        let pins = Pins(patience::pins());
        let mut dataplane = Dataplane::open(&pins.0, &config)?;
        apply(&mut dataplane, &config, next_hop)?;
        let own_macs = OwnMacs::from([(INGRESS, vec![BALANCER_MAC])]);
        dataplane.set_own_macs(&own_macs);
        let program = pins.program()?;
        let upkeep = Upkeep::of(&mut dataplane);
        let forwarder = Self { dataplane, upkeep, program, next_hop, own_macs, pins };
        forwarder.admit_all();
        Ok(forwarder)
    }

    /// Lets every VIP enter as many flows as there is room for, until the next sweep says otherwise.
    pub fn admit_all(&self) {
        let view = self.dataplane.view();
        view.state().vips().keys().for_each(|vip| view.intakes().allow(*vip, u32::MAX));
    }

    /// Changes to another config, as a running daemon would.
    pub fn apply(&mut self, config: &str) -> anyhow::Result<()> {
        self.put(&parse(config)?)
    }

    fn put(&mut self, config: &Config) -> anyhow::Result<()> {
        apply(&mut self.dataplane, config, self.next_hop)?;
        self.upkeep.follow(&mut self.dataplane);
        self.program = self.pins.program()?;
        Ok(())
    }

    /// The same, to one with probes.
    pub fn apply_with_probes(&mut self, config: &str) -> anyhow::Result<()> {
        self.put(&parse(&probed(config))?)
    }

    /// Says which MAC addresses frames for this host have.
    pub fn set_own_macs(&mut self, macs: &[(u32, &[[u8; 6]])]) {
        self.own_macs = macs.iter().map(|(ifindex, macs)| (*ifindex, macs.to_vec())).collect();
        assert_eq!(self.dataplane.set_own_macs(&self.own_macs), []);
    }

    /// Sweeps the flow table once, as a running daemon does every second.
    pub fn sweep(&mut self) -> anyhow::Result<()> {
        let swept = self.upkeep.sweep(&mut self.dataplane).run()?;
        Ok(self.upkeep.apply_sweep(&mut self.dataplane, swept)?)
    }

    /// How the flow table and the slots are used, as of the last sweep.
    pub fn usage(&self) -> Usage {
        self.upkeep.view().usage(&self.dataplane.view())
    }

    /// Attaches the program to an interface of this thread's network namespace, in the driver.
    pub fn attach(&mut self, interface: &str) -> anyhow::Result<()> {
        let ifindex = if_nametoindex(interface).with_context(|| format!("no interface {interface}"))?;
        self.own_macs.insert(ifindex, vec![BALANCER_MAC]);
        self.dataplane.set_own_macs(&self.own_macs);
        self.dataplane.attach(interface, ifindex, XdpMode::Native)?;
        Ok(())
    }

    /// Detaches the program from an interface that it is attached to.
    pub fn detach(&mut self, interface: &str) -> anyhow::Result<()> {
        ensure!(self.dataplane.detach(interface)?, "{interface} does not have this program");
        Ok(())
    }

    /// The directory of its pins.
    pub fn bpffs(&self) -> &Path {
        &self.pins.0
    }

    /// The data plane, for its counters.
    pub fn dataplane(&self) -> &Dataplane {
        &self.dataplane
    }

    /// The program, for tail calls.
    pub fn program(&self) -> anyhow::Result<&ProgramFd> {
        Ok(self.program.fd()?)
    }

    /// The program once more, for whoever runs it beside what is done to this.
    pub fn another(&self) -> anyhow::Result<Xdp> {
        self.pins.program()
    }

    /// Runs the program over a frame.
    pub fn run(&self, frame: &[u8]) -> anyhow::Result<Output> {
        run(&self.program, frame)
    }

    /// Runs what sends the prober's packets on over a frame of the prober's.
    pub fn run_probe(&self, frame: &[u8]) -> anyhow::Result<Output> {
        run(self.dataplane.load_probe()?.xdp()?, frame)
    }

    /// Counts by drop reason, of those that have any.
    pub fn drops(&self) -> anyhow::Result<BTreeMap<&'static str, u64>> {
        let drops = self.dataplane.counters()?.drops.by_reason();
        Ok(drops.filter(|(_, count)| *count > 0).map(|(reason, count)| (reason.name(), count)).collect())
    }
}

impl Pins {
    /// The program of the one generation that an apply leaves.
    fn program(&self) -> anyhow::Result<Xdp> {
        let place = self.0.join(format!("v{ABI}"));
        let entries = fs::read_dir(&place).with_context(|| format!("cannot read {}", place.display()))?;
        let mut pins = entries.flatten().map(|entry| entry.path().join("program")).filter(|pin| pin.exists());
        let pin = pins.next().with_context(|| format!("no program below {}", place.display()))?;
        Xdp::from_pin(&pin, XdpAttachType::Interface).with_context(|| format!("cannot open {}", pin.display()))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // The lock on them is this process's own, and goes with its file descriptor.
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                eprintln!("cannot remove {}: {error}", self.0.display());
            }
            _ => {}
        }
    }
}

/// A config from a text whose `[node]` section may be left out, with the hash seed that it names.
fn parse(config: &str) -> anyhow::Result<Config> {
    let text = if config.contains("[node]") {
        config.to_owned()
    } else {
        format!("[node]\ninterfaces = []\nencap_source6 = \"{SOURCE6}\"\n{config}")
    };
    let mut config = Config::parse(&text, Path::new("test.toml"))?;
    *config.local().hash_seed = HashSeed::load(config.node.hash_seed_file.as_deref())?;
    Ok(config)
}

/// Applies a config and gives every backend this next hop.
fn apply(dataplane: &mut Dataplane, config: &Config, next_hop: Option<NextHop>) -> anyhow::Result<()> {
    dataplane.apply(config)?;
    let backends = dataplane.backends();
    dataplane.set_next_hops(backends.into_iter().map(|backend| (backend.target, next_hop)))?;
    Ok(())
}

/// The next hop that frames leave by: the interface that they came in by.
pub fn next_hop() -> NextHop {
    NextHop::new(NEXT_HOP_MAC, BALANCER_MAC, INGRESS, 1600, 0)
}

/// Runs an XDP program once over a frame.
pub fn run(program: &Xdp, frame: &[u8]) -> anyhow::Result<Output> {
    let mut out = vec![0; frame.len() + 256];
    let result = program
        .test_run(TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() })
        .context("the kernel does not run the program over this frame")?;
    out.truncate(result.data_size_out as usize);
    let verdict = match result.return_value {
        0 => Verdict::Aborted,
        1 => Verdict::Drop,
        2 => Verdict::Pass,
        3 => Verdict::Tx,
        4 => Verdict::Redirect,
        other => bail!("no XDP verdict: {other}"),
    };
    Ok(Output { verdict, frame: out })
}
