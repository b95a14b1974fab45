//! The seed of the flow hash, over the real program: what a stranger computes, and what load balancers agree about.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use lb_common::{Address, HashKey};
use lb_ebpf::hash::FlowHash;
use lb_userspace::{model::Vip, seed};
use naru_tests::{
    forwarder::{Forwarder, Verdict},
    frames::Packet,
};

const BACKENDS: usize = 16;
/// Packets that a stranger makes.
const AIMED: usize = 400;
const TCP: u8 = 6;

/// A VIP as this file needs it: by family, and by what its hash covers.
#[derive(Clone, Copy, Debug)]
struct Case {
    ipv6: bool,
    source_ip: bool,
}

const CASES: [Case; 4] = [
    Case { ipv6: false, source_ip: false },
    Case { ipv6: true, source_ip: false },
    Case { ipv6: false, source_ip: true },
    Case { ipv6: true, source_ip: true },
];

impl Case {
    fn vip(self) -> SocketAddr {
        if self.ipv6 { "[2001:db8:f::10]:80" } else { "203.0.113.10:80" }.parse().unwrap()
    }

    fn client(self, number: u32) -> SocketAddr {
        let (host, port) = (number / 60_000, (1024 + number % 60_000) as u16);
        let host = if self.source_ip { number } else { host };
        let address: IpAddr = match self.ipv6 {
            true => Ipv6Addr::from_bits((0x2001_0db8_000c << 80) + u128::from(host)).into(),
            false => std::net::Ipv4Addr::from_bits(0x0a00_0000 + host).into(),
        };
        SocketAddr::new(address, port)
    }

    /// A load balancer with the seed in this file, if any.
    fn forwarder(self, seed: Option<&Path>) -> Forwarder {
        let backends = (1..=BACKENDS).map(|host| format!("{{ address = \"10.0.1.{host}\" }}")).collect::<Vec<_>>();
        let seed = seed.map_or_else(String::new, |path| format!("hash_seed_file = {path:?}\n"));
        let hash = if self.source_ip { "source-ip" } else { "5-tuple" };
        let config = format!(
            "[node]\ninterfaces = []\n{seed}[[vip]]\nname = \"web\"\naddress = \"{}\"\nports = [\"tcp/80\"]\nforward = \
             \"ipip\"\nhash = \"{hash}\"\nbackends = [{}]\n",
            self.vip().ip(),
            backends.join(", ")
        );
        Forwarder::new(&config).unwrap()
    }

    /// The slot of a client's connection by the hash that everybody knows.
    fn public_slot(self, client: SocketAddr) -> u32 {
        let ([a, b], [c, d]) = (client.port().to_be_bytes(), self.vip().port().to_be_bytes());
        let (ports, protocol) = if self.source_ip { (0, 0) } else { (u32::from_ne_bytes([a, b, c, d]), TCP) };
        let (from, to) = (Address::from(client.ip()), Address::from(self.vip().ip()));
        let hash = match (from.v4(), to.v4()) {
            (Some(from), Some(to)) => FlowHash::v4(&HashKey::PUBLIC, from, to, ports, protocol),
            _ => FlowHash::v6(&HashKey::PUBLIC, from, to, ports, protocol),
        };
        hash.slot(Vip::DEFAULT_SLOTS)
    }

    /// The backend that a client's SYN goes to, and the varied half of the outer source address.
    fn sent(self, forwarder: &Forwarder, client: SocketAddr) -> (u8, [u8; 2]) {
        let output = forwarder.run(&Packet::syn(client, self.vip()).frame()).unwrap();
        assert_eq!(output.verdict, Verdict::Tx, "{client}");
        (output.frame[33], [output.frame[28], output.frame[29]])
    }
}

fn seeds<const N: usize>() -> (tempfile::TempDir, [PathBuf; N]) {
    let directory = tempfile::tempdir().unwrap();
    let paths = std::array::from_fn(|number| directory.path().join(format!("seed-{number}")));
    for path in &paths {
        seed::generate(path, false).unwrap();
    }
    (directory, paths)
}

/// Without a seed the attack works, which is what makes the second half of this test one that can fail.
#[test]
#[ignore = "needs root"]
fn packets_that_are_computed_to_meet_are_spread_by_a_seed() {
    let (_directory, [seed]) = seeds();
    for case in CASES {
        let aimed = (0..).map(|number| case.client(number));
        // One slot of all is aimed at: every packet of it meets on one backend.
        let aimed: Vec<_> = aimed.filter(|client| case.public_slot(*client) == 4711).take(AIMED).collect();
        let spread = |forwarder: &Forwarder| {
            let mut backends = BTreeMap::new();
            aimed.iter().for_each(|client| *backends.entry(case.sent(forwarder, *client).0).or_insert(0) += 1);
            backends
        };
        let met = spread(&case.forwarder(None));
        assert_eq!(met.values().collect::<Vec<_>>(), [&AIMED], "{case:?}: the stranger's arithmetic is wrong: {met:?}");
        let met = spread(&case.forwarder(Some(&seed)));
        // 25 for each of 16 backends, standard deviation 5.
        assert!(met.len() == BACKENDS && met.values().all(|packets| *packets < 55), "{case:?}: {met:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn load_balancers_agree_by_their_seed() {
    let (_directory, [seed, other]) = seeds();
    for case in CASES {
        let [a, b, c] = [&seed, &seed, &other].map(|seed| case.forwarder(Some(seed)));
        let clients = (0..400).map(|number| case.client(number));
        let (mut elsewhere, mut other_source) = (0, 0);
        for client in clients {
            let sent = case.sent(&a, client);
            assert_eq!(sent, case.sent(&b, client), "{case:?} {client}");
            let by_other_seed = case.sent(&c, client);
            elsewhere += usize::from(by_other_seed.0 != sent.0);
            other_source += usize::from(by_other_seed.1 != sent.1);
        }
        // One of 16 goes to the same backend by chance, and nearly none gets the same source: both halves are keyed.
        assert!(
            elsewhere > 330 && other_source > 390,
            "{case:?}: {elsewhere} go elsewhere, {other_source} from elsewhere"
        );
    }
}
