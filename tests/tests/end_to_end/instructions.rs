//! What the program costs in calls, by its own instructions as the kernel runs them.

use std::collections::BTreeSet;

use aya::util::KernelVersion;
use naru_tests::{
    forwarder::Forwarder,
    instructions::{Callee, Instructions},
    vip_text::VipText,
};
use nix::{
    sys::time::TimeValLike as _,
    time::{ClockId, clock_getres},
};

/// What a packet on a settled slot does not come across that arrives in one buffer, is not longer than it says, is
/// addressed to the interface's own address, and leaves by the interface that it came in by. The program's own
/// functions are all of that sort: other addresses of the interface, the flow table, frames with something behind the
/// packet.
fn is_another_path(callee: &Callee) -> bool {
    match callee {
        Callee::Own(_) => true,
        Callee::Kernel(name) => ["bpf_xdp_get_buff_len", "redirect"].iter().any(|other| name.contains(other)),
    }
}

/// One call for each packet on a settled slot, and that is what moves the start of the frame; with `l2` only
/// where tags differ.
#[test]
#[ignore = "needs root"]
fn a_packet_on_a_settled_slot_makes_one_call() {
    if KernelVersion::current().unwrap() < KernelVersion::new(6, 10, 0) {
        return patience::not_tested("calls per packet", "kernels before 6.10 look counters up by a call");
    }
    for (vip, backend, forward) in [
        ("203.0.113.10", "10.0.1.11", "ipip"),
        ("203.0.113.10", "2001:db8::b", "ipip"),
        ("2001:db8:77::10", "10.0.1.11", "ipip"),
        ("2001:db8:77::10", "2001:db8::b", "ipip"),
        ("203.0.113.10", "10.0.1.11", "l2"),
    ] {
        for tracking in ["adaptive", "always", "never"] {
            let config = VipText::new("web", vip, ["tcp/80", "udp/any"], forward).text("tracking", tracking);
            let forwarder = Forwarder::new(&config.backend(backend).to_string()).unwrap();
            let Some(instructions) = Instructions::of(forwarder.program().unwrap()).unwrap() else {
                return patience::not_tested("calls per packet", "this kernel hides the addresses of its functions");
            };
            let all = instructions.calls_of(0).unwrap();
            println!("{vip} {forward} to {backend}, {tracking}: {all:?}");
            let (most, names) = instructions.most_calls(0, is_another_path).unwrap();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            assert_eq!((most, names), (1, vec!["bpf_xdp_adjust_head"]), "{forward} to {backend}, {tracking}");
        }
    }
}

/// The flow table takes no call of the kernel: what time it is stands in memory.
#[test]
#[ignore = "needs root"]
fn no_packet_asks_the_kernel_what_time_it_is() {
    let what = "time without a call";
    if clock_getres(ClockId::CLOCK_MONOTONIC).unwrap().num_nanoseconds() != 1 {
        return patience::not_tested(what, "this kernel's timers are coarse, its jiffies may not follow the clock");
    }
    let config = VipText::new("web", "203.0.113.10", ["tcp/80"], "ipip").text("tracking", "always");
    let forwarder = Forwarder::new(&config.backend("10.0.1.11").to_string()).unwrap();
    let Some(instructions) = Instructions::of(forwarder.program().unwrap()).unwrap() else {
        return patience::not_tested(what, "this kernel hides the addresses of its functions");
    };
    let (mut functions, mut open, mut names) = (BTreeSet::new(), vec![0], BTreeSet::new());
    while let Some(function) = open.pop() {
        if functions.insert(function) {
            for callee in instructions.calls_of(function).unwrap() {
                match callee {
                    Callee::Own(other) => open.push(other),
                    Callee::Kernel(name) => drop(names.insert(name)),
                }
            }
        }
    }
    assert!(functions.len() > 1, "the flow table has functions of its own");
    assert!(names.contains("bpf_xdp_adjust_head"), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("ktime") || name.contains("jiffies")), "{names:?}");
}
