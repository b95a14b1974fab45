//! Programs of the lab that do the least that a forwarder must do, and some that also read or write one line of a table.

use std::fs;

use anyhow::Context as _;
use lb_common::FlowLine;

use crate::balancer::MAX_FLOWS;

/// A program of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// What it is called here.
    pub name: &'static str,
    /// What the lab calls it.
    pub program: &'static str,
    /// Cache lines of the table that it reads or writes one of; absent where it does neither.
    pub lines: Option<u32>,
}

/// What is subtracted from all others.
pub const NOTHING: Floor = Floor { name: "nothing", program: "bench_nothing", lines: None };
/// Of modes with an IPv4 header in front.
pub const ENCAPSULATE4: Floor =
    Floor { name: "bare 20-byte encapsulation", program: "bench_encapsulate4", lines: None };
/// Of modes with an IPv6 header in front.
pub const ENCAPSULATE6: Floor =
    Floor { name: "bare 40-byte encapsulation", program: "bench_encapsulate6", lines: None };
/// Of `l2`.
pub const REWRITE: Floor = Floor { name: "bare MAC rewrite", program: "bench_rewrite", lines: None };
/// [`ENCAPSULATE4`] with a line of a table: of one that is larger than most cores' own caches, of the flow table of the
/// balancers that are measured, and of one as large as the slots of ten thousand VIPs.
pub const WITH_A_LINE: [Floor; 5] = [
    reading("bare 20-byte, reads a line of 4 MiB", 4 * LINES_A_MIB),
    reading("bare 20-byte, reads a line of 34 MiB", LINES_OF_FLOWS),
    reading("bare 20-byte, reads a line of 640 MiB", 640 * LINES_A_MIB),
    Floor {
        name: "bare 20-byte, waits for a line of 34 MiB",
        program: "bench_encapsulate4_waiting",
        lines: Some(LINES_OF_FLOWS),
    },
    Floor {
        name: "bare 20-byte, writes a line of 34 MiB",
        program: "bench_encapsulate4_writing",
        lines: Some(LINES_OF_FLOWS),
    },
];

/// Bytes in a cache line.
const LINE: u64 = size_of::<FlowLine>() as u64;
const MIB: u64 = 1 << 20;
const LINES_A_MIB: u32 = (MIB / LINE) as u32;
/// Of the flow table of the balancers that are measured.
const LINES_OF_FLOWS: u32 = MAX_FLOWS.div_ceil(FlowLine::FLOWS_A_GROUP) * FlowLine::A_GROUP as u32;

const fn reading(name: &'static str, lines: u32) -> Floor {
    Floor { name, program: "bench_encapsulate4_reading", lines: Some(lines) }
}

impl Floor {
    /// Why it is not measured while so many bytes of memory are available: a table takes no more than half of them.
    pub fn shortage(self, available: u64) -> Option<String> {
        let table = self.bytes();
        (table > available / 2).then(|| {
            format!(
                "a table of {} MiB takes more than half of the {} MiB of memory that are available",
                table / MIB,
                available / MIB
            )
        })
    }

    /// Of its table.
    fn bytes(self) -> u64 {
        self.lines.map_or(0, |lines| u64::from(lines) * LINE)
    }
}

/// Bytes of memory that can be had without swapping (`MemAvailable` of /proc/meminfo).
pub fn available_memory() -> anyhow::Result<u64> {
    let path = "/proc/meminfo";
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.strip_suffix("kB")?.trim().parse().ok());
    let kib: u64 = kib.with_context(|| format!("{path} does not say how much memory is available"))?;
    Ok(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_sizes_of_tables() {
        for floor in WITH_A_LINE {
            let size = format!(" a line of {} MiB", floor.bytes() / MIB);
            assert!(floor.name.ends_with(&size), "{}:{size}", floor.name);
        }
    }

    #[test]
    fn a_table_is_left_out_where_memory_is_short() {
        let [small, _, large, ..] = WITH_A_LINE;
        assert_eq!(large.shortage(1280 * MIB), None);
        assert_eq!(
            large.shortage(1279 * MIB).unwrap(),
            "a table of 640 MiB takes more than half of the 1279 MiB of memory that are available"
        );
        assert_eq!(small.shortage(1279 * MIB), None);
        assert_eq!(NOTHING.shortage(0), None);
        assert!(available_memory().unwrap() > 0);
    }
}
