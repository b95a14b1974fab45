//! From answers to a verdict: as many in a row as the VIP wants, so that one lost packet takes nobody out; and more of them
//! for a backend that comes and goes.

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
    /// While it is up, good answers in a row.
    good: u32,
    /// How often it went down without having been up for long: each doubles what it takes to come back.
    relapses: u32,
}

/// After as many good answers in a row it has been up for long.
const CALM: u32 = 30;

/// Relapses that count: what it takes to come back is at most 2 to the power of this many times `rise`.
const MOST_RELAPSES: u32 = 4;

impl Judge {
    /// With a verdict from before.
    pub fn new(verdict: Verdict) -> Self {
        Self { verdict, against: 0, good: 0, relapses: 0 }
    }

    /// The verdict.
    pub fn verdict(self) -> Verdict {
        self.verdict
    }

    /// Takes note of an answer; the verdict where it is another one now.
    pub fn note(&mut self, is_good: bool, rise: u32, fall: u32) -> Option<Verdict> {
        if self.verdict == Verdict::Up {
            self.good = if is_good { self.good.saturating_add(1) } else { 0 };
            if self.good == CALM {
                self.relapses = 0;
            }
        }
        let needed = match (self.verdict, is_good) {
            (Verdict::Up, true) | (Verdict::Down, false) => {
                self.against = 0;
                return None;
            }
            // It serves already: nothing is risked.
            (Verdict::Unknown, true) => 1,
            (Verdict::Unknown | Verdict::Up, false) | (Verdict::Down, true) => self.needed(rise, fall),
        };
        self.against += 1;
        if self.against < needed {
            return None;
        }
        self.turn(if is_good { Verdict::Up } else { Verdict::Down });
        Some(self.verdict)
    }

    fn turn(&mut self, verdict: Verdict) {
        let relapses = match (self.verdict, verdict) {
            (Verdict::Up, Verdict::Down) => (self.relapses + 1).min(MOST_RELAPSES + 1),
            _ => self.relapses,
        };
        *self = Self { relapses, ..Self::new(verdict) };
    }

    /// As many answers in a row against the verdict change it.
    pub fn needed(self, rise: u32, fall: u32) -> u32 {
        match self.verdict {
            Verdict::Unknown | Verdict::Up => fall,
            // The first time costs nothing more.
            Verdict::Down => rise << self.relapses.saturating_sub(1),
        }
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
        // What has come back and fails again must be good for longer, each time twice as long, up to 16 times.
        assert_eq!(verdicts(Up, "---++---+++"), [Down, Up, Down]);
        assert_eq!(verdicts(Up, "---++---++++"), [Down, Up, Down, Up]);
        let relapse = |times: usize| format!("---{}", "+".repeat(2 << times));
        let often: String = [0, 1, 2, 3, 4, 4, 4].map(relapse).concat();
        assert_eq!(verdicts(Up, &often), [Down, Up].repeat(7));
        // Once it has been up for long, that is forgotten.
        let calm = format!("---++---++++{}---++", "+".repeat(CALM as usize));
        assert_eq!(verdicts(Up, &calm), [Down, Up].repeat(3));
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
