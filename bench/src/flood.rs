//! A SYN flood against one VIP, settled and with half of its slots moving, while real connections to it go on.

use clap::Args;
use naru_tests::flood::{self, Group, Phase, Report, Usage};
use serde::Serialize;

use crate::{sample::machine, table::table};

/// What the bench takes.
#[derive(Args, Debug)]
pub struct Options {
    /// SYNs that naru is to count, once with settled slots and once with moving ones
    #[arg(long, default_value_t = 20_000_000)]
    packets: u64,
    /// Connections in each of three groups: opened before the change, after it, and coming and going
    #[arg(long, default_value_t = 200)]
    connections: usize,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// Floods, reports, and says whether what was promised was kept.
pub fn run(options: &Options) -> anyhow::Result<()> {
    // Builds them, if need be, before anything waits.
    naru_tests::naru::naru_binary()?;
    naru_tests::naru::lab_binary()?;
    let Options { packets, connections, json } = *options;
    let report = flood::run(flood::Options { packets, connections }, |step| eprintln!("{step}"))?;
    if json {
        let machine = machine();
        println!("{}", serde_json::to_string_pretty(&Told { machine, report: &report })?);
    } else {
        print(&report);
    }
    report.verdict()
}

#[derive(Serialize)]
struct Told<'a> {
    machine: String,
    #[serde(flatten)]
    report: &'a Report,
}

fn print(report: &Report) {
    let mut table = table(["", "SETTLED", "HALF MOVING"], 1);
    let mut row = |name: &str, cell: &dyn Fn(&Phase) -> String| {
        let [settled, moving] = &report.phases;
        table.add_row([name.to_owned(), cell(settled), cell(moving)]);
    };
    row("slots that move", &|phase| format!("{} of {}", phase.moving_slots, report.slots));
    row("SYNs sent", &|phase| thousands(phase.sent));
    row("lost in rings", &|phase| thousands(phase.lost()));
    row("new flows counted by naru", &|phase| thousands(phase.counted));
    row("packets dropped by naru", &|phase| thousands(phase.dropped));
    row("SYNs forwarded", &|phase| thousands(phase.absorbed));
    row("million SYNs a second", &|phase| format!("{:.2}", phase.absorbed as f64 / phase.seconds / 1e6));
    for group in &report.phases[1].groups {
        row(&format!("connections {}: open", group.name), &|phase| of_group(phase, group, |group| group.open));
        row("  opened meanwhile", &|phase| of_group(phase, group, |group| group.opened));
        row("  broken", &|phase| of_group(phase, group, |group| group.broken.values().sum::<usize>() as u64));
        row("  not opened", &|phase| of_group(phase, group, |group| group.refused as u64));
    }
    let outcomes = report.phases.iter().flat_map(|phase| phase.outcomes.keys());
    for outcome in outcomes.collect::<std::collections::BTreeSet<_>>() {
        let packets = |phase: &Phase| thousands(phase.outcomes.get(outcome).copied().unwrap_or(0));
        row(&format!("flow table: {outcome}"), &packets);
    }
    row(&format!("established entries, room for {}", thousands(report.room)), &|phase| {
        change(phase, |usage| usage.entries[0])
    });
    row("embryonic entries", &|phase| change(phase, |usage| usage.entries[1]));
    row("embryonic entries that expired", &|phase| thousands(phase.gone_embryos()));
    row("flows that were refused", &|phase| thousands(phase.refused()));
    row("memory of all maps, KiB", &|phase| change(phase, |usage| usage.map_bytes / 1024));
    row("memory of the daemon, KiB", &|phase| change(phase, |usage| usage.daemon_bytes / 1024));
    println!("{table}");
    println!(
        "\nSpoofed SYNs, each of a flow of its own, made in the kernel and sent into the load balancer's interface, \
         until naru has\ncounted as many as were asked for; the connections talk four times a second each. At the \
         router's port an XDP program\ncounts and drops what comes back of them, so that the lab's backends, which \
         share this machine, need not answer: the load\nbalancer does all that it would do. LOST IN RINGS: where a \
         veth's 256 places were full, before or behind naru.\n\
         Entries and memory: before the flood → after it.\nMachine: {}",
        machine()
    );
}

fn of_group(phase: &Phase, wanted: &Group, value: impl Fn(&Group) -> u64) -> String {
    let group = phase.groups.iter().find(|group| group.name == wanted.name);
    group.map_or_else(String::new, |group| value(group).to_string())
}

fn change(phase: &Phase, value: impl Fn(&Usage) -> u64) -> String {
    let [before, after] = phase.usage.each_ref().map(value).map(thousands);
    format!("{before} → {after}")
}

/// With a mark at each power of a thousand.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_marked() {
        assert_eq!([0, 999, 1000, 20_000_000].map(thousands), ["0", "999", "1,000", "20,000,000"]);
    }
}
