//! All that is wanted.

use std::{collections::HashMap, sync::Arc};

use super::{Node, Vip};

/// A whole config file. To copy it costs a reference count per VIP: what a change leaves alone is shared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The machine that the load balancer runs on: `[node]`.
    pub node: Node,
    /// The virtual addresses in the order of the file: `[[vip]]`.
    pub vips: Vec<Arc<Vip>>,
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
    /// The VIP of that name.
    pub fn vip(&self, name: &str) -> Option<&Arc<Vip>> {
        self.vips.iter().find(|vip| vip.name == name)
    }

    /// A VIP, to be changed in this config only.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Slots;

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
