//! What a valid config says that its operator may not have meant.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use super::model::{Config, ForwardMode, Vip};

/// A doubt about a valid config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// `[node]` names no interface.
    NoInterfaces,
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
        /// Number of backends.
        backends: usize,
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
        }
        for vip in &self.vips {
            warnings.extend(self.takes_no_flows(vip));
            warnings.extend(self.few_slots(vip));
            warnings.extend(self.source_is_backend(vip));
        }
        warnings
    }

    fn takes_no_flows(&self, vip: &Vip) -> Option<Warning> {
        let name = vip.name.clone();
        if vip.backends.is_empty() {
            return Some(Warning::NoBackends { vip: name });
        }
        let none = vip.backends.iter().all(|backend| backend.effective_weight() == 0);
        none.then_some(Warning::NoActiveBackend { vip: name })
    }

    fn few_slots(&self, vip: &Vip) -> Option<Warning> {
        // With a hundred slots per backend, rounding to whole slots costs about 1 % of a share (NSDI 2016, §5.3).
        let few = (vip.slots as usize) < vip.backends.len().saturating_mul(100);
        few.then(|| Warning::FewSlots { vip: vip.name.clone(), slots: vip.slots, backends: vip.backends.len() })
    }

    fn source_is_backend(&self, vip: &Vip) -> Option<Warning> {
        if vip.forward != ForwardMode::Ipip {
            return None;
        }
        let prefix = |address: IpAddr| match address {
            IpAddr::V4(_) => ("encap_source4", IpNet::from(self.node.encap_source4)),
            IpAddr::V6(_) => ("encap_source6", IpNet::from(self.node.encap_source6)),
        };
        let mut inside = vip.backends.iter().filter(|backend| prefix(backend.address).1.contains(&backend.address));
        inside.next().map(|backend| {
            let (key, prefix) = prefix(backend.address);
            Warning::SourceIsBackend { vip: vip.name.clone(), backend: backend.address, key, prefix }
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
                "VIP `{vip}` has {slots} slots for {backends} backends, so shares may differ from weights by more than \
                 a few per cent; write `slots = {}`",
                super::prime::at_least(u32::try_from(backends.saturating_mul(100)).unwrap_or(u32::MAX)),
            ),
            Self::SourceIsBackend { vip, backend, key, prefix } => write!(
                f,
                "backend `{backend}` of VIP `{vip}` lies in `{key}` ({prefix}), the outer source addresses: packets \
                 that get its own address as source are lost; choose a prefix that no host uses"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(text: &str) -> Vec<String> {
        let config = Config::parse(text, "naru.toml".as_ref()).unwrap();
        config.warnings().iter().map(Warning::to_string).collect()
    }

    #[test]
    fn an_ordinary_config_raises_none() {
        let text = r#"
            node = { interfaces = ["eth0"] }
            vip = [{ name = "a", address = "192.0.2.1", ports = ["tcp/80"], forward = "ipip", backends = [
                { address = "10.0.0.1" },
                { address = "10.0.0.2", state = "drain" },
            ] }]
        "#;
        assert_eq!(warnings(text), [""; 0]);
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
                "no interface is listed, so no traffic is taken; write for instance `interfaces = [\"eth0\"]` in [node]",
                "VIP `a` has no backends, so its traffic is dropped; add one to `backends`",
                "no backend of VIP `b` takes new flows: those in state `active` have weight 0, the others are drained \
                 or down; make one active",
                "VIP `b` has 53 slots for 2 backends, so shares may differ from weights by more than a few per cent; \
                 write `slots = 211`",
                "backend `172.16.9.9` of VIP `c` lies in `encap_source4` (172.16.0.0/16), the outer source addresses: \
                 packets that get its own address as source are lost; choose a prefix that no host uses",
            ]
        );
    }
}
