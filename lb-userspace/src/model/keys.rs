//! The keys of the config: what may stand in it, with its default, what it is for, and what a change of it does.
//!
//! A key of a VIP that has a default is declared once, in [`vip_keys!`] below: what a VIP has for it ([`Settings`]),
//! what somebody gives for it in a file, by command or over the API ([`Given`]), how differences are told, and its line
//! in `docs/config.md` follow from that. What the data plane makes of it is `plan::record`'s.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use super::value::{KeyValue, Scalar, WrongValue};
use super::{DrainDeadline, EchoReply, FlowHash, IdleTime, Mark, Slots, Tracking, Vrf, WayMtu};

/// A key, for whoever writes a config.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// A line that sets it, for the message that misses it.
    pub example: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// What a change of it does to flows.
    pub effect: &'static str,
}

/// Looks at every value that was given.
pub trait Visit {
    /// The value of a key; `None` where none was given.
    fn key<T: KeyValue>(&mut self, key: &'static Key, value: &Option<T>);
}

/// Gives values.
pub trait VisitMut {
    /// The place of a key's value.
    fn key<T: KeyValue>(&mut self, key: &'static Key, value: &mut Option<T>);
}

/// A key of which two VIPs have different values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingChange {
    /// The key.
    pub key: &'static str,
    /// Its value before, and after.
    pub from: String,
    /// The same.
    pub to: String,
}

/// Declares the keys of a VIP that have a default. `own` keys have a value of their own, `node` keys that of `[node]`
/// where the VIP does not say.
macro_rules! vip_keys {
    (
        own { $($own:ident: $own_type:ty = $default:expr, $own_default:literal, $own_label:literal, $own_value:literal,
            $own_example:literal, $own_help:literal, $own_effect:literal;)+ }
        node { $($node:ident: $node_type:ty, $node_label:literal, $node_value:literal,
            $node_example:literal, $node_help:literal, $node_effect:literal;)+ }
    ) => {
        /// What a VIP has for each key that has a default.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Settings {
            $(#[doc = $own_help] pub $own: $own_type,)+
            $(#[doc = $node_help] #[serde(default)] pub $node: Option<$node_type>,)+
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($own: $default,)+ $($node: None,)+ }
            }
        }

        impl Settings {
            /// The keys with their values, each with a label for people.
            pub fn labelled(&self) -> Vec<(&'static str, String)> {
                let mut labelled = vec![$(($own_label, self.$own.to_string()),)+];
                $(labelled.extend(self.$node.as_ref().map(|value| ($node_label, value.to_string())));)+
                labelled
            }

            /// The keys of which `after` has other values.
            pub fn changes(&self, after: &Self) -> Vec<SettingChange> {
                let mut changes = Vec::new();
                $(if self.$own != after.$own {
                    let (from, to) = (self.$own.to_string(), after.$own.to_string());
                    changes.push(SettingChange { key: stringify!($own), from, to });
                })+
                $(if self.$node != after.$node {
                    let (from, to) = (or_node(&self.$node), or_node(&after.$node));
                    changes.push(SettingChange { key: stringify!($node), from, to });
                })+
                changes
            }
        }

        /// What somebody has given for those keys; what is absent gets its default, or stays.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
        pub struct Given {
            $(#[doc = $own_help]
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[arg(long, value_name = $own_value, help = concat!($own_help, " [of a new VIP: ", $own_default, "]"))]
            pub $own: Option<$own_type>,)+
            $(#[doc = $node_help]
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[arg(long, value_name = $node_value, help = concat!($node_help, " [of a new VIP: that of the node]"))]
            pub $node: Option<$node_type>,)+
        }

        impl Given {
            /// With the default where nothing was given.
            pub fn or_default(self) -> Settings {
                let default = Settings::default();
                Settings { $($own: self.$own.unwrap_or(default.$own),)+ $($node: self.$node,)+ }
            }

            /// Shows every value, in the order of the keys.
            pub fn visit(&self, visitor: &mut impl Visit) {
                $(visitor.key(key_of(stringify!($own)), &self.$own);)+
                $(visitor.key(key_of(stringify!($node)), &self.$node);)+
            }

            /// The same, for them to be given.
            pub fn visit_mut(&mut self, visitor: &mut impl VisitMut) {
                $(visitor.key(key_of(stringify!($own)), &mut self.$own);)+
                $(visitor.key(key_of(stringify!($node)), &mut self.$node);)+
            }
        }

        impl From<Settings> for Given {
            fn from(settings: Settings) -> Self {
                Self { $($own: Some(settings.$own),)+ $($node: settings.$node,)+ }
            }
        }

        /// Every key of a VIP that has a default.
        pub const SETTINGS: &[Key] = &[
            $(Key {
                name: stringify!($own),
                example: $own_example,
                default: $own_default,
                help: $own_help,
                effect: $own_effect,
            },)+
            $(Key {
                name: stringify!($node),
                example: $node_example,
                default: "as `[node]` says",
                help: $node_help,
                effect: $node_effect,
            },)+
        ];

        #[cfg(test)]
        const OWN_DEFAULTS: &[(&str, &str)] = &[$((stringify!($own), $own_default),)+];
    };
}

