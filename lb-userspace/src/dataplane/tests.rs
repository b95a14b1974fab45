//! The real object in the real kernel, in a directory of pins of its own. All of it needs root.

use std::{
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, ProgramArray},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use lb_common::{ABI, Counters, NextHop};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use patience::{Namespace, ip};

use super::{
    fixtures::{Pins, assert_mirrors, veth, web},
    generation::Draft,
    globals::Globals,
    jiffies::Jiffies,
    *,
};
use crate::{
    model::{FlowHash, ForwardMode, IcmpRate, Target, Tracking, Vip},
    objects,
    plan::{
        Capacity,
        fixtures::{SLOTS, backend, config, many, vip},
        maglev, required_features,
    },
    tracking::Upkeep,
};

/// Where frames to every backend of `dataplane` go in these tests.
fn resolve(dataplane: &mut Dataplane, next_hop: Option<NextHop>) -> usize {
    let targets: Vec<_> = dataplane.backends().iter().map(|backend| (backend.target, next_hop)).collect();
    dataplane.set_next_hops(targets).unwrap()
}

/// Number of interfaces that packets can be redirected to.
fn devices(dataplane: &Dataplane) -> u64 {
    entries(dataplane, lb_common::maps::DEVICES)
}

/// Entries of a map that are in use.
fn entries(dataplane: &Dataplane, map: &str) -> u64 {
    dataplane.view().map_usage([0; 2]).unwrap().into_iter().find(|usage| usage.name == map).unwrap().entries
}

/// One VIP with four backends, of which one has this weight.
fn weighted(weight: u32) -> Config {
    let mut web = vip("web", "203.0.113.10", &["tcp/80"], &["10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.1.4"]);
    web.backends[0].weight = weight;
    config([web])
}

fn slots(dataplane: &Dataplane) -> Vec<lb_common::Slot> {
    (0..SLOTS).map(|index| dataplane.slots().at(index).unwrap()).collect()
}

#[test]
#[ignore = "needs root"]
fn slots_that_move_in_the_same_way_share_what_is_said_of_them() {
    let pins = Pins::new();
    let mut dataplane = pins.open(&weighted(100));
    let said = |dataplane: &Dataplane| entries(dataplane, lb_common::maps::MOVES);
    dataplane.apply(&weighted(100)).unwrap();
    assert_eq!(said(&dataplane), 0);
    dataplane.apply(&weighted(0)).unwrap();
    let moving: Vec<_> = slots(&dataplane).into_iter().filter(|slot| slot.is_moving()).collect();
    let ways: HashSet<_> = moving.iter().map(|slot| (slot.current(), slot.settled_owner())).collect();
    assert!(moving.len() > ways.len() && ways.len() >= 3, "{ways:?}");
    assert_eq!(said(&dataplane), ways.len() as u64);

    // Another daemon finds them, and what is free once none is left and a grace period has passed.
    let before = slots(&dataplane);
    drop(dataplane);
    let mut dataplane = pins.open(&weighted(0));
    assert_eq!((slots(&dataplane), said(&dataplane)), (before.clone(), ways.len() as u64));
    let settled = |slot: &lb_common::Slot| lb_common::Slot::settled(slot.current());
    let all: Vec<_> = (0..).zip(before.iter().map(settled)).collect();
    dataplane.put_slots(&all);
    assert!(slots(&dataplane).iter().all(|slot| !slot.is_moving()));
    let mut rounds = [1, 50, 100, 150].repeat(100).into_iter();
    let mut change = |dataplane: &mut Dataplane| {
        dataplane.apply(&weighted(rounds.next().unwrap())).unwrap();
        dataplane.put_slots(&all);
    };
    // As sweeps do, which wait for packets: what was left meanwhile is left to the next one.
    change(&mut dataplane);
    let left = said(&dataplane);
    let wait = dataplane.begin_wait();
    change(&mut dataplane);
    assert!(said(&dataplane) > left, "no place is written that a packet may be on its way to");
    let both = said(&dataplane);
    grace();
    dataplane.end_wait(wait);
    assert_eq!(said(&dataplane), both - left);
    let wait = dataplane.begin_wait();
    grace();
    dataplane.end_wait(wait);
    assert_eq!(said(&dataplane), 0);
    // Nobody waits: changes do, once there is no other place.
    drop(dataplane);
    pins.make_moves(32);
    let mut dataplane = pins.open(&weighted(100));
    dataplane.put_slots(&all);
    let mut ways = 0;
    for weight in [1, 50, 100, 150].repeat(20) {
        dataplane.apply(&weighted(weight)).unwrap();
        let moving: Vec<_> = slots(&dataplane).into_iter().filter(|slot| slot.is_moving()).collect();
        ways += moving.iter().map(|slot| (slot.current(), slot.settled_owner())).collect::<HashSet<_>>().len();
        let [book, named] = dataplane.generation.maps.places_used();
        assert_eq!(book, named);
        dataplane.put_slots(&all);
    }
    assert!(ways > 3 * 32, "{ways} ways are all that was to be said");
    assert_eq!(dataplane.generation(), 1, "no place was missing");
}

