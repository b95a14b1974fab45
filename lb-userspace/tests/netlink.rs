//! Next hops against a real kernel: each test makes network namespaces of its own, joined by veth pairs, and changes
//! routes, neighbours and links under a running `network` task. The namespaces have no names and go with their test.
//!
//! Needs root.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    os::fd::AsRawFd,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use lb_common::{NextHop, Via, VrfName};
use lb_userspace::{
    model::Target,
    network::{self, Event, Handle, InterfaceChange, InterfaceInfo, NextHops, Pace, Unresolved},
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, bind, sendto, setsockopt,
    socket, sockopt,
};
use patience::{LIMIT, Namespace};
use tokio::{sync::mpsc, time::timeout};

/// A namespace in which addresses serve at once.
fn namespace() -> Namespace {
    let namespace = Namespace::new();
    namespace.ip("link set lo up");
    for key in ["all", "default"] {
        namespace.sysctl(&format!("net/ipv6/conf/{key}/accept_dad"), "0").unwrap();
    }
    namespace
}

/// Joins two by a veth pair, one end named `here`, the other `there`, both up.
fn join(namespace: &Namespace, here: &str, peer: &Namespace, there: &str) {
    let path = format!("/proc/{}/fd/{}", std::process::id(), peer.file().as_raw_fd());
    namespace.ip(&format!("link add {here} type veth peer name {there} netns {path}"));
    // A neighbour that is gone is known to be gone within a second.
    for family in ["ipv4", "ipv6"] {
        namespace.sysctl(&format!("net/{family}/neigh/{here}/retrans_time_ms"), "100").unwrap();
    }
    namespace.ip(&format!("link set {here} up"));
    peer.ip(&format!("link set {there} up"));
}

fn mac(namespace: &Namespace, interface: &str) -> [u8; 6] {
    let line = namespace.ip(&format!("-br link show dev {interface}"));
    let mac = line.split_whitespace().find(|word| word.len() == 17 && word.contains(':')).unwrap();
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

fn ifindex(namespace: &Namespace, interface: &str) -> u32 {
    namespace.ip(&format!("-o link show dev {interface}")).split(':').next().unwrap().parse().unwrap()
}

/// The load balancer's namespace with `eth0`, 10.0.0.1/24 and 2001:db8::1/64, and behind it a peer with `peer0`,
/// 10.0.0.2/24, 2001:db8::2/64 and fe80::2.
struct Lab {
    lb: Namespace,
    peer: Namespace,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { lb: namespace(), peer: namespace() };
        join(&lab.lb, "eth0", &lab.peer, "peer0");
        lab.lb.ip("addr add 10.0.0.1/24 dev eth0");
        lab.lb.ip("addr add 2001:db8::1/64 dev eth0 nodad");
        lab.peer.ip("addr add 10.0.0.2/24 dev peer0");
        lab.peer.ip("addr add 2001:db8::2/64 dev peer0 nodad");
        lab.peer.ip("addr add fe80::2/64 dev peer0 nodad");
        lab
    }

    /// A second link: `eth1` with 10.1.0.1/24 to `peer1` with 10.1.0.2/24.
    fn second_link(&self) {
        join(&self.lb, "eth1", &self.peer, "peer1");
        self.lb.ip("addr add 10.1.0.1/24 dev eth1");
        self.peer.ip("addr add 10.1.0.2/24 dev peer1");
    }

    /// Runs a test in the load balancer's namespace, with a task that follows `targets`.
    fn follow<T: AsyncFnOnce(&mut Follower) + Send>(&self, pace: Pace, targets: &[Target], test: T) {
        self.lb.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (wanted, handle, events) = network::start_at(pace).unwrap();
                let (next_hops, changes) = (HashMap::new(), Vec::new());
                let mut follower = Follower { wanted, handle, events, next_hops, changes };
                follower.want(targets.iter().copied());
                test(&mut follower).await;
            });
        });
    }

    /// The next hop out of `eth0` to `peer0` as they are now.
    fn by_eth0(&self) -> NextHop {
        self.by("eth0", "peer0")
    }

    fn by(&self, interface: &str, peer: &str) -> NextHop {
        NextHop::new(mac(&self.peer, peer), mac(&self.lb, interface), ifindex(&self.lb, interface), 1500, 0)
    }

    /// The next hop out of `eth0` to a MAC address that ends in `last`.
    fn by_eth0_to(&self, last: u8) -> NextHop {
        NextHop::new([2, 0, 0, 0, 0, last], mac(&self.lb, "eth0"), ifindex(&self.lb, "eth0"), 1500, 0)
    }
}

/// The daemon's side of the events.
struct Follower {
    wanted: NextHops,
    handle: Handle,
    events: mpsc::Receiver<Event>,
    next_hops: HashMap<Target, Result<NextHop, Unresolved>>,
    changes: Vec<InterfaceChange>,
}

impl Follower {
    /// Follows these targets, and no others.
    fn want(&mut self, targets: impl IntoIterator<Item = Target>) {
        self.wanted.keep_only_needed(targets.into_iter().collect());
    }

