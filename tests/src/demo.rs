//! The demo: a lab, the real daemon with `configs/demo.toml`, real clients and servers, and an operator at work.

mod view;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    thread::sleep,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use lb_userspace::api::types::{Stats, Vip};

use self::view::{Row, View};
use crate::{
    lab::{Host, Lab, Legs},
    load::{Cause, Failure, Load, Options, Report},
    naru::{Naru, attach_decap, lab_binary, naru_binary},
    server::Server,
};

/// The config, as the repository has it.
const CONFIG: &str = include_str!("../../configs/demo.toml");
/// Addresses of its VIPs; backends have them before the daemon is asked for more.
const VIPS: [&str; 3] = ["203.0.113.10", "203.0.113.20", "2001:db8:77::10"];
/// Requests a second for each VIP.
const RATE: u32 = 150;
/// Retries of one request. While a dead server is not out, one new connection in three meets it.
const RETRIES: u32 = 30;

/// Runs the demo, and leaves everything running where `keep` says so. Returns whether every request succeeded.
///
/// # Errors
///
/// When the lab cannot be built, or a command of the operator fails.
pub fn run(keep: bool) -> anyhow::Result<bool> {
    let mut stage = Stage::build()?;
    stage.introduce()?;
    stage.play()?;
    let good = stage.report()?;
    if keep {
        stage.keep()?;
    }
    Ok(good)
}

/// Everything that is running, in the order in which it ends.
struct Stage {
    loads: Vec<(Vip, Load)>,
    naru: Naru,
    servers: Vec<Server>,
    lab: Lab,
    view: View,
    steps: Vec<Step>,
}

/// Something that the operator did, or that happened to them.
struct Step {
    /// Seconds since 1970.
    at: f64,
    title: &'static str,
}

impl Stage {
    fn build() -> anyhow::Result<Self> {
        println!("Building a lab of network namespaces: client, router, load balancer, four backends.");
        let vips = VIPS.map(|vip| vip.parse().expect("these are addresses"));
        let lab = Lab::builder().backends(4).legs(Legs::Two).vips(vips).build()?;
        lab.remove_on_interrupt()?;
        let servers = lab.backends().iter().map(|backend| serve(&lab, backend));
        let servers = servers.collect::<Result<Vec<_>, _>>()?;
        for backend in lab.backends() {
            attach_decap(&lab, backend)?;
        }
        let naru = Naru::start_with_config(&lab, CONFIG)?;
        naru.wait_until_ready()?;
        Ok(Self { loads: Vec::new(), naru, servers, lab, view: View::new(), steps: Vec::new() })
    }

    /// Says what runs, and starts the load.
    fn introduce(&mut self) -> anyhow::Result<()> {
        let status = self.naru.status()?;
        for interface in &status.interfaces {
            let mode = interface.attached.as_ref().map_or("not attached", |attached| &attached.mode);
            println!("naru {} is on {} of the load balancer: XDP, {mode}.", status.version, interface.name);
        }
        let vips: Vec<Vip> = self.naru.read(&["vip", "list"])?;
        println!("One client asks each VIP {RATE} times a second, every request on a new connection. A request whose");
        println!(
            "connection fails before any byte of the response is asked again, as HTTP clients do; such retries are"
        );
        println!("counted and explained at the end. Numbers below are responses a second from each backend.\n");
        for vip in vips {
            let target = SocketAddr::new(vip.address, 80);
            let options = Options::new(target).rate(RATE.into()).retries(RETRIES);
            self.loads.push((vip, Load::start(self.lab.client(), options)?));
        }
        Ok(())
    }

    /// The script.
    fn play(&mut self) -> anyhow::Result<()> {
        self.step("steady load over three backends", 5);

        self.step("the operator drains b2 of web", 0);
        self.naru(&["backend", "drain", "web", "10.0.1.12"])?;
        self.watch(5);

        self.step("the server on b3 is killed", 0);
        self.view.note("Nobody is at the keyboard: naru asks its backends, and takes out what does not answer.");
        self.servers[2].kill()?;
        self.watch(4);
        self.view.note(&format!("$ naru health web\n{}", self.naru.cli(&["health", "web"])?.trim_end()));
        self.step("the server on b3 starts again", 0);
        self.servers[2] = serve(&self.lab, &self.lab.backends()[2])?;
        self.watch(4);

        self.step("the operator adds b4, and takes b2 of web back", 0);
        for vip in ["web", "direct", "web6"] {
            self.naru(&["backend", "add", vip, "10.0.1.14"])?;
        }
        self.naru(&["backend", "restore", "web", "10.0.1.12"])?;
        self.watch(5);

        self.step("the daemon is killed by kill -9, and the kernel goes on forwarding", 0);
        self.naru.kill9()?;
        self.watch(4);
        self.step("the daemon starts again and adopts what runs", 0);
        self.naru.restart()?;
        self.watch(4);
        Ok(())
    }

    /// Runs a command of the operator, and shows it.
    fn naru(&mut self, args: &[&str]) -> anyhow::Result<()> {
        self.view.note(&format!("$ naru {}", args.join(" ")));
        self.naru.cli(args).map(drop)
    }

    /// Begins a step that takes at least `seconds`.
    fn step(&mut self, title: &'static str, seconds: u64) {
        self.steps.push(Step { at: now(), title });
        self.view.note(&format!("\n{}. {}", self.steps.len(), capitalised(title)));
        self.watch(seconds);
    }

