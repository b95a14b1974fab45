//! The command line, as clap reads it. What the commands do is elsewhere.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueHint};
use ipnet::IpNet;
use lb_common::BackendState;

use super::{exit, table::Output};
use crate::{
    api::flows::{ClientRange, FlowQuery, FlowState, FlowTable},
    model::{
        DrainDeadline, ForwardMode, Given, Lasting, Mac, MacChoice, Port, WayMtu, WayMtuChoice, Word as _, XdpMode,
        keys::SETTINGS,
    },
    seed,
    source::file::edit::{BackendHealthEdit, HealthEdit},
};

/// Where the config is unless told otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/naru/naru.toml";

/// Where the decapsulation is pinned unless told otherwise.
const DEFAULT_BPFFS: &str = "/sys/fs/bpf/naru";

/// An XDP/eBPF L4 load balancer.
#[derive(Debug, Parser)]
#[command(name = "naru", version, after_help = exit::help(), arg_required_else_help = true)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub struct Global {
    /// The config file.
    #[arg(long, global = true, env = "NARU_CONFIG", default_value = DEFAULT_CONFIG, value_name = "FILE")]
    #[arg(value_hint = ValueHint::FilePath)]
    pub config: PathBuf,
    /// The daemon's socket [default: the one that the config file names, else /run/naru/naru.sock]
    #[arg(long, global = true, env = "NARU_SOCKET", value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
    /// How answers are printed.
    #[arg(long, short, global = true, value_enum, default_value_t, value_name = "FORM")]
    pub output: Output,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    Run(Run),
    /// Check a config file and this machine, without a daemon
    Check {
        /// The file to check [default: the config file]
        #[arg(value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
    },
    /// Show what an apply of the config file would change
    Diff,
    /// Apply the config file
    Apply {
        /// Apply it even if it takes away more VIPs or backends than `max_removed` allows, or every interface
        #[arg(long)]
        force: bool,
    },
    /// Show the daemon, its interfaces, what is wrong, and the memory of the maps
    Status,
    /// Show packets, bytes and new flows per VIP and backend, and what was dropped
    Stats {
        /// Show rates over this many seconds, again and again
        #[arg(long, short, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
        watch: Option<u64>,
    },
    /// List and change VIPs
    #[command(subcommand)]
    Vip(Vip),
    /// List and change backends
    #[command(subcommand)]
    Backend(Backend),
    /// Show what probes say of backends
    Health {
        /// Of this VIP only
        vip: Option<String>,
    },
    /// List the flows that are remembered: those on slots that a change has given to another backend, and every flow of
    /// VIPs with `tracking = "always"`
    Flows(Flows),
    /// List, attach and detach interfaces
    #[command(subcommand)]
    Interface(Interface),
    /// On a backend: remove the encapsulation of `ipip` packets, without a tunnel interface
    #[command(subcommand)]
    Decap(Decap),
    /// Make the seed of the flow hash, and compare those of several load balancers
    #[command(subcommand)]
    Seed(Seed),
    /// Print completions for a shell
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// `naru seed`
#[derive(Debug, Subcommand)]
pub enum Seed {
    /// Make a random seed and write it to a file that root alone may read
    ///
    /// All load balancers of a site need the same file: make it once, and copy it. A change of the seed moves every
    /// flow of every VIP to another slot, and breaks most of those that are open.
    Generate {
        /// The file.
        #[arg(long, value_name = "FILE", default_value = seed::DEFAULT_FILE, value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Replace a seed that is there
        #[arg(long)]
        force: bool,
    },
    /// Print the fingerprint of a seed, which tells nothing of it: load balancers that agree have the same
    Fingerprint {
        /// The file.
        #[arg(long, value_name = "FILE", default_value = seed::DEFAULT_FILE, value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
}

/// `naru run`
#[derive(Debug, Args)]
pub struct Run {
    /// Take the data plane out of the kernel when the daemon ends; otherwise it goes on forwarding
    #[arg(long)]
    pub detach_on_exit: bool,
    /// Pin programs, links and maps below this directory instead of the config's `bpffs`
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub bpffs: Option<PathBuf>,
    /// Keep what was applied last in this directory instead of the config's `state`
    #[arg(long, env = "NARU_STATE_DIR", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state_dir: Option<PathBuf>,
    /// Least severe messages to log: error, warn, info, debug or trace; RUST_LOG goes before it
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: log::LevelFilter,
}

/// `naru vip`
#[derive(Debug, Subcommand)]
pub enum Vip {
    /// List the VIPs
    List,
    /// Show a VIP with its backends
    Show {
        /// Name of the VIP.
        name: String,
        /// Say only whether it can serve: exit code 0 if so, else 1 and why not; for whoever announces its address
        #[arg(long)]
        ready: bool,
    },
    /// A change.
    #[command(flatten)]
    Edit(VipEdit),
}

/// The changes of `naru vip`
#[derive(Debug, Subcommand)]
pub enum VipEdit {
    /// Add a VIP
    Add {
        /// Name of the VIP.
        name: String,
        /// Its address.
        #[arg(long)]
        address: IpAddr,
        /// A port that is served on it, as `tcp/80` or `udp/any`; several by commas or by giving this again
        #[arg(long = "port", required = true, value_name = "PORT", value_delimiter = ',')]
        ports: Vec<Port>,
        /// How packets reach the backends: l2 or ipip
        #[arg(long, value_name = "MODE")]
        forward: ForwardMode,
        /// How its backends are asked whether they work: a type of probes and keys of `health`, as 'http path=/healthz
        /// interval=2s'; or none [default: nobody asks, which is warned of]
        #[arg(long, value_name = "HEALTH")]
        health: Option<HealthEdit>,
        /// Its other keys.
        #[command(flatten)]
        given: Given,
        /// A backend, as `10.0.1.11` or `10.0.1.11=WEIGHT`; several by commas or by giving this again
        #[arg(long = "backend", value_name = "ADDRESS[=WEIGHT]", value_delimiter = ',')]
        #[arg(value_parser = weighted_address)]
        backends: Vec<(IpAddr, Option<u32>)>,
    },
    /// Change a VIP; what is not given stays
    #[command(group = clap::ArgGroup::new("what").args(settable()).required(true).multiple(true))]
    Set {
        /// Name of the VIP.
        name: String,
        /// Its new address.
        #[arg(long)]
        address: Option<IpAddr>,
        /// All of its ports from now on, as `tcp/80` or `udp/any`; several by commas or by giving this again
        #[arg(long = "port", value_name = "PORT", value_delimiter = ',')]
        ports: Option<Vec<Port>>,
        /// How packets reach the backends: l2 or ipip
        #[arg(long, value_name = "MODE")]
        forward: Option<ForwardMode>,
        /// How its backends are asked whether they work: all of `health`, as 'http path=/healthz interval=2s'; keys to
        /// change, as 'interval=5s'; or none
        #[arg(long, value_name = "HEALTH")]
        health: Option<HealthEdit>,
        /// Its other keys.
        #[command(flatten)]
        given: Given,
    },
    /// Remove a VIP with its backends
    Remove {
        /// Name of the VIP.
        name: String,
    },
}

/// What `naru vip set` can change, of which it needs one.
fn settable() -> impl Iterator<Item = &'static str> {
    ["address", "ports", "forward", "health"].into_iter().chain(SETTINGS.iter().map(|key| key.name))
}