vip_keys! {
    own {
        hash: FlowHash = FlowHash::FiveTuple, "5-tuple", "Hash", "HASH",
            r#"hash = "5-tuple""#,
            "What keeps to one backend: each connection (5-tuple), or all of a client's connections (source-ip)",
            "connections move to other backends, and most break";
        slots: Slots = Slots::DEFAULT, "16381", "Slots", "NUMBER",
            "slots = 16381",
            "Size of the lookup table: a prime, at least a hundred times the number of backends (moves every flow)",
            "connections move to other backends, and most break";
        tracking: Tracking = Tracking::Adaptive, "adaptive", "Tracking", "TRACKING",
            r#"tracking = "adaptive""#,
            "Which flows are remembered: adaptive (those that a change of the backends puts at risk), always or never",
            "none at once; with `never` the next change of the backends breaks connections";
        tcp_idle: IdleTime = IdleTime::TCP, "15m", "TCP idle", "TIME",
            r#"tcp_idle = "15m""#,
            "How long a TCP flow may be silent before it counts as ended, 1s to 12h",
            "none; shorter, flows that are silent for longer may move while slots do";
        udp_idle: IdleTime = IdleTime::UDP, "1m", "UDP idle", "TIME",
            r#"udp_idle = "1m""#,
            "How long a UDP flow may be silent before it counts as ended, 1s to 12h",
            "none; shorter, flows that are silent for longer may move while slots do";
        drain_deadline: DrainDeadline = DrainDeadline::NONE, "none", "Drain deadline", "TIME",
            r#"drain_deadline = "30m""#,
            "How long after a backend began to take no new flows those that are left are cut, 1s to 30days, or none",
            "flows are cut that a drain has left for longer already";
        echo: EchoReply = EchoReply::Always, "always", "Echo", "ECHO",
            r#"echo = "always""#,
            "Whether its address answers echo requests (ping): always, ready (while the VIP is ready) or never",
            "none";
        mtu: WayMtu = WayMtu::NONE, "none", "MTU", "BYTES",
            "mtu = 1400",
            "The largest IP packet that the way to its backends carries, with what `forward` adds, where that is less than the \
             first hop's MTU: 576 (of an IPv6 VIP 1280 and what the forward mode adds) to 65535, or none",
            "none; packets that are larger are not forwarded from then on";
    }
    node {
        metrics_backends: bool, "Metrics", "BOOL",
            "metrics_backends = true",
            "Whether /metrics has series for each of its backends",
            "none";
        vrf: Vrf, "VRF", "NAME",
            r#"vrf = "blue""#,
            "The VRF by which its backends are reached, or `default` for the main routing",
            "none; packets go by the other routes from then on";
        mark: Mark, "Mark", "MARK",
            "mark = 0x10",
            "The mark that policy rules are asked with for the way to its backends, as 0x10; 0 for none",
            "none; packets go by the other routes from then on";
    }
}

