//! What another version left, taken over: all of it needs root.

use aya::util::nr_cpus;
use aya_obj::generated::bpf_map_type;
use lb_common::{ABI, Address, Counters, FlowEntry, FlowKey, FlowKind, FlowParts, Position, Progress, Tick};

use super::*;
use crate::{
    dataplane::{
        Dataplane,
        adopt::succeed,
        fixtures::{Pins, assert_mirrors, veth, web},
        interface,
    },
    model::XdpMode,
};

/// How much longer values are in the layouts that these tests call former ones.
const LONGER: usize = 8;

/// An open flow of that backend.
const fn entry(backend: u32) -> FlowEntry {
    let (kind, progress, seen, next) = (FlowKind::Kept, Progress::Open, Tick(7), Position::of(0));
    FlowParts { backend, kind, progress, seen, next, level: 0, jumped: false }.pack()
}

fn flow(vip: u32) -> FlowKey {
    FlowKey::new(Address::default(), 0x1234_5678, vip, 6)
}

/// A data plane with slots that move, a flow, and counts of which three packets were brought over.
fn site(pins: &Pins) -> Dataplane {
    let mut dataplane = pins.open(&web());
    dataplane.apply(&web()).unwrap();
    let mut changed = web();
    changed.vip_mut(0).backends[0].weight += 7;
    dataplane.apply(&changed).unwrap();
    let maps = &dataplane.generation.maps;
    assert!(maps.flows().enter(&flow(1), entry(3)));
    maps.add_backend_counters(1, Counters { packets: 3, bytes: 4, new_flows: 5 });
    let mut counted = vec![0u64; 3 * nr_cpus().unwrap()];
    counted[..3].copy_from_slice(&[10, 20, 30]);
    let counters = open_in(&dataplane.generation.maps_directory(), maps::BACKEND_COUNTERS);
    let bytes: Vec<u8> = counted.iter().flat_map(|word| word.to_ne_bytes()).collect();
    counters.put(&1u32.to_ne_bytes(), &bytes).unwrap();
    dataplane
}

/// Slots of the first VIP, flows and counts.
fn seen(dataplane: &Dataplane) -> (Vec<lb_common::Slot>, Vec<(FlowKey, FlowEntry)>, Counters) {
    let slots = (0..crate::plan::fixtures::SLOTS).map_while(|index| dataplane.slots().at(index)).collect();
    let flows = dataplane.flow_table().named().collect();
    let counts = dataplane.counters().unwrap().backends;
    let counted = counts.iter().map(|backend| backend.counters).fold(Counters::default(), Counters::plus);
    (slots, flows, counted)
}

