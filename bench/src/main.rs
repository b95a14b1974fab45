//! `naru-bench`: what naru costs, beside bare floors in the same run. Run it by `cargo xtask bench`.

mod against;
mod balancer;
mod consistency;
mod control;
mod flood;
mod floor;
mod health;
mod packet;
mod sample;
mod sweep;
mod table;
mod throughput;
mod traffic;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask bench", about = "Measures naru")]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Nanoseconds per packet of the real program, by forward mode, tracking, kind of packet and number of flows
    Packet(packet::Options),
    /// Packets per second of the real program through a pair of veths, beside a bare reflect
    Throughput(throughput::Options),
    /// Control-plane speed: load, one change, adoption, by number of VIPs
    Control(control::Options),
    /// Which connections break when backends change, beside tracking of every flow and of none
    Consistency(consistency::Options),
    /// What a flood of SYNs does to connections, the flow table and memory, with settled slots and with moving ones
    Flood(flood::Options),
    /// What probing ten thousand backends costs: CPU time and memory of the daemon, and whether probes are in time
    Health(health::Options),
    /// What sweeping a million tracked flows costs: CPU time, packets, and the time of a change beside it
    Sweep(sweep::Options),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().bench {
        Bench::Packet(options) => packet::run(&options),
        Bench::Throughput(options) => throughput::run(&options),
        Bench::Control(options) => control::run(&options),
        Bench::Consistency(options) => consistency::run(&options),
        Bench::Flood(options) => flood::run(&options),
        Bench::Health(options) => health::run(&options),
        Bench::Sweep(options) => sweep::run(&options),
    }
}