/// Tables that no piece of the map begins or ends with: what is in them, and what a change makes of them.
#[test]
#[ignore = "needs root"]
fn tables_lie_where_they_are_said_to() {
    let pins = Pins::new();
    let addresses = ["10.0.1.1", "10.0.1.2", "10.0.1.3"];
    let large = |weight: u32, forward: ForwardMode| {
        let mut vips = ["a", "b"].map(|name| vip(name, "203.0.113.10", &["tcp/80"], &addresses));
        vips[1].address = "203.0.113.11".parse().unwrap();
        for vip in &mut vips {
            vip.settings.slots = crate::model::Slots::new(300_007);
            vip.backends[0].weight = weight;
            vip.forward = forward;
        }
        let mut config = config(vips);
        config.node.max_slots = 1 << 20;
        config
    };
    let check = |dataplane: &Dataplane, weight: u32| {
        let state = dataplane.state();
        for (id, record) in state.vips() {
            let owners: Vec<_> = state.backends_of(*id).filter(|(_, entry)| !entry.is_removed()).collect();
            let weight = |place| if place == 0 { weight } else { 100 };
            let backends = owners.iter().enumerate();
            let backends: Vec<_> = backends
                .map(|(place, (_, entry))| maglev::WeightedBackend { key: entry.address, weight: weight(place) })
                .collect();
            for (index, owner) in (record.slot_base..).zip(maglev::table(&backends, record.slots)) {
                assert_eq!(dataplane.slots().at(index).unwrap().current(), owners[owner as usize].0, "slot {index}");
            }
        }
        let [book, slots] = dataplane.generation.maps.places_used();
        assert_eq!(book, slots);
    };
    let mut dataplane = pins.open(&large(100, ForwardMode::Ipip));
    let applied = dataplane.apply(&large(100, ForwardMode::Ipip)).unwrap();
    assert!(applied.writes >= 600_014, "{} writes", applied.writes);
    check(&dataplane, 100);
    dataplane.apply(&large(50, ForwardMode::Ipip)).unwrap();
    check(&dataplane, 50);
    // Other ids for the same servers.
    dataplane.apply(&large(50, ForwardMode::L2)).unwrap();
    check(&dataplane, 50);
    drop(dataplane);
    let mut dataplane = pins.open(&large(50, ForwardMode::L2));
    check(&dataplane, 50);
    // In the maps of another generation.
    let mut grown = large(70, ForwardMode::L2);
    grown.node.max_flows = Some(4096);
    dataplane.apply(&grown).unwrap();
    assert_eq!(dataplane.generation(), 2);
    check(&dataplane, 70);
}

/// What another VIP's table left behind, which nobody has any more, is not taken off what the VIPs say that are there.
#[test]
#[ignore = "needs root"]
fn slots_that_no_table_has_any_more_are_known_to_move() {
    let pins = Pins::new();
    let named = |name: &str, octet: u8, weight: u32| {
        let backends: Vec<_> = (1..=4).map(|host| format!("10.0.{octet}.{host}")).collect();
        let backends: Vec<_> = backends.iter().map(String::as_str).collect();
        let mut vip = vip(name, &format!("203.0.113.{octet}"), &["tcp/80"], &backends);
        vip.backends[0].weight = weight;
        vip
    };
    let mut dataplane = pins.open(&config([named("gone", 1, 100), named("stays", 2, 100)]));
    dataplane.apply(&config([named("gone", 1, 100), named("stays", 2, 100)])).unwrap();
    dataplane.apply(&config([named("gone", 1, 10), named("stays", 2, 10)])).unwrap();
    let mut upkeep = Upkeep::of(&mut dataplane);
    dataplane.apply(&config([named("stays", 2, 10)])).unwrap();
    let swept = upkeep.sweep(&mut dataplane).run().unwrap();
    upkeep.apply_sweep(&mut dataplane, swept).unwrap();
    assert_eq!(dataplane.state().vips().len(), 1);
    let same = |dataplane: &Dataplane| {
        let [book, slots] = dataplane.generation.maps.places_used();
        assert!(!book.is_empty());
        assert_eq!(book, slots);
    };
    same(&dataplane);
    drop(dataplane);
    let mut dataplane = pins.open(&config([named("stays", 2, 10)]));
    same(&dataplane);
    dataplane.apply(&config([named("stays", 2, 10), named("new", 3, 100)])).unwrap();
    assert_eq!(
        dataplane.state().vips().values().map(|record| record.slot_base).min(),
        Some(0),
        "where the old one was"
    );
    same(&dataplane);
    assert_mirrors(&dataplane);
}

/// Keys of VIPs that come, go, and get other routes, on few places: what is there is found, with its own route, and what
/// was removed is not.
#[test]
#[ignore = "needs root"]
fn no_key_that_was_removed_is_found_again() {
    let pins = Pins::new();
    let all: Vec<Vip> = many(120, 1, SLOTS).vips.iter().map(|vip| Vip::clone(vip)).collect();
    let mut dataplane = pins.open(&config(all.clone()));
    let mut random: u32 = 1;
    let mut next = |below: u32| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 16) % below
    };
    let mut known = HashSet::new();
    for round in 0..150 {
        let mut vips: Vec<Vip> = all.iter().filter(|_| next(3) > 0).cloned().collect();
        for vip in &mut vips {
            vip.settings.tracking = [Tracking::Adaptive, Tracking::Always][next(2) as usize];
        }
        dataplane.apply(&config(vips)).unwrap();
        known.extend(dataplane.state().keys().keys().copied());
        let maps = &dataplane.generation.maps;
        for key in &known {
            assert_eq!(maps.find(key).as_ref(), dataplane.state().keys().get(key), "{key:?} in round {round}");
        }
        if round % 40 == 39 {
            assert_mirrors(&dataplane);
            let config = config([]);
            drop(dataplane);
            dataplane = pins.open(&config);
        }
    }
    assert_eq!(pins.names(""), ["g1", "links"]);
}

/// Here there is room for two.
#[test]
#[ignore = "needs root"]
fn a_change_that_has_more_to_say_than_there_is_room_for_is_made_in_new_maps() {
    let pins = Pins::new();
    let mut dataplane = pins.open(&weighted(100));
    dataplane.apply(&weighted(100)).unwrap();
    drop(dataplane);
    pins.make_moves(2);

    let mut dataplane = pins.open(&weighted(100));
    let before = slots(&dataplane);
    let applied = dataplane.apply(&weighted(10)).unwrap();
    assert_eq!(applied.changes.len(), 1, "{:?}", applied.changes);
    assert_eq!(pins.names(""), ["g2", "links"]);
    assert_mirrors(&dataplane);
    let after = slots(&dataplane);
    assert!(after.iter().zip(&before).all(|(after, before)| after.settled_owner() == before.current()));
    let (mut there, mut here) = (vec![0; 8], vec![0; 8]);
    let fresh = Pins::new();
    let mut other = fresh.open(&weighted(10));
    other.apply(&weighted(10)).unwrap();
    other.slots().count(0, SLOTS, &mut there);
    dataplane.slots().count(0, SLOTS, &mut here);
    assert_eq!(here, there);
    assert!(dataplane.apply(&weighted(10)).unwrap().changes.is_empty());
}

