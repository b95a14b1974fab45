//! What a valid config says that its operator may not have meant.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use crate::model::{Config, IdleTime, Protocol, Tracking, Vip, prime, suggest};
use crate::seed;

/// A doubt about a valid config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// `[node]` names no interface.
    NoInterfaces,
    /// `[node]` does not say which interfaces, so that those stay that are attached.
    UnnamedInterfaces {
        /// Those that are attached.
        interfaces: Vec<String>,
    },
    /// The flow hash is the one that everybody knows.
    NoHashSeed,
    /// Backends of VIPs are asked by nobody whether they work.
    NoHealth {
        /// Names of the first VIPs.
        first: Vec<String>,
        /// There are more.
        has_more: bool,
    },
    /// A VIP has no backends.
    NoBackends {
        /// The VIP's name.
        vip: String,
    },
    /// A VIP has backends, of which none takes new flows.
    NoActiveBackend {
        /// The VIP's name.
        vip: String,
    },
    /// A VIP's table is too small for its backends to have the shares that their weights ask for.
    FewSlots {
        /// The VIP's name.
        vip: String,
        /// Size of the table.
        slots: u32,
        /// Number of backends that take new flows.
        backends: u32,
    },
    /// An idle time is set on a VIP that remembers no flows.
    IdleTimeUntracked {
        /// The VIP's name.
        vip: String,
        /// The key of the idle time.
        key: &'static str,
    },
    /// An idle time is set on a VIP that has no flows of that protocol.
    IdleTimeUnserved {
        /// The VIP's name.
        vip: String,
        /// The key of the idle time.
        key: &'static str,
        /// The protocol.
        protocol: Protocol,
    },
    /// A backend's address may appear as outer source of a packet to it, which it then drops.
    SourceIsBackend {
        /// The VIP's name.
        vip: String,
        /// The backend's address.
        backend: IpAddr,
        /// The key of the prefix.
        key: &'static str,
        /// The prefix that it lies in.
        prefix: IpNet,
    },
}

impl Config {
    /// What in this config its operator may not have meant: node first, then VIPs in their order.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        if self.node.interfaces.is_empty() {
            warnings.push(Warning::NoInterfaces);
        } else if !self.node.names_interfaces {
            warnings.push(Warning::UnnamedInterfaces { interfaces: self.node.interfaces.clone() });
        }
        if self.node.hash_seed_file.is_none() {
            warnings.push(Warning::NoHashSeed);
        }
        warnings.extend(self.no_health());
        for vip in &self.vips {
            warnings.extend(self.takes_no_flows(vip));
            warnings.extend(self.few_slots(vip));
            warnings.extend(self.idle_times(vip));
            warnings.extend(self.source_is_backend(vip));
        }
        warnings
    }

    /// One for all: it is meant so of many or of none.
    fn no_health(&self) -> Option<Warning> {
        const LISTED: usize = 3;
        let mut unasked = self.vips.iter().filter(|vip| vip.health.is_none() && !vip.waives_health);
        let first: Vec<_> = unasked.by_ref().take(LISTED).map(|vip| vip.name.clone()).collect();
        (!first.is_empty()).then(|| Warning::NoHealth { first, has_more: unasked.next().is_some() })
    }

    fn takes_no_flows(&self, vip: &Vip) -> Option<Warning> {
        if vip.backends.is_empty() {
            return Some(Warning::NoBackends { vip: vip.name.clone() });
        }
        let none = vip.backends.iter().all(|backend| backend.effective_weight() == 0);
        none.then(|| Warning::NoActiveBackend { vip: vip.name.clone() })
    }

    fn few_slots(&self, vip: &Vip) -> Option<Warning> {
        let active = vip.backends.iter().filter(|backend| backend.effective_weight() > 0).count();
        let backends = u32::try_from(active).unwrap_or(u32::MAX);
        let slots = vip.settings.slots.get();
        // Between a number and its double there is a prime (Bertrand's postulate): to look for it takes a while.
        let few = slots < backends.saturating_mul(200) && slots < slots_for(backends);
        few.then(|| Warning::FewSlots { vip: vip.name.clone(), slots, backends })
    }

    /// A key that states the default is no reason to doubt.
    fn idle_times(&self, vip: &Vip) -> impl Iterator<Item = Warning> {
        let set = [
            ("tcp_idle", Protocol::Tcp, vip.settings.tcp_idle != IdleTime::TCP),
            ("udp_idle", Protocol::Udp, vip.settings.udp_idle != IdleTime::UDP),
        ];
        set.into_iter().filter(|(_, _, set)| *set).filter_map(|(key, protocol, _)| {
            let served = vip.ports.iter().any(|port| port.protocol == protocol);
            match vip.settings.tracking {
                Tracking::Never => Some(Warning::IdleTimeUntracked { vip: vip.name.clone(), key }),
                _ if !served => Some(Warning::IdleTimeUnserved { vip: vip.name.clone(), key, protocol }),
                Tracking::Adaptive | Tracking::Always => None,
            }
        })
    }

    fn source_is_backend(&self, vip: &Vip) -> Option<Warning> {
        vip.backends.iter().find_map(|backend| {
            let (key, prefix) = vip.forward.outer_source(backend.address, &self.node)?.ok()?;
            if !prefix.contains(&backend.address) {
                return None;
            }
            Some(Warning::SourceIsBackend { vip: vip.name.clone(), backend: backend.address, key, prefix })
        })
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoInterfaces => write!(
                f,
                "no interface is listed, so no traffic is taken; write for instance `interfaces = [\"eth0\"]` in [node]"
            ),
            Self::NoHashSeed => write!(
                f,
                "there is no hash seed, so anyone can compute packets that all meet on one backend; run `naru seed \
                 generate` once for all load balancers of the site, and write `hash_seed_file = \"{}\"` in [node]",
                seed::DEFAULT_FILE
            ),
            Self::NoHealth { first, has_more } => write!(
                f,
                "nobody asks whether the backends of VIP {}{} work, so one that dies keeps its share; write `health = {{ \
                 type = \"tcp\" }}`, or `health = \"none\"` where that is meant so",
                suggest::list(first.iter().map(String::as_str)),
                if *has_more { " and others" } else { "" },
            ),
            Self::NoBackends { vip } => {
                write!(f, "VIP `{vip}` has no backends, so its traffic is dropped; add one to `backends`")
            }
            Self::NoActiveBackend { vip } => write!(
                f,
                "no backend of VIP `{vip}` takes new flows: those in state `active` have weight 0, the others are \
                 drained or down; make one active"
            ),
            Self::FewSlots { vip, slots, backends } => write!(
                f,
                "VIP `{vip}` has {slots} slots for {backends} active backends, so rounding to whole slots may cost a \
                 backend {:.1} % of an equal share; write `slots = {}`",
                f64::from(*backends) * 100.0 / f64::from(*slots),
                slots_for(*backends),
            ),
            Self::UnnamedInterfaces { interfaces } => write!(
                f,
                "[node] does not name its interfaces: those that are attached stay, but not over a reboot; write \
                 `interfaces = {interfaces:?}`"
            ),
            Self::IdleTimeUntracked { vip, key } => write!(
                f,
                "`{key}` of VIP `{vip}` has no effect, because with `tracking = \"never\"` no flow is remembered; \
                 remove the key, or write `tracking = \"adaptive\"`"
            ),
            Self::IdleTimeUnserved { vip, key, protocol } => write!(
                f,
                "`{key}` of VIP `{vip}` has no effect, because none of its ports is `{protocol}/…`; remove the key, or \
                 add such a port"
            ),
            Self::SourceIsBackend { vip, backend, key, prefix } => write!(
                f,
                "backend `{backend}` of VIP `{vip}` lies in `{key}` ({prefix}), the outer source addresses: packets \
                 that get its own address as source are lost; choose a prefix that no host uses"
            ),
        }
    }
}

