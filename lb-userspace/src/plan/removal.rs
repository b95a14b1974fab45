//! What a config would take away from what runs: more than somebody may mean who did not say so.
//!
//! An empty file, one that was cut off, or the wrong one is a valid config that serves nothing. So a config that is
//! read from a file may take away a share of the VIPs, and of the backends, and not more, unless it is forced. What a
//! command removes by name is meant.

use std::{collections::HashMap, fmt, sync::Arc};

use super::{State, VipKey, wanted::keys};
use crate::model::{Config, Difference, Share, Vip};

/// What a daemon that left no word of its config serves, as far as losing it is concerned.
#[derive(Clone, Debug, Default)]
pub struct Served(Vec<ServedVip>);

#[derive(Clone, Debug)]
struct ServedVip {
    name: String,
    keys: Vec<VipKey>,
    backends: usize,
}

/// What a config would take away, and that is too much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Names of the VIPs of which no port would be served, or that would be left without a backend.
    vips: Vec<String>,
    all_vips: usize,
    backends: usize,
    all_backends: usize,
    /// Every interface that the data plane is attached to.
    interfaces: Vec<String>,
    max: Share,
}

impl Served {
    /// By maps that another daemon left.
    pub fn by_maps(state: &State) -> Self {
        let vip = |(id, record): (u32, &lb_common::VipRecord)| ServedVip {
            name: record.name.as_str().to_owned(),
            keys: state.keys_of(id).collect(),
            backends: state.backends_of(id).filter(|(_, entry)| !entry.is_removed()).count(),
        };
        Self(state.served_vips().map(vip).collect())
    }

    /// What of it `config`, which was not forced, would take away if that is more than `max`, or everything.
    pub fn lost_by(&self, config: &Config, max: Share) -> Option<Removal> {
        let all_backends = || self.0.iter().map(|vip| vip.backends).sum();
        lost(self.0.iter(), config.vips.iter(), (self.0.len(), all_backends), max)
    }
}

impl ServedVip {
    fn of(vip: &Vip) -> Self {
        Self { name: vip.name.clone(), keys: keys(vip).collect(), backends: vip.backends.len() }
    }
}

/// What of `served`, beside which other VIPs stay, is not among `come`, if that is more than `max` of all, or
/// everything. `all` are VIPs and backends. A VIP that only gets another name is none that goes.
fn lost<'a>(
    served: impl Iterator<Item = &'a ServedVip>,
    come: impl Iterator<Item = &'a Arc<Vip>>,
    all: (usize, impl FnOnce() -> usize),
    max: Share,
) -> Option<Removal> {
    let stay: HashMap<VipKey, usize> = come.flat_map(|vip| keys(vip).map(|key| (key, vip.backends.len()))).collect();
    let (mut vips, mut backends) = (Vec::new(), 0);
    for vip in served {
        let stays = vip.keys.iter().find_map(|key| stay.get(key)).copied();
        backends += vip.backends.saturating_sub(stays.unwrap_or(0));
        if stays.is_none() || (stays == Some(0) && vip.backends > 0) {
            vips.push(vip.name.clone());
        }
    }
    if vips.is_empty() && backends == 0 {
        return None;
    }
    let (all_vips, all_backends) = (all.0, all.1());
    let too_much = |gone: usize, all: usize| gone > 0 && (gone == all || max.is_exceeded(gone, all));
    if !too_much(vips.len(), all_vips) && !too_much(backends, all_backends) {
        return None;
    }
    Some(Removal { vips, all_vips, backends, all_backends, interfaces: Vec::new(), max })
}

impl Removal {
    /// What `new`, which was not forced, would take away from `old` if that is too much.
    pub fn between(old: &Config, new: &Config) -> Option<Self> {
        let max = old.node.max_removed;
        // A VIP that stays as it is has its keys to itself: only what differs can be lost.
        let Difference { gone, come } = old.difference(new);
        let gone: Vec<ServedVip> = gone.into_iter().map(|vip| ServedVip::of(vip)).collect();
        let all_backends = || old.vips.iter().map(|vip| vip.backends.len()).sum();
        let lost = lost(gone.iter(), come.into_iter(), (old.vips.len(), all_backends), max);
        let (before, after) = (&old.node.interfaces, &new.node.interfaces);
        if before.is_empty() || !after.is_empty() {
            return lost;
        }
        let nothing = Self { vips: Vec::new(), all_vips: 0, backends: 0, all_backends: 0, interfaces: Vec::new(), max };
        Some(Self { interfaces: before.clone(), ..lost.unwrap_or(nothing) })
    }
}