#[test]
#[ignore = "needs root"]
fn backends_behind_one_gateway_share_what_leads_there() {
    let pins = Pins::new();
    let mut dataplane = pins.open(&weighted(100));
    dataplane.apply(&weighted(100)).unwrap();
    let hop = |mac: u8| Some(NextHop::new([2, 0, 0, 0, 0, mac], [2; 6], 1, 1500, 0));
    let places = |dataplane: &Dataplane| -> Vec<u32> { dataplane.generation.maps.hops().into_values().collect() };
    assert_eq!(places(&dataplane), [0; 4]);
    assert_eq!(resolve(&mut dataplane, hop(1)), 4);
    let there = places(&dataplane);
    assert!(there[0] != 0 && there.iter().all(|place| *place == there[0]), "{there:?}");
    // The gateway gets another MAC address, is lost, and comes back: its place says so, and no backend is written.
    for next_hop in [hop(2), hop(3), None, hop(2), hop(1)] {
        assert_eq!(resolve(&mut dataplane, next_hop), 4);
        assert_eq!(places(&dataplane), there);
        assert_mirrors(&dataplane);
        assert!(dataplane.backends().iter().all(|backend| backend.next_hop == next_hop));
    }

    // One goes another way, and comes back.
    let target = dataplane.backends()[1].target;
    for (next_hop, own) in [(hop(9), true), (None, true), (hop(1), false), (hop(8), true), (hop(1), false)] {
        dataplane.set_next_hops([(target, next_hop)]).unwrap();
        assert_mirrors(&dataplane);
        let now = places(&dataplane);
        assert_eq!((now[1] != there[1], now[0]), (own, there[0]), "{now:?}");
    }
    // Another daemon goes on with what is there.
    dataplane.set_next_hops([(target, hop(9))]).unwrap();
    let before = places(&dataplane);
    drop(dataplane);
    let mut dataplane = pins.open(&weighted(100));
    assert_eq!(places(&dataplane), before);
    for mac in 10..40 {
        dataplane.set_next_hops([(target, hop(mac))]).unwrap();
        assert_eq!(places(&dataplane), before, "it is its own place");
        assert_mirrors(&dataplane);
    }
    // Each its own way, again and again: places that were left are handed out again.
    let targets: Vec<_> = dataplane.backends().iter().map(|backend| backend.target).collect();
    for round in 0..200u8 {
        let ways =
            (0..).zip(&targets).map(|(index, target)| (*target, hop(if round % 2 == 0 { 1 } else { 50 + index })));
        dataplane.set_next_hops(ways.collect::<Vec<_>>()).unwrap();
        assert_mirrors(&dataplane);
        let different: HashSet<_> = places(&dataplane).into_iter().collect();
        assert_eq!(different.len(), if round % 2 == 0 { 1 } else { 4 });
    }
}

#[test]
#[ignore = "needs root"]
fn backends_whose_ways_carry_less_have_places_of_their_own_and_a_daemon_that_starts_keeps_them() {
    let pins = Pins::new();
    let mut config = weighted(100);
    config.vip_mut(0).backends[1].mtu = Some("1400".parse().unwrap());
    let mut dataplane = pins.open(&config);
    dataplane.apply(&config).unwrap();
    let hop = |mtu| NextHop::new([2; 6], [2; 6], 1, mtu, 0);
    let ways = |dataplane: &Dataplane, mtu: u32| -> Vec<_> {
        let limited = |target: Target| Some(hop(target.mtu.map_or(mtu, |farther| mtu.min(farther.into()))));
        dataplane.state.targets().map(|target| (target, limited(target))).collect()
    };
    let places = |dataplane: &Dataplane| -> Vec<u32> { dataplane.generation.maps.hops().into_values().collect() };
    let mtus = |dataplane: &Dataplane| -> Vec<u32> {
        dataplane.backends().iter().map(|backend| backend.next_hop.unwrap().mtu).collect()
    };
    let news = ways(&dataplane, 1500);
    assert_eq!(dataplane.set_next_hops(news).unwrap(), 4);
    assert_mirrors(&dataplane);
    assert_eq!(mtus(&dataplane), [1500, 1400, 1500, 1500]);
    let before = places(&dataplane);
    assert!(before[0] != before[1] && [before[2], before[3]] == [before[0]; 2], "{before:?}");
    let state = dataplane.state.clone();
    drop(dataplane);

    let mut dataplane = pins.open(&config);
    assert_eq!(dataplane.state, state);
    assert_eq!(dataplane.apply(&config).unwrap().writes, 0);
    let news = ways(&dataplane, 1500);
    assert_eq!(dataplane.set_next_hops(news).unwrap(), 0, "the ways are the same");
    assert_eq!(places(&dataplane), before);
    // The first hop gets a smaller MTU: all are reached alike, until it has the larger one again.
    for (mtu, expected, concerned) in [(1280, [1280; 4], 4), (1500, [1500, 1400, 1500, 1500], 4)] {
        let news = ways(&dataplane, mtu);
        assert_eq!(dataplane.set_next_hops(news).unwrap(), concerned);
        assert_mirrors(&dataplane);
        assert_eq!(mtus(&dataplane), expected);
    }
    // The wider way is found before the change.
    config.vip_mut(0).backends[1].mtu = None;
    dataplane.set_next_hops(Target::all(&config).map(|target| (target, Some(hop(1500))))).unwrap();
    dataplane.apply(&config).unwrap();
    let there = places(&dataplane);
    assert_eq!(there, [there[0]; 4]);
    assert_mirrors(&dataplane);
}

#[test]
#[ignore = "needs root"]
fn an_applied_config_is_in_the_maps_and_is_applied_once() {
    let pins = Pins::new();
    let mut dataplane = pins.open(&web());
    let applied = dataplane.apply(&web()).unwrap();
    assert_eq!(applied.changes.len(), 2);
    // 4 backends, 2 tables, 2 records, 3 keys and 4 markers.
    assert_eq!(applied.writes, 4 + 2 * SLOTS as usize + 2 + 7);
    assert_mirrors(&dataplane);

    let again = dataplane.apply(&web()).unwrap();
    assert_eq!((again.changes, again.writes), (vec![], 0));
    assert!(dataplane.plan(&web()).is_empty());

    let slots = dataplane.view().slots_per_backend();
    assert_eq!(slots.iter().map(|backend| backend.slots).sum::<u32>(), 2 * SLOTS);
    assert!(slots.iter().all(|backend| backend.slots >= SLOTS / 4), "{slots:?}");
}

