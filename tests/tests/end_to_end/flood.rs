//! A SYN flood breaks no connection and, on settled slots, writes no flow entry. `cargo xtask bench flood` is the same
//! with 20 million SYNs.

use naru_tests::flood::{self, Options};

#[test]
#[ignore = "needs root"]
fn a_flood_of_syns_breaks_no_connection() {
    let report = flood::run(Options { packets: 500_000, connections: 60 }, |_| {}).unwrap();
    if let Err(faults) = report.verdict() {
        panic!("{faults:#}\n{report:#?}");
    }
}
