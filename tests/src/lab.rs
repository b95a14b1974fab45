//! A network of namespaces: clients, a router that is also the switch, the load balancer, backends.
//!
//! ```text
//!  client1 ─┐              ┌─ br0: 10.0.1.0/24 ── b1, b2, … (answer through the router, not the load balancer)
//!  client2 ─┴── router ────┤
//!                          ├─ lb eth0 ── Legs::One: a port of br0; packets leave where they came in
//!                          └─ lb eth1 ── Legs::Two: eth0 is routed, eth1 is a port of br0; packets are redirected
//! ```
//!
//! The router sends [`VIPS4`] and [`VIPS6`] to the load balancer; backends have the VIPs on `lo` and do not answer ARP
//! for them. Clients have MTU 1500, everything behind the router [`MTU`], so that encapsulated packets fit.
//!
//! What makes frames arrive that an XDP program sends into a veth: the port that faces the load balancer has an XDP
//! program too (one that passes everything), and completes checksums before it sends (`tx off`).

mod leftovers;
mod pass;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Deref,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, anyhow, ensure};
use aya::{programs::Xdp, util::nr_cpus};
use nix::ifaddrs::getifaddrs;

pub use self::leftovers::teardown_kept;
use self::{leftovers::State, pass::Pass};
use crate::{limits::allow_many_files, netns::Netns};

/// The IPv4 prefix whose addresses the router sends to the load balancer.
pub const VIPS4: &str = "203.0.113.0/24";
/// The IPv6 prefix whose addresses the router sends to the load balancer.
pub const VIPS6: &str = "2001:db8:77::/64";
/// Largest IP packet, in bytes, behind the router: 1500 and room for an outer IPv6 header.
pub const MTU: u32 = 1600;

/// How the load balancer is connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Legs {
    /// `eth0` alone, on the backends' segment: every packet leaves by the interface it came in by.
    #[default]
    One,
    /// `eth0` towards the router, `eth1` on the backends' segment: packets cross from one to the other.
    Two,
}

/// Where the backends are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// On one segment with the load balancer's last leg, as `l2` needs it.
    #[default]
    Segment,
    /// Each in a subnet of its own behind the router.
    Routed,
}

/// What a lab shall be; from [`Lab::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    clients: usize,
    backends: usize,
    legs: Legs,
    placement: Placement,
    vips: Vec<IpAddr>,
    queue_per_cpu: bool,
}

impl Builder {
    /// Number of clients, 1 to 14. Default: 1.
    #[must_use]
    pub fn clients(mut self, clients: usize) -> Self {
        self.clients = clients;
        self
    }

    /// Number of backends, at most 100. Default: 3.
    #[must_use]
    pub fn backends(mut self, backends: usize) -> Self {
        self.backends = backends;
        self
    }

    /// The load balancer's legs. Default: one.
    #[must_use]
    pub fn legs(mut self, legs: Legs) -> Self {
        self.legs = legs;
        self
    }

    /// Where the backends are. Default: on the load balancer's segment.
    #[must_use]
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Addresses that every backend has on `lo`; of [`VIPS4`] or [`VIPS6`].
    #[must_use]
    pub fn vips(mut self, vips: impl IntoIterator<Item = IpAddr>) -> Self {
        self.vips.extend(vips);
        self
    }

    /// Gives the load balancer's interfaces, and the ports that they are plugged into, a receive queue for each CPU, as
    /// network cards have. With one queue for all, the CPU that had the last packet of a client empties it, and whoever
    /// sends more from another CPU fills its 256 places faster than that.
    #[must_use]
    pub fn queue_per_cpu(mut self) -> Self {
        self.queue_per_cpu = true;
        self
    }