#[test]
#[ignore = "needs root"]
fn another_daemon_is_refused_while_one_runs_and_adopts_everything_after() {
    let pins = Pins::new();
    let mut first = pins.open(&web());
    first.apply(&web()).unwrap();
    let (before, program) = (first.state.clone(), first.program_id().unwrap());

    let refused = Dataplane::open(&pins.0, &web()).err().unwrap().to_string();
    assert!(refused.starts_with(&format!("process {} (", std::process::id())), "{refused}");
    assert!(detach_everything(&pins.0).is_err());

    drop(first);
    let mut second = pins.open(&web());
    assert_eq!(second.state, before);
    assert_eq!(second.program_id().unwrap(), program);
    assert_eq!(second.apply(&web()).unwrap().writes, 0);
}

#[test]
#[ignore = "needs root"]
fn next_hops_change_in_place_and_outlive_the_daemon() {
    let pins = Pins::new();
    let (one, other) = veth("one", "other");
    let hop = |ifindex| Some(NextHop::new([2; 6], [4; 6], ifindex, 1500, 0));
    let mut dataplane = pins.open(&web());
    dataplane.apply(&web()).unwrap();
    assert!(dataplane.backends().iter().all(|backend| backend.next_hop.is_none()));

    assert_eq!(resolve(&mut dataplane, hop(one)), 4);
    assert_eq!(resolve(&mut dataplane, hop(one)), 0);
    assert_eq!(devices(&dataplane), 1);
    assert_eq!(resolve(&mut dataplane, hop(other)), 4);
    assert_eq!(devices(&dataplane), 2, "a packet on its way may have read the old next hop");
    assert_mirrors(&dataplane);

    // An interface that is not there is no way to anywhere.
    assert_eq!(resolve(&mut dataplane, hop(4_000_000)), 4);
    assert!(dataplane.backends().iter().all(|backend| backend.next_hop.is_none()));
    assert_eq!(devices(&dataplane), 1, "by the next change no packet reads what was there before the last one");
    assert_eq!(resolve(&mut dataplane, hop(one)), 4);

    drop(dataplane);
    let mut config = web();
    // The new backend is reached like the one of another VIP with the same address.
    config.vip_mut(1).backends.push(backend("10.0.1.12", 1));
    let mut dataplane = pins.open(&config);
    dataplane.apply(&config).unwrap();
    assert_eq!(dataplane.backends().iter().filter(|backend| backend.next_hop == hop(one)).count(), 5);
    assert_eq!(devices(&dataplane), 1);

    // An interface that went unheard of is no way to new backends, nor to old ones.
    ip("link del one");
    config.vip_mut(1).backends.push(backend("10.0.1.13", 1));
    dataplane.apply(&config).unwrap();
    assert!(dataplane.backends().iter().all(|backend| backend.next_hop.is_none()));
    assert_mirrors(&dataplane);
}

