//! The verifier takes the forwarder whatever features a config switches on: each leaves another program behind.

use std::thread;

use aya::{EbpfLoader, programs::Xdp, util::KernelVersion};
use lb_common::{Features, Forward};
use lb_userspace::objects;

const SWITCHES: [Features; 9] = [
    Features::ANY_PORT,
    Forward::L2.feature(),
    Forward::Ipip4.feature(),
    Forward::Ipip6.feature(),
    Features::VIP4,
    Features::VIP6,
    Features::LOG,
    Features::TRACKING,
    // Together: neither has to do with anything else, and each switch doubles the time.
    Features::PROBES.with(Features::REFUSALS),
];

#[test]
#[ignore = "needs root"]
fn every_set_of_features_is_taken_by_the_verifier() {
    let mut programs = vec![("naru", Features::MULTI_BUFFER), ("naru_linear", Features::default())];
    let is_old = KernelVersion::current().unwrap() < KernelVersion::new(5, 18, 0);
    programs.retain(|(name, _)| !is_old || *name != "naru");
    load("naru_probe", Features::default(), (1 << SWITCHES.len()) - 1);
    for (name, always) in &programs {
        let all = (1 << (SWITCHES.len() - 1)) - 1;
        load(name, always.with(Features::PROBES), all);
        load(name, always.with(Features::REFUSALS), all);
    }
    let sets = 0..1u32 << SWITCHES.len();
    let loads: Vec<_> = programs.into_iter().flat_map(|program| sets.clone().map(move |set| (program, set))).collect();
    // The verifier takes a fifth of a second for each, on the CPU that asks.
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for share in loads.chunks(loads.len().div_ceil(cpus)) {
            scope.spawn(|| share.iter().for_each(|((name, always), set)| load(name, *always, *set)));
        }
    });
    if is_old {
        patience::not_tested(
            "the program for frames of several buffers",
            "this kernel, before 5.18, does not know them",
        );
    }
}

/// Loads a program with those of the features that `set` has a bit for, and those that it always has.
fn load(name: &str, always: Features, set: u32) {
    let chosen = SWITCHES.iter().enumerate().filter(|(bit, _)| set >> bit & 1 == 1);
    let features = chosen.fold(always, |features, (_, feature)| features.with(*feature));
    // One program as it is on x86 with high-resolution timers, the other as it is elsewhere.
    let (jiffy, ordered) = if features.contains(Features::MULTI_BUFFER) { (4_000_000u64, 1u32) } else { (0, 0) };
    let mut loader = EbpfLoader::new();
    loader.override_global("FEATURES", &features.0, true);
    loader.override_global("JIFFY", &jiffy, true);
    loader.override_global("ORDERED_STORES", &ordered, true);
    let mut ebpf = loader.load(objects::FORWARDER).unwrap();
    let program: &mut Xdp = ebpf.program_mut(name).unwrap().try_into().unwrap();
    if let Err(error) = program.load() {
        let text = format!("{error:?}");
        panic!("{name} with features {:#b}: … {}", features.0, &text[text.len().saturating_sub(1_000)..]);
    }
}
