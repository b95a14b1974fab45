//! All that is wanted.

use std::{
    collections::HashMap,
    ops::{Deref, Range},
    path::PathBuf,
    sync::Arc,
};

use super::{
    Conflict, Node, Vip,
    conflict::{beyond_limits, conflicts, go_together},
};
use crate::seed::HashSeed;

/// A whole config, in which no name and no service is there twice, and which keeps to the limits of its node: that is
/// checked once, as it is made, and by nobody later. It reads as the [`Parts`] that it was made of. To copy it costs a
/// reference count per VIP: what a change leaves alone is shared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config(Parts);

/// What a config is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts {
    /// The machine that the load balancer runs on: `[node]`.
    pub node: Node,
    /// The virtual addresses in the order of the file: `[[vip]]`.
    pub vips: Vec<Arc<Vip>>,
}

/// What of a config its host may say otherwise. What makes a config one does not depend on it.
#[derive(Debug)]
pub struct Local<'c> {
    /// Interfaces that the data plane is attached to, where the text does not name them.
    pub interfaces: &'c mut Vec<String>,
    /// What the file of the hash seed holds.
    pub hash_seed: &'c mut HashSeed,
    /// The socket of the API.
    pub socket: &'c mut PathBuf,
    /// Directory of the pinned programs, links and maps.
    pub bpffs: &'c mut PathBuf,
    /// Directory of what the daemon must know after a crash.
    pub state: &'c mut PathBuf,
}

/// Where two configs differ: VIPs that only one of them has just so.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference<'a> {
    /// Of the config before.
    pub gone: Vec<&'a Arc<Vip>>,
    /// Of the config after.
    pub come: Vec<&'a Arc<Vip>>,
}

impl Config {
    /// The config of these parts.
    ///
    /// # Errors
    ///
    /// They are not valid: all reasons.
    pub fn new(parts: Parts) -> Result<Self, Vec<Conflict>> {
        let conflicts = conflicts(&parts.node, &parts.vips);
        if conflicts.is_empty() { Ok(Self(parts)) } else { Err(conflicts) }
    }

    /// The config with other VIPs in the places of these; `None` where that is not valid. VIPs that stay are looked at
    /// only for what they have in common with those that come.
    pub fn with_vips(&self, places: Range<usize>, come: Vec<Arc<Vip>>) -> Option<Self> {
        let Parts { node, vips } = &self.0;
        let others = vips[..places.start].iter().chain(&vips[places.end..]);
        if !conflicts(node, &come).is_empty() || !go_together(&come, others) {
            return None;
        }
        let mut after = self.clone();
        after.0.vips.splice(places, come);
        beyond_limits(node, &after.vips).is_empty().then_some(after)
    }

    /// What its host may say otherwise.
    pub fn local(&mut self) -> Local<'_> {
        let Node { interfaces, hash_seed, socket, bpffs, state, .. } = &mut self.0.node;
        Local { interfaces, hash_seed, socket, bpffs, state }
    }

    /// The VIPs, for an overlay: it changes states of backends, and nothing that a config is checked for.
    pub(super) fn vips_mut(&mut self) -> &mut [Arc<Vip>] {
        &mut self.0.vips
    }

    /// The VIP of that name.
    pub fn vip(&self, name: &str) -> Option<&Arc<Vip>> {
        self.vips.iter().find(|vip| vip.name == name)
    }

    /// A VIP, to be changed in this config only.
    #[cfg(test)]
    pub fn vip_mut(&mut self, index: usize) -> &mut Vip {
        Arc::make_mut(&mut self.vips[index])
    }

    /// The VIPs in which `after` differs from this config, in the order that they have there. VIPs that are shared are
    /// passed over at the cost of a comparison of pointers. The order of VIPs is no difference.
    pub fn difference<'a>(&'a self, after: &'a Self) -> Difference<'a> {
        let same = |(old, new): &(&Arc<Vip>, &Arc<Vip>)| Arc::ptr_eq(old, new) || old == new;
        let (old, new) = (&self.vips, &after.vips);
        let above = old.iter().zip(new).take_while(same).count();
        let (old, new) = (&old[above..], &new[above..]);
        let below = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
        let (old, new) = (&old[..old.len() - below], &new[..new.len() - below]);
        let mut gone: HashMap<&str, &Arc<Vip>> = old.iter().map(|vip| (vip.name.as_str(), vip)).collect();
        let come = new.iter().filter(|vip| {
            let is_same = gone.get(vip.name.as_str()).is_some_and(|old| same(&(old, vip)));
            if is_same {
                gone.remove(vip.name.as_str());
            }
            !is_same
        });
        let come = come.collect();
        let gone = old.iter().filter(|vip| gone.contains_key(vip.name.as_str())).collect();
        Difference { gone, come }
    }
}