/// A run that is on its way when the wait begins has ended when the wait is over.
#[test]
#[ignore = "needs root"]
fn the_kernel_tells_when_no_packet_is_on_its_way() {
    let mut ebpf = Ebpf::load(crate::objects::LAB).unwrap();
    let dwell: &mut Xdp = ebpf.program_mut("dwell").unwrap().try_into().unwrap();
    dwell.load().unwrap();
    let fd = dwell.fd().unwrap().try_clone().unwrap();
    let mut again: ProgramArray<_> = ebpf.take_map("AGAIN").unwrap().try_into().unwrap();
    again.set(0, &fd, 0).unwrap();
    let runs: Array<_, u64> = ebpf.take_map("RUNS").unwrap().try_into().unwrap();
    let [begun, ended] = [0, 1].map(|index| move |runs: &Array<MapData, u64>| runs.get(&index, 0).unwrap());
    let dwell: &Xdp = ebpf.program("dwell").unwrap().try_into().unwrap();

    let (deadline, is_over) = (Instant::now() + patience::LIMIT, AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) && Instant::now() < deadline {
                dwell.test_run(TestRunOptions { data_in: Some(&[0; 64]), ..TestRunOptions::new() }).unwrap();
            }
        });
        let mut met = 0;
        while met < 20 {
            assert!(Instant::now() < deadline, "only {met} runs were on their way: this proves nothing");
            let run = begun(&runs);
            if ended(&runs) < run {
                sys::wait_for_readers().unwrap();
                let ended = ended(&runs);
                is_over.store(ended < run, Ordering::Relaxed);
                assert!(ended >= run, "run {run} was on its way, and still is");
                met += 1;
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
#[ignore = "needs root"]
fn maps_grow_under_an_attached_program() {
    let pins = Pins::new();
    let (ifindex, _) = veth("lb0", "client");
    let small = many(8, 8, SLOTS);
    let mut dataplane = pins.open(&small);
    dataplane.apply(&small).unwrap();
    let attachment = dataplane.attach("lb0", ifindex, XdpMode::Auto).unwrap();
    assert_eq!((attachment.mode, &attachment.reason), (Mode::Native, &None));
    resolve(&mut dataplane, Some(NextHop::new([2; 6], [4; 6], ifindex, 1500, 0)));
    let (before, program) = (dataplane.backends(), dataplane.program_id().unwrap());
    dataplane.generation.maps.add_backend_counters(before[7].id, Counters { packets: 3, bytes: 4, new_flows: 5 });

    let large = many(300, 8, SLOTS);
    dataplane.apply(&large).unwrap();
    assert_mirrors(&dataplane);
    assert_eq!(pins.names(""), ["g2", "links"]);
    assert_eq!(dataplane.backends()[..before.len()], before);
    assert_ne!(dataplane.program_id().unwrap(), program);
    assert_eq!(interface::running(ifindex).unwrap().unwrap().program, dataplane.program_id().unwrap());
    let counts = dataplane.counters().unwrap();
    assert_eq!(counts.backends.iter().map(|own| own.counters.packets).sum::<u64>(), 3);
    assert_eq!(counts.backends[7].counters, Counters { packets: 3, bytes: 4, new_flows: 5 });
    assert!(dataplane.plan(&large).is_empty());
}

#[test]
#[ignore = "needs root"]
fn an_apply_that_broke_off_is_made_good_in_new_maps() {
    let pins = Pins::new();
    let mut dataplane = pins.open(&web());
    dataplane.apply(&web()).unwrap();
    let before = dataplane.backends();
    dataplane.note_applying(true);
    drop(dataplane);

    let mut dataplane = pins.open(&web());
    assert!(!dataplane.plan(&web()).is_empty());
    let applied = dataplane.apply(&web()).unwrap();
    assert_eq!(applied.changes, []);
    assert_eq!(dataplane.backends(), before);
    assert_eq!(pins.names(""), ["g2", "links"]);
    assert!(dataplane.plan(&web()).is_empty());
    assert_mirrors(&dataplane);
}

#[test]
#[ignore = "needs root"]
fn a_handover_that_broke_off_is_finished_by_the_next_daemon() {
    let pins = Pins::new();
    let (ifindex, _) = veth("lb0", "client");
    let mut dataplane = pins.open(&web());
    dataplane.apply(&web()).unwrap();
    dataplane.attach("lb0", ifindex, XdpMode::Auto).unwrap();
    let old = dataplane.program_id().unwrap();
    dataplane.generation.maps.add_backend_counters(2, Counters { packets: 7, ..Counters::default() });
    Arc::make_mut(&mut dataplane.state).suspect = true;
    let plan = dataplane.plan(&web());
    let filled = dataplane.fill(2, &plan, plan.rebuild().unwrap(), dataplane.wanted_globals(&plan));
    drop(filled.unwrap_or_else(|error| panic!("{error}")));
    assert_eq!(interface::running(ifindex).unwrap().unwrap().program, old);
    drop(dataplane);

    let mut dataplane = pins.open(&web());
    assert_eq!(pins.names(""), ["g2", "links"]);
    assert_eq!(interface::running(ifindex).unwrap().unwrap().program, dataplane.program_id().unwrap());
    assert_eq!(dataplane.counters().unwrap().backends[1].counters.packets, 7);
    assert_eq!(dataplane.apply(&web()).unwrap().writes, 0);
}

#[test]
#[ignore = "needs root"]
fn a_generation_without_program_is_removed() {
    let pins = Pins::new();
    let mut dataplane = pins.open(&web());
    dataplane.apply(&web()).unwrap();
    drop(Draft::new(&dataplane.place, 2, dataplane.state.capacity, Globals::default(), |_| Ok(())).map(drop));
    assert_eq!(pins.names(""), ["g1", "g2", "links"]);
    drop(dataplane);
    let mut dataplane = pins.open(&web());
    assert_eq!(pins.names(""), ["g1", "links"]);
    assert_eq!(dataplane.apply(&web()).unwrap().writes, 0);
}

#[test]
#[ignore = "needs root"]
fn the_program_of_another_version_is_replaced_over_the_same_maps() {
    let pins = Pins::new();
    let (ifindex, _) = veth("lb0", "client");
    let mut dataplane = pins.open(&web());
    dataplane.apply(&web()).unwrap();
    dataplane.attach("lb0", ifindex, XdpMode::Auto).unwrap();
    let (before, program) = (dataplane.state.clone(), dataplane.program_id().unwrap());
    let maps = &dataplane.generation.maps;
    maps.note(maps::Journal { object: 1, ..maps.journal() });
    drop(dataplane);

    let dataplane = pins.open(&web());
    assert_ne!(dataplane.program_id().unwrap(), program);
    assert_eq!(interface::running(ifindex).unwrap().unwrap().program, dataplane.program_id().unwrap());
    assert_eq!(dataplane.state, before);
    assert!(dataplane.generation.program_is_current());
}

#[test]
#[ignore = "needs root"]
fn features_follow_the_config() {
    let pins = Pins::new();
    let four = config([vip("web", "203.0.113.10", &["tcp/80"], &["10.0.1.11"])]);
    let mut dataplane = pins.open(&four);
    dataplane.apply(&four).unwrap();
    let ipip = lb_common::Forward::Ipip4.feature();
    assert_eq!(dataplane.features(), Features::VIP4.with(ipip).with(Features::TRACKING).with(Features::ECHO));
    let first = dataplane.program_id().unwrap();

    let mut logging = four.clone();
    logging.node.log_packets = true;
    let applied = dataplane.apply(&logging).unwrap();
    assert_eq!(applied.changes[0].to_string(), "node: log_packets false → true");
    assert!(dataplane.features().contains(Features::LOG));
    assert_ne!(dataplane.program_id().unwrap(), first);

    dataplane.apply(&web()).unwrap();
    assert_eq!(dataplane.features(), required_features(&web()));
    drop(dataplane);
    assert_eq!(pins.open(&web()).features(), required_features(&web()));
}

#[test]
#[ignore = "needs root"]
fn another_icmp_rate_is_another_program_over_the_same_maps() {
    let pins = Pins::new();
    let mut config = web();
    let mut dataplane = pins.open(&config);
    dataplane.apply(&config).unwrap();
    let mut program = dataplane.program_id().unwrap();
    for rate in [0, 7] {
        config.node.icmp_rate = IcmpRate::new(rate).unwrap();
        let applied = dataplane.apply(&config).unwrap();
        assert_eq!((applied.changes.len(), applied.writes), (1, 0), "{applied:?}");
        assert_ne!(dataplane.program_id().unwrap(), program);
        assert_eq!(dataplane.generation.number(), 1);
        assert_mirrors(&dataplane);
        program = dataplane.program_id().unwrap();
        // A daemon that starts knows it, in whatever maps.
        drop(dataplane);
        dataplane = pins.open(&config);
        assert!(dataplane.plan(&config).is_empty());
        assert_eq!(dataplane.program_id().unwrap(), program);
    }
    let state = Arc::make_mut(&mut dataplane.state);
    state.suspect = true;
    dataplane.apply(&config).unwrap();
    assert_eq!(dataplane.generation.maps.journal().icmp_rate.get(), 7);
    assert_mirrors(&dataplane);
}

#[test]
#[ignore = "needs root"]
fn links_are_adopted_replaced_renamed_and_removed() {
    let pins = Pins::new();
    let (ifindex, _) = veth("lb0.100", "client");
    let mut dataplane = pins.open(&web());
    let attached = dataplane.attach("lb0.100", ifindex, XdpMode::Generic).unwrap();
    assert_eq!(attached.mode, Mode::Generic);
    assert_eq!(dataplane.attach("lb0.100", ifindex, XdpMode::Auto).unwrap(), attached);
    assert_eq!(dataplane.attach("lb0.100", ifindex, XdpMode::Native).unwrap().mode, Mode::Native);
    drop(dataplane);

    let mut dataplane = pins.open(&web());
    assert_eq!(dataplane.attachments().len(), 1);
    ip("link set lb0.100 down");
    ip("link set lb0.100 name wan");
    ip("link set wan up");
    assert_eq!(dataplane.attach("wan", ifindex, XdpMode::Auto).unwrap().name, "wan");
    assert_eq!(pins.names("links"), ["wan"]);

    ip("link del wan");
    let new = veth("wan", "client").0;
    let replaced = dataplane.attach("wan", new, XdpMode::Native).unwrap();
    assert_eq!((replaced.ifindex, replaced.mode), (new, Mode::Native));

    assert!(dataplane.detach("wan").unwrap());
    assert!(!dataplane.detach("wan").unwrap());
    assert_eq!(interface::running(new).unwrap(), None);
    assert!(pins.names("links").is_empty());
}

/// Whoever asks again must not hear that nothing is attached.
#[test]
#[ignore = "needs root"]
fn an_interface_that_cannot_be_detached_is_still_attached() {
    let pins = Pins::new();
    let (ifindex, _) = veth("lb0", "client");
    let mut dataplane = pins.open(&web());
    let attached = dataplane.attach("lb0", ifindex, XdpMode::Auto).unwrap();
    let (pin, aside) = (pins.0.join(format!("v{ABI}/links/lb0")), pins.0.join("aside"));
    fs::rename(&pin, &aside).unwrap();
    fs::create_dir(&pin).unwrap();
    dataplane.detach("lb0").unwrap_err();
    assert_eq!(dataplane.attachments(), [attached]);

    fs::remove_dir(&pin).unwrap();
    fs::rename(&aside, &pin).unwrap();
    assert!(dataplane.detach("lb0").unwrap());
    assert_eq!(dataplane.attachments(), []);
    assert_eq!(interface::running(ifindex).unwrap(), None);
}

#[test]
#[ignore = "needs root"]
fn the_link_of_an_interface_that_went_while_no_daemon_ran_is_removed() {
    let pins = Pins::new();
    let (ifindex, _) = veth("lb0", "client");
    pins.open(&web()).attach("lb0", ifindex, XdpMode::Auto).unwrap();
    ip("link del lb0");
    assert_eq!(pins.open(&web()).attachments(), []);
    assert!(pins.names("links").is_empty());
}

#[test]
#[ignore = "needs root"]
fn what_runs_in_another_network_namespace_is_neither_adopted_nor_removed() {
    let pins = Pins::new();
    let (ifindex, _) = veth("lb0", "client");
    pins.open(&web()).attach("lb0", ifindex, XdpMode::Auto).unwrap();
    let running = interface::running(ifindex).unwrap();
    assert!(running.is_some());

    let home = Namespace::current();
    let refused = || Dataplane::open(&pins.0, &web()).err().unwrap().to_string();
    let expected = "interface lb0, to which the program is attached, is in another network namespace than this \
                    process; run naru there, or take the program off with `naru interface detach lb0`";
    Namespace::unshare();
    assert_eq!(refused(), expected, "where no interface has this index");
    assert_eq!(veth("lb0", "client").0, ifindex);
    assert_eq!(refused(), expected, "where another interface has this name and index");
    assert_eq!(pins.names("links"), ["lb0"]);

    home.enter();
    assert_eq!(interface::running(ifindex).unwrap(), running);
    assert_eq!(pins.open(&web()).attachments()[0].ifindex, ifindex);
}

#[test]
#[ignore = "needs root"]
fn an_interface_that_another_program_has_is_left_alone() {
    let (pins, others) = (Pins::new(), Pins::new());
    let (ifindex, _) = veth("lb0", "client");
    let mut other = others.open(&web());
    other.attach("lb0", ifindex, XdpMode::Auto).unwrap();
    let error = pins.open(&web()).attach("lb0", ifindex, XdpMode::Auto).unwrap_err().to_string();
    let expected = format!("interface lb0 already runs the XDP program `naru` (id {});", other.program_id().unwrap());
    assert!(error.starts_with(&expected), "{error}");
    let missing = pins.open(&web()).attach("none", 4_000_000, XdpMode::Auto).unwrap_err().to_string();
    assert!(missing.starts_with("interface none "), "{missing}");
}

#[test]
#[ignore = "needs root"]
fn the_link_of_another_abi_is_taken_over_once_its_daemon_has_ended() {
    let pins = Pins::new();
    let (ifindex, _) = veth("lb0", "client");
    let mut old = pins.open(&web());
    old.attach("lb0", ifindex, XdpMode::Generic).unwrap();
    std::fs::rename(pins.0.join(format!("v{ABI}")), pins.0.join("v0")).unwrap();
    assert_eq!(attached(&pins.0).unwrap(), ["lb0"], "whichever version attached it");

    let mut dataplane = pins.open(&web());
    let error = dataplane.attach("lb0", ifindex, XdpMode::Auto).unwrap_err().to_string();
    assert!(error.contains("stop it first"), "{error}");
    let program = old.program_id().unwrap();
    assert_eq!(interface::running(ifindex).unwrap().unwrap().program, program);

    drop(old);
    // In the mode that it has: a link that was made anew would be native.
    assert_eq!(dataplane.attach("lb0", ifindex, XdpMode::Auto).unwrap().mode, Mode::Generic);
    assert_eq!(interface::running(ifindex).unwrap().unwrap().program, dataplane.program_id().unwrap());
    assert_eq!(place::names(&pins.0).unwrap(), [format!("v{ABI}")]);
    drop(dataplane);

    let mut dataplane = pins.open(&web());
    let reason = dataplane.attachments().remove(0).reason.unwrap();
    assert!(reason.contains("`naru interface detach lb0`"), "{reason}");
    let reason = dataplane.attach("lb0", ifindex, XdpMode::Generic).unwrap().reason.unwrap();
    assert_eq!(reason, "`xdp_mode` in [node] asks for it");
}

#[test]
#[ignore = "needs root"]
fn without_a_daemon_everything_can_be_detached() {
    let pins = Pins::new();
    let (ifindex, peer) = veth("lb0", "lb1");
    let mut dataplane = pins.open(&web());
    dataplane.attach("lb0", ifindex, XdpMode::Auto).unwrap();
    dataplane.attach("lb1", peer, XdpMode::Auto).unwrap();
    drop(dataplane);
    assert!(detach_interface(&pins.0, "lb1").unwrap());
    assert!(!detach_interface(&pins.0, "lb1").unwrap());
    assert_eq!(detach_everything(&pins.0).unwrap(), ["lb0"]);
    assert_eq!(interface::running(ifindex).unwrap(), None);
    assert!(place::names(&pins.0).unwrap().is_empty());
}

#[test]
#[ignore = "needs root"]
fn a_backend_that_takes_over_an_id_starts_from_zero_and_a_new_outer_header_keeps_the_counts() {
    let pins = Pins::new();
    let counts_of = |view: &View| {
        let counts = view.counters().unwrap().backends.into_iter();
        counts.map(|own| (own.address.to_string(), own.counters.packets)).collect::<Vec<_>>()
    };
    let counts = |dataplane: &Dataplane| counts_of(&dataplane.view());
    let mut config = config([vip("web", "203.0.113.10", &["tcp/80"], &["10.0.1.11", "10.0.1.12"])]);
    // Nothing keeps what is removed.
    config.vip_mut(0).settings.tracking = Tracking::Never;
    let mut dataplane = pins.open(&config);
    let mut upkeep = Upkeep::of(&mut dataplane);
    let mut apply = |dataplane: &mut Dataplane, config: &Config| {
        let applied = dataplane.apply(config).unwrap();
        let swept = upkeep.sweep(dataplane).run().unwrap();
        upkeep.apply_sweep(dataplane, swept).unwrap();
        applied
    };
    apply(&mut dataplane, &config);
    for id in [1, 2] {
        dataplane.generation.maps.add_backend_counters(id, Counters { packets: id.into(), ..Counters::default() });
    }
    config.vip_mut(0).backends.remove(0);
    apply(&mut dataplane, &config);
    config.vip_mut(0).backends.push(backend("10.0.1.13", 1));
    apply(&mut dataplane, &config);
    assert_eq!(counts(&dataplane), [("10.0.1.13".to_owned(), 0), ("10.0.1.12".to_owned(), 2)]);

    config.node.encap_source4 = "172.20.0.0/16".parse().unwrap();
    let applied = apply(&mut dataplane, &config);
    assert_eq!(applied.changes[0].to_string(), "node: encap_source4 172.16.0.0/16 → 172.20.0.0/16");
    assert_eq!(applied.changes.len(), 1);
    assert_eq!(counts(&dataplane), [("10.0.1.12".to_owned(), 2), ("10.0.1.13".to_owned(), 0)]);

    // Another way of forwarding, first in the maps in use and then in new ones.
    config.vip_mut(0).forward = ForwardMode::L2;
    dataplane.apply(&config).unwrap();
    let before = dataplane.view();
    assert_eq!(before.backends().len(), 4, "those of the way before are there still");
    apply(&mut dataplane, &config);
    assert_eq!(dataplane.backends().len(), 2);
    let counted_before = counts_of(&before).iter().map(|(_, packets)| packets).sum::<u64>();
    assert_eq!(counted_before, 2, "who does not know yet that they are freed counts nothing twice");
    assert_eq!(counts(&dataplane), [("10.0.1.12".to_owned(), 2), ("10.0.1.13".to_owned(), 0)]);
    config.vip_mut(0).forward = ForwardMode::Ipip;
    Arc::make_mut(&mut dataplane.state).suspect = true;
    apply(&mut dataplane, &config);
    assert_eq!(pins.names(""), ["g2", "links"]);
    assert_eq!(counts(&dataplane), [("10.0.1.12".to_owned(), 2), ("10.0.1.13".to_owned(), 0)]);
}

#[test]
#[ignore = "needs root"]
fn the_program_for_kernels_without_multi_buffer_xdp_loads() {
    let pins = Pins::new();
    let dataplane = pins.open(&web());
    let maps = dataplane.place.generation(1).join("maps");
    let mut loaded =
        generation::parse(generation::LINEAR, &maps, Capacity::default(), Globals::default(), Jiffies::now())
            .map_err(drop)
            .unwrap();
    loaded.xdp().and_then(|xdp| xdp.load().map_err(|error| Error::load(&error))).unwrap();
}

#[test]
#[ignore = "needs root"]
fn one_change_among_thousands_of_vips_is_one_change() {
    let pins = Pins::new();
    let mut config = many(5_000, 8, crate::model::Vip::DEFAULT_SLOTS);
    let mut dataplane = pins.open(&config);
    dataplane.apply(&config).unwrap();
    let table = crate::model::Vip::DEFAULT_SLOTS as usize;
    let mut change = |change: &mut dyn FnMut(&mut Vec<crate::model::Backend>)| {
        change(&mut config.vip_mut(2_500).backends);
        let applied = dataplane.apply(&config).unwrap();
        assert_eq!(applied.changes.len(), 1);
        assert!(applied.writes < 2 * table, "{} writes for one table of {table} slots", applied.writes);
    };
    change(&mut |backends| backends[0].weight = 7);
    change(&mut |backends| backends.truncate(backends.len() - 1));
    assert_mirrors(&dataplane);
}

/// A packet that is slow between finding a VIP and reading what it found, again and again on a CPU of its own.
struct SlowReader {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    thread: thread::JoinHandle<Vec<[u32; 2]>>,
}

impl SlowReader {
    /// Reads the VIP at this address, port 80.
    fn start(maps: &Path, address: Ipv4Addr) -> Self {
        let [buckets, places, _] = super::maps::sizes(maps, Capacity::default()).unwrap().vip_masks;
        let [vip_buckets, vips4] = [lb_common::maps::VIP_BUCKETS, lb_common::maps::VIPS4];
        let mut lab = EbpfLoader::new()
            .map_pin_path(vip_buckets, super::maps::pin_in(maps, vip_buckets))
            .map_pin_path(vips4, super::maps::pin_in(maps, vips4))
            .override_global("MASKS", &[buckets, places], true)
            .override_global("ADDRESS", &u32::from_ne_bytes(address.octets()), true)
            .override_global("PORT", &80u16, true)
            .load(objects::LAB)
            .unwrap();
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&reads));
        let thread = thread::spawn(move || {
            run_on(1);
            let program: &mut Xdp = lab.program_mut("slow_reader").unwrap().try_into().unwrap();
            program.load().unwrap();
            let mut seen = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let program: &mut Xdp = lab.program_mut("slow_reader").unwrap().try_into().unwrap();
                let frame = TestRunOptions { data_in: Some(&[0; 64]), ..TestRunOptions::new() };
                if program.test_run(frame).unwrap().return_value != 0 {
                    let read: Array<_, [u32; 2]> = lab.map_mut("READ").unwrap().try_into().unwrap();
                    seen.push(read.get(&0, 0).unwrap());
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
            seen
        });
        Self { stop, reads, thread }
    }

    /// Changes what it reads, until it has read often enough; what a packet found at first, 0 for nothing, and read at
    /// last, where those are two VIPs.
    fn while_changing(self, mut change: impl FnMut()) -> Vec<[u32; 2]> {
        run_on(0);
        let limit = Instant::now() + Duration::from_secs(120);
        while self.reads.load(Ordering::Relaxed) < 100 && !self.thread.is_finished() {
            assert!(
                Instant::now() < limit,
                "only {} packets read within two minutes",
                self.reads.load(Ordering::Relaxed)
            );
            change();
        }
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().unwrap();
        assert!(seen.len() >= 100);
        seen.into_iter().filter(|[before, after]| before != after || *before == 0).collect()
    }
}

/// Keeps this thread on a CPU, where there is one of this number.
fn run_on(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).unwrap();
    // With one CPU, or with others for this process, it stays where it is.
    let _ = sched_setaffinity(Pid::from_raw(0), &cpus);
}