fn or_node<T: fmt::Display>(value: &Option<T>) -> String {
    value.as_ref().map_or_else(|| "as in [node]".to_owned(), T::to_string)
}

fn key_of(name: &str) -> &'static Key {
    SETTINGS.iter().find(|key| key.name == name).expect("every setting is in the list")
}

const fn required(name: &'static str, example: &'static str, help: &'static str, effect: &'static str) -> Key {
    Key { name, example, default: "", help, effect }
}

const fn optional(
    name: &'static str,
    example: &'static str,
    default: &'static str,
    help: &'static str,
    effect: &'static str,
) -> Key {
    Key { name, example, default, help, effect }
}

/// Tables of the config.
pub const TOP: &[Key] = &[
    optional("node", "[node]", "none", "The machine that the load balancer runs on", ""),
    optional("vip", "[[vip]]", "none", "A virtual address, what is served on it, and by whom", ""),
];

/// Keys of a VIP that stand before those that have a default.
pub const VIP: &[Key] = &[
    required(
        "name",
        r#"name = "web""#,
        "What commands, metrics and logs call it: letters, digits, `.`, `_` and `-`, at most 64 of them; unique",
        "another name is another VIP: what is remembered of flows is forgotten, and counters begin anew",
    ),
    required(
        "address",
        r#"address = "203.0.113.10""#,
        "The address that clients dial, IPv4 or IPv6",
        "clients of the old address are not served any more",
    ),
    required(
        "ports",
        r#"ports = ["tcp/80"]"#,
        "What is served on it: `tcp/PORT`, `udp/PORT`, `tcp/any`, `udp/any`",
        "none on ports that stay",
    ),
    required(
        "forward",
        r#"forward = "ipip"` or `forward = "l2""#,
        "How packets reach the backends: `ipip` (encapsulated in IPv4 or IPv6) or `l2` (by their MAC address)",
        "none; each backend must take packets of both kinds while it changes",
    ),
];

/// Keys of a VIP that stand behind those that have a default.
pub const VIP_BACKENDS: &[Key] = &[
    optional(
        "health",
        r#"health = { type = "tcp" }"#,
        "none: all count as working",
        "How it is found out whether its backends work: a table with the keys below",
        "none; what fails probes is as `on_failure` says",
    ),
    optional(
        "backends",
        "backends = []",
        "none",
        "The real servers",
        "none of those that stay, with `tracking` other than `never`",
    ),
];