fn bytes<T: aya::Pod>(value: &T) -> &[u8] {
    // SAFETY: a `Pod` has no padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

fn open_in(directory: &Path, name: &'static str) -> Bytes {
    Bytes::of(name, MapData::from_pin(crate::dataplane::maps::pin_in(directory, name)).unwrap()).unwrap()
}

/// The same, attached to an interface of this thread's own network namespace.
fn attached_site(pins: &Pins) -> (Dataplane, u32) {
    let (ifindex, _) = veth("lb0", "client");
    let mut dataplane = site(pins);
    dataplane.attach("lb0", ifindex, XdpMode::Generic).unwrap();
    (dataplane, ifindex)
}

/// Leaves what is pinned as another version would.
fn leave_to(pins: &Pins, abi: u32) -> PathBuf {
    let root = pins.0.join(format!("v{abi}"));
    fs::rename(pins.0.join(format!("v{ABI}")), &root).unwrap();
    root
}

#[test]
#[ignore = "needs root"]
fn what_another_version_left_goes_on_where_layouts_are_the_same() {
    let pins = Pins::new();
    let (old, ifindex) = attached_site(&pins);
    let (state, before, program) = (old.state.clone(), seen(&old), old.program_id().unwrap());
    assert!(before.0.iter().any(|slot| slot.is_moving()) && before.1 == [(flow(1), entry(3))]);
    let root = leave_to(&pins, ABI + 1);
    let refused = Dataplane::open(&pins.0, &web()).err().unwrap().to_string();
    assert!(refused.contains("stop it first"), "{refused}");
    fs::create_dir(root.join("losses")).unwrap();
    drop(old);

    let new = pins.open(&web());
    assert_eq!((&new.state, seen(&new)), (&state, before));
    assert_mirrors(&new);
    assert_ne!(new.program_id().unwrap(), program);
    assert_eq!(interface::running(ifindex).unwrap().unwrap().program, new.program_id().unwrap());
    assert_eq!(new.attachments().len(), 1);
    assert_eq!(names(&pins.0).unwrap(), [format!("v{ABI}")]);
    assert_eq!(pins.names(""), ["g1", "links", "losses"]);
}

/// A daemon of the other version may have gone on meanwhile.
#[test]
#[ignore = "needs root"]
fn taking_over_is_begun_again_where_no_interface_was_taken_over() {
    let pins = Pins::new();
    let (old, ifindex) = attached_site(&pins);
    let (state, before, program) = (old.state.clone(), seen(&old), old.program_id().unwrap());
    let root = leave_to(&pins, ABI + 1);
    drop(old);
    let refused = Dataplane::begin(&pins.0, &web()).unwrap();
    assert_eq!(refused.state, state);
    drop(refused);
    assert_eq!(interface::running(ifindex).unwrap().unwrap().program, program);
    assert_eq!((names(&root).unwrap().len(), pins.names("")), (2, vec!["g1".to_owned(), "links".to_owned()]));

    let new = pins.open(&web());
    assert_eq!((&new.state, seen(&new)), (&state, before));
    assert_eq!(interface::running(ifindex).unwrap().unwrap().program, new.program_id().unwrap());
    assert_eq!((names(&pins.0).unwrap(), pins.names("")), (vec![format!("v{ABI}")], vec!["g2".into(), "links".into()]));
}

#[test]
#[ignore = "needs root"]
fn what_was_used_last_is_what_goes_on() {
    let pins = Pins::new();
    drop(site(&pins));
    let aside = leave_to(&pins, 0);
    let small = crate::plan::fixtures::config([]);
    drop(pins.open(&small));
    // Loaded before the one that is there.
    fs::rename(&aside, pins.0.join(format!("v{}", ABI + 1))).unwrap();
    let dataplane = pins.open(&small);
    assert_eq!(dataplane.state.vips().len(), 0);
    assert_eq!(names(&pins.0).unwrap(), [format!("v{ABI}")]);
}

#[test]
#[ignore = "needs root"]
fn counters_that_are_missing_get_room_and_the_others_keep_their_counts() {
    let pins = Pins::new();
    let old = site(&pins);
    let (state, before) = (old.state.clone(), seen(&old));
    let directory = old.generation.maps_directory();
    drop(old);
    let kind = bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY;
    let few = MapData::create(aya_obj::Map::new_from_params(kind as u32, 4, 8, 2, 0), "FEW", None).unwrap();
    let pin = directory.join(maps::FLOW_COUNTERS);
    fs::remove_file(&pin).unwrap();
    few.pin(&pin).unwrap();
    let few = Bytes::of(maps::FLOW_COUNTERS, few).unwrap();
    few.put(&1u32.to_ne_bytes(), &[1; 8].repeat(nr_cpus().unwrap())).unwrap();

    let new = pins.open(&web());
    assert_eq!(pins.names(""), ["g2", "links"]);
    assert_eq!((&new.state, seen(&new)), (&state, before.clone()));
    let flows = new.counters().unwrap().flow_packets;
    let counted = u64::from_ne_bytes([1; 8]).wrapping_mul(nr_cpus().unwrap() as u64);
    assert!(flows.iter().all(|(outcome, count)| *count == if *outcome as u32 == 1 { counted } else { 0 }), "{flows:?}");
    assert!(new.generation.maps.have_room().unwrap());

    // What is in use of the maps that stayed is known: a change elsewhere does not write over it.
    let mut new = new;
    let mut wanted = web();
    wanted.vip_mut(0).backends[0].weight += 7;
    wanted.vip_mut(1).backends.push(crate::plan::fixtures::backend("10.0.1.99", 100));
    new.apply(&wanted).unwrap();
    assert_eq!(seen(&new).0, before.0);
    assert_mirrors(&new);
}

/// Keys and values of the layouts that are called former here are those of today from back to front, with bytes behind
/// them that today has not.
fn mirrored(former: &[u8], today: &mut [u8]) {
    today.copy_from_slice(&former[..today.len()]);
    today.reverse();
}

fn mirror(today: &[u8], longer: usize) -> Vec<u8> {
    today.iter().rev().copied().chain([0xa5].repeat(longer)).collect()
}

/// Pins the map in a layout of its own in the place of the one that is pinned. Returns how it is read.
fn change_layout(directory: &Path, name: &'static str) -> Conversion {
    const VERSION: u32 = 9;
    let today = open_in(directory, name);
    let (key_size, value_size) = (today.key_size, today.value_size + LONGER);
    let flags = if today.kind == MapType::Array { aya_obj::generated::BPF_F_MMAPABLE } else { 0 };
    let made =
        aya_obj::Map::new_from_params(today.kind as u32, key_size as u32, value_size as u32, today.entries, flags);
    let former = Bytes::of(name, MapData::create(made, "FORMER", None).unwrap()).unwrap();
    let mut values: std::collections::BTreeMap<Vec<u8>, Vec<u8>> = std::collections::BTreeMap::new();
    today
        .each(|key, value| {
            // Of a map with values for each CPU, one behind the other.
            values.entry(key.to_vec()).or_default().extend(mirror(value, LONGER));
            Ok(())
        })
        .unwrap();
    values.iter().for_each(|(key, value)| former.put(key, value).unwrap());
    fs::remove_file(crate::dataplane::maps::pin_in(directory, name)).unwrap();
    former.map().pin(directory.join(pin_of(name, VERSION))).unwrap();
    Conversion { map: name, version: VERSION, key_size, value_size, how: How::Entries { value: mirrored } }
}

#[test]
#[ignore = "needs root"]
fn maps_of_another_layout_are_converted() {
    let pins = Pins::new();
    let old = site(&pins);
    let (state, before) = (old.state.clone(), seen(&old));
    let changed = [
        maps::VIPS4,
        maps::VIPS6,
        maps::VIP_RECORDS,
        maps::SLOTS,
        maps::BACKENDS,
        maps::BACKEND_COUNTERS,
        maps::VIP_DROPS,
        maps::FLOW_COUNTERS,
    ];
    let directory = old.generation.maps_directory();
    let conversions = changed.map(|name| change_layout(&directory, name));
    drop(old);
    let root = leave_to(&pins, ABI + 1);
    let directory = root.join("g1");
    let former = || Former::read(root.clone(), directory.clone(), None, &conversions).unwrap().unwrap();
    assert!(Former::read(root.clone(), directory.clone(), None, &[]).unwrap().is_err());

    let place = Place::take(&pins.0).unwrap();
    let generation = succeed(&former(), &place, 1, &web()).unwrap();
    // To repeat it changes nothing.
    for _ in 0..2 {
        former().carry_to(&generation.maps_directory(), &generation.maps).unwrap();
    }
    drop((generation, place));
    let new = pins.open(&web());
    let (slots, flows, counted) = seen(&new);
    assert_eq!((&new.state, slots, &flows, counted), (&state, before.0, &before.1, before.2));
    assert_eq!(flows, [(flow(1), entry(3))]);
    assert_eq!(counted, Counters { packets: 13, bytes: 24, new_flows: 35 });
}

/// The two hash tables of ABI 4 to 19: what they hold is entered once, also what comes while the links change hands.
#[test]
#[ignore = "needs root"]
fn flows_of_hash_tables_are_entered() {
    let pins = Pins::new();
    let dataplane = site(&pins);
    let directory = dataplane.generation.maps_directory();
    let lru = |name: &'static str| {
        let kind = bpf_map_type::BPF_MAP_TYPE_LRU_HASH as u32;
        let map = MapData::create(aya_obj::Map::new_from_params(kind, 24, 8, 1024, 0), name, None).unwrap();
        map.pin(directory.join(name)).unwrap();
        Bytes::of(name, map).unwrap()
    };
    let (embryos, flows) = (lru("EMBRYOS"), lru("FLOWS"));
    let former = |backend: u64, position: u64, state: u64| backend | position << 23 | 700 << 46 | state << 62;
    let put = |map: &Bytes, vip: u32, entry: u64| map.put(bytes(&flow(vip)), &entry.to_ne_bytes()).unwrap();
    put(&embryos, 2, former(5, 1000, 1));
    put(&flows, 3, former(6, 1000, 0));
    // It is known here already.
    put(&flows, 1, former(9, 1000, 0));
    let table = dataplane.flow_table();
    abi4::carry_flows(&directory, &table).unwrap();
    put(&flows, 4, former(7, 1000, 2));
    // It is promoted meanwhile.
    put(&flows, 2, former(5, 1000, 0));
    abi4::carry_flows(&directory, &table).unwrap();
    let mut found: Vec<_> = table.named().map(|(key, entry)| (key.vip(), entry.backend(), entry.progress())).collect();
    found.sort_unstable_by_key(|(vip, ..)| *vip);
    let (once, open, fin) = (Progress::Once, Progress::Open, Progress::Fin);
    assert_eq!(found, [(1, 3, open), (2, 5, once), (3, 6, open), (4, 7, fin)]);
    let (_, kept) = table.find(&flow(2), FlowKind::Kept).unwrap();
    assert_eq!((kept.seen(), kept.next()), (Tick(700), Position::of(1000 << 9)));
}