fn three() -> [Vip; 3] {
    ["a", "b", "c"].map(|name| {
        let address = format!("203.0.113.{}", name.as_bytes()[0]);
        vip(name, &address, &["tcp/80"], &["10.0.1.11"])
    })
}

#[test]
#[ignore = "needs root"]
fn no_packet_reads_the_route_that_replaces_another_vips() {
    let pins = Pins::new();
    let (mut vips, hashes) = (three(), [FlowHash::SourceIp, FlowHash::FiveTuple]);
    let mut dataplane = pins.open(&config(vips.clone()));
    dataplane.apply(&config(vips.clone())).unwrap();
    let reader = SlowReader::start(&maps_of(&pins), Ipv4Addr::new(203, 0, 113, b'a'));
    let mut turn = 0;
    let strayed = reader.while_changing(|| {
        vips.iter_mut().for_each(|vip| vip.settings.hash = hashes[turn % 2]);
        turn += 1;
        dataplane.apply(&config(vips.clone())).unwrap();
    });
    assert_eq!(strayed, [[0; 2]; 0], "[VIP that was found, VIP whose route was read]");
    assert_eq!(pins.names(""), ["g1", "links"], "replaced in place");
}

/// Not every packet finds a VIP here that comes and goes, but none finds another in its place.
#[test]
#[ignore = "needs root"]
fn no_packet_reads_the_route_of_a_vip_that_comes_after_its_own_has_gone() {
    let pins = Pins::new();
    let vips = three();
    let mut dataplane = pins.open(&config(vips.clone()));
    dataplane.apply(&config(vips.clone())).unwrap();
    let reader = SlowReader::start(&maps_of(&pins), Ipv4Addr::new(203, 0, 113, b'a'));
    let mut turn = 0;
    let mut strayed = reader.while_changing(|| {
        turn += 1;
        dataplane.apply(&config([vips[turn % 3].clone()])).unwrap();
    });
    strayed.retain(|read| *read != [0, 0]);
    assert_eq!(strayed, [[0; 2]; 0], "[VIP that was found, VIP whose route was read]");
}

