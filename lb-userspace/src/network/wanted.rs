//! What the daemon wants ways to, as the task that finds them sees it.

use std::collections::HashMap;

use crate::model::Target;

/// Which asking for a target an event answers. A target that was let go of and is wanted again is asked for anew: what
/// was known of it is not true any more, since nobody followed it.
pub type Asking = u64;

/// The targets, with the asking for each.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    targets: HashMap<Target, Want>,
    last: Asking,
}

/// Why a target is wanted.
#[derive(Debug)]
struct Want {
    asking: Asking,
    /// How many backends of the config are behind it.
    backends: u32,
}

impl Wanted {
    /// Whether it is wanted.
    pub fn contains(&self, target: &Target) -> bool {
        self.targets.contains_key(target)
    }

    /// Which asking is for it.
    pub fn asking(&self, target: &Target) -> Option<Asking> {
        self.targets.get(target).map(|want| want.asking)
    }

    /// All of them.
    pub fn askings(&self) -> impl Iterator<Item = (Target, Asking)> {
        self.targets.iter().map(|(target, want)| (*target, want.asking))
    }

    /// How many backends of the config are behind it.
    pub fn backends(&self, target: &Target) -> u32 {
        self.targets.get(target).map_or(0, |want| want.backends)
    }

    /// Wants it, be there a backend of the config or not; whether that is news.
    pub fn add(&mut self, target: Target) -> bool {
        let known = self.targets.len();
        self.want(target);
        self.targets.len() != known
    }

    /// One more backend is behind it; whether the target is new.
    pub fn count(&mut self, target: Target) -> bool {
        let known = self.targets.len();
        self.want(target).backends += 1;
        self.targets.len() != known
    }

    /// One backend less is behind it; whether it was the last.
    pub fn discount(&mut self, target: &Target) -> bool {
        let want = self.targets.get_mut(target).filter(|want| want.backends > 0);
        want.is_some_and(|want| {
            want.backends -= 1;
            want.backends == 0
        })
    }

    /// Lets go of what no backend of the config is behind, but for what `stays`; whether there was any.
    pub fn prune(&mut self, stays: impl Fn(&Target) -> bool) -> bool {
        let known = self.targets.len();
        self.targets.retain(|target, want| want.backends > 0 || stays(target));
        self.targets.len() != known
    }

    fn want(&mut self, target: Target) -> &mut Want {
        self.targets.entry(target).or_insert_with(|| {
            self.last += 1;
            Want { asking: self.last, backends: 0 }
        })
    }
}

#[cfg(test)]
impl Wanted {
    /// Wants these targets, all by the same asking.
    pub fn by(asking: Asking, targets: &[Target]) -> Self {
        let want = |target: &Target| (*target, Want { asking, backends: 0 });
        Self { targets: targets.iter().map(want).collect(), last: asking }
    }
}