/// `naru backend`
#[derive(Debug, Subcommand)]
pub enum Backend {
    /// List backends with the way to each
    List {
        /// Only those of this VIP.
        vip: Option<String>,
    },
    /// What is done in passing.
    #[command(flatten)]
    Operate(BackendOperation),
    /// A change.
    #[command(flatten)]
    Edit(BackendEdit),
}

/// What `naru backend` does without an edit of the config file
#[derive(Debug, Subcommand)]
pub enum BackendOperation {
    /// Give a backend no new flows, whatever the config file says, until it is restored
    Drain {
        /// The backend.
        #[command(flatten)]
        backend: BackendName,
        /// What for.
        #[command(flatten)]
        why: Why,
        /// How long after it began to take no new flows those that are left are cut: their next packet goes to another
        /// backend, which resets them. 1s to 30days, or none [default: the VIP's drain_deadline]
        #[arg(long, value_name = "TIME")]
        deadline: Option<DrainDeadline>,
        /// How long.
        #[command(flatten)]
        lasting: For,
        /// Whether to wait for its flows.
        #[command(flatten)]
        wait: Wait,
    },
    /// Give a backend no packet, whatever the config file says, until it is restored; breaks its flows
    Down {
        /// The backend.
        #[command(flatten)]
        backend: BackendName,
        /// What for.
        #[command(flatten)]
        why: Why,
        /// How long.
        #[command(flatten)]
        lasting: For,
    },
    /// Drain a backend for a time: it takes new flows again by itself
    Maintain {
        /// The backend.
        #[command(flatten)]
        backend: BackendName,
        /// How long, 1s to 30days; said again, so long from then on
        #[arg(long = "for", value_name = "TIME")]
        lasting: Lasting,
        /// What for.
        #[command(flatten)]
        why: Why,
        /// How long after it began to take no new flows those that are left are cut. 1s to 30days, or none [default: the
        /// VIP's drain_deadline]
        #[arg(long, value_name = "TIME")]
        deadline: Option<DrainDeadline>,
        /// Whether to wait for its flows.
        #[command(flatten)]
        wait: Wait,
    },
    /// Give a backend new flows again, on all of its slots at once: take `drain` or `down` back, go before such a state in the
    /// config file, and end its slow start
    Restore {
        /// The backend.
        #[command(flatten)]
        backend: BackendName,
        /// What for.
        #[command(flatten)]
        why: Why,
    },
}