impl Deref for Config {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// Tests change a config in place, and see to it themselves that it stays one.
#[cfg(test)]
impl std::ops::DerefMut for Config {
    fn deref_mut(&mut self) -> &mut Parts {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Slots,
        plan::fixtures::{many, vip},
    };

    #[test]
    fn no_name_and_no_service_is_there_twice() {
        type Row<'r> = (&'r str, &'r str, &'r [&'r str]);
        let parts = |vips: &[Row<'_>]| Parts {
            vips: vips.iter().map(|(name, address, ports)| vip(name, address, ports, &[]).into()).collect(),
            ..Parts::default()
        };
        let a: Row<'_> = ("a", "192.0.2.1", &["tcp/1", "tcp/2"]);
        let sound = Config::new(parts(&[a, ("b", "192.0.2.2", &["tcp/1"]), ("c", "192.0.2.1", &["tcp/3"])])).unwrap();
        let long = "x".repeat(100);
        let cases: [(Row<'_>, Conflict); 5] = [
            (("a", "192.0.2.3", &["tcp/9"]), Conflict::Name { vip: 1, first: 0 }),
            (("a", "192.0.2.1", &["tcp/1"]), Conflict::Name { vip: 1, first: 0 }),
            (("d", "192.0.2.1", &["tcp/9", "tcp/2", "tcp/1"]), Conflict::Service { vip: 1, port: 1, first: 0 }),
            (("d", "192.0.2.9", &["tcp/1", "tcp/1"]), Conflict::Service { vip: 1, port: 1, first: 1 }),
            ((&long, "192.0.2.9", &["tcp/1"]), Conflict::LongName { vip: 1 }),
        ];
        for (more, expected) in cases {
            assert_eq!(Config::new(parts(&[a, more])).unwrap_err(), [expected]);
            assert_eq!(sound.with_vips(1..1, parts(&[more]).vips), None);
        }
        let come = parts(&[("a", "192.0.2.1", &["tcp/2"]), ("d", "192.0.2.2", &["tcp/2"])]).vips;
        assert_eq!(sound.with_vips(0..1, come).unwrap().vips.len(), 4);
        let come = parts(&[("d", "192.0.2.9", &["tcp/1"]), ("d", "192.0.2.8", &["tcp/1"])]).vips;
        assert_eq!(sound.with_vips(1..1, come), None, "among those that come");
    }

    #[test]
    fn limits_are_told_with_the_need() {
        const SLOTS: u32 = 101;
        let Config(Parts { node, vips }) = many(3, 4, SLOTS);
        let with = |max_vips, max_backends, max_slots| {
            let node = Node { max_vips, max_backends, max_slots, ..node.clone() };
            Config::new(Parts { node, vips: vips.clone() })
        };
        let beyond = |vip, key, max, what, sum| Err(vec![Conflict::Limit { vip, key, max, what, sum }]);
        assert_eq!(with(2, 12, 303), beyond(2, "max_vips", 2, "VIPs", 3));
        assert_eq!(with(3, 7, 303), beyond(1, "max_backends", 7, "backends", 12));
        assert_eq!(with(3, 12, 302), beyond(2, "max_slots", 302, "slots", 303));
        let sound = with(3, 12, 303).unwrap();
        assert_eq!(sound.with_vips(3..3, vec![vip("d", "192.0.2.1", &["tcp/1"], &[]).into()]), None);
        assert!(sound.with_vips(2..3, vec![vip("d", "192.0.2.1", &["tcp/1"], &[]).into()]).is_some());
    }

    fn config(names: &[&str]) -> Config {
        let vip = |name: &&str| {
            format!("[[vip]]\nname = \"{name}\"\naddress = \"192.0.2.{}\"\nports = [\"tcp/80\"]\nforward = \"l2\"\n", {
                name.bytes().map(u32::from).sum::<u32>() % 200
            })
        };
        let text = names.iter().map(vip).collect::<String>();
        Config::parse(&format!("[node]\ninterfaces = []\n{text}"), "f".as_ref()).unwrap()
    }

    fn names(vips: &[&Arc<Vip>]) -> Vec<String> {
        vips.iter().map(|vip| vip.name.clone()).collect()
    }

    #[test]
    fn only_what_differs_is_a_difference() {
        let before = config(&["a", "b", "c", "d"]);
        assert_eq!(before.difference(&before.clone()), Difference::default());
        let mut after = before.clone();
        after.vip_mut(1).settings.slots = Slots::new(211);
        after.vips.remove(2);
        after.vips.insert(0, config(&["e"]).vips.remove(0));
        let Difference { gone, come } = before.difference(&after);
        assert_eq!((names(&gone), names(&come)), (vec!["b".into(), "c".into()], vec!["e".into(), "b".into()]));
    }

    #[test]
    fn order_and_copies_are_no_difference() {
        let before = config(&["a", "b", "c"]);
        let mut after = config(&["a", "b", "c"]);
        after.vips.rotate_left(1);
        assert_eq!(before.difference(&after), Difference::default());
    }
}