/// Keys of `health`.
pub const HEALTH: &[Key] = &[
    required(
        "type",
        r#"type = "tcp""#,
        "What a backend is asked: `icmp` for an echo, `tcp` for a connection, `udp` for a datagram, `dns` for a name, `http` for a page, \
         `tls` and `https` for the same over TLS, `grpc` for the health of a service, `exec` for what a program says",
        "none",
    ),
    optional(
        "via",
        r#"via = "path""#,
        "path",
        "Which way probes go: `path`, as clients' packets to the VIP; `address`, to the backend's own address",
        "none",
    ),
    optional(
        "share",
        "share = true",
        "false",
        "With `via = \"address\"`: whether backends of the same address in several VIPs, with the same probe, are asked once for all",
        "none",
    ),
    optional("port", "port = 80", "the VIP's first port of the protocol", "At which of the backend's ports", "none"),
    optional("interval", r#"interval = "2s""#, "2s", "From one probe to the next, 10ms to 1h", "none"),
    optional(
        "fast_interval",
        r#"fast_interval = "500ms""#,
        "500ms",
        "The same after an answer that speaks against the verdict; no longer than `interval`",
        "none",
    ),
    optional("timeout", r#"timeout = "1s""#, "1s", "How long a probe may take, 10ms to 1h", "none"),
    optional("rise", "rise = 2", "2", "As many good answers in a row bring a backend back, 1 to 100", "none"),
    optional("fall", "fall = 3", "3", "As many failures in a row take a backend out, 1 to 100", "none"),
    optional(
        "on_failure",
        r#"on_failure = "reset""#,
        "reset",
        "What becomes of the connections of a backend that is out: `reset` (as with `down`) or `drain` (they stay)",
        "of a backend that is out: as `down` or `drain` does",
    ),
    optional(
        "panic",
        r#"panic = "50%""#,
        "0%",
        "Where fewer of the backends than this share work, those that fail serve as well; with `0%` where none works",
        "none",
    ),
    optional(
        "fail",
        r#"fail = "open""#,
        "open",
        "What follows where none works: `open`, all serve; `closed`, none does, and connections and datagrams are refused at once",
        "to `closed`, while none works: as `on_failure` says",
    ),
    optional(
        "min_healthy",
        "min_healthy = 1",
        "1",
        "With fewer that work, a number or a share such as `\"50%\"`, the VIP is not ready (`naru vip show --ready`)",
        "none",
    ),
    optional(
        "max_out",
        r#"max_out = "100%""#,
        "100%",
        "Probes take out no more of the backends than this share at a time; others that fail serve on",
        "none",
    ),
    optional(
        "spare_below",
        r#"spare_below = "50%""#,
        "50%",
        "Where fewer backends than this share of a tier and those before it work, the next tier serves as well",
        "none",
    ),
    optional(
        "slow_start",
        r#"slow_start = "30s""#,
        "none: all of them at once",
        "How long a backend that was out takes to get all of its slots back, in parts, 1s to 1h: an eighth at once, a \
         quarter after a third of the time, half of them after two thirds",
        "none; a backend that is back gets more of its slots sooner, or later",
    ),
];

/// Those of [`HEALTH`] that a backend may have as well: they say how it is asked, and the others what follows for all.
pub const HEALTH_OF_BACKEND: &[&str] =
    &["type", "via", "share", "port", "interval", "fast_interval", "timeout", "rise", "fall"];

/// The types of probes, each with the keys that not all have.
pub const HEALTH_TYPES: &[(&str, &[&[Key]])] = &[
    ("icmp", &[HEALTH_SIZE]),
    ("tcp", &[]),
    ("udp", &[HEALTH_UDP]),
    ("dns", &[HEALTH_DNS]),
    ("http", &[HEALTH_HTTP, HEALTH_HOST, HEALTH_SIZE]),
    ("tls", &[HEALTH_TLS]),
    ("https", &[HEALTH_HTTP, HEALTH_HOST, HEALTH_SIZE, HEALTH_TLS]),
    ("grpc", &[HEALTH_GRPC, HEALTH_HOST, HEALTH_TLS]),
    ("exec", &[HEALTH_EXEC]),
];

/// All keys of `health`.
pub const HEALTH_ALL: &[&[Key]] =
    &[HEALTH, HEALTH_SIZE, HEALTH_UDP, HEALTH_DNS, HEALTH_HTTP, HEALTH_GRPC, HEALTH_HOST, HEALTH_TLS, HEALTH_EXEC];

/// Keys of `health` that say how long a probe is.
pub const HEALTH_SIZE: &[Key] = &[optional(
    "size",
    "size = 1472",
    "56; with `http` and `https` none",
    "With `icmp`: bytes of the request's payload, 16 to 9000; the packet has 28 more with IPv4, 48 with IPv6. With \
     `http` and `https`: bytes of a header that makes the request longer, 16 to 8000",
    "none",
)];

/// Keys of `health` with `type = "udp"`.
pub const HEALTH_UDP: &[Key] = &[
    optional(
        "send",
        r#"send = "ping""#,
        "one of the two is needed",
        "With `udp`: the text of the datagram, at most 1232 bytes",
        "none",
    ),
    optional(
        "send_hex",
        r#"send_hex = "1b0000""#,
        "one of the two is needed",
        "With `udp`: the same, as bytes in hexadecimal",
        "none",
    ),
    optional(
        "expect",
        r#"expect = "pong""#,
        "any answer is good",
        "With `udp`: the text that a good answer begins with",
        "none",
    ),
    optional(
        "expect_hex",
        r#"expect_hex = "1c""#,
        "any answer is good",
        "With `udp`: the same, as bytes in hexadecimal",
        "none",
    ),
];

/// Keys of `health` with `type = "dns"`.
pub const HEALTH_DNS: &[Key] = &[
    optional("name", r#"name = "www.example.org""#, "it is needed", "With `dns`: the name that is asked for", "none"),
    optional("record", r#"record = "AAAA""#, "A", "With `dns`: the type of records that a good answer has", "none"),
    optional(
        "rcode",
        r#"rcode = "NOERROR,NXDOMAIN""#,
        "NOERROR",
        "With `dns`: the response codes of good answers; only one with `NOERROR` needs a record",
        "none",
    ),
];

/// Keys of `health` with `type = "http"` or `"https"`.
pub const HEALTH_HTTP: &[Key] = &[
    optional("path", r#"path = "/healthz""#, "/", "With `http` and `https`: path and query of the page", "none"),
    optional(
        "version",
        r#"version = "h2c""#,
        "1.1",
        "The version of HTTP: `1.1`, with `http` also `h2c` (HTTP/2), with `https` also `h2` (the same over TLS)",
        "none",
    ),
    optional(
        "status",
        r#"status = "200-399""#,
        "200-399",
        "With `http` and `https`: statuses of good answers, as `200,301-302`",
        "none",
    ),
    optional(
        "header",
        r#"header = "X-Role: primary""#,
        "anything",
        "With `http` and `https`: a header of good answers, with its value or without",
        "none",
    ),
    optional(
        "body",
        r#"body = "ok""#,
        "anything",
        "With `http` and `https`: what the first 64 KiB of a good answer's body have",
        "none",
    ),
];

/// Keys of `health` with `type = "grpc"`.
pub const HEALTH_GRPC: &[Key] = &[
    optional(
        "service",
        r#"service = "example.v1.Shop""#,
        "the server as a whole",
        "With `grpc`: the name of the service that must serve",
        "none",
    ),
    optional("tls", "tls = true", "false", "With `grpc`: whether it is asked over TLS", "none"),
];

/// Keys of `health` that have the backend asked by a name.
pub const HEALTH_HOST: &[Key] = &[optional(
    "host",
    r#"host = "www.example.org""#,
    "the VIP's address; with `share` the backend's",
    "With `http`, `https` and `grpc`: the name that it is asked by (the `Host` header)",
    "none",
)];

/// Keys of `health` of what is asked over TLS.
pub const HEALTH_TLS: &[Key] = &[
    optional(
        "ca",
        r#"ca = "/etc/naru/ca.pem""#,
        "this or `verify` is needed",
        "Over TLS: a file with the certificates of the authorities that are believed, in PEM",
        "none",
    ),
    optional(
        "verify",
        "verify = false",
        "true",
        "Over TLS: `false` takes every certificate, and needs no `ca`",
        "none",
    ),
    optional(
        "sni",
        r#"sni = "www.example.org""#,
        "the name in `host`, or the address as of `host`",
        "Over TLS: the name that is asked for, and that the certificate must be for",
        "none",
    ),
    optional(
        "client_cert",
        r#"client_cert = "/etc/naru/probe.pem""#,
        "none is shown",
        "Over TLS: a file with the certificate that is shown to backends that ask for one, in PEM",
        "none",
    ),
    optional(
        "client_key",
        r#"client_key = "/etc/naru/probe.key""#,
        "none",
        "With `client_cert`: a file with its key, in PEM",
        "none",
    ),
];

/// Keys of `health` with `type = "exec"`.
pub const HEALTH_EXEC: &[Key] = &[optional(
    "command",
    r#"command = ["/usr/local/lib/naru/probe", "argument"]"#,
    "it is needed",
    "With `exec`: the program, by its path, and its arguments",
    "none",
)];

/// Keys of a backend.
pub const BACKEND: &[Key] = &[
    required("address", r#"address = "10.0.1.11""#, "Its own address", "another address is another backend"),
    optional(
        "weight",
        "weight = 100",
        "100",
        "Its share of the new connections in proportion to the other weights, 0 to 65535",
        "none, with `tracking` other than `never`",
    ),
    optional(
        "state",
        r#"state = "active""#,
        "active",
        "`active`, `drain` (no new connections) or `down` (no traffic); what operators do by command goes before it",
        "`down` breaks its own at once; else none",
    ),
    optional(
        "mac",
        r#"mac = "02:00:00:00:00:01""#,
        "the network is asked",
        "With `l2` only: its MAC address, whatever anybody on its segment answers",
        "none",
    ),
    optional(
        "mtu",
        "mtu = 1400",
        "that of the VIP",
        "The largest IP packet that the way to this one carries, as `mtu` of a VIP says of all; `\"none\"` where it is the first \
         hop's alone",
        "none; packets that are larger are not forwarded from then on",
    ),
    optional(
        "tier",
        "tier = 0",
        "0",
        "0 to 9; with 1 and above it stands by, and serves while too few of the tiers before work (`spare_below` of `health`)",
        "none",
    ),
    optional(
        "health",
        r#"health = { port = 8080 }"#,
        "as the VIP's",
        "Where it is asked otherwise than the VIP's `health` says: keys of that which say how; or `\"none\"`, and it counts as working",
        "none; what fails probes is as `on_failure` says",
    ),
];

/// Keys of `[node]`.
pub const NODE: &[Key] = &[
    optional(
        "interfaces",
        r#"interfaces = ["eth0"]"#,
        "those that are attached",
        "Interfaces that packets for VIPs arrive at, each by any one of its names",
        "packets that come in by one that goes are not forwarded any more",
    ),
    optional(
        "xdp_mode",
        r#"xdp_mode = "auto""#,
        "auto",
        "`native` (in the driver), `generic` (in the stack) or `auto`",
        "to `native` or `auto`: for some microseconds packets go to the host, which resets what it does not know",
    ),
    optional("metrics", r#"metrics = "127.0.0.1:9100""#, "none", "Address and port of /metrics", "none"),
    optional(
        "metrics_backends",
        "metrics_backends = true",
        "true",
        "Whether /metrics has series for each backend, for VIPs that do not say",
        "none",
    ),
    optional(
        "socket",
        r#"socket = "/run/naru/naru.sock""#,
        "/run/naru/naru.sock",
        "Socket of the API",
        "takes a restart of the daemon",
    ),
    optional(
        "readers",
        r#"readers = ["adm"]` or `readers = "all""#,
        "none",
        "Who may read besides root and the group `naru`: members of these groups, or `\"all\"`",
        "none",
    ),
    optional(
        "bpffs",
        r#"bpffs = "/sys/fs/bpf/naru""#,
        "/sys/fs/bpf/naru",
        "Directory for the pinned programs, links and maps",
        "takes a restart of the daemon",
    ),
    optional(
        "state",
        r#"state = "/var/lib/naru""#,
        "/var/lib/naru",
        "Directory of what the next start must know",
        "takes a restart of the daemon",
    ),
    optional(
        "max_removed",
        r#"max_removed = "50%""#,
        "50%",
        "Share of the VIPs, and of the backends, that may be taken away without `--force`",
        "none",
    ),
    optional(
        "encap_source4",
        r#"encap_source4 = "172.16.0.0/16""#,
        "172.16.0.0/16",
        "Outer source addresses of packets that are encapsulated in IPv4; the host bits come from the flow hash",
        "none; backends must accept both prefixes while it changes",
    ),
    optional(
        "encap_source6",
        r#"encap_source6 = "fd12:3456:789a:e::/64""#,
        "none",
        "The same for IPv6; needed as soon as a backend of an `ipip` VIP has an IPv6 address",
        "none; backends must accept both prefixes while it changes",
    ),
    optional("max_vips", "max_vips = 16384", "16384", "VIPs that there is room for", "none"),
    optional(
        "max_backends",
        "max_backends = 131072",
        "131072",
        "Backends that there is room for, over all VIPs",
        "none",
    ),
    optional("max_slots", "max_slots = 100000000", "100000000", "Slots that there is room for, over all VIPs", "none"),
    optional(
        "max_flows",
        "max_flows = 1000000",
        "as many as suit the memory of this machine",
        "Flows that are remembered at most, over all VIPs, 1024 to 16777216",
        "none; they are taken along",
    ),
    optional(
        "vrf",
        r#"vrf = "blue""#,
        "default",
        "The VRF by which backends are reached, for VIPs that do not say",
        "none; packets go by the other routes from then on",
    ),
    optional(
        "mark",
        "mark = 0x10",
        "0",
        "The mark that policy rules are asked with for the way to backends, for VIPs that do not say",
        "none; packets go by the other routes from then on",
    ),
    optional(
        "hash_seed_file",
        r#"hash_seed_file = "/etc/naru/hash_seed""#,
        "none",
        "The file of the flow hash's seed, the same on all load balancers of a site: `naru seed generate`",
        "connections move to other backends, and most break",
    ),
    optional(
        "icmp_rate",
        "icmp_rate = 1000",
        "1000",
        "ICMP answers of each kind (echo replies, port unreachable, packet too big) that each CPU sends in a second at \
         most, 0 to 1000000; with 0 none",
        "none",
    ),
    optional(
        "log_packets",
        "log_packets = false",
        "false",
        "Whether the data plane logs what it does with each packet",
        "none",
    ),
];

/// What nothing more may follow in a map: with `#[serde(flatten)]` the other keys of a struct that has [`Given`]
/// flattened into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NothingElse;

impl Serialize for NothingElse {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde::ser::SerializeMap::end(serializer.serialize_map(Some(0))?)
    }
}

impl<'de> Deserialize<'de> for NothingElse {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rest;

        impl<'de> serde::de::Visitor<'de> for Rest {
            type Value = NothingElse;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("no other field")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<NothingElse, A::Error> {
                match map.next_key::<String>()? {
                    Some(key) => Err(serde::de::Error::custom(format!("unknown field `{key}`"))),
                    None => Ok(NothingElse),
                }
            }
        }

        deserializer.deserialize_map(Rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_what_is_said_of_them() {
        let labelled = Settings::default().labelled();
        let said: Vec<&str> = OWN_DEFAULTS.iter().map(|(_, default)| *default).collect();
        assert_eq!(labelled.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>(), said);
    }

    #[test]
    fn each_key_is_there_once() {
        let vip: Vec<&str> = VIP.iter().chain(SETTINGS).chain(VIP_BACKENDS).map(|key| key.name).collect();
        let health: Vec<&str> = HEALTH_ALL.iter().copied().flatten().map(|key| key.name).collect();
        for keys in
            [vip, health, NODE.iter().map(|key| key.name).collect(), BACKEND.iter().map(|key| key.name).collect()]
        {
            let once: std::collections::BTreeSet<_> = keys.iter().collect();
            assert_eq!(once.len(), keys.len(), "{keys:?}");
        }
    }

    #[test]
    fn what_differs_is_told_as_people_write_it() {
        let before = Settings::default();
        let after =
            Settings { udp_idle: "90s".parse().unwrap(), mark: Some("0x10".parse().unwrap()), ..before.clone() };
        let reported: Vec<String> =
            before.changes(&after).into_iter().map(|c| format!("{} {} → {}", c.key, c.from, c.to)).collect();
        assert_eq!(reported, ["udp_idle 1m → 1m 30s", "mark as in [node] → 0x10"]);
        assert_eq!(after.changes(&after), []);
    }

    #[test]
    fn nothing_else_may_follow() {
        #[derive(Debug, Deserialize)]
        struct Flat {
            #[serde(flatten)]
            given: Given,
            #[serde(flatten)]
            _rest: NothingElse,
        }
        let flat: Flat = serde_json::from_str(r#"{"slots": 997, "udp_idle": "5s"}"#).unwrap();
        assert_eq!(flat.given.slots, Some(Slots::new(997)));
        let error = serde_json::from_str::<Flat>(r#"{"slots": 997, "slotz": 1}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `slotz`"), "{error}");
    }
}
