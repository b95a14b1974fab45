//! The machine that the load balancer runs on.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use ipnet::{Ipv4Net, Ipv6Net};

use super::{
    IcmpRate, Readers, Share, UnknownValue, Vrf, Word,
    word::{text_serde, words},
};
use crate::seed::HashSeed;

/// What concerns the machine rather than a VIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Interfaces that the data plane is attached to.
    pub interfaces: Vec<String>,
    /// Whether the text has `interfaces`. Where it has none, those that are attached stay.
    pub names_interfaces: bool,
    /// How the data plane is attached.
    pub xdp_mode: XdpMode,
    /// Where `/metrics` listens; absent for no listener.
    pub metrics: Option<SocketAddr>,
    /// Whether `/metrics` has series of each backend, for VIPs that do not say.
    pub metrics_backends: bool,
    /// The socket of the API.
    pub socket: PathBuf,
    /// Who may read what the API tells, besides those who may change things.
    pub readers: Readers,
    /// Directory of the pinned programs, links and maps.
    pub bpffs: PathBuf,
    /// Directory of what the daemon must know after a crash: the config that was applied last.
    pub state: PathBuf,
    /// What a config may take away that is applied without force.
    pub max_removed: Share,
    /// Outer source addresses of encapsulated IPv4 packets; the host bits come from the flow hash.
    pub encap_source4: Ipv4Net,
    /// Outer source addresses of packets that are encapsulated in IPv6; of the host bits, the last 32 come from the
    /// flow hash. There is no default: no prefix is free in every network. Always there where some backend needs it.
    pub encap_source6: Option<Ipv6Net>,
    /// VIPs that the maps have room for.
    pub max_vips: u32,
    /// Backends that the maps have room for, summed over the VIPs.
    pub max_backends: u32,
    /// Slots that the maps have room for, summed over the VIPs.
    pub max_slots: u32,
    /// Established flows that the data plane remembers at most; absent for as many as suit the host's memory.
    pub max_flows: Option<u32>,
    /// The VRF by which backends are reached, unless their VIP names one; absent for the main routing.
    pub vrf: Option<Vrf>,
    /// The mark that policy rules are asked with for the way to backends, unless their VIP has one; absent for none.
    pub mark: Option<u32>,
    /// The file of the flow hash's seed; absent for the hash that everybody knows.
    pub hash_seed_file: Option<PathBuf>,
    /// What that file holds. The parser reads no other file and leaves the default; whoever reads config files from
    /// disk fills it in.
    pub hash_seed: HashSeed,
    /// How many ICMP answers of its own the data plane sends.
    pub icmp_rate: IcmpRate,
    /// Whether the data plane logs what it does with each packet.
    pub log_packets: bool,
}

impl Node {
    /// By which routing tables backends are reached whose VIP does not say: where it is another, they are other ways.
    pub fn routing(&self) -> (Option<Vrf>, Option<u32>) {
        (self.vrf, self.mark)
    }
}

impl Default for Node {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            names_interfaces: true,
            xdp_mode: XdpMode::Auto,
            metrics: None,
            metrics_backends: true,
            socket: PathBuf::from("/run/naru/naru.sock"),
            readers: Readers::Groups(Vec::new()),
            bpffs: PathBuf::from("/sys/fs/bpf/naru"),
            state: PathBuf::from("/var/lib/naru"),
            max_removed: Share(50),
            encap_source4: Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 16),
            encap_source6: None,
            max_vips: 16_384,
            max_backends: 131_072,
            max_slots: 100_000_000,
            max_flows: None,
            vrf: None,
            mark: None,
            hash_seed_file: None,
            hash_seed: HashSeed::default(),
            icmp_rate: IcmpRate::default(),
            log_packets: false,
        }
    }
}

words! {
    /// How the data plane is attached to an interface.
    XdpMode: "XDP mode" {
        /// In the driver where that works, else in the stack.
        Auto = "auto",
        /// In the driver, or not at all.
        Native = "native",
        /// In the stack: slower, on any interface.
        Generic = "generic",
    }
}