    /// Shows where requests go for `seconds`.
    fn watch(&mut self, seconds: u64) {
        for _ in 0..2 * seconds {
            sleep(Duration::from_millis(500));
            let rows = self.loads.iter().map(|(vip, load)| Row { vip: vip.clone(), report: load.snapshot() });
            self.view.show(rows.collect(), self.servers.iter().map(Server::name));
        }
        self.view.settle();
    }

    /// Ends the load and tells how it went. Returns whether every request succeeded.
    fn report(&mut self) -> anyhow::Result<bool> {
        let stopped: Vec<_> = self.loads.drain(..).map(|(vip, load)| (vip, load.stop())).collect();
        println!("\n$ naru stats\n{}", self.naru.cli(&["stats"])?);
        let stats: Stats = self.naru.read(&["stats"])?;
        println!("The client's side:");
        let mut in_all = (0, 0);
        for (vip, report) in &stopped {
            let Report { requests, failed, retried, connections, backends, slowest, .. } = report;
            let (failed, retried) = (failed.len(), retried.len());
            println!(
                "  {:<7} {requests} requests, {failed} failed, {retried} retries, slowest {slowest:.3} s",
                vip.name
            );
            let counted = stats.vips.iter().find(|counted| counted.name == vip.name);
            let counted = counted.map_or(0, |counted| counted.counts.new_flows);
            in_all = (in_all.0 + connections, in_all.1 + counted);
            println!("          {connections} connections by the client's count, {counted} by naru's");
            let shares = backends.keys().map(|name| format!("{name} {:.1} %", 100.0 * report.share(name)));
            println!("          answered by {}", shares.collect::<Vec<_>>().join(", "));
        }
        // A SYN that is repeated is a new flow by naru's count.
        let (connections, counted) = in_all;
        let repeated = self.lab.client().repeated_syns()?;
        println!("  in all  {connections} connections, and {repeated} SYNs that the client's kernel sent again:");
        let sent = connections + repeated;
        println!("          {sent} by the client's count, {counted} by naru's");
        let all = |of: fn(&Report) -> &Vec<Failure>| stopped.iter().flat_map(move |(_, report)| of(report));
        self.explain("Retried on a new connection, and then answered", all(|report| &report.retried));
        self.explain("FAILED", all(|report| &report.failed));
        let requests: u64 = stopped.iter().map(|(_, report)| report.requests).sum();
        let failed: usize = stopped.iter().map(|(_, report)| report.failed.len()).sum();
        println!("\n{requests} requests, {failed} failed.");
        Ok(requests > 0 && failed == 0)
    }

    /// Lists failed attempts by the step during which they failed, and by cause.
    fn explain<'a>(&self, title: &str, failures: impl Iterator<Item = &'a Failure>) {
        let mut counts = BTreeMap::new();
        for failure in failures {
            let step = self.steps.iter().rposition(|step| step.at <= failure.at).unwrap_or(0);
            *counts.entry((step, failure.cause)).or_insert(0u64) += 1;
        }
        if counts.is_empty() {
            return;
        }
        println!("\n{title}:");
        for ((step, cause), count) in counts {
            println!("  step {} ({}): {count} {}", step + 1, self.steps[step].title, describe(cause));
        }
    }

    /// Leaves everything running and says what can be done with it.
    fn keep(self) -> anyhow::Result<()> {
        let Self { naru, servers, lab, .. } = self;
        let (client, balancer) = (lab.client().netns().name().to_owned(), lab.balancer().netns().name().to_owned());
        let (own, tool) = (lab_binary()?, naru_binary()?);
        println!("\nEverything keeps running. To explore:\n");
        println!("  alias naru='{} --config {}'", tool.display(), naru.config_path().display());
        println!("  naru status");
        println!("  naru backend list");
        println!("  naru backend set web 10.0.1.11 --weight 300");
        println!("  naru stats --watch 1");
        println!("  ip netns exec {client} {} load 203.0.113.10:80 --seconds 10 --progress", own.display());
        println!("  ip netns exec {client} {} transfer 203.0.113.20:80", own.display());
        println!("  ip netns exec {balancer} ip -details link show eth0    # naru's program");
        println!("  ip netns    # every namespace of the lab\n");
        println!("The daemon's log: {}", naru.log_path().display());
        println!("To remove all of it: {} teardown", own.display());
        naru.keep();
        servers.into_iter().for_each(Server::keep);
        lab.keep().context("cannot keep the lab")
    }
}

/// Starts the server of a backend: for the VIPs, and at its own address for probes.
fn serve(lab: &Lab, backend: &Host) -> anyhow::Result<Server> {
    let vips = VIPS.iter().map(|vip| vip.parse().expect("these are addresses"));
    let http: Vec<_> = vips.chain([backend.ipv4().into()]).map(|ip| SocketAddr::new(ip, 80)).collect();
    Server::start(backend, lab.dir(), &http, &[])
}

fn describe(cause: Cause) -> &'static str {
    match cause {
        Cause::Refused => "refused: nobody listened",
        Cause::Reset => "reset: open when their server died",
        Cause::TimedOut => "timed out",
        Cause::ClosedEarly => "closed before a response: open when their server died",
        Cause::BadStatus => "bad responses",
        Cause::Unreachable => "not reachable",
        Cause::Garbled => "garbled responses",
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