    /// Takes events until `enough` says so.
    async fn until(&mut self, what: &str, enough: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !enough(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, self.events.recv()).await {
                Ok(event) => self.take(event.expect("the task lives on")),
                Err(_) => panic!("not within {LIMIT:?}: {what}; {:#?} {:#?}", self.next_hops, self.changes),
            }
        }
    }

    async fn until_resolved(&mut self, target: Target, next_hop: NextHop) {
        let what = format!("{target:?} resolved to {next_hop:?}");
        self.until(&what, |follower| follower.next_hops.get(&target) == Some(&Ok(next_hop))).await;
    }

    async fn until_unresolved(&mut self, target: Target, expected: impl Fn(&Unresolved) -> bool) {
        let matches = |result: &Result<NextHop, Unresolved>| result.as_ref().is_err_and(&expected);
        let what = format!("{target:?} not resolved for the expected reason");
        self.until(&what, |follower| follower.next_hops.get(&target).is_some_and(matches)).await;
    }

    async fn until_changed(&mut self, what: &str, expected: impl Fn(&InterfaceChange) -> bool) {
        self.until(what, |follower| follower.changes.iter().any(&expected)).await;
    }

    /// Takes what events come within `time`; returns how many.
    async fn listen(&mut self, time: Duration) -> usize {
        let (deadline, mut count) = (Instant::now() + time, 0);
        while let Ok(event) = timeout(deadline.saturating_duration_since(Instant::now()), self.events.recv()).await {
            self.take(event.expect("the task lives on"));
            count += 1;
        }
        count
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::NextHop { target, asking, result } => {
                if self.wanted.is_current(&target, asking) {
                    self.next_hops.insert(target, result);
                }
            }
            Event::Interface(change) => self.changes.push(change),
            Event::Restarted => panic!("the task failed: {:?}", self.handle.health()),
        }
    }

    fn interface(&self, name: &str) -> Option<InterfaceInfo> {
        self.handle.interfaces().into_iter().find(|interface| interface.name == name)
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Sends an ICMP message (type, code, the rest of its header, and what it quotes) from one of the peer's addresses.
fn send_icmp(from: &Namespace, source: Ipv4Addr, to: Ipv4Addr, kind: [u8; 2], rest: [u8; 4], quoted: &[u8]) {
    let mut message = [&kind[..], &[0, 0], &rest, quoted].concat();
    let words = message.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    message[2..4].copy_from_slice(&(!(folded + (folded >> 16)) as u16).to_be_bytes());
    from.run(|| {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Icmp).unwrap();
        bind(raw.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0))).unwrap();
        let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
        sendto(raw.as_raw_fd(), &message, &to, MsgFlags::empty()).unwrap();
    });
}

/// The same of ICMPv6 (the kernel makes the checksum), out of `interface`.
fn send_icmp6(from: &Namespace, interface: &str, source: Ipv6Addr, to: Ipv6Addr, message: &[u8]) {
    let scope = ifindex(from, interface);
    from.run(|| {
        let raw = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::empty(), SockProtocol::IcmpV6).unwrap();
        // Neighbour discovery is believed only from the same link.
        setsockopt(&raw, sockopt::Ipv6Ttl, &255).unwrap();
        bind(raw.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(source, 0, 0, scope))).unwrap();
        let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, scope));
        sendto(raw.as_raw_fd(), message, &to, MsgFlags::empty()).unwrap();
    });
}

/// The echo reply that the load balancer is said to have sent, of which a forged error complains: header and eight
/// bytes.
fn echo_reply(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let head = [0x45, 0, 0x05, 0xdc, 0, 0, 0x40, 0, 64, 1, 0, 0];
    [&head[..], &from.octets(), &to.octets(), &[0; 8]].concat()
}

fn echo_reply6(from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let head = [0x60, 0, 0, 0, 0x05, 0xb4, 58, 64];
    [&head[..], &from.octets(), &to.octets(), &[129, 0, 0, 0, 0, 0, 0, 0]].concat()
}

