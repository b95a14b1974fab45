//! What is not as the config wants it although the rest is served, and since when. Each is tried again until it is
//! mended; it is logged when it comes, when its reason changes and when it goes, never at each try.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::SystemTime,
};

use crate::model::ProblemKind;

/// The problems of the moment.
#[derive(Clone, Debug, Default)]
pub struct Problems(BTreeMap<(ProblemKind, String), Noted>);

/// Something that is not as the config wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What sort of thing it concerns.
    pub kind: ProblemKind,
    /// Which of them: the name of the interface, the address of the listener.
    pub what: String,
    /// What is wrong with it, and what to do.
    pub reason: String,
    /// Since when.
    pub since: SystemTime,
}

#[derive(Clone, Debug)]
struct Noted {
    reason: String,
    since: SystemTime,
}

impl Problems {
    /// Takes note of a problem with `what`, and logs it where that is news.
    pub fn note(&mut self, kind: ProblemKind, what: &str, reason: &str) {
        if self.enter(kind, what, reason) {
            log::error!("{reason}; trying again");
        }
    }

    /// Forgets a problem that is mended, and logs that.
    pub fn mend(&mut self, kind: ProblemKind, what: &str) {
        if self.0.remove(&(kind, what.to_owned())).is_some() {
            log::info!("mended: {} {what}", kind.name());
        }
    }

    /// Makes `reasons` all the problems of a kind, by what they concern. Whoever found them logs them.
    pub fn follow(&mut self, kind: ProblemKind, reasons: &BTreeMap<String, String>) {
        self.0.retain(|(other, what), _| *other != kind || reasons.contains_key(what));
        for (what, reason) in reasons {
            self.enter(kind, what, reason);
        }
    }

    /// All of them, by kind.
    pub fn list(&self) -> Vec<Problem> {
        let problem = |((kind, what), Noted { reason, since }): (&(ProblemKind, String), &Noted)| Problem {
            kind: *kind,
            what: what.clone(),
            reason: reason.clone(),
            since: *since,
        };
        self.0.iter().map(problem).collect()
    }

    /// Whether this is news.
    fn enter(&mut self, kind: ProblemKind, what: &str, reason: &str) -> bool {
        match self.0.entry((kind, what.to_owned())) {
            Entry::Occupied(known) if known.get().reason == reason => return false,
            Entry::Occupied(mut known) => known.get_mut().reason = reason.to_owned(),
            Entry::Vacant(unknown) => {
                unknown.insert(Noted { reason: reason.to_owned(), since: SystemTime::now() });
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_news_once_and_keeps_its_time() {
        let mut problems = Problems::default();
        assert!(problems.enter(ProblemKind::Metrics, "127.0.0.1:9100", "taken"));
        let since = problems.list()[0].since;
        assert!(!problems.enter(ProblemKind::Metrics, "127.0.0.1:9100", "taken"));
        assert!(problems.enter(ProblemKind::Metrics, "127.0.0.1:9100", "no such address"));
        assert_eq!((problems.list().len(), problems.list()[0].since), (1, since));
        problems.mend(ProblemKind::Metrics, "127.0.0.1:9100");
        assert!(problems.list().is_empty());
    }

    #[test]
    fn a_kind_may_be_followed_as_a_whole() {
        let mut problems = Problems::default();
        problems.note(ProblemKind::PacketLog, "log_packets", "no program");
        let reasons = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "taken".to_owned())).collect();
        problems.follow(ProblemKind::Interface, &reasons(&["eth0", "eth1"]));
        problems.follow(ProblemKind::Interface, &reasons(&["eth1"]));
        let left: Vec<_> = problems.list().into_iter().map(|problem| problem.what).collect();
        assert_eq!(left, ["eth1", "log_packets"]);
    }
}