    /// Builds the lab, after removing what crashed labs left behind.
    ///
    /// # Errors
    ///
    /// Needs root, iproute2 and ethtool, and a kernel with veth, bridge and native XDP on veth.
    pub fn build(self) -> anyhow::Result<Lab> {
        ensure!((1..=14).contains(&self.clients), "a lab has 1 to 14 clients, not {}", self.clients);
        ensure!(self.backends <= 100, "a lab has at most 100 backends, not {}", self.backends);
        ensure!(nix::unistd::geteuid().is_root(), "a lab of network namespaces needs root");
        // Those of many labs, and daemons may have as many.
        allow_many_files()?;
        let state = State::new()?;
        let names: Vec<_> = ["router".to_owned(), "lb".to_owned()]
            .into_iter()
            .chain((1..=self.clients).map(|n| format!("client{n}")))
            .chain((1..=self.backends).map(|n| format!("b{n}")))
            .collect();
        let full: Vec<_> = names.iter().map(|name| state.namespace(name)).collect();
        let mut namespaces = Netns::create(full.iter().map(String::as_str))?.into_iter();
        let mut next = || namespaces.next().expect("one namespace for each name");
        let router = Host::new("router", next(), Ipv4Addr::new(10, 0, 1, 1), segment6(1));
        let (balancer4, balancer6) = match self.legs {
            Legs::One => (Ipv4Addr::new(10, 0, 1, 2), segment6(2)),
            Legs::Two => (Ipv4Addr::new(10, 0, 2, 2), front6(2)),
        };
        let balancer = Host::new("lb", next(), balancer4, balancer6);
        let clients = (1..=self.clients as u8).map(|n| {
            let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0xc, n.into(), 0, 0, 0, 2);
            Host::new(&format!("client{n}"), next(), Ipv4Addr::new(198, 51, 100, 16 * n + 2), v6)
        });
        let clients = clients.collect();
        let backends = (1..=self.backends as u8).map(|n| {
            let (v4, v6) = match self.placement {
                Placement::Segment => (Ipv4Addr::new(10, 0, 1, 10 + n), segment6(0x10 + u16::from(n))),
                Placement::Routed => (Ipv4Addr::new(10, 0, 100 + n, 11), routed6(n, 0x11)),
            };
            Host::new(&format!("b{n}"), next(), v4, v6)
        });
        let backends = backends.collect();
        let passes = Vec::new();
        let (legs, queue_per_cpu, vips) = (self.legs, self.queue_per_cpu, Vec::new());
        let mut lab = Lab { state, router, balancer, clients, backends, passes, legs, queue_per_cpu, vips };
        lab.wire(self.placement)?;
        for vip in self.vips {
            lab.add_vip(vip)?;
        }
        Ok(lab)
    }
}

/// A running lab. Dropping it ends every process in it and removes every trace, unless [`Lab::keep`] was called.
pub struct Lab {
    state: State,
    router: Host,
    balancer: Host,
    clients: Vec<Host>,
    backends: Vec<Host>,
    legs: Legs,
    queue_per_cpu: bool,
    vips: Vec<IpAddr>,
    passes: Vec<Pass>,
}

impl Lab {
    /// A lab of one client, three backends and a load balancer with one leg, to be changed.
    pub fn builder() -> Builder {
        let (legs, placement) = (Legs::default(), Placement::default());
        Builder { clients: 1, backends: 3, legs, placement, vips: Vec::new(), queue_per_cpu: false }
    }

    /// How many TCP segments clients and backends have sent again so far: none, unless something was lost or held up.
    ///
    /// # Errors
    ///
    /// As with [`Host::retransmitted`].
    pub fn retransmitted(&self) -> anyhow::Result<u64> {
        self.clients.iter().chain(&self.backends).map(Host::retransmitted).sum()
    }

    /// The first client.
    pub fn client(&self) -> &Host {
        &self.clients[0]
    }

    /// The clients.
    pub fn clients(&self) -> &[Host] {
        &self.clients
    }

    /// The router, whose bridge `br0` is also the backends' switch.
    pub fn router(&self) -> &Host {
        &self.router
    }

    /// The load balancer.
    pub fn balancer(&self) -> &Host {
        &self.balancer
    }