/// How long something is so.
#[derive(Debug, Args)]
pub struct For {
    /// Take it back by itself after this time, 1s to 30days [default: when somebody does]
    #[arg(long = "for", value_name = "TIME")]
    pub lasting: Option<Lasting>,
}

/// Why something is done.
#[derive(Debug, Args)]
pub struct Why {
    /// What for, in one line: `naru backend list` shows it beside who did it and when
    #[arg(long, value_name = "TEXT")]
    pub why: Option<String>,
}

/// The changes of `naru backend`
#[derive(Debug, Subcommand)]
pub enum BackendEdit {
    /// Add a backend to a VIP
    Add {
        /// The backend.
        #[command(flatten)]
        backend: BackendName,
        /// Its share in proportion to the others', 0 to 65535 [default: 100]
        #[arg(long)]
        weight: Option<u32>,
        /// active, drain (no new flows) or down [default: active]
        #[arg(long, value_parser = BackendState::from_word)]
        state: Option<BackendState>,
        /// Its MAC address, with l2: nobody's answer to ARP or neighbour discovery counts then
        #[arg(long)]
        mac: Option<Mac>,
        /// The largest IP packet that the way to it carries, with what the forward mode adds, in bytes; or none [default: the
        /// VIP's mtu]
        #[arg(long, value_name = "BYTES")]
        mtu: Option<WayMtu>,
        /// How it is asked, where that is not as the VIP's health says: keys of that, as 'port=8080'; or none
        #[arg(long, value_name = "HEALTH")]
        health: Option<BackendHealthEdit>,
    },
    /// Change a backend; what is not given stays
    #[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
    Set {
        /// The backend.
        #[command(flatten)]
        backend: BackendName,
        /// Its share in proportion to the others', 0 to 65535
        #[arg(long, group = "what")]
        weight: Option<u32>,
        /// active, drain (no new flows) or down: its state in the config file
        #[arg(long, group = "what", value_parser = BackendState::from_word)]
        state: Option<BackendState>,
        /// Its MAC address, with l2: nobody's answer to ARP or neighbour discovery counts then; `none` to trust those
        /// again
        #[arg(long, group = "what")]
        mac: Option<MacChoice>,
        /// The largest IP packet that the way to it carries, with what the forward mode adds, in bytes; none, or vip for as
        /// the VIP's mtu says
        #[arg(long, group = "what", value_name = "BYTES")]
        mtu: Option<WayMtuChoice>,
        /// How it is asked, where that is not as the VIP's health says: keys of that, as 'port=8080'; none, or vip for as
        /// the VIP's says
        #[arg(long, group = "what", value_name = "HEALTH")]
        health: Option<BackendHealthEdit>,
    },
    /// Remove a backend from a VIP; its flows go on until they end
    Remove {
        /// The backend.
        #[command(flatten)]
        backend: BackendName,
        /// Whether to wait for its flows.
        #[command(flatten)]
        wait: Wait,
    },
}

