//! What ways are followed to: the backends of the config that runs, and those that it does not have any more and that
//! have flows. Counted, so that a change costs as much as it changes.

use std::collections::{HashMap, HashSet};

use super::next_hops::targets_of;
use crate::model::{Config, Difference, Node, Target, Vip};

/// What ways are followed to.
#[derive(Debug, Default)]
pub struct Targets {
    /// Of the config: how many of its backends are behind each.
    needed: HashMap<Target, u32>,
    /// Of backends that the config does not have any more.
    lingering: HashSet<Target>,
    /// Whoever follows them was told of others.
    is_untold: bool,
}

impl Targets {
    /// Of a data plane that runs already, of which nobody was told yet.
    pub fn adopted(lingering: HashSet<Target>) -> Self {
        Self { lingering, is_untold: true, ..Self::default() }
    }

    /// Takes note of the config that runs, where it was `before`.
    pub fn follow(&mut self, before: &Config, after: &Config) {
        let (gone, come) = changed(before, after);
        for target in come {
            let count = self.needed.entry(target).or_default();
            self.is_untold |= *count == 0;
            *count += 1;
        }
        for target in gone {
            if let Some(count) = self.needed.get_mut(&target) {
                *count -= 1;
                if *count == 0 {
                    self.needed.remove(&target);
                    self.is_untold = true;
                }
            }
        }
    }

    /// Takes note of the backends that the config does not have any more; whether others are to be followed than whoever
    /// does so was told of.
    pub fn follow_lingering(&mut self, lingering: HashSet<Target>) -> bool {
        let is_news = self.is_untold || lingering != self.lingering;
        self.lingering = lingering;
        self.is_untold = false;
        is_news
    }

    /// Those of `after` that are not followed yet, where the config that runs is `before`. They are to be told of, and
    /// [`Self::follow_lingering`] then says so of the next ones.
    pub fn new_in(&mut self, before: &Config, after: &Config) -> HashSet<Target> {
        let is_new = |target: &Target| !self.needed.contains_key(target) && !self.lingering.contains(target);
        let new: HashSet<_> = changed(before, after).1.into_iter().filter(is_new).collect();
        self.is_untold |= !new.is_empty();
        new
    }

    /// All of them.
    pub fn all(&self) -> HashSet<Target> {
        self.needed.keys().chain(&self.lingering).copied().collect()
    }
}

/// Targets of VIPs that only the config before has just so, and of those that only the config after has; each as often
/// as backends are behind it.
fn changed(before: &Config, after: &Config) -> (Vec<Target>, Vec<Target>) {
    let ways = |node: &Node| (node.vrf, node.mark);
    if ways(&before.node) != ways(&after.node) {
        return (targets_of(before).collect(), targets_of(after).collect());
    }
    let Difference { gone, come } = before.difference(after);
    let of_vip =
        |node, vip: &Vip| vip.backends.iter().map(|backend| Target::of(node, vip, backend)).collect::<Vec<_>>();
    (
        gone.into_iter().flat_map(|vip| of_vip(&before.node, vip)).collect(),
        come.into_iter().flat_map(|vip| of_vip(&after.node, vip)).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(backends: &[&str]) -> Config {
        let vip = |(number, backends): (usize, &&str)| {
            let backends: String = backends.chars().map(|last| format!("{{ address = \"10.0.0.{last}\" }},")).collect();
            format!(
                "[[vip]]\nname = \"{number}\"\naddress = \"192.0.2.{number}\"\nports = [\"tcp/80\"]\nforward = \"ipip\"\n\
                 backends = [{backends}]\n"
            )
        };
        let vips: String = backends.iter().enumerate().map(vip).collect();
        Config::parse(&format!("[node]\ninterfaces = []\n{vips}"), "f".as_ref()).unwrap()
    }

    fn named(last: char) -> Target {
        Target::new(format!("10.0.0.{last}").parse().unwrap(), false)
    }

    #[test]
    fn a_target_is_followed_for_as_long_as_a_backend_is_behind_it() {
        let mut targets = Targets::default();
        let (nothing, both, one) = (Config::default(), config(&["12", "2"]), config(&["1", "2"]));
        assert_eq!(targets.new_in(&nothing, &both).len(), 2);
        targets.follow(&nothing, &both);
        assert!(targets.follow_lingering(HashSet::new()));
        assert!(!targets.follow_lingering(HashSet::new()), "the same is no news");

        assert_eq!(targets.new_in(&both, &one), HashSet::new());
        targets.follow(&both, &one);
        assert!(!targets.follow_lingering(HashSet::new()), "another VIP has it still");
        let other = config(&["1", "3"]);
        assert_eq!(targets.new_in(&one, &other), HashSet::from([named('3')]));
        targets.follow(&one, &other);
        assert!(targets.follow_lingering(HashSet::from([named('2')])));
        assert_eq!(targets.all(), HashSet::from(['1', '2', '3'].map(named)));
        assert_eq!(targets.new_in(&other, &one), HashSet::new(), "it lingers");
        assert!(targets.follow_lingering(HashSet::new()));
        assert_eq!(targets.all(), HashSet::from(['1', '3'].map(named)));
    }

    #[test]
    fn what_lingers_from_before_is_told_of() {
        let lingering = HashSet::from([named('1')]);
        let mut targets = Targets::adopted(lingering.clone());
        assert_eq!(targets.new_in(&Config::default(), &config(&["1"])), HashSet::new(), "its way is adopted");
        assert!(targets.follow_lingering(lingering));
    }

    #[test]
    fn what_was_told_of_and_did_not_come_is_told_of_again() {
        let mut targets = Targets::default();
        let (nothing, one) = (Config::default(), config(&["1"]));
        assert!(!targets.follow_lingering(HashSet::new()));
        assert_eq!(targets.new_in(&nothing, &one).len(), 1);
        assert!(targets.follow_lingering(HashSet::new()), "the change did not happen");
        assert_eq!(targets.all(), HashSet::new());
    }

    #[test]
    fn another_mark_of_the_node_is_another_way_to_everything() {
        let mut targets = Targets::default();
        let before = config(&["1", "2"]);
        targets.follow(&Config::default(), &before);
        let mut after = before.clone();
        after.node.mark = Some(7);
        assert_eq!(targets.new_in(&before, &after).len(), 2);
        targets.follow(&before, &after);
        assert!(targets.all().iter().all(|target| target.via.mark == 7) && targets.all().len() == 2);
    }
}