/// The smallest table with a hundred slots per backend: rounding to whole slots then costs at most 1 % of an equal
/// share (Maglev, NSDI 2016, §5.3).
fn slots_for(backends: u32) -> u32 {
    prime::at_least(backends.saturating_mul(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a text whose VIPs waive health.
    fn warnings(text: &str) -> Vec<String> {
        let inline = text.replace(", forward", r#", health = "none", forward"#);
        warnings_of(&inline.replace("\nforward", "\nhealth = \"none\"\nforward"))
    }

    fn warnings_of(text: &str) -> Vec<String> {
        let config = Config::parse(text, "naru.toml".as_ref()).unwrap();
        config.warnings().iter().map(Warning::to_string).collect()
    }

    #[test]
    fn an_ordinary_config_raises_none() {
        let text = r#"
            node = { interfaces = ["eth0"], hash_seed_file = "/etc/naru/hash_seed" }
            vip = [{ name = "a", address = "192.0.2.1", ports = ["tcp/80"], forward = "ipip", backends = [
                { address = "10.0.0.1" },
                { address = "10.0.0.2", state = "drain" },
            ] }]
        "#;
        assert_eq!(warnings(text), [""; 0]);
    }

    #[test]
    fn backends_that_nobody_asks_are_doubted() {
        let text = |health: [&str; 4]| {
            let vip = |(at, health): (usize, &str)| {
                format!(
                    "[[vip]]\nname = \"v{at}\"\naddress = \"192.0.2.{}\"\nports = [\"tcp/80\"]\nforward = \"ipip\"\n{health}\n\
                     backends = [{{ address = \"10.0.0.1\" }}]\n",
                    at + 1
                )
            };
            let vips: String = health.into_iter().enumerate().map(vip).collect();
            format!("node = {{ interfaces = [\"eth0\"], hash_seed_file = \"/s\" }}\n{vips}")
        };
        let (probed, none) = (r#"health = { type = "tcp" }"#, r#"health = "none""#);
        let doubt = |vips: &str| {
            format!(
                "nobody asks whether the backends of VIP {vips} work, so one that dies keeps its share; write `health = {{ \
                 type = \"tcp\" }}`, or `health = \"none\"` where that is meant so"
            )
        };
        assert_eq!(warnings_of(&text([probed, none, probed, none])), [""; 0]);
        assert_eq!(warnings_of(&text([probed, "", none, ""])), [doubt("`v1`, `v3`")]);
        assert_eq!(warnings_of(&text([""; 4])), [doubt("`v0`, `v1`, `v2` and others")]);
    }

    #[test]
    fn what_serves_nobody_is_doubted() {
        let text = r#"
            vip = [
                { name = "a", address = "192.0.2.1", ports = ["tcp/80"], forward = "ipip" },
                { name = "b", address = "192.0.2.2", ports = ["tcp/80"], forward = "l2", slots = 53, backends = [
                    { address = "10.0.0.1", weight = 0 },
                    { address = "10.0.0.2", state = "down" },
                ] },
                { name = "c", address = "2001:db8::1", ports = ["tcp/80"], forward = "ipip", backends = [
                    { address = "172.16.9.9" },
                ] },
            ]
        "#;
        assert_eq!(
            warnings(text),
            [
                "no interface is listed, so no traffic is taken; write for instance `interfaces = [\"eth0\"]` in \
                 [node]",
                "there is no hash seed, so anyone can compute packets that all meet on one backend; run `naru seed \
                 generate` once for all load balancers of the site, and write `hash_seed_file = \
                 \"/etc/naru/hash_seed\"` in [node]",
                "VIP `a` has no backends, so its traffic is dropped; add one to `backends`",
                "no backend of VIP `b` takes new flows: those in state `active` have weight 0, the others are drained \
                 or down; make one active",
                "backend `172.16.9.9` of VIP `c` lies in `encap_source4` (172.16.0.0/16), the outer source addresses: \
                 packets that get its own address as source are lost; choose a prefix that no host uses",
            ]
        );
    }

    #[test]
    fn shares_that_rounding_spoils_are_doubted() {
        let vip = |slots: u32, states: &[&str]| {
            let backend =
                |(host, state)| format!("{{ address = \"10.0.{}.{}\", {state} }}", host / 250, host % 250 + 1);
            let backends: Vec<_> = states.iter().enumerate().map(backend).collect();
            format!(
                "node = {{ interfaces = [\"eth0\"], hash_seed_file = \"/s\" }}\n[[vip]]\nname = \"a\"\naddress = \
                 \"192.0.2.1\"\nports = [\"tcp/80\"]\n\
                 forward = \"ipip\"\nslots = {slots}\nbackends = [{}]\n",
                backends.join(", ")
            )
        };
        let (active, drained, weightless) = ("state = \"active\"", "state = \"drain\"", "weight = 0");
        assert_eq!(
            warnings(&vip(53, &[active, active, drained, weightless])),
            ["VIP `a` has 53 slots for 2 active backends, so rounding to whole slots may cost a backend 3.8 % of an \
                 equal share; write `slots = 211`"]
        );
        assert_eq!(warnings(&vip(199, &[active; 2])).len(), 1);
        assert_eq!(warnings(&vip(211, &[active, active, drained])), [""; 0]);
        // What a table cannot be is not asked for.
        assert_eq!(warnings(&vip(prime::LARGEST, &[active; 10_500])), [""; 0]);
    }

    #[test]
    fn idle_times_without_effect_are_doubted() {
        let vip = |ports: &str, keys: &str| {
            format!(
                "node = {{ interfaces = [\"eth0\"], hash_seed_file = \"/s\" }}\n[[vip]]\nname = \"a\"\naddress = \
                 \"192.0.2.1\"\nports = [{ports}]\n\
                 forward = \"ipip\"\n{keys}\nbackends = [{{ address = \"10.0.0.1\" }}]\n"
            )
        };
        let both = "tcp_idle = \"1h\"\nudp_idle = \"5s\"\n";
        let never = |key: &str| {
            format!(
                "`{key}` of VIP `a` has no effect, because with `tracking = \"never\"` no flow is remembered; remove \
                 the key, or write `tracking = \"adaptive\"`"
            )
        };
        assert_eq!(
            warnings(&vip("\"tcp/80\"", &format!("tracking = \"never\"\n{both}"))),
            [never("tcp_idle"), never("udp_idle")]
        );
        for tracking in ["tracking = \"always\"\n", ""] {
            let unserved = |key: &str, protocol: &str| {
                format!(
                    "`{key}` of VIP `a` has no effect, because none of its ports is `{protocol}/…`; remove the key, \
                     or add such a port"
                )
            };
            let keys = format!("{tracking}{both}");
            assert_eq!(warnings(&vip("\"tcp/80\"", &keys)), [unserved("udp_idle", "udp")]);
            assert_eq!(warnings(&vip("\"udp/any\"", &keys)), [unserved("tcp_idle", "tcp")]);
            assert_eq!(warnings(&vip("\"udp/53\", \"tcp/53\"", &keys)), [""; 0]);
        }
        let stated = "tracking = \"never\"\ntcp_idle = \"900s\"\nudp_idle = \"1m\"\n";
        assert_eq!(warnings(&vip("\"tcp/80\"", stated)), [""; 0]);
    }
}
