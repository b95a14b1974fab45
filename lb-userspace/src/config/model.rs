//! What a config says, in types. Built by the parser only, so that a [`Config`] in hand is a valid one.
//!
//! Each enum here has one spelling per value, the one of the config file: it is what `Display` prints and `FromStr`
//! reads, and what the API carries.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use ipnet::{Ipv4Net, Ipv6Net};
use lb_common::{BackendState, Via};

use super::{mac::Mac, suggest, via::Vrf};
use crate::seed::HashSeed;

/// A whole config file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The machine that the load balancer runs on: `[node]`.
    pub node: Node,
    /// The virtual addresses in the order of the file: `[[vip]]`.
    pub vips: Vec<Vip>,
}

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
    /// Outer source addresses of packets that are encapsulated in IPv6; of the host bits, the last 32 come from the flow
    /// hash. There is no default: no prefix is free in every network. Always there where some backend needs it.
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
    /// What that file holds. The parser reads no other file and leaves the default; whoever reads config files from disk
    /// fills it in.
    pub hash_seed: HashSeed,
    /// Whether the data plane logs what it does with each packet.
    pub log_packets: bool,
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
            log_packets: false,
        }
    }
}

/// Who may read what the API tells, besides those who may change things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readers {
    /// Every user of the machine.
    All,
    /// Members of these groups.
    Groups(Vec<String>),
}

impl fmt::Display for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Groups(groups) if groups.is_empty() => f.write_str("none"),
            Self::Groups(groups) => f.write_str(&groups.join(",")),
        }
    }
}

/// A share in per cent, 0 to 100: `50%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u8);

impl Share {
    /// Whether `part` is more of `all` than this.
    pub fn is_exceeded(self, part: usize, all: usize) -> bool {
        part as u128 * 100 > all as u128 * u128::from(self.0)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl FromStr for Share {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        let share = text.strip_suffix('%').and_then(|number| number.parse().ok()).filter(|share| *share <= 100);
        share.map(Self).ok_or_else(|| ShareError(text.to_owned()))
    }
}

/// A text that is no [`Share`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a share; write whole per cent from `\"0%\"` to `\"100%\"`")]
pub struct ShareError(String);

/// A virtual address, what is served on it, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vip {
    /// What operators, metrics and the API call it; unique in a config.
    pub name: String,
    /// The address that clients dial.
    pub address: IpAddr,
    /// What is served on it; at least one, all different.
    pub ports: Vec<Port>,
    /// How packets reach the backends.
    pub forward: ForwardMode,
    /// What of a packet makes its flow.
    pub hash: FlowHash,
    /// Size of the Maglev table: a prime.
    pub slots: u32,
    /// Which of its flows the data plane remembers.
    pub tracking: Tracking,
    /// How long a TCP flow may be silent before it counts as ended, in whole seconds.
    pub tcp_idle: Duration,
    /// How long a UDP flow may be silent before it counts as ended, in whole seconds.
    pub udp_idle: Duration,
    /// Whether `/metrics` has series of each of its backends; absent for what `[node]` says.
    pub metrics_backends: Option<bool>,
    /// The VRF by which its backends are reached; absent for that of the node.
    pub vrf: Option<Vrf>,
    /// The mark that policy rules are asked with for the way to its backends; absent for that of the node.
    pub mark: Option<u32>,
    /// The real servers, each address once.
    pub backends: Vec<Backend>,
}

impl Vip {
    /// By which routing tables its backends are reached, on this node.
    pub fn via(&self, node: &Node) -> Via {
        let vrf = self.vrf.or(node.vrf).map(Into::into).unwrap_or_default();
        Via { vrf, mark: self.mark.or(node.mark).unwrap_or(0) }
    }

    /// Slots of a VIP that does not say.
    pub const DEFAULT_SLOTS: u32 = 16_381;
    /// TCP idle time of a VIP that does not say: that of established connections in IPVS (`tcp_timeouts`).
    pub const DEFAULT_TCP_IDLE: Duration = Duration::from_secs(900);
    /// UDP idle time of a VIP that does not say: that of Envoy (`idle_timeout` of its UDP proxy) and of Cilium
    /// (`bpf-ct-timeout-service-any`).
    pub const DEFAULT_UDP_IDLE: Duration = Duration::from_secs(60);
}

/// A real server of a VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// Its own address, as opposed to the VIP's.
    pub address: IpAddr,
    /// Share of the VIP's flows in proportion to the other weights, `0..=65535`.
    pub weight: u32,
    /// Whether it takes flows at all.
    pub state: BackendState,
    /// Its MAC address, where nobody else is to be believed about that; with `l2` only.
    pub mac: Option<Mac>,
}