    /// The backends: `b1`, `b2`, …
    pub fn backends(&self) -> &[Host] {
        &self.backends
    }

    /// The load balancer's interfaces.
    pub fn interfaces(&self) -> &'static [&'static str] {
        match self.legs {
            Legs::One => &["eth0"],
            Legs::Two => &["eth0", "eth1"],
        }
    }

    /// The addresses that the backends have on `lo`.
    pub fn vips(&self) -> &[IpAddr] {
        &self.vips
    }

    /// Unique among the labs of this machine.
    pub fn id(&self) -> &str {
        self.state.id()
    }

    /// A directory for the files of whoever uses the lab; goes with it.
    pub fn dir(&self) -> &Path {
        self.state.dir()
    }

    /// A directory of a bpf file system; goes with the lab.
    pub fn bpffs(&self) -> &Path {
        self.state.bpffs()
    }

    /// Gives every backend the address `vip` on `lo`.
    ///
    /// # Errors
    ///
    /// With what `ip` says.
    pub fn add_vip(&mut self, vip: IpAddr) -> anyhow::Result<()> {
        for backend in &self.backends {
            backend.ip(&format!("addr add {} dev lo {}\n", host_prefix(vip), nodad(vip)))?;
        }
        self.vips.push(vip);
        Ok(())
    }

    /// Removes an interface of the load balancer together with the port it is plugged into.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn unplug(&mut self, interface: &str) -> anyhow::Result<()> {
        self.passes.retain(|pass| pass.interface() != port_of(interface));
        self.balancer.ip(&format!("link del {interface}\n"))
    }

    /// Makes an interface of the load balancer (again), with its port, addresses and routes.
    ///
    /// # Errors
    ///
    /// When it exists already, or the kernel refuses XDP on it.
    pub fn plug(&mut self, interface: &str) -> anyhow::Result<()> {
        let port = port_of(interface);
        cable((&self.balancer, interface), (&self.router, &port), MTU)?;
        // A card that is plugged in again has the address that it had: its neighbours need not learn a new one.
        let mac = if interface == "eth0" { "02:00:00:00:1b:00" } else { "02:00:00:00:1b:01" };
        self.balancer.ip(&format!("link set {interface} address {mac}\n"))?;
        if self.queue_per_cpu {
            // Before there are programs: those on queues that come later are not run.
            self.balancer.receive_per_cpu(interface)?;
            self.router.receive_per_cpu(&port)?;
        }
        let bridged = self.legs == Legs::One || interface == "eth1";
        let (own4, own6, router4, router6) = match bridged {
            true => (Ipv4Addr::new(10, 0, 1, 2), segment6(2), Ipv4Addr::new(10, 0, 1, 1), segment6(1)),
            false => (Ipv4Addr::new(10, 0, 2, 2), front6(2), Ipv4Addr::new(10, 0, 2, 1), front6(1)),
        };
        if bridged {
            self.router.ip(&format!("link set {port} master br0\nlink set {port} up\n"))?;
        } else {
            self.router.ip(&addresses(&port, (router4, 24), (router6, 64)))?;
        }
        self.balancer.ip(&addresses(interface, (own4, 24), (own6, 64)))?;
        self.router.checksum_before_sending(&port)?;
        self.passes.push(Pass::attach(&self.router, &port)?);
        if interface == "eth0" {
            self.balancer.ip(&format!("route add default via {router4}\nroute add default via {router6}\n"))?;
            let routes = format!("route replace {VIPS4} via {own4}\nroute replace {VIPS6} via {own6}\n");
            self.router.ip(&routes)?;
        }
        Ok(())
    }

    /// Makes the router's port that an interface of the load balancer is plugged into one that takes no frames that XDP
    /// sends; what comes through the stack it takes as before.
    ///
    /// # Errors
    ///
    /// When there is no such port.
    pub fn close_port(&mut self, interface: &str) -> anyhow::Result<()> {
        let port = port_of(interface);
        self.passes.retain(|pass| pass.interface() != port);
        self.router.ethtool(&["-K", &port, "gro", "off"])
    }

    /// Puts an XDP program, loaded already, on the router's port that an interface of the load balancer is plugged
    /// into. It should pass what is not its business, as the one that was there did.
    ///
    /// # Errors
    ///
    /// When there is no such port, or the kernel refuses the program.
    pub fn put_on_port(&mut self, interface: &str, program: &mut Xdp) -> anyhow::Result<()> {
        let port = port_of(interface);
        let index = self.passes.iter().position(|pass| pass.interface() == port);
        let pass = self.passes.swap_remove(index.with_context(|| format!("there is no port {port}"))?);
        self.passes.push(pass.replaced_by(program)?);
        Ok(())
    }

    /// The router's port that an interface of the load balancer is plugged into.
    pub fn port(&self, interface: &str) -> String {
        port_of(interface)
    }

    /// Removes the lab when the user interrupts this process (SIGINT), which then ends.
    ///
    /// # Errors
    ///
    /// When no thread can be started to wait for that.
    pub fn remove_on_interrupt(&self) -> io::Result<()> {
        leftovers::remove_on_interrupt(self.id())
    }

    /// Makes the lab outlive this process: it stays until [`teardown_kept`].
    ///
    /// # Errors
    ///
    /// When the programs of its ports cannot be pinned, or the note that it is kept cannot be written.
    pub fn keep(mut self) -> anyhow::Result<()> {
        for pass in self.passes.drain(..) {
            pass.pin(self.state.bpffs())?;
        }
        self.state.keep()
    }

    /// Connects everything, once.
    fn wire(&mut self, placement: Placement) -> anyhow::Result<()> {
        for host in [&self.router, &self.balancer].into_iter().chain(&self.clients).chain(&self.backends) {
            host.prepare()?;
        }
        self.router.forward()?;
        let bridge = format!("link add br0 mtu {MTU} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n");
        let segment = addresses("br0", (Ipv4Addr::new(10, 0, 1, 1), 24), (segment6(1), 64));
        self.router.ip(&(bridge + &segment))?;
        for client in &self.clients {
            self.connect(client, &client.name, 28, 1500)?;
        }
        for backend in &self.backends {
            match placement {
                Placement::Segment => {
                    cable((backend, "eth0"), (&self.router, &backend.name), MTU)?;
                    self.router.ip(&format!("link set {0} master br0\nlink set {0} up\n", backend.name))?;
                    let own = addresses("eth0", (backend.ipv4, 24), (backend.ipv6, 64));
                    let routes = format!("route add default via 10.0.1.1\nroute add default via {}\n", segment6(1));
                    backend.ip(&(own + &routes))?;
                }
                Placement::Routed => self.connect(backend, &backend.name, 24, MTU)?,
            }
        }
        for interface in self.interfaces() {
            self.plug(interface)?;
        }
        Ok(())
    }

    /// Connects `host` to the router in a subnet of its own, the router as its gateway.
    fn connect(&self, host: &Host, port: &str, prefix4: u8, mtu: u32) -> anyhow::Result<()> {
        cable((host, "eth0"), (&self.router, port), mtu)?;
        let gateway4 = Ipv4Addr::from_bits((host.ipv4.to_bits() & !0 << (32 - prefix4)) + 1);
        let gateway6 = Ipv6Addr::from_bits((host.ipv6.to_bits() & !0 << 64) + 1);
        self.router.ip(&addresses(port, (gateway4, prefix4), (gateway6, 64)))?;
        let own = addresses("eth0", (host.ipv4, prefix4), (host.ipv6, 64));
        host.ip(&format!("{own}route add default via {gateway4}\nroute add default via {gateway6}\n"))
    }
}

