//! Repeated measurements of one thing on a noisy machine.

use nix::{
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// Measurements of one case, all in one unit.
#[derive(Clone, Debug, Default)]
pub struct Sample(Vec<f64>);

/// The middle of a sample, and how far it spreads.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Median.
    pub median: f64,
    /// First quartile.
    pub low: f64,
    /// Third quartile.
    pub high: f64,
}

impl Sample {
    /// Adds a measurement.
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// What the sample says; zeros of an empty one.
    pub fn summary(&self) -> Summary {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let index = (sorted.len().saturating_sub(1) as f64 * part).round() as usize;
            sorted.get(index).copied().unwrap_or_default()
        };
        Summary { median: at(0.5), low: at(0.25), high: at(0.75) }
    }

    /// This sample less another one, measurement by measurement: what ran in one round shared its noise.
    #[must_use]
    pub fn less(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a - b).collect())
    }

    /// This sample as multiples of another one, in the same way.
    #[must_use]
    pub fn times(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect())
    }
}

/// Keeps this thread, and those that it starts from now on, on the CPU that it is on: caches and per-CPU maps stay
/// where they are.
///
/// # Errors
///
/// When the kernel refuses it.
pub fn stay_on_this_cpu() -> nix::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(sched_getcpu()?)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)
}

/// Processor and kernel, for whoever compares tables.
pub fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{}, Linux {}", model.trim_start_matches([' ', '\t', ':']), kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_does_not_heed_outliers() {
        let mut sample = Sample::default();
        for value in [5.0, 900.0, 4.0, 6.0, 5.0] {
            sample.add(value);
        }
        let Summary { median, low, high } = sample.summary();
        assert_eq!((median, low, high), (5.0, 5.0, 6.0));
    }
}