impl Backend {
    /// Weight of a backend that does not say.
    pub const DEFAULT_WEIGHT: u32 = 100;
    /// Largest weight.
    pub const MAX_WEIGHT: u32 = 65_535;

    /// The weight that counts for new flows: none unless the backend is active.
    pub fn effective_weight(&self) -> u32 {
        match self.state {
            BackendState::Active => self.weight,
            BackendState::Drain | BackendState::Down => 0,
        }
    }
}

/// A protocol and a port: `tcp/80`, `udp/any`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port, never 0; `None` for every port.
    pub port: Option<u16>,
}

/// Why a text is not a [`Port`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// No slash.
    #[error("`{0}` does not say protocol and port; write `tcp/80`, `udp/53` or `tcp/any`")]
    NoProtocol(String),
    /// The parts are swapped.
    #[error("`{text}` has port and protocol the wrong way round; write `{swapped}`")]
    Swapped {
        /// As written.
        text: String,
        /// As it should be.
        swapped: String,
    },
    /// Not a protocol.
    #[error(transparent)]
    Protocol(#[from] UnknownValue),
    /// Port 0.
    #[error("port 0 cannot be dialled; for every port write `{0}/any`")]
    Zero(Protocol),
    /// Not a port.
    #[error("`{text}` is not a port; write a number from 1 to 65535, or `{protocol}/any` for every port")]
    NotAPort {
        /// What stands behind the slash.
        text: String,
        /// The protocol before it.
        protocol: Protocol,
    },
}

impl FromStr for Port {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let (left, right) = text.split_once('/').ok_or_else(|| PortError::NoProtocol(text.to_owned()))?;
        let protocol = match left.parse::<Protocol>() {
            Ok(protocol) => protocol,
            Err(_) if right.parse::<Protocol>().is_ok() => {
                return Err(PortError::Swapped { text: text.to_owned(), swapped: format!("{right}/{left}") });
            }
            Err(unknown) => return Err(unknown.into()),
        };
        let port = match right {
            "any" => None,
            number if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => match number.parse() {
                Ok(0) => return Err(PortError::Zero(protocol)),
                Ok(port) => Some(port),
                Err(_) => return Err(PortError::NotAPort { text: right.to_owned(), protocol }),
            },
            _ => return Err(PortError::NotAPort { text: right.to_owned(), protocol }),
        };
        Ok(Self { protocol, port })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}/{port}", self.protocol),
            None => write!(f, "{}/any", self.protocol),
        }
    }
}

/// A type whose values are words of the config.
pub trait Word: Copy + PartialEq + 'static {
    /// What such a value is, for messages: "forward mode".
    const WHAT: &'static str;
    /// Every value and its spelling.
    const WORDS: &'static [(&'static str, Self)];

    /// The spelling.
    fn word(self) -> &'static str {
        // Every value is in the list; the tests walk over all of them.
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("?", |(word, _)| word)
    }

    /// The value that `text` spells.
    fn from_word(text: &str) -> Result<Self, UnknownValue> {
        let value = Self::WORDS.iter().find(|(word, _)| *word == text);
        value.map(|(_, value)| *value).ok_or_else(|| UnknownValue::new::<Self>(text))
    }
}

/// A text that is none of the words that it could be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} `{text}`; {remedy}")]
pub struct UnknownValue {
    what: &'static str,
    text: String,
    remedy: String,
}

impl UnknownValue {
    fn new<T: Word>(text: &str) -> Self {
        let words = T::WORDS.iter().map(|(word, _)| *word);
        Self { what: T::WHAT, text: text.to_owned(), remedy: suggest::remedy(text, words) }
    }
}

impl Word for BackendState {
    const WHAT: &'static str = "state";
    const WORDS: &'static [(&'static str, Self)] =
        &[("active", Self::Active), ("drain", Self::Drain), ("down", Self::Down)];
}

/// Declares an enum of config words with `Display`, `FromStr` and serde.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident: $what:literal { $($(#[$value_doc:meta])* $value:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$value_doc])* $value,)+
        }

        impl Word for $name {
            const WHAT: &'static str = $what;
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$value),)+];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }

        impl FromStr for $name {
            type Err = UnknownValue;

            fn from_str(text: &str) -> Result<Self, UnknownValue> {
                Self::from_word(text)
            }
        }

        text_serde!($name);
    };
}

