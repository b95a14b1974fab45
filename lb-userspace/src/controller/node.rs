//! What changes between two configs besides what the data plane holds: to tell the operator, and to refuse what only a
//! restart can follow.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Display,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
};

use super::Error;
use crate::{
    model::{self, Config, Difference, Health, Node, Overridden, Vip, Vrf, WayMtu, keys::SettingChange},
    plan::{Change, record},
};

/// The changes from `old` to `new`.
pub fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let node = keys(&old.node, &new.node).into_iter().filter_map(|key| key.change);
    node.chain(vip_changes(old, new)).collect()
}

/// Changes of keys of VIPs that are in both and that the data plane knows nothing of.
fn vip_changes(old: &Config, new: &Config) -> Vec<Change> {
    let Difference { gone, come } = old.difference(new);
    let before: HashMap<_, _> = gone.into_iter().map(|vip| (vip.name.as_str(), vip)).collect();
    let kept = come.into_iter().filter_map(|vip| Some((*before.get(vip.name.as_str())?, vip)));
    let changes = kept.flat_map(|(old, new)| {
        let changed = |SettingChange { key, from, to }: SettingChange| Change::VipChanged {
            vip: new.name.clone(),
            key: key.to_owned(),
            from,
            to,
        };
        unheld(old, new).into_iter().map(changed).chain(asked_otherwise(old, new)).chain(own_mtus(old, new))
    });
    changes.collect()
}

/// Changes of how backends are asked that are asked otherwise than the VIP says, or were.
fn asked_otherwise(old: &Vip, new: &Vip) -> impl Iterator<Item = Change> {
    let has = |vip: &Vip, address| vip.backends.iter().any(|own| own.address == address);
    let own: BTreeSet<IpAddr> = old.asked_otherwise.keys().chain(new.asked_otherwise.keys()).copied().collect();
    own.into_iter().filter_map(move |backend| {
        let [before, after] = [old, new].map(|vip| vip.asked_otherwise.get(&backend));
        if before == after || !has(old, backend) || !has(new, backend) {
            return None;
        }
        let word = |own: Option<&Option<Arc<Health>>>| match own {
            None => "as the VIP's".to_owned(),
            Some(None) => "none".to_owned(),
            Some(Some(health)) => health.asks().to_string(),
        };
        let (vip, key) = (new.name.clone(), "health".to_owned());
        Some(Change::BackendChanged { vip, backend, key, from: word(before), to: word(after) })
    })
}

/// Changes of `mtu` of backends. What follows from that of the VIP is told of that.
fn own_mtus(old: &Vip, new: &Vip) -> impl Iterator<Item = Change> {
    let own = |vip: &Vip| -> BTreeMap<IpAddr, WayMtu> {
        vip.backends.iter().filter_map(|backend| Some((backend.address, backend.mtu?))).collect()
    };
    let has = |vip: &Vip, address| vip.backends.iter().any(|own| own.address == address);
    let (before, after) = (own(old), own(new));
    let all: BTreeSet<IpAddr> = before.keys().chain(after.keys()).copied().collect();
    all.into_iter().filter_map(move |backend| {
        let [from, to] = [&before, &after].map(|own| own.get(&backend));
        if from == to || !has(old, backend) || !has(new, backend) {
            return None;
        }
        let [from, to] = [from, to].map(|own| own.map_or_else(|| "as the VIP's".to_owned(), WayMtu::to_string));
        Some(Change::BackendChanged { vip: new.name.clone(), backend, key: "mtu".to_owned(), from, to })
    })
}

/// Changes of the keys of a VIP that the data plane does not hold.
fn unheld(old: &Vip, new: &Vip) -> Vec<SettingChange> {
    let mut changes = old.settings.changes(&new.settings);
    changes.retain(|change| !record::KEYS.contains(&change.key));
    if old.health != new.health {
        let [from, to] =
            [old, new].map(|vip| vip.health.as_ref().map_or_else(|| "none".to_owned(), |health| health.to_string()));
        changes.push(SettingChange { key: "health", from, to });
    }
    changes
}

/// Refuses changes of keys that say where the running daemon is.
pub fn refuse_restart_keys(old: &Node, new: &Node) -> Result<(), Error> {
    let changed = keys(old, new).into_iter().filter(|key| key.needs_restart && key.change.is_some());
    let keys: Vec<_> = changed.map(|key| key.name).collect();
    if keys.is_empty() { Ok(()) } else { Err(Error::NeedsRestart { keys }) }
}

/// What the file says of a backend and no packet follows, as a change of the file.
pub fn overridden_change(overridden: &Overridden<'_>) -> Change {
    let Overridden { vip, backend, from, to, .. } = overridden;
    let (vip, from, to) = ((*vip).to_owned(), from.clone(), to.clone());
    Change::BackendChanged { vip, backend: *backend, key: "state".to_owned(), from, to }
}

/// Changes of `[node]` and those that the data plane found, each once.
pub fn merged(mut node: Vec<Change>, dataplane: Vec<Change>) -> Vec<Change> {
    let new: Vec<_> = dataplane.into_iter().filter(|change| !node.contains(change)).collect();
    node.extend(new);
    node
}

/// A key and whether its value changes.
struct Key {
    name: &'static str,
    change: Option<Change>,
    needs_restart: bool,
}

