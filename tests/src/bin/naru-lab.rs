//! Servers, clients and labs of namespaces by hand, and the demo.

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use naru_tests::{
    answers, demo,
    lab::teardown_kept,
    load, netns,
    probing::Probing,
    server::{self, READY},
    service::Unit,
    transfer, udp,
};

/// Real servers and clients for naru, and a demo that puts them to use.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve HTTP, echo UDP, answer on long-lived connections.
    Serve {
        /// Name to answer with.
        #[arg(long)]
        name: String,
        /// Address and port to serve HTTP/1.1 at; may be given several times.
        #[arg(long)]
        http: Vec<SocketAddr>,
        /// Address and port to echo UDP at; may be given several times.
        #[arg(long)]
        udp: Vec<SocketAddr>,
        /// Address and port to greet and echo lines of TCP at; may be given several times.
        #[arg(long)]
        talk: Vec<SocketAddr>,
        /// File to append a line of JSON to for every request.
        #[arg(long)]
        log: Option<PathBuf>,
        /// Seconds from SIGTERM until it takes no more connections; `/healthz` answers with 503 meanwhile.
        #[arg(long, default_value_t = 0.0)]
        grace: f64,
    },
    /// Answer probes of every protocol; wrongly after SIGUSR1, well again after SIGUSR2.
    Answer {
        /// Name to answer with.
        #[arg(long)]
        name: String,
        /// Address to answer at; may be given several times.
        #[arg(long)]
        address: Vec<IpAddr>,
        /// Directory of the certificate.
        #[arg(long)]
        certificates: PathBuf,
    },
    /// Send HTTP requests; report as JSON who answered and what failed. Exits with 1 if a request failed.
    Load(LoadArgs),
    /// Send UDP datagrams and expect them back; report as JSON. Exits with 1 if one was lost.
    Udp {
        /// Address and port of the echo.
        target: SocketAddr,
        /// Number of datagrams.
        #[arg(long, default_value_t = 100)]
        count: u64,
        /// Payload of each, in bytes.
        #[arg(long, default_value_t = 64)]
        size: usize,
    },
    /// Transfer bytes and compare each with what was sent.
    Transfer {
        /// Address and port of the server.
        target: SocketAddr,
        /// Number of bytes.
        #[arg(long, default_value_t = 100_000_000)]
        bytes: u64,
        /// Upload instead of download.
        #[arg(long)]
        up: bool,
    },
    /// Show naru at work in a lab of network namespaces. Exits with 1 if a request failed.
    Demo {
        /// Leave everything running at the end, and print commands to explore with.
        #[arg(long)]
        keep: bool,
    },
    /// Become a program that has the privileges which a unit of systemd leaves it.
    Service {
        /// The unit.
        #[arg(long)]
        unit: PathBuf,
        /// What stands for the unit's directories of config, state and runtime.
        #[arg(long)]
        directory: PathBuf,
        /// The program, and its arguments.
        #[arg(last = true, required = true)]
        program: Vec<String>,
    },
    /// Probe a backend over the path of clients, by the data plane of a daemon that has stopped; print the name that it
    /// answers with.
    Probe {
        /// The daemon's config.
        #[arg(long)]
        config: PathBuf,
        /// Name of the VIP.
        vip: String,
        /// Address of the backend.
        backend: IpAddr,
        /// Port of HTTP on the VIP.
        #[arg(long, default_value_t = 80)]
        port: u16,
        /// Seconds to wait for the answer.
        #[arg(long, default_value_t = 5.0)]
        timeout: f64,
        /// Stay, with the connection open, until somebody ends this.
        #[arg(long)]
        hold: bool,
    },
    /// Remove the labs that `demo --keep` left running.
    Teardown,
}