/// VIPs that are named.
const NAMED: usize = 5;

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vips, all_vips, backends, all_backends, interfaces, max } = self;
        let mut parts = Vec::new();
        if !vips.is_empty() {
            let mut names = vips.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
            if vips.len() > NAMED {
                names += &format!(" and {} more", vips.len() - NAMED);
            }
            parts.push(format!("{} of {all_vips} VIPs ({names})", vips.len()));
        }
        if *backends > 0 {
            parts.push(format!("{backends} of {all_backends} backends"));
        }
        if !interfaces.is_empty() {
            parts.push(format!("every interface ({})", interfaces.join(", ")));
        }
        write!(
            f,
            "it would take away {}; without `--force` that is at most {max} (`max_removed`), and never all",
            parts.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// VIPs on 203.0.113.N, each with as many backends.
    fn config(vips: &[(u8, u8)]) -> Config {
        let vip = |(last, backends): &(u8, u8)| {
            let backends: String =
                (1..=*backends).map(|number| format!("{{ address = \"10.0.{last}.{number}\" }},")).collect();
            format!(
                "[[vip]]\nname = \"v{last}\"\naddress = \"203.0.113.{last}\"\nports = [\"tcp/80\"]\nforward = \
                 \"ipip\"\nbackends = [{backends}]\n"
            )
        };
        let vips: String = vips.iter().map(vip).collect();
        Config::parse(&format!("[node]\ninterfaces = [\"eth0\"]\n{vips}"), "f".as_ref()).unwrap()
    }

    fn lost(old: &[(u8, u8)], new: &[(u8, u8)]) -> Option<String> {
        Removal::between(&config(old), &config(new)).map(|removal| removal.to_string())
    }

    #[test]
    fn a_share_may_go_and_not_more() {
        let four = [(1, 2), (2, 2), (3, 2), (4, 2)];
        assert_eq!(lost(&four, &four), None);
        assert_eq!(lost(&four, &four[..2]), None);
        let text = lost(&four, &four[..1]).unwrap();
        assert!(text.contains("3 of 4 VIPs (v2, v3, v4), 6 of 8 backends"), "{text}");
        assert!(text.contains("at most 50%"), "{text}");
        assert!(lost(&four, &[]).unwrap().contains("4 of 4 VIPs"));
        assert_eq!(lost(&[], &four), None);
        assert_eq!(lost(&[], &[]), None);
    }

    #[test]
    fn backends_count_as_vips_do() {
        assert_eq!(lost(&[(1, 4), (2, 4)], &[(1, 4), (2, 1)]), None);
        assert!(lost(&[(1, 4), (2, 4)], &[(1, 1), (2, 2)]).unwrap().contains("away 5 of 8 backends;"));
        assert!(lost(&[(1, 4)], &[(1, 0)]).unwrap().contains("1 of 1 VIPs (v1), 4 of 4 backends"));
        // What never had any loses none.
        assert_eq!(lost(&[(1, 0), (2, 1)], &[(1, 0), (2, 1)]), None);
    }

    #[test]
    fn a_vip_by_another_name_stays() {
        let (old, mut new) = (config(&[(1, 2)]), config(&[(1, 2)]));
        new.vip_mut(0).name = "renamed".to_owned();
        assert_eq!(Removal::between(&old, &new), None);
        new.vip_mut(0).backends.iter_mut().for_each(|backend| backend.address = "10.9.9.9".parse().unwrap());
        assert_eq!(Removal::between(&old, &new), None, "new servers in the place of old ones");
    }

    #[test]
    fn the_operator_sets_the_share_but_not_for_everything() {
        let (mut old, new) = (config(&[(1, 1), (2, 1), (3, 1)]), config(&[(1, 1)]));
        old.node.max_removed = "100%".parse().unwrap();
        assert_eq!(Removal::between(&old, &new), None);
        assert!(Removal::between(&old, &config(&[])).is_some());
        old.node.max_removed = "0%".parse().unwrap();
        assert!(Removal::between(&old, &config(&[(1, 1), (2, 1)])).is_some());
        assert_eq!(Removal::between(&old, &old), None);
    }

    #[test]
    fn the_last_interface_does_not_go_unasked() {
        let (old, mut new) = (config(&[(1, 1)]), config(&[(1, 1)]));
        new.node.interfaces = vec!["eth1".to_owned()];
        assert_eq!(Removal::between(&old, &new), None);
        new.node.interfaces.clear();
        let text = Removal::between(&old, &new).unwrap().to_string();
        assert!(text.contains("away every interface (eth0);"), "{text}");
        assert_eq!(Removal::between(&new, &old), None);
    }
}