/// A machine of the lab. What its namespace can do, it can do.
#[derive(Clone, Debug)]
pub struct Host {
    name: String,
    netns: Netns,
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
}

impl Host {
    /// Its name within the lab: `client1`, `router`, `lb`, `b1`, …
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address.
    pub fn ipv4(&self) -> Ipv4Addr {
        self.ipv4
    }

    /// Its IPv6 address.
    pub fn ipv6(&self) -> Ipv6Addr {
        self.ipv6
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The MAC address of one of its interfaces.
    ///
    /// # Errors
    ///
    /// When it has no such interface.
    pub fn mac(&self, interface: &str) -> anyhow::Result<[u8; 6]> {
        let mac = self.run(|| {
            let mut links = getifaddrs()?.filter(|entry| entry.interface_name == interface);
            anyhow::Ok(links.find_map(|entry| entry.address?.as_link_addr()?.addr()))
        });
        mac?.with_context(|| format!("{} has no interface {interface} with a MAC address", self.name))
    }

    /// How many TCP segments it has sent again since it exists: 0 means that nothing was lost or held up.
    ///
    /// # Errors
    ///
    /// When the kernel's statistics are not in the form that we know.
    pub fn retransmitted(&self) -> anyhow::Result<u64> {
        self.statistic("snmp", "Tcp: ", "RetransSegs")
    }

    /// SYNs that the kernel of the host has sent again. Not only for a loss: where a new connection has the port of one
    /// that has just ended, and nobody listens any more, the server's kernel speaks for the old one, and the SYN is
    /// repeated (RFC 5961 §4.2).
    ///
    /// # Errors
    ///
    /// As [`Self::retransmitted`].
    pub fn repeated_syns(&self) -> anyhow::Result<u64> {
        self.statistic("netstat", "TcpExt: ", "TCPSynRetrans")
    }

    /// ICMP errors of IPv4 that it has got because a packet of its could not be delivered.
    ///
    /// # Errors
    ///
    /// As [`Self::retransmitted`].
    pub fn told_unreachable(&self) -> anyhow::Result<u64> {
        self.statistic("snmp", "Icmp: ", "InDestUnreachs")
    }

    /// Echo replies that the host has got.
    ///
    /// # Errors
    ///
    /// As [`Self::retransmitted`].
    pub fn echo_replies(&self) -> anyhow::Result<u64> {
        self.statistic("snmp", "Icmp: ", "InEchoReps")
    }

    /// A count from one of the kernel's files of statistics, which have a line of names and a line of values.
    fn statistic(&self, file: &str, prefix: &str, name: &str) -> anyhow::Result<u64> {
        let text = self.run(|| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")))?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
        let (names, values) = lines.next().zip(lines.next()).with_context(|| format!("no {prefix}in {file}"))?;
        let mut pairs = names.split(' ').zip(values.split(' '));
        let (_, value) = pairs.find(|(other, _)| *other == name).with_context(|| format!("no {name} in {file}"))?;
        Ok(value.parse()?)
    }

    fn new(name: &str, netns: Netns, ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> Self {
        Self { name: name.to_owned(), netns, ipv4, ipv6 }
    }

    /// Settings that must be there before its interfaces are.
    fn prepare(&self) -> anyhow::Result<()> {
        for scope in ["all", "default"] {
            // No waiting for duplicate addresses, no filtering of answers that take another way back.
            self.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
            self.sysctl(&format!("net/ipv6/conf/{scope}/accept_ra"), "0")?;
            self.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
            // VIPs are on lo, but it is the load balancer that answers for them.
            self.sysctl(&format!("net/ipv4/conf/{scope}/arp_ignore"), "1")?;
            self.sysctl(&format!("net/ipv4/conf/{scope}/arp_announce"), "2")?;
            // A changed MAC address is announced, as network cards' drivers and failover software do.
            self.sysctl(&format!("net/ipv4/conf/{scope}/arp_notify"), "1")?;
            self.sysctl(&format!("net/ipv6/conf/{scope}/ndisc_notify"), "1")?;
        }
        // What is sent again has been lost: a machine that is busy for a moment is no reason to send a probe (RFC 8985)
        // or to repeat anything. Kernels before 6.11 repeat what is not acknowledged within 0.2 s all the same.
        self.sysctl("net/ipv4/tcp_early_retrans", "0")?;
        self.sysctl_if_there("net/ipv4/tcp_rto_min_us", "1000000")?;
        self.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        self.ip("link set lo up\n")
    }

    fn forward(&self) -> anyhow::Result<()> {
        self.sysctl("net/ipv4/ip_forward", "1")?;
        self.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        for scope in ["all", "default"] {
            self.sysctl(&format!("net/ipv4/conf/{scope}/send_redirects"), "0")?;
        }
        // Its bridge is a switch: where `br_netfilter` is there, packets that only pass it would be filtered, and defragmented.
        for family in ["iptables", "ip6tables", "arptables"] {
            self.sysctl_if_there(&format!("net/bridge/bridge-nf-call-{family}"), "0")?;
        }
        Ok(())
    }

    /// For a setting that not every kernel has.
    fn sysctl_if_there(&self, name: &str, value: &str) -> anyhow::Result<()> {
        let Err(error) = self.sysctl(name, value) else { return Ok(()) };
        let kind = error.root_cause().downcast_ref::<io::Error>().map(io::Error::kind);
        ensure!(kind == Some(io::ErrorKind::NotFound), error);
        Ok(())
    }

    /// A veth leaves checksums to its peer, and XDP_TX or a redirect would send the unfinished ones on.
    fn checksum_before_sending(&self, interface: &str) -> anyhow::Result<()> {
        self.ethtool(&["-K", interface, "tx", "off"])
    }

    fn receive_per_cpu(&self, interface: &str) -> anyhow::Result<()> {
        let cpus = nr_cpus().map_err(|(path, error)| anyhow!("cannot read {path}: {error}"))?;
        // To set what is set already is a failure.
        if cpus > 1 { self.ethtool(&["-L", interface, "rx", &cpus.to_string()]) } else { Ok(()) }
    }

    fn ethtool(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let output = patience::output(self.command("ethtool").args(arguments));
        let output = output.context("install ethtool (`cargo xtask setup` does)")?;
        let (arguments, says) = (arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "`ethtool {arguments}` on {} failed: {}", self.name, says.trim());
        Ok(())
    }
}

impl Deref for Host {
    type Target = Netns;

    fn deref(&self) -> &Netns {
        &self.netns
    }
}

/// The router's port that the load balancer's `interface` is plugged into.
fn port_of(interface: &str) -> String {
    format!("lb-{interface}")
}

/// A veth pair between two interfaces, both still down.
fn cable(a: (&Host, &str), b: (&Host, &str), mtu: u32) -> anyhow::Result<()> {
    let ((a, a_name), (b, b_name)) = (a, b);
    let (a, b) = (a.netns.name(), b.netns.name());
    let mut ip = Command::new("ip");
    ip.args(["link", "add", a_name, "mtu", &mtu.to_string(), "netns", a, "type", "veth"]);
    ip.args(["peer", "name", b_name, "mtu", &mtu.to_string(), "netns", b]);
    let output = patience::output(&mut ip).context("install iproute2 (`cargo xtask setup` does)")?;
    let says = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cannot connect {a} {a_name} to {b} {b_name}: {}", says.trim());
    Ok(())
}

/// `ip` commands that give `interface` its addresses and set it up.
fn addresses(interface: &str, v4: (Ipv4Addr, u8), v6: (Ipv6Addr, u8)) -> String {
    format!(
        "link set {interface} up\naddr add {}/{} dev {interface}\naddr add {}/{} dev {interface} nodad\n",
        v4.0, v4.1, v6.0, v6.1
    )
}

fn host_prefix(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

fn nodad(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "nodad" } else { "" }
}

fn segment6(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd6e, 0x6172, 0x75, 1, 0, 0, 0, host)
}

fn front6(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd6e, 0x6172, 0x75, 2, 0, 0, 0, host)
}

fn routed6(subnet: u8, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd6e, 0x6172, 0x75, 0x100 + u16::from(subnet), 0, 0, 0, host)
}