#[derive(Args)]
struct LoadArgs {
    /// Address and port of the server.
    target: SocketAddr,
    /// Path to request.
    #[arg(long, default_value = "/")]
    path: String,
    /// Requests under way at a time.
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// Number of requests.
    #[arg(long, required_unless_present = "seconds")]
    count: Option<u64>,
    /// Time to send requests for.
    #[arg(long)]
    seconds: Option<f64>,
    /// Requests a second, at most.
    #[arg(long)]
    rate: Option<f64>,
    /// Send many requests over each connection instead of one.
    #[arg(long)]
    keep_alive: bool,
    /// Retries of a request that failed before any byte of its response came, each on a new connection.
    #[arg(long, default_value_t = 0)]
    retries: u32,
    /// Seconds to wait for a connection, and again for a response.
    #[arg(long, default_value_t = 5.0)]
    timeout: f64,
    /// Print progress to standard error.
    #[arg(long)]
    progress: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Serve { name, http, udp, talk, log, grace } => {
            let grace = Duration::try_from_secs_f64(grace).context("--grace")?;
            let options = server::Options { name, http, udp, talk, log, grace };
            netns::runtime().block_on(server::serve(options, say_ready))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Answer { name, address: addresses, certificates } => {
            let options = answers::Options { name, addresses, certificates };
            match netns::runtime().block_on(answers::serve(options, say_ready))? {}
        }
        Command::Load(args) => run_load(args),
        Command::Udp { target, count, size } => {
            let report = netns::runtime().block_on(udp::echo(target, count, size, Duration::from_secs(1)))?;
            print_json(&report)?;
            Ok(exit_code(report.lost == 0))
        }
        Command::Transfer { target, bytes, up } => {
            let limit = Duration::from_secs(600);
            netns::runtime().block_on(async {
                match up {
                    true => transfer::upload(target, bytes, limit).await,
                    false => transfer::download(target, bytes, limit).await,
                }
            })?;
            println!("{bytes} bytes, all as sent");
            Ok(ExitCode::SUCCESS)
        }
        Command::Demo { keep } => demo::run(keep).map(exit_code),
        Command::Service { unit, directory, program } => {
            Err(Unit::read(&unit)?.exec(&directory, program[0].as_ref(), &program[1..]))
        }
        Command::Probe { config, vip, backend, port, timeout, hold } => {
            let limit = Duration::try_from_secs_f64(timeout).context("--timeout")?;
            let probing = Probing::open(&config)?;
            let way = probing.way(&vip, backend)?;
            let connection = netns::runtime().block_on(probing.connect(way, port, limit))?;
            println!("{}", probing.name(way, port, limit)?);
            if hold {
                std::thread::park();
            }
            drop(connection);
            Ok(ExitCode::SUCCESS)
        }
        Command::Teardown => {
            match teardown_kept()?.as_slice() {
                [] => println!("no lab was kept"),
                ids => println!("removed lab {}", ids.join(", ")),
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn say_ready() {
    let mut stdout = io::stdout();
    // Whoever started this may not care.
    let _ = stdout.write_all(READY.as_bytes()).and_then(|()| stdout.flush());
}

fn run_load(args: LoadArgs) -> anyhow::Result<ExitCode> {
    let options = load::Options {
        target: args.target,
        source: None,
        ports: None,
        path: args.path,
        concurrency: args.concurrency,
        count: args.count,
        duration: args.seconds.map(Duration::try_from_secs_f64).transpose().context("--seconds")?,
        rate: args.rate,
        keep_alive: args.keep_alive,
        retries: args.retries,
        timeout: Duration::try_from_secs_f64(args.timeout).context("--timeout")?,
    };
    let in_place = io::stderr().is_terminal();
    let report = load::run(options, Duration::from_millis(500), |report| {
        if args.progress {
            let (start, end) = if in_place { ("\r\x1b[K", "") } else { ("", "\n") };
            eprint!("{start}{} requests, {} failed {:?}{end}", report.requests, report.failed.len(), report.backends);
        }
    });
    if args.progress && in_place {
        eprintln!();
    }
    print_json(&report)?;
    Ok(exit_code(report.failed.is_empty()))
}

fn print_json(report: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(report)?);
    Ok(())
}

fn exit_code(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