/// Waits until the route that the kernel would send a packet by has what a forged message made of it.
fn until_believed(namespace: &Namespace, address: &str, expected: &str, again: impl Fn()) {
    let begun = Instant::now();
    loop {
        again();
        let route = namespace.ip(&format!("route get {address}"));
        if route.contains(expected) {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "the kernel did not believe the forged message: {route}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A target that may lie behind a gateway.
fn tunnel(address: &str) -> Target {
    Target::new(ip(address), false)
}

/// A target that must be on the link.
fn l2(address: &str) -> Target {
    Target::new(ip(address), true)
}

#[test]
#[ignore = "needs root"]
fn backends_on_the_link_resolve_to_their_own_mac_address() {
    let lab = Lab::new();
    let targets = [tunnel("10.0.0.2"), l2("10.0.0.2"), tunnel("2001:db8::2"), l2("2001:db8::2")];
    lab.follow(Pace::default(), &targets, async |follower| {
        for target in targets {
            follower.until_resolved(target, lab.by_eth0()).await;
        }
        follower.want(targets.into_iter().rev());
        assert_eq!(follower.listen(Duration::from_millis(300)).await, 0, "nothing new of the same targets");
    });
}

#[test]
#[ignore = "needs root"]
fn backends_behind_a_gateway_resolve_to_the_mac_address_of_the_gateway() {
    let lab = Lab::new();
    lab.lb.ip("route add 192.0.2.0/24 via 10.0.0.2");
    lab.lb.ip("route add 198.51.100.0/24 via inet6 fe80::2 dev eth0");
    lab.lb.ip("route add 203.0.113.0/24 nexthop via 10.0.0.2 dev eth0 nexthop via 10.0.0.2 dev eth0 onlink");
    lab.lb.ip("-6 route add 2001:db8:1::/48 via 2001:db8::2");
    lab.lb.ip("-6 route add 2001:db8:2::/48 via fe80::2 dev eth0 mtu 1400");
    lab.lb.ip("route add 192.0.3.0/24 via 10.0.0.2 mtu 1300");
    let wide = ["192.0.2.7", "198.51.100.7", "203.0.113.7", "2001:db8:1::7"].map(tunnel);
    let narrow = [(tunnel("2001:db8:2::7"), 1400), (tunnel("192.0.3.7"), 1300)];
    let refused = ["192.0.2.7", "198.51.100.7", "2001:db8:2::7"].map(l2);
    let targets: Vec<Target> = wide.into_iter().chain(narrow.map(|(target, _)| target)).chain(refused).collect();
    lab.follow(Pace::default(), &targets, async |follower| {
        for target in wide {
            follower.until_resolved(target, lab.by_eth0()).await;
        }
        for (target, mtu) in narrow {
            follower.until_resolved(target, NextHop { mtu, ..lab.by_eth0() }).await;
        }
        for target in refused {
            follower.until_unresolved(target, |why| matches!(why, Unresolved::BehindGateway { .. })).await;
        }
    });
}

/// Follows `targets` until all are resolved as `expected`; then forges; then sees that they stay so although everything
/// is read anew many times.
fn unmoved_by(lab: &Lab, targets: &[(Target, NextHop)], forge: impl FnOnce() + Send) {
    let often = Duration::from_millis(50);
    let pace = Pace { keep_alive: often, resync: often, ..Pace::default() };
    let wanted: Vec<Target> = targets.iter().map(|(target, _)| *target).collect();
    let marker = tunnel("198.51.100.7");
    lab.follow(pace, &wanted, async |follower| {
        for (target, next_hop) in targets {
            follower.until_resolved(*target, *next_hop).await;
        }
        // The runtime has this one thread; what happens meanwhile waits in the sockets.
        forge();
        // A route that the operator changes is seen, and is seen no sooner than the others are asked for again.
        for round in 1..=3 {
            let mtu = 1500 - round;
            lab.lb.ip(&format!("route replace 198.51.100.0/24 via 10.0.0.2 mtu {mtu}"));
            follower.want(wanted.iter().copied().chain([marker]));
            follower.until_resolved(marker, NextHop { mtu, ..lab.by_eth0() }).await;
            follower.listen(often * 4).await;
        }
        for (target, next_hop) in targets {
            assert_eq!(follower.next_hops[target], Ok(*next_hop), "{target:?}");
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_forged_path_mtu_lowers_that_of_no_next_hop() {
    let lab = Lab::new();
    lab.lb.ip("route add 192.0.2.0/24 via 10.0.0.2");
    lab.lb.ip("route add 192.0.3.0/24 via 10.0.0.2 mtu 1400");
    lab.lb.ip("-6 route add 2001:db8:1::/48 via 2001:db8::2");
    let (wide, narrow) = (lab.by_eth0(), NextHop { mtu: 1400, ..lab.by_eth0() });
    let targets = [
        (tunnel("192.0.2.7"), wide),
        (tunnel("192.0.3.7"), narrow),
        (tunnel("10.0.0.2"), wide),
        (tunnel("2001:db8:1::7"), wide),
        (tunnel("2001:db8::2"), wide),
    ];
    let v4 = [("192.0.2.7", wide), ("192.0.3.7", narrow), ("10.0.0.2", wide)];
    unmoved_by(&lab, &targets[..], || {
        let own = Ipv4Addr::new(10, 0, 0, 1);
        for (address, _) in v4 {
            let backend: Ipv4Addr = address.parse().unwrap();
            let quoted = echo_reply(own, backend);
            until_believed(&lab.lb, address, "mtu lock 552", || {
                send_icmp(&lab.peer, Ipv4Addr::new(10, 0, 0, 2), own, [3, 4], [0, 0, 0, 68], &quoted);
            });
        }
        let own: Ipv6Addr = "2001:db8::1".parse().unwrap();
        for address in ["2001:db8:1::7", "2001:db8::2"] {
            let quoted = echo_reply6(own, address.parse().unwrap());
            let message = [&[2, 0, 0, 0][..], &1280u32.to_be_bytes(), &quoted].concat();
            until_believed(&lab.lb, address, "mtu 1280", || {
                send_icmp6(&lab.peer, "peer0", "2001:db8::2".parse().unwrap(), own, &message);
            });
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_forged_redirect_diverts_no_next_hop() {
    let lab = Lab::new();
    // The diversion: a machine of the attacker's on the same segment.
    let diverted = "02:00:00:00:00:66";
    lab.lb.ip("route add 192.0.2.0/24 via 10.0.0.2");
    lab.lb.ip("-6 route add 2001:db8:1::/48 via fe80::2 dev eth0");
    lab.lb.ip(&format!("neigh add 10.0.0.66 lladdr {diverted} dev eth0 nud permanent"));
    lab.lb.ip(&format!("neigh add fe80::66 lladdr {diverted} dev eth0 nud permanent"));
    let targets = [(tunnel("192.0.2.7"), lab.by_eth0()), (tunnel("2001:db8:1::7"), lab.by_eth0())];
    unmoved_by(&lab, &targets, || {
        let (own, gateway) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let quoted = echo_reply(own, Ipv4Addr::new(192, 0, 2, 7));
        until_believed(&lab.lb, "192.0.2.7", "via 10.0.0.66", || {
            send_icmp(&lab.peer, gateway, own, [5, 1], [10, 0, 0, 66], &quoted);
        });
        let (own, gateway): (Ipv6Addr, Ipv6Addr) = ("2001:db8::1".parse().unwrap(), "fe80::2".parse().unwrap());
        let (target, to): (Ipv6Addr, Ipv6Addr) = ("fe80::66".parse().unwrap(), "2001:db8:1::7".parse().unwrap());
        // RFC 4861 §4.5: target, destination, and the quoted packet as an option, its length in units of eight bytes.
        let quoted = echo_reply6(own, to);
        let option = [4, 1 + (quoted.len() / 8) as u8, 0, 0, 0, 0, 0, 0];
        let message = [&[137, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &to.octets(), &option, &quoted].concat();
        until_believed(&lab.lb, "2001:db8:1::7", "via fe80::66", || {
            send_icmp6(&lab.peer, "peer0", gateway, own, &message);
        });
    });
}

#[test]
#[ignore = "needs root"]
fn backends_that_no_frame_can_reach_say_why() {
    let lab = Lab::new();
    for (kind, number) in [("blackhole", 9), ("unreachable", 11), ("prohibit", 8)] {
        lab.lb.ip(&format!("route add {kind} 10.{number}.0.0/16"));
        lab.lb.ip(&format!("-6 route add {kind} 2001:db8:{number}::/48"));
    }
    lab.lb.ip("tuntap add tun0 mode tun");
    lab.lb.ip("link set tun0 up");
    lab.lb.ip("route add 10.20.0.0/16 dev tun0");
    let cases = [
        ("192.0.2.1", "no route to 192.0.2.1"),
        ("2001:db9::1", "no route to 2001:db9::1"),
        ("10.9.0.1", "the route to 10.9.0.1 refuses packets (blackhole"),
        ("10.11.0.1", "the route to 10.11.0.1 refuses packets (unreachable"),
        ("10.8.0.1", "the route to 10.8.0.1 refuses packets (prohibit"),
        ("2001:db8:9::1", "the route to 2001:db8:9::1 refuses packets (blackhole"),
        ("2001:db8:11::1", "the route to 2001:db8:11::1 refuses packets (unreachable"),
        ("2001:db8:8::1", "the route to 2001:db8:8::1 refuses packets (prohibit"),
        ("10.0.0.1", "the backend is this host: 10.0.0.1"),
        ("127.0.0.1", "the backend is this host: 127.0.0.1"),
        ("2001:db8::1", "the backend is this host: 2001:db8::1"),
        ("10.0.0.255", "10.0.0.255 is a broadcast address"),
        ("10.20.0.1", "interface tun0 (tun) carries no Ethernet frames"),
        ("10.0.0.99", "neighbour 10.0.0.99 on eth0 does not answer"),
        ("2001:db8::99", "neighbour 2001:db8::99 on eth0 does not answer"),
    ];
    let targets = cases.map(|(address, _)| tunnel(address));
    lab.follow(Pace::default(), &targets, async |follower| {
        for (address, reason) in cases {
            follower.until_unresolved(tunnel(address), |why| why.to_string().starts_with(reason)).await;
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_neighbour_that_changes_its_mac_address_is_followed_at_once() {
    let lab = Lab::new();
    lab.peer.sysctl("net/ipv4/conf/all/arp_notify", "1").unwrap();
    let target = tunnel("10.0.0.2");
    // Whoever only looks again now and then never notices.
    let never = Duration::from_secs(3600);
    let pace = Pace { keep_alive: never, resync: never, ..Pace::default() };
    lab.follow(pace, &[target], async |follower| {
        follower.until_resolved(target, lab.by_eth0()).await;
        // The peer announces its new address, as a virtual address does that moves to another machine.
        lab.peer.ip("link set peer0 address 02:00:00:00:00:77");
        follower.until_resolved(target, lab.by_eth0_to(0x77)).await;

        lab.lb.ip("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:88 dev eth0 nud permanent");
        follower.until_resolved(target, lab.by_eth0_to(0x88)).await;
    });
}

#[test]
#[ignore = "needs root"]
fn a_neighbour_that_the_operator_has_fixed_stays_fixed() {
    let lab = Lab::new();
    lab.lb.ip("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:88 dev eth0 nud permanent");
    let (fixed, other) = (tunnel("10.0.0.2"), tunnel("10.0.0.3"));
    let often = Duration::from_millis(50);
    lab.follow(
        Pace { retry: often, keep_alive: often, resync: often, ..Pace::default() },
        &[fixed],
        async |follower| {
            follower.until_resolved(fixed, lab.by_eth0_to(0x88)).await;
            assert_eq!(follower.listen(Duration::from_millis(500)).await, 0);
            // To use such an entry would, on recent kernels, make it an ordinary one.
            let entry = lab.lb.ip("neigh show to 10.0.0.2");
            assert!(entry.contains("PERMANENT"), "{entry}");

            lab.lb.ip("link set eth0 arp off");
            follower.want([fixed, other]);
            follower.until_unresolved(other, |why| matches!(why, Unresolved::NoArp { .. })).await;
            lab.lb.ip("neigh replace 10.0.0.3 lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
            follower.until_resolved(other, lab.by_eth0_to(0x99)).await;
        },
    );
}

#[test]
#[ignore = "needs root"]
fn a_neighbour_that_never_answered_and_then_does_is_found() {
    let lab = Lab::new();
    let target = tunnel("10.0.0.3");
    let silent = |why: &Unresolved| matches!(why, Unresolved::NeighbourSilent { .. });
    lab.follow(Pace::default(), &[target], async |follower| {
        follower.until_unresolved(target, |why| matches!(why, Unresolved::NeighbourPending { .. })).await;
        follower.until_unresolved(target, silent).await;
        assert_eq!(follower.listen(Duration::from_secs(3)).await, 0, "the same silence is told once");
        lab.peer.ip("addr add 10.0.0.3/24 dev peer0");
        follower.until_resolved(target, lab.by_eth0()).await;
        lab.peer.ip("addr del 10.0.0.3/24 dev peer0");
        lab.lb.ip("neigh del 10.0.0.3 dev eth0");
        follower.until_unresolved(target, silent).await;
    });
}

#[test]
#[ignore = "needs root"]
fn an_interface_that_goes_down_and_comes_back_is_followed() {
    let lab = Lab::new();
    let target = tunnel("10.0.0.2");
    lab.follow(Pace::default(), &[target], async |follower| {
        follower.until_resolved(target, lab.by_eth0()).await;
        lab.lb.ip("link set eth0 down");
        follower.until_unresolved(target, |why| why.to_string().contains("interface eth0 is down")).await;
        follower.until_unresolved(target, |why| matches!(why, Unresolved::RouteLost { .. })).await;
        lab.lb.ip("link set eth0 up");
        follower.until_resolved(target, lab.by_eth0()).await;

        lab.peer.ip("link set peer0 down");
        follower.until_unresolved(target, |why| matches!(why, Unresolved::NoCarrier { .. })).await;
        lab.peer.ip("link set peer0 up");
        follower.until_resolved(target, lab.by_eth0()).await;

        lab.lb.ip("link set eth0 mtu 1400");
        follower.until_resolved(target, NextHop { mtu: 1400, ..lab.by_eth0() }).await;
        lab.lb.ip("link set eth0 address 02:00:00:00:00:55");
        assert_eq!(mac(&lab.lb, "eth0"), [2, 0, 0, 0, 0, 0x55]);
        follower.until_resolved(target, NextHop { mtu: 1400, ..lab.by_eth0() }).await;
        let changed = |change: &InterfaceChange| {
            let mac = Some([2, 0, 0, 0, 0, 0x55]);
            matches!(change, InterfaceChange::Changed(eth0) if eth0.mtu == 1400 && eth0.mac == mac)
        };
        follower.until_changed("eth0 changed", changed).await;
        assert_eq!(follower.interface("eth0").unwrap().mac, Some([2, 0, 0, 0, 0, 0x55]));
    });
}

#[test]
#[ignore = "needs root"]
fn a_route_that_moves_to_another_interface_takes_its_next_hop_along() {
    let lab = Lab::new();
    lab.second_link();
    lab.lb.ip("route add 192.0.2.0/24 via 10.0.0.2");
    let target = tunnel("192.0.2.7");
    lab.follow(Pace::default(), &[target], async |follower| {
        let (first, second) = (lab.by_eth0(), lab.by("eth1", "peer1"));
        follower.until_resolved(target, first).await;
        lab.lb.ip("route replace 192.0.2.0/24 via 10.1.0.2");
        follower.until_resolved(target, second).await;
        lab.lb.ip("route add 192.0.2.0/28 via 10.0.0.2");
        follower.until_resolved(target, first).await;
        lab.lb.ip("route add 192.0.2.0/24 via 10.1.0.2 table 77");
        lab.lb.ip("rule add to 192.0.2.7 lookup 77");
        follower.until_resolved(target, second).await;
        lab.lb.ip("rule del to 192.0.2.7 lookup 77");
        follower.until_resolved(target, first).await;
        // An interface that goes down takes its routes along without a word; the wider one is left.
        lab.lb.ip("link set eth0 down");
        follower.until_resolved(target, second).await;
        lab.lb.ip("route del 192.0.2.0/24");
        follower.until_unresolved(target, |why| matches!(why, Unresolved::NoRoute { .. })).await;
    });
}

#[test]
#[ignore = "needs root"]
fn a_route_by_a_next_hop_object_follows_the_object() {
    let lab = Lab::new();
    lab.second_link();
    lab.lb.ip("nexthop add id 7 via 10.0.0.2 dev eth0");
    lab.lb.ip("route add 192.0.2.0/24 nhid 7");
    let target = tunnel("192.0.2.7");
    lab.follow(Pace::default(), &[target], async |follower| {
        follower.until_resolved(target, lab.by_eth0()).await;
        lab.lb.ip("nexthop replace id 7 via 10.1.0.2 dev eth1");
        follower.until_resolved(target, lab.by("eth1", "peer1")).await;
    });
}

#[test]
#[ignore = "needs root"]
fn routes_that_name_next_hop_objects_only_are_followed_to_them() {
    let lab = Lab::new();
    lab.second_link();
    lab.lb.sysctl("net/ipv4/nexthop_compat_mode", "0").unwrap();
    lab.lb.ip("nexthop add id 7 via 10.0.0.2 dev eth0");
    lab.lb.ip("nexthop add id 8 via 10.1.0.2 dev eth1");
    lab.lb.ip("nexthop add id 9 group 7,1/8,3");
    lab.lb.ip("nexthop add id 6 via fe80::2 dev eth0");
    lab.lb.ip("nexthop add id 5 blackhole");
    lab.lb.ip("route add 192.0.2.0/24 nhid 9");
    lab.lb.ip("route add 192.0.3.0/24 nhid 7 mtu 1400");
    lab.lb.ip("route add 192.0.4.0/24 nhid 5");
    lab.lb.ip("-6 route add 2001:db8:1::/48 nhid 6");
    let shared: Vec<Target> = (0..64).map(|last| tunnel(&format!("192.0.2.{last}"))).collect();
    let (narrow, dead, six) = (tunnel("192.0.3.7"), tunnel("192.0.4.7"), tunnel("2001:db8:1::7"));
    let targets: Vec<Target> = shared.iter().copied().chain([narrow, dead, six]).collect();
    lab.follow(Pace::default(), &targets, async |follower| {
        let (first, second) = (lab.by_eth0(), lab.by("eth1", "peer1"));
        follower.until_resolved(narrow, NextHop { mtu: 1400, ..first }).await;
        follower.until_resolved(six, first).await;
        follower.until_unresolved(dead, |why| why.to_string().contains("refuses packets (blackhole")).await;
        let by = |follower: &Follower, next_hop| {
            shared.iter().filter(|target| follower.next_hops.get(target) == Some(&Ok(next_hop))).count()
        };
        follower.until("both hops of the group serve", |f| by(f, first) + by(f, second) == 64).await;
        let of_first = by(follower, first);
        assert!((4..32).contains(&of_first), "{of_first} of 64 by the hop of weight 1 beside one of weight 3");
        lab.lb.ip("link set eth1 down");
        follower.until("the other hop serves alone", |f| by(f, first) == 64).await;
    });
}

#[test]
#[ignore = "needs root"]
fn hops_of_a_route_are_shared_by_weight_and_one_without_carrier_is_not_taken() {
    let lab = Lab::new();
    lab.second_link();
    lab.lb.ip("route add 192.0.2.0/24 nexthop via 10.0.0.2 weight 1 nexthop via 10.1.0.2 weight 3");
    lab.lb.ip("-6 addr add 2001:db8:a::1/64 dev eth1 nodad");
    lab.peer.ip("-6 addr add 2001:db8:a::2/64 dev peer1 nodad");
    lab.lb.ip(
        "-6 route add 2001:db8:1::/48 nexthop via 2001:db8::2 dev eth0 weight 1 nexthop via 2001:db8:a::2 dev eth1 \
         weight 3",
    );
    let targets: Vec<Target> = (0..64)
        .flat_map(|last| [tunnel(&format!("192.0.2.{last}")), tunnel(&format!("2001:db8:1::{last:x}"))])
        .collect();
    lab.follow(Pace::default(), &targets, async |follower| {
        let (first, second) = (lab.by_eth0(), lab.by("eth1", "peer1"));
        let by = |follower: &Follower, next_hop| {
            targets.iter().filter(|target| follower.next_hops.get(target) == Some(&Ok(next_hop))).count()
        };
        follower.until("both hops serve", |f| by(f, first) + by(f, second) == 128).await;
        let before = follower.next_hops.clone();
        let of_first = by(follower, first);
        assert!((12..56).contains(&of_first), "{of_first} of 128 by the hop of weight 1 beside one of weight 3");
        // The interface stays up, without carrier: the kernel calls the hop "linkdown".
        lab.peer.ip("link set peer1 down");
        follower.until("the other hop serves alone", |f| by(f, first) == 128).await;
        lab.peer.ip("link set peer1 up");
        // An interface that goes down loses its IPv6 addresses.
        lab.peer.ip("-6 addr add 2001:db8:a::2/64 dev peer1 nodad");
        follower.until("all is as before", |f| f.next_hops == before).await;
    });
}

/// A target that is reached by a mark.
fn marked(address: &str, mark: u32) -> Target {
    Target { via: Via { mark, ..Via::default() }, ..tunnel(address) }
}

#[test]
#[ignore = "needs root"]
fn a_mark_chooses_among_the_routing_tables() {
    let lab = Lab::new();
    lab.second_link();
    lab.lb.ip("-6 addr add 2001:db8:a::1/64 dev eth1 nodad");
    lab.peer.ip("-6 addr add 2001:db8:a::2/64 dev peer1 nodad");
    lab.lb.ip("route add 192.0.2.0/24 via 10.0.0.2");
    lab.lb.ip("route add 192.0.2.0/24 via 10.1.0.2 table 77");
    lab.lb.ip("-6 route add 2001:db8:1::/48 via 2001:db8::2");
    lab.lb.ip("-6 route add 2001:db8:1::/48 via 2001:db8:a::2 table 77");
    lab.lb.ip("rule add fwmark 0x10 lookup 77");
    lab.lb.ip("-6 rule add fwmark 0x10 lookup 77");
    let addresses = ["192.0.2.7", "2001:db8:1::7"];
    let ways = |address| [tunnel(address), marked(address, 0x10), marked(address, 0x20)];
    let targets: Vec<Target> = addresses.into_iter().flat_map(ways).collect();
    lab.follow(Pace::default(), &targets, async |follower| {
        let (first, second) = (lab.by_eth0(), lab.by("eth1", "peer1"));
        for address in addresses {
            let [plain, sixteen, thirty_two] = ways(address);
            follower.until_resolved(plain, first).await;
            follower.until_resolved(sixteen, second).await;
            follower.until_resolved(thirty_two, first).await;
        }
        // Rules that come and go are followed.
        lab.lb.ip("rule del fwmark 0x10 lookup 77");
        lab.lb.ip("rule add fwmark 0x20 prohibit");
        lab.lb.ip("-6 rule add fwmark 0x20 lookup 77");
        follower.until_resolved(marked("192.0.2.7", 0x10), first).await;
        let refused = "the route to 192.0.2.7 with mark 0x20 refuses packets (prohibit): see `ip route get fibmatch \
                       192.0.2.7 mark 0x20`";
        follower.until_unresolved(marked("192.0.2.7", 0x20), |why| why.to_string() == refused).await;
        follower.until_resolved(marked("2001:db8:1::7", 0x20), second).await;
        for plain in addresses.map(tunnel) {
            assert_eq!(follower.next_hops[&plain], Ok(first));
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_vrf_that_there_is_not_is_named() {
    let lab = Lab::new();
    let via = Via { vrf: VrfName::new("blue").unwrap(), mark: 0 };
    let (plain, by_vrf) = (tunnel("10.0.0.2"), Target { via, ..tunnel("10.0.0.2") });
    let says = |text: &'static str| move |why: &Unresolved| why.to_string().starts_with(text);
    lab.follow(Pace::default(), &[plain, by_vrf], async |follower| {
        follower.until_unresolved(by_vrf, says("VRF blue does not exist here")).await;
        follower.until_resolved(plain, lab.by_eth0()).await;
        lab.lb.ip("link add blue type bridge");
        lab.lb.ip("link set blue up");
        follower.until_unresolved(by_vrf, says("VRF blue is an interface, but not a VRF")).await;
        lab.lb.ip("link del blue");
        follower.until_unresolved(by_vrf, says("VRF blue does not exist here")).await;
        assert_eq!(follower.next_hops[&plain], Ok(lab.by_eth0()));
    });
}

#[test]
#[ignore = "needs root"]
fn backends_in_a_vrf_are_reached_by_its_tables() {
    let lab = Lab::new();
    // `ip` has the kernel load the module, if it is one.
    let mut add = Command::new("ip");
    let made = lab.lb.run(|| patience::output(add.args("link add blue type vrf table 10".split(' ')))).unwrap();
    let error = String::from_utf8_lossy(&made.stderr);
    if error.contains("Unknown device type") {
        return patience::not_built("backends in a VRF", "CONFIG_NET_VRF");
    }
    assert!(made.status.success(), "{error}");
    lab.second_link();
    lab.lb.ip("link set eth1 master blue");
    lab.lb.ip("link set blue up");
    lab.lb.ip("route add 192.0.2.0/24 via 10.0.0.2");
    lab.lb.ip("route add 192.0.2.0/24 via 10.1.0.2 vrf blue");
    let via = Via { vrf: VrfName::new("blue").unwrap(), mark: 0 };
    let (plain, by_vrf) = (tunnel("192.0.2.7"), Target { via, ..tunnel("192.0.2.7") });
    lab.follow(Pace::default(), &[plain, by_vrf], async |follower| {
        follower.until_resolved(plain, lab.by_eth0()).await;
        follower.until_resolved(by_vrf, lab.by("eth1", "peer1")).await;
        lab.lb.ip("link set blue down");
        follower.until_unresolved(by_vrf, |why| why.to_string().starts_with("VRF blue is down")).await;
        assert_eq!(follower.next_hops[&plain], Ok(lab.by_eth0()));
    });
}

#[test]
#[ignore = "needs root"]
fn a_pinned_mac_address_stays_whatever_the_segment_says() {
    let lab = Lab::new();
    lab.peer.sysctl("net/ipv4/conf/all/arp_notify", "1").unwrap();
    let (believing, mac) = (l2("10.0.0.2"), mac(&lab.peer, "peer0"));
    let pinned = Target { mac: Some(mac), ..believing };
    // Nobody is there to answer, and nobody is asked.
    let absent = Target { mac: Some([2, 0, 0, 0, 0, 0x99]), ..l2("10.0.0.99") };
    lab.follow(Pace::default(), &[believing, pinned, absent], async |follower| {
        let by_own = lab.by_eth0();
        follower.until_resolved(believing, by_own).await;
        follower.until_resolved(pinned, by_own).await;
        follower.until_resolved(absent, lab.by_eth0_to(0x99)).await;
        assert_eq!(lab.lb.ip("neigh show to 10.0.0.99"), "");
        // Somebody on the segment says that the address is his, and the kernel believes it.
        lab.peer.ip("link set peer0 address 02:00:00:00:00:77");
        follower.until_resolved(believing, lab.by_eth0_to(0x77)).await;
        assert_eq!(follower.next_hops[&pinned], Ok(by_own));
        lab.lb.ip("link set eth0 down");
        follower.until_unresolved(pinned, |why| why.to_string().contains("eth0")).await;
    });
}

#[test]
#[ignore = "needs root"]
fn a_target_that_was_let_go_of_is_found_anew() {
    let lab = Lab::new();
    lab.lb.ip("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:66 dev eth0 nud permanent");
    let target = l2("10.0.0.2");
    lab.follow(Pace::default(), &[target], async |follower| {
        follower.until_resolved(target, lab.by_eth0_to(0x66)).await;
        // The runtime has this one thread: the task sees only that the target is there, as before.
        follower.want([]);
        lab.lb.ip("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:77 dev eth0 nud permanent");
        follower.want([target]);
        follower.next_hops.clear();
        follower.until("it is told once more", |f| f.next_hops.contains_key(&target)).await;
        assert_eq!(follower.next_hops[&target], Ok(lab.by_eth0_to(0x77)), "the first that is said is true");
    });
}

#[test]
#[ignore = "needs root"]
fn an_interface_is_followed_under_all_its_names() {
    let lab = Lab::new();
    lab.follow(Pace::default(), &[], async |follower| {
        let ifindex = ifindex(&lab.lb, "eth0");
        lab.lb.ip("link property add dev eth0 altname enP65536p1s0f0np0");
        let named = |change: &InterfaceChange| {
            matches!(change, InterfaceChange::Changed(eth0) if eth0.is_named("enP65536p1s0f0np0"))
        };
        follower.until_changed("eth0 has another name", named).await;
        lab.lb.ip("link set eth0 name wan0");
        let renamed = |change: &InterfaceChange| {
            matches!(change, InterfaceChange::Renamed { from, interface }
                if from == "eth0" && interface.is_named("wan0") && interface.ifindex == ifindex)
        };
        follower.until_changed("eth0 is wan0", renamed).await;
        let gone = |change: &InterfaceChange| matches!(change, InterfaceChange::Vanished(_));
        assert!(!follower.changes.iter().any(gone), "{:?}", follower.changes);
        lab.lb.ip("link property del dev wan0 altname enP65536p1s0f0np0");
        let bare = |change: &InterfaceChange| {
            matches!(change, InterfaceChange::Changed(wan0) if wan0.altnames.is_empty() && wan0.name == "wan0")
        };
        follower.until_changed("wan0 has no other name", bare).await;
    });
}

#[test]
#[ignore = "needs root"]
fn an_interface_that_is_deleted_and_made_again_is_another_one() {
    let lab = Lab::new();
    let target = tunnel("10.0.0.2");
    lab.follow(Pace::default(), &[target], async |follower| {
        let old = follower.interface("eth0").unwrap();
        assert_eq!((old.mac, old.mtu, old.kind.as_deref()), (Some(mac(&lab.lb, "eth0")), 1500, Some("veth")));
        assert!(old.up && old.carrier && old.arp && !old.loopback && old.lower.is_none());
        follower.until_resolved(target, lab.by_eth0()).await;
        assert_eq!(follower.changes, [], "what was there from the start is no change");

        lab.lb.ip("link del eth0");
        let vanished = |change: &InterfaceChange| {
            matches!(change, InterfaceChange::Vanished(gone) if (&gone.name, gone.ifindex) == (&old.name, old.ifindex))
        };
        follower.until_changed("eth0 vanished", vanished).await;
        assert_eq!(follower.interface("eth0"), None);
        follower.until_unresolved(target, |why| matches!(why, Unresolved::RouteLost { .. })).await;

        join(&lab.lb, "eth0", &lab.peer, "peer0");
        lab.lb.ip("addr add 10.0.0.1/24 dev eth0");
        lab.peer.ip("addr add 10.0.0.2/24 dev peer0");
        let new = ifindex(&lab.lb, "eth0");
        assert_ne!(new, old.ifindex);
        let appeared = |change: &InterfaceChange| {
            matches!(change, InterfaceChange::Appeared(eth0) if (eth0.name.as_str(), eth0.ifindex) == ("eth0", new))
        };
        follower.until_changed("eth0 appeared", appeared).await;
        follower.until_resolved(target, lab.by_eth0()).await;
    });
}

#[test]
#[ignore = "needs root"]
fn a_port_that_leaves_its_bridge_lives_on() {
    let lab = Lab::new();
    lab.follow(Pace::default(), &[], async |follower| {
        lab.lb.ip("link add br0 type bridge");
        lab.lb.ip("link set eth0 master br0");
        let bridge = ifindex(&lab.lb, "br0");
        let joined =
            |change: &InterfaceChange| matches!(change, InterfaceChange::Changed(eth0) if eth0.master == Some(bridge));
        follower.until_changed("eth0 joined br0", joined).await;
        lab.lb.ip("link del br0");
        let vanished =
            |change: &InterfaceChange| matches!(change, InterfaceChange::Vanished(gone) if gone.name == "br0");
        follower.until_changed("br0 vanished", vanished).await;
        follower.listen(Duration::from_millis(200)).await;
        let gone: Vec<_> =
            follower.changes.iter().filter(|change| matches!(change, InterfaceChange::Vanished(_))).collect();
        assert_eq!(gone.len(), 1, "{gone:?}");
        assert_eq!(follower.interface("eth0").unwrap().master, None);
    });
}

#[test]
#[ignore = "needs root"]
fn neighbours_in_use_are_kept_alive_and_a_silent_change_of_mac_address_is_learnt() {
    let lab = Lab::new();
    for (key, value) in [("base_reachable_time_ms", "300"), ("delay_first_probe_time", "0")] {
        lab.lb.sysctl(&format!("net/ipv4/neigh/eth0/{key}"), value).unwrap();
    }
    let target = tunnel("10.0.0.2");
    let pace = Pace { keep_alive: Duration::from_millis(300), ..Pace::default() };
    lab.follow(pace, &[target], async |follower| {
        follower.until_resolved(target, lab.by_eth0()).await;
        // An entry that nobody uses would go stale once and stay so.
        let (mut states, deadline) = (Vec::new(), Instant::now() + LIMIT);
        let confirmed = |states: &[String]| states.iter().filter(|state| *state == "REACHABLE").count();
        let is_stale = |states: &[String]| states.iter().any(|state| state == "STALE");
        while !(confirmed(&states) >= 3 && is_stale(&states)) && Instant::now() < deadline {
            let state = lab.lb.ip("neigh show to 10.0.0.2").split_whitespace().last().unwrap_or("none").to_owned();
            if states.last() != Some(&state) {
                states.push(state);
            }
            assert_eq!(follower.listen(Duration::from_millis(20)).await, 0, "what stays the same is no news");
        }
        assert!(confirmed(&states) >= 3 && is_stale(&states), "{states:?}");
        assert!(!states.iter().any(|state| state == "FAILED" || state == "none"), "{states:?}");

        lab.peer.ip("link set peer0 address 02:00:00:00:00:77");
        follower.until_resolved(target, lab.by_eth0_to(0x77)).await;
    });
}

#[test]
#[ignore = "needs root"]
fn tens_of_thousands_of_targets_are_resolved_and_followed() {
    const EACH: u32 = 20_000;
    let lab = Lab::new();
    lab.lb.ip("route add default via 10.0.0.2");
    lab.lb.ip("addr add 10.64.0.1/15 dev eth0");
    let distant = (0..EACH).map(|index| IpAddr::from((0xc000_0000 + index * 7).to_be_bytes()));
    let near = (0..EACH).map(|index| IpAddr::from((0x0a40_0002 + index).to_be_bytes()));
    // Permanent, so as not to take the room for others in a table that all namespaces share.
    let neighbour = |address| format!("neigh add {address} lladdr 02:00:00:00:00:99 dev eth0 nud permanent\n");
    lab.lb.ip_batch(&near.clone().map(neighbour).collect::<String>()).unwrap();
    let targets: Vec<Target> = distant.chain(near).map(|address| Target::new(address, false)).collect();
    lab.follow(Pace::default(), &targets, async |follower| {
        let all_by = async |follower: &mut Follower, distant: NextHop, near: NextHop| {
            let (begun, expected) = (Instant::now(), HashMap::from([(distant, EACH), (near, EACH)]));
            let mut counts = HashMap::new();
            while counts != expected {
                assert!(begun.elapsed() < LIMIT, "{counts:?}");
                follower.listen(Duration::from_millis(50)).await;
                counts.clear();
                for next_hop in follower.next_hops.values().flatten() {
                    *counts.entry(*next_hop).or_default() += 1;
                }
            }
            begun.elapsed()
        };
        let resolved = all_by(follower, lab.by_eth0(), lab.by_eth0_to(0x99)).await;
        lab.lb.ip("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:88 dev eth0 nud permanent");
        let followed = all_by(follower, lab.by_eth0_to(0x88), lab.by_eth0_to(0x99)).await;
        println!("{} targets: resolved in {resolved:?}, a new gateway MAC address told in {followed:?}", 2 * EACH);
    });
}

#[test]
#[ignore = "needs root"]
fn changes_whose_events_were_lost_are_found_all_the_same() {
    let lab = Lab::new();
    lab.lb.ip("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:66 dev eth0 nud permanent");
    let target = tunnel("10.0.0.2");
    let never = Duration::from_secs(3600);
    let pace = Pace { keep_alive: never, resync: never, ..Pace::default() };
    lab.follow(pace, &[target], async |follower| {
        follower.until_resolved(target, lab.by_eth0_to(0x66)).await;
        // The runtime has this one thread: while it waits for these commands, nobody reads the events.
        let routes = || (0..20_000).map(|index| format!("172.{}.{}.0/24 dev eth0\n", 16 + index / 256, index % 256));
        let add: String = routes().map(|route| format!("route add {route}")).collect();
        let del: String = routes().map(|route| format!("route del {route}")).collect();
        let dropped = || {
            let sockets = lab.lb.run(|| fs::read_to_string("/proc/thread-self/net/netlink").unwrap());
            sockets.lines().filter_map(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok()).sum::<u64>()
        };
        for _ in 0..20 {
            lab.lb.ip_batch(&add).unwrap();
            lab.lb.ip_batch(&del).unwrap();
            if dropped() > 0 {
                break;
            }
        }
        assert!(dropped() > 0, "no event was lost: this proves nothing");
        lab.lb.ip("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
        follower.until_resolved(target, lab.by_eth0_to(0x99)).await;
    });
}

#[test]
#[ignore = "needs root"]
fn the_task_follows_the_namespace_of_the_thread_that_starts_it() {
    let lab = Lab::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (mut next_hops, handle, mut events) = lab.lb.run(|| {
        let _guard = runtime.enter();
        network::start().unwrap()
    });
    assert!(handle.interfaces().iter().any(|interface| interface.name == "eth0"));
    let _waiting = next_hops.ask([l2("10.0.0.2")]);
    let resolved = async {
        while let Some(event) = events.recv().await {
            if let Event::NextHop { result: Ok(next_hop), .. } = event {
                return next_hop;
            }
        }
        panic!("the task ended");
    };
    let next_hop = runtime.block_on(async { timeout(LIMIT, resolved).await.unwrap() });
    assert_eq!(next_hop, lab.by_eth0());
}