/// Whether to return at once or when the last flow has ended.
#[derive(Clone, Copy, Debug, Args)]
pub struct Wait {
    /// Return when the last of its flows has ended; an interrupt (Ctrl-C) ends the waiting and leaves the change in
    /// force
    #[arg(long)]
    pub wait: bool,
    /// Wait for so long at most, as `30m` or `1h 30m`, then exit with 4; the change stays in force [default: no limit]
    #[arg(long, requires = "wait", value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// Which backend.
#[derive(Debug, Args)]
pub struct BackendName {
    /// Name of the VIP.
    pub vip: String,
    /// Address of the backend.
    pub address: IpAddr,
}

/// `naru flows`
#[derive(Debug, Args)]
pub struct Flows {
    /// Only flows of this VIP
    #[arg(long, value_name = "NAME")]
    pub vip: Option<String>,
    /// Only flows that belong to the backend of this address
    #[arg(long, value_name = "ADDRESS")]
    pub backend: Option<IpAddr>,
    /// Only flows of clients with this address, or with one in this range
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    pub client: Option<ClientRange>,
    /// Only flows from this port
    #[arg(long, value_name = "PORT")]
    pub client_port: Option<u16>,
    /// Only flows in this table
    #[arg(long)]
    pub table: Option<FlowTable>,
    /// Only flows that have come so far
    #[arg(long)]
    pub state: Option<FlowState>,
    /// List so many flows at most
    #[arg(long, value_name = "NUMBER", default_value_t = FlowQuery::DEFAULT_LIMIT)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(FlowQuery::MAX_LIMIT)))]
    pub limit: u32,
    /// Count them by VIP and backend instead
    #[arg(long, conflicts_with = "limit")]
    pub count: bool,
}

/// `naru interface`
#[derive(Debug, Subcommand)]
pub enum Interface {
    /// List the interfaces of the config and how the data plane is attached to them
    List,
    /// Add an interface to the config and attach the data plane to it
    Attach {
        /// Name of the interface.
        interface: String,
    },
    /// Take the data plane off an interface and the interface out of the config; works without a daemon too
    Detach(Detach),
}

/// `naru interface detach`
#[derive(Debug, Args)]
pub struct Detach {
    /// Name of the interface.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub interface: Option<String>,
    /// All interfaces.
    #[arg(long)]
    pub all: bool,
    /// Without a daemon: where its pins are, if not at the config's `bpffs`
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub bpffs: Option<PathBuf>,
}

/// `naru decap`
#[derive(Debug, Subcommand)]
pub enum Decap {
    /// Decapsulate on an interface; again, to accept something else
    Attach {
        /// The interface that packets of the load balancers come in by.
        interface: String,
        /// A range of outer source addresses to accept: the load balancers' `encap_source4` or `encap_source6`
        #[arg(long, required = true, value_name = "PREFIX", value_delimiter = ',')]
        from: Vec<IpNet>,
        /// An outer destination address to accept [default: the interface's own]
        #[arg(long, value_name = "ADDRESS", value_delimiter = ',', num_args = 1..)]
        to: Vec<IpAddr>,
        /// An inner destination to deliver, an address or a prefix [default: whatever is local to this host]
        #[arg(long = "vip", value_name = "ADDRESS[/LEN]", value_delimiter = ',', num_args = 1..)]
        #[arg(value_parser = prefix)]
        vips: Vec<IpNet>,
        /// How to attach: auto, native or generic
        #[arg(long, default_value_t = XdpMode::Auto)]
        mode: XdpMode,
        /// Pin below this directory
        #[arg(long, value_name = "DIR", default_value = DEFAULT_BPFFS, value_hint = ValueHint::DirPath)]
        bpffs: PathBuf,
    },
    /// Decapsulate on an interface no more
    Detach {
        /// The interface.
        interface: String,
        /// Pinned below this directory
        #[arg(long, value_name = "DIR", default_value = DEFAULT_BPFFS, value_hint = ValueHint::DirPath)]
        bpffs: PathBuf,
    },
    /// Show where there is decapsulation, what it accepts, and what became of packets
    Status {
        /// Pinned below this directory
        #[arg(long, value_name = "DIR", default_value = DEFAULT_BPFFS, value_hint = ValueHint::DirPath)]
        bpffs: PathBuf,
    },
}

/// Reads `10.0.1.11` or `10.0.1.11=50`.
fn weighted_address(text: &str) -> Result<(IpAddr, Option<u32>), String> {
    let (address, weight) = match text.split_once('=') {
        Some((address, weight)) => (address, Some(weight)),
        None => (text, None),
    };
    let address = address.parse().map_err(|_| format!("`{address}` is not an IP address"))?;
    let weight = weight.map(str::parse).transpose();
    Ok((address, weight.map_err(|_| "the weight behind `=` is a number from 0 to 65535".to_owned())?))
}

/// Reads `203.0.113.10` or `203.0.113.0/24`.
fn prefix(text: &str) -> Result<IpNet, String> {
    let parsed = text.parse::<IpAddr>().map(IpNet::from).ok().or_else(|| text.parse().ok());
    parsed.ok_or_else(|| "write an address, as `203.0.113.10`, or a prefix, as `203.0.113.0/24`".to_owned())
}

/// Reads `30m` or `1h 30m`.
fn duration(text: &str) -> Result<Duration, String> {
    // humantime panics where a longer text adds up to more than there is.
    const MAX_LENGTH: usize = 20;
    let parsed = (text.len() <= MAX_LENGTH).then(|| humantime::parse_duration(text).ok()).flatten();
    parsed.ok_or_else(|| "write a number with its unit, as `90s`, `30m` or `1h 30m`".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, error::ErrorKind};

    use super::*;
    use crate::model::Tracking;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_tells_the_exit_codes() {
        let help = Cli::command().render_help().to_string();
        for (exit, meaning) in exit::EXIT_CODES {
            assert!(help.contains(&format!("  {}  {meaning}", exit as u8)), "{help}");
        }
    }

    #[test]
    fn a_vip_is_told_in_one_line() {
        let line = "naru vip add web --address 203.0.113.10 --port tcp/80,tcp/443 --port udp/any --forward ipip \
                    --tracking always --udp-idle 90s --backend 10.0.1.11=50,10.0.1.12";
        let Command::Vip(Vip::Edit(edit)) = parse(line).unwrap().command else { panic!("another command") };
        let VipEdit::Add { name, ports, forward, given, backends, .. } = edit else { panic!("another change") };
        let Given { hash, tracking, tcp_idle, udp_idle, .. } = given;
        assert_eq!(name, "web");
        assert_eq!(ports.iter().map(Port::to_string).collect::<Vec<_>>(), ["tcp/80", "tcp/443", "udp/any"]);
        assert_eq!((forward, hash), (ForwardMode::Ipip, None));
        assert_eq!((tracking, tcp_idle), (Some(Tracking::Always), None));
        assert_eq!(udp_idle.unwrap().to_string(), "1m 30s");
        let [first, second] = ["10.0.1.11", "10.0.1.12"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(backends, [(first, Some(50)), (second, None)]);
    }

    #[test]
    fn a_drain_may_be_waited_for() {
        let wait = |line: &str| match parse(line).unwrap().command {
            Command::Backend(
                Backend::Operate(BackendOperation::Drain { wait, .. })
                | Backend::Edit(BackendEdit::Remove { wait, .. }),
            ) => (wait.wait, wait.timeout),
            _ => panic!("another command"),
        };
        assert_eq!(wait("naru backend drain web 10.0.1.11"), (false, None));
        assert_eq!(wait("naru backend remove web 10.0.1.11 --wait"), (true, None));
        let half_an_hour = Duration::from_secs(1800);
        assert_eq!(wait("naru backend drain web 10.0.1.11 --wait --timeout 30m"), (true, Some(half_an_hour)));
    }

    #[test]
    fn decapsulation_is_told_as_the_lab_tells_it() {
        let line = "naru decap attach eth0 --from 172.16.0.0/16 --from fd6e:e::/64 --to 10.0.1.11 fd00::11 \
                    --vip 203.0.113.10 --vip 2001:db8::/32 --bpffs /tmp/b";
        let Command::Decap(Decap::Attach { interface, from, to, vips, mode, bpffs }) = parse(line).unwrap().command
        else {
            panic!("another command")
        };
        assert_eq!((interface.as_str(), mode, bpffs), ("eth0", XdpMode::Auto, PathBuf::from("/tmp/b")));
        assert_eq!(from.iter().map(IpNet::to_string).collect::<Vec<_>>(), ["172.16.0.0/16", "fd6e:e::/64"]);
        assert_eq!(vips.iter().map(IpNet::to_string).collect::<Vec<_>>(), ["203.0.113.10/32", "2001:db8::/32"]);
        assert_eq!(to, ["10.0.1.11", "fd00::11"].map(|text| text.parse::<IpAddr>().unwrap()));
        assert_eq!(parse("naru decap attach eth0").unwrap_err().kind(), ErrorKind::MissingRequiredArgument);
    }

    #[test]
    fn global_options_may_stand_behind_the_command() {
        let cli = parse("naru backend list web --output json --socket /tmp/x --config /tmp/c").unwrap();
        assert_eq!(cli.global.output, Output::Json);
        assert_eq!(cli.global.socket, Some(PathBuf::from("/tmp/x")));
        assert_eq!(cli.global.config, PathBuf::from("/tmp/c"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (line, kind) in [
            ("naru vip set web", ErrorKind::MissingRequiredArgument),
            ("naru vip set web --tcp-idle 900", ErrorKind::ValueValidation),
            ("naru vip set web --tracking sometimes", ErrorKind::ValueValidation),
            ("naru backend set web 10.0.0.1", ErrorKind::MissingRequiredArgument),
            ("naru backend set web 10.0.0.1 --state drian", ErrorKind::ValueValidation),
            ("naru backend set web 10.0.0.1 --mtu 100", ErrorKind::ValueValidation),
            ("naru vip set web --echo sometimes", ErrorKind::ValueValidation),
            ("naru backend drain web ten.zero", ErrorKind::ValueValidation),
            ("naru vip add web --address 10.0.0.1 --port 80 --forward l2", ErrorKind::ValueValidation),
            ("naru interface detach", ErrorKind::MissingRequiredArgument),
            ("naru interface detach eth0 --all", ErrorKind::ArgumentConflict),
            ("naru stats --watch 0", ErrorKind::ValueValidation),
            ("naru backend drain web 10.0.0.1 --timeout 30m", ErrorKind::MissingRequiredArgument),
            ("naru backend drain web 10.0.0.1 --wait --timeout 30", ErrorKind::ValueValidation),
            ("naru backend drain web 10.0.0.1 --wait --timeout 5124095576030431h15s1000ms", ErrorKind::ValueValidation),
            ("naru flows --client 10.0.0.0/33", ErrorKind::ValueValidation),
            ("naru flows --table half", ErrorKind::InvalidValue),
            ("naru flows --limit 0", ErrorKind::ValueValidation),
            ("naru flows --limit 100001", ErrorKind::ValueValidation),
            ("naru flows --count --limit 5", ErrorKind::ArgumentConflict),
        ] {
            assert_eq!(parse(line).unwrap_err().kind(), kind, "{line}");
        }
    }

    #[test]
    fn misspelt_words_are_answered_with_the_right_ones() {
        let error = parse("naru backend set web 10.0.0.1 --state drian").unwrap_err().to_string();
        assert!(error.contains("did you mean `drain`?"), "{error}");
        let error = parse("naru vip set web --tcp-idle 900").unwrap_err().to_string();
        assert!(error.contains("`900` has no unit; write `900s`"), "{error}");
        let error = parse("naru vip set web --tracking allways").unwrap_err().to_string();
        assert!(error.contains("did you mean `always`?"), "{error}");
    }
}