/// Every key of `[node]`.
fn keys(old: &Node, new: &Node) -> Vec<Key> {
    // Destructured, so that a new key is not forgotten here.
    let Node {
        interfaces,
        names_interfaces: _,
        xdp_mode,
        metrics,
        metrics_backends,
        socket,
        readers,
        bpffs,
        state,
        max_removed,
        encap_source4,
        encap_source6,
        max_vips,
        max_backends,
        max_slots,
        max_flows,
        vrf,
        mark,
        hash_seed_file,
        // Told by the plan, which knows what the loaded program has.
        hash_seed: _,
        icmp_rate,
        log_packets,
    } = new;
    let address = |metrics: &Option<std::net::SocketAddr>| metrics.map_or("none".to_owned(), |a| a.to_string());
    let prefix = |prefix: &Option<ipnet::Ipv6Net>| prefix.map_or("none".to_owned(), |prefix| prefix.to_string());
    let flows = |max: &Option<u32>| max.map_or("by memory".to_owned(), |max| max.to_string());
    let vrf_word = |vrf: &Option<Vrf>| vrf.map_or("default".to_owned(), |vrf| vrf.to_string());
    let mark_word = |mark: &Option<u32>| model::mark_word(mark.unwrap_or(0));
    let path = |path: &Option<PathBuf>| path.as_ref().map_or("none".to_owned(), |path| path.display().to_string());
    vec![
        key("interfaces", &old.interfaces.join(","), &interfaces.join(",")),
        key("xdp_mode", &old.xdp_mode, xdp_mode),
        key("metrics", &address(&old.metrics), &address(metrics)),
        key("metrics_backends", &old.metrics_backends, metrics_backends),
        key("readers", &old.readers, readers),
        key("socket", &old.socket.display().to_string(), &socket.display().to_string()).needs_restart(),
        key("bpffs", &old.bpffs.display().to_string(), &bpffs.display().to_string()).needs_restart(),
        key("state", &old.state.display().to_string(), &state.display().to_string()).needs_restart(),
        key("max_removed", &old.max_removed, max_removed),
        key("encap_source4", &old.encap_source4, encap_source4),
        key("encap_source6", &prefix(&old.encap_source6), &prefix(encap_source6)),
        key("max_vips", &old.max_vips, max_vips),
        key("max_backends", &old.max_backends, max_backends),
        key("max_slots", &old.max_slots, max_slots),
        key("max_flows", &flows(&old.max_flows), &flows(max_flows)),
        key("vrf", &vrf_word(&old.vrf), &vrf_word(vrf)),
        key("mark", &mark_word(&old.mark), &mark_word(mark)),
        key("hash_seed_file", &path(&old.hash_seed_file), &path(hash_seed_file)),
        key("icmp_rate", &old.icmp_rate, icmp_rate),
        key("log_packets", &old.log_packets, log_packets),
    ]
}

fn key<T: PartialEq + Display>(name: &'static str, old: &T, new: &T) -> Key {
    let change = || Change::NodeChanged { key: name.to_owned(), from: old.to_string(), to: new.to_string() };
    let change = (old != new).then(change);
    Key { name, change, needs_restart: false }
}

impl Key {
    fn needs_restart(self) -> Self {
        Self { needs_restart: true, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Parts;

    #[test]
    fn each_change_is_told_once() {
        let old = Node { interfaces: vec!["eth0".into(), "eth1".into()], ..Node::default() };
        let new = Node {
            interfaces: vec!["eth1".into()],
            metrics: Some(([127, 0, 0, 1], 9100).into()),
            max_flows: Some(65_536),
            log_packets: true,
            ..Node::default()
        };
        let [old, new] = [old, new].map(|node| Config::new(Parts { node, ..Parts::default() }).unwrap());
        assert_eq!(changes(&old, &old), []);
        let reported: Vec<_> = changes(&old, &new).iter().map(Change::to_string).collect();
        assert_eq!(
            reported,
            [
                "node: interfaces eth0,eth1 → eth1",
                "node: metrics none → 127.0.0.1:9100",
                "node: max_flows by memory → 65536",
                "node: log_packets false → true",
            ]
        );
    }

    #[test]
    fn what_no_map_holds_is_told_by_vip_and_backend() {
        use crate::plan::fixtures::{config, vip};
        let old = config([vip("web", "192.0.2.1", &["tcp/80"], &["10.0.0.1", "10.0.0.2", "10.0.0.3"])]);
        let mut new = old.clone();
        let web = new.vip_mut(0);
        web.settings.mtu = "1400".parse().unwrap();
        web.settings.echo = model::EchoReply::Ready;
        web.backends[1].mtu = Some("1300".parse().unwrap());
        web.backends[2].address = "10.0.0.4".parse().unwrap();
        web.backends[2].mtu = Some("1300".parse().unwrap());
        let reported = |old, new| changes(old, new).iter().map(Change::to_string).collect::<Vec<_>>();
        let expected = [
            "vip web: echo always → ready",
            "vip web: mtu none → 1400",
            "vip web: backend 10.0.0.2 mtu as the VIP's → 1300",
        ];
        assert_eq!(reported(&old, &new), expected);
        assert_eq!(reported(&new, &old)[2], "vip web: backend 10.0.0.2 mtu 1300 → as the VIP's");
    }

    #[test]
    fn only_what_says_where_the_daemon_is_needs_a_restart() {
        let old = Node::default();
        let may = Node { max_vips: 5, log_packets: true, interfaces: vec!["eth0".into()], ..Node::default() };
        refuse_restart_keys(&old, &may).unwrap();
        let must = Node { socket: "/run/other.sock".into(), bpffs: "/sys/fs/bpf/other".into(), ..Node::default() };
        let error = refuse_restart_keys(&old, &must).unwrap_err().to_string();
        assert!(error.contains("cannot change socket, bpffs in [node]"), "{error}");
    }
}
