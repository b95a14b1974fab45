//! From answers to a verdict: as many in a row as the VIP wants, so that one lost packet takes nobody out.

/// Whether a backend works, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is known yet. It serves: a start that took everybody out until probes have come back would be an outage.
    Unknown,
    /// It works.
    Up,
    /// It does not.
    Down,
}

/// Makes the verdict of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judge {
    verdict: Verdict,
    /// Answers in a row that speak against the verdict.
    against: u32,
}

impl Judge {
    /// With a verdict from before.
    pub fn new(verdict: Verdict) -> Self {
        Self { verdict, against: 0 }
    }

    /// The verdict.
    pub fn verdict(self) -> Verdict {
        self.verdict
    }

    /// Takes note of an answer; the verdict where it is another one now.
    pub fn note(&mut self, is_good: bool, rise: u32, fall: u32) -> Option<Verdict> {
        let (speaks_for, needed) = match (self.verdict, is_good) {
            (Verdict::Up, true) | (Verdict::Down, false) => {
                self.against = 0;
                return None;
            }
            // It serves already: nothing is risked.
            (Verdict::Unknown, true) => (Verdict::Up, 1),
            (Verdict::Unknown | Verdict::Up, false) => (Verdict::Down, fall),
            (Verdict::Down, true) => (Verdict::Up, rise),
        };
        self.against += 1;
        if self.against < needed {
            return None;
        }
        *self = Self::new(speaks_for);
        Some(speaks_for)
    }

    /// Whether a verdict is forming: probes come faster meanwhile.
    pub fn is_forming(self) -> bool {
        self.verdict == Verdict::Unknown || self.against > 0
    }

    /// Answers in a row that speak against the verdict.
    pub fn against(self) -> u32 {
        self.against
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By answers, `+` for good and `-` for a failure: the verdicts that came of them, with `rise` 2 and `fall` 3.
    fn verdicts(first: Verdict, answers: &str) -> Vec<Verdict> {
        let mut judge = Judge::new(first);
        answers.chars().filter_map(|answer| judge.note(answer == '+', 2, 3)).collect()
    }

    #[test]
    fn it_takes_as_many_in_a_row() {
        use Verdict::{Down, Unknown, Up};
        assert_eq!(verdicts(Up, "--+--+--"), []);
        assert_eq!(verdicts(Up, "---"), [Down]);
        assert_eq!(verdicts(Down, "+-+-+-"), []);
        assert_eq!(verdicts(Down, "-++"), [Up]);
        assert_eq!(verdicts(Up, "---++---"), [Down, Up, Down]);
        assert_eq!(verdicts(Unknown, "--"), []);
        assert_eq!(verdicts(Unknown, "---"), [Down]);
        assert_eq!(verdicts(Unknown, "-+---"), [Up, Down]);
    }

    #[test]
    fn probes_are_faster_while_a_verdict_is_forming() {
        let mut judge = Judge::new(Verdict::Unknown);
        assert!(judge.is_forming());
        judge.note(true, 2, 3);
        assert!(!judge.is_forming());
        judge.note(false, 2, 3);
        assert!(judge.is_forming() && judge.against() == 1);
        judge.note(true, 2, 3);
        assert!(!judge.is_forming());
        let mut judge = Judge::new(Verdict::Down);
        assert!(!judge.is_forming());
        judge.note(true, 2, 3);
        assert!(judge.is_forming());
    }
}