/// While thousands of others come and go around it, one at a time: its bucket is moved again and again.
#[test]
#[ignore = "needs root"]
fn every_packet_finds_a_vip_that_stays() {
    let pins = Pins::new();
    let [own, ..] = three();
    let mut others = many(200, 1, SLOTS).vips.clone();
    let with = |others: &[Arc<Vip>]| {
        let vips = others.iter().map(|vip| Vip::clone(vip)).chain([own.clone()]);
        config(vips)
    };
    let mut dataplane = pins.open(&with(&others));
    dataplane.apply(&with(&others)).unwrap();
    let reader = SlowReader::start(&maps_of(&pins), Ipv4Addr::new(203, 0, 113, b'a'));
    let strayed = reader.while_changing(|| {
        others.rotate_left(40);
        dataplane.apply(&with(&others[..160])).unwrap();
    });
    assert_eq!(strayed, [[0; 2]; 0], "[VIP that was found, VIP whose route was read]");
    assert_eq!(pins.names(""), ["g1", "links"]);
    assert_mirrors(&dataplane);
}

#[test]
#[ignore = "needs root"]
fn routes_of_many_keys_are_replaced_in_place() {
    let pins = Pins::new();
    let mut wanted = many(250, 2, SLOTS);
    let mut dataplane = pins.open(&wanted);
    dataplane.apply(&wanted).unwrap();
    for tracking in [Tracking::Always, Tracking::Adaptive, Tracking::Always] {
        wanted.vips.iter_mut().for_each(|vip| Arc::make_mut(vip).settings.tracking = tracking);
        dataplane.apply(&wanted).unwrap();
        assert_eq!(pins.names(""), ["g1", "links"]);
        assert_mirrors(&dataplane);
        assert!(dataplane.plan(&wanted).is_empty());
    }
    // Another daemon finds all of them, and goes on.
    drop(dataplane);
    let mut dataplane = pins.open(&wanted);
    assert_mirrors(&dataplane);
    wanted.vips.truncate(100);
    dataplane.apply(&wanted).unwrap();
    assert_mirrors(&dataplane);
    assert_eq!(pins.names(""), ["g1", "links"]);
}

/// Where the maps of the first generation are pinned.
fn maps_of(pins: &Pins) -> PathBuf {
    pins.0.join(format!("v{ABI}/g1/maps"))
}