/// Implements serde for a type by its `Display` and `FromStr`.
macro_rules! text_serde {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'_, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

pub(super) use text_serde;

text_serde!(Port);

words! {
    /// A transport protocol that VIPs serve.
    Protocol: "protocol" {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
    }
}

words! {
    /// How a packet reaches its backend.
    ForwardMode: "forward mode" {
        /// Rewrite the destination MAC address, leave the packet as it is.
        L2 = "l2",
        /// Encapsulate in IPv4 or IPv6, whichever the backend's address is.
        Ipip = "ipip",
    }
}

words! {
    /// What of a packet makes its flow.
    FlowHash: "hash" {
        /// Both addresses, both ports and the protocol.
        FiveTuple = "5-tuple",
        /// The source address alone, so that a client keeps its backend.
        SourceIp = "source-ip",
    }
}

words! {
    /// Which flows of a VIP the data plane remembers.
    Tracking: "tracking" {
        /// Those on the slots that a change gives to another backend, so that it breaks none of them.
        Adaptive = "adaptive",
        /// Every flow, as Katran and IPVS do.
        Always = "always",
        /// None: a change of the backends breaks the flows on the slots that it moves.
        Never = "never",
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

/// Serde for a [`BackendState`], which lives in a crate without serde: `#[serde(with = "state_serde")]`.
pub mod state_serde {
    use lb_common::BackendState;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Word;

    /// As the config spells it.
    pub fn serialize<S: Serializer>(state: &BackendState, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(state.word())
    }

    /// As the config spells it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BackendState, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        BackendState::from_word(&text).map_err(serde::de::Error::custom)
    }

    /// The same for an optional state; absent and `null` are `None`.
    pub mod option {
        use super::*;

        /// As the config spells it.
        pub fn serialize<S: Serializer>(state: &Option<BackendState>, serializer: S) -> Result<S::Ok, S::Error> {
            match state {
                Some(state) => super::serialize(state, serializer),
                None => serializer.serialize_none(),
            }
        }

        /// As the config spells it.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BackendState>, D::Error> {
            let text = Option::<std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
            text.map(|text| BackendState::from_word(&text)).transpose().map_err(serde::de::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        fn check<T: Word + fmt::Debug>(all: &[T]) {
            assert_eq!(T::WORDS.len(), all.len());
            for value in all {
                assert_eq!(T::from_word(value.word()).as_ref(), Ok(value));
            }
        }
        check(&[BackendState::Active, BackendState::Drain, BackendState::Down]);
        check(&[Protocol::Tcp, Protocol::Udp]);
        check(&[ForwardMode::L2, ForwardMode::Ipip]);
        check(&[FlowHash::FiveTuple, FlowHash::SourceIp]);
        check(&[Tracking::Adaptive, Tracking::Always, Tracking::Never]);
        check(&[XdpMode::Auto, XdpMode::Native, XdpMode::Generic]);
    }

    #[test]
    fn ports_are_read_as_they_are_written() {
        for text in ["tcp/1", "tcp/65535", "udp/53", "udp/any"] {
            assert_eq!(text.parse::<Port>().unwrap().to_string(), text);
        }
        for (text, message) in [
            ("80", "`80` does not say protocol and port; write `tcp/80`, `udp/53` or `tcp/any`"),
            ("80/udp", "`80/udp` has port and protocol the wrong way round; write `udp/80`"),
            ("TCP/80", "unknown protocol `TCP`; did you mean `tcp`?"),
            ("icmp/8", "unknown protocol `icmp`; use one of `tcp`, `udp`"),
            ("udp/0", "port 0 cannot be dialled; for every port write `udp/any`"),
            ("tcp/+1", "`+1` is not a port; write a number from 1 to 65535, or `tcp/any` for every port"),
            ("tcp/65536", "`65536` is not a port; write a number from 1 to 65535, or `tcp/any` for every port"),
            ("tcp/", "`` is not a port; write a number from 1 to 65535, or `tcp/any` for every port"),
        ] {
            assert_eq!(text.parse::<Port>().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn only_active_backends_have_weight() {
        let backend = |state| Backend { address: IpAddr::from([10, 0, 0, 1]), weight: 7, state, mac: None };
        assert_eq!(backend(BackendState::Active).effective_weight(), 7);
        assert_eq!(backend(BackendState::Drain).effective_weight(), 0);
        assert_eq!(backend(BackendState::Down).effective_weight(), 0);
    }
}
