//! A packet on its way that is slow: it looks a VIP up, takes its time between each read and the next, and says what it
//! has found.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, xdp_action},
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::Array,
};
use lb_common::{Be16, Be32, BucketLine, Vip4Key, Vip4Place, VipHash};

/// The forwarder's, by its pin.
#[map]
static VIP_BUCKETS: Array<BucketLine> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// The forwarder's, by its pin.
#[map]
static VIPS4: Array<Vip4Place> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Ids of the VIP that the last packet found, 0 for none, and of the one whose route it read.
#[map]
static READ: Array<[u32; 2]> = Array::with_max_entries(1, 0);

/// The address that is looked up, in network byte order.
#[unsafe(no_mangle)]
static ADDRESS: Global<u32> = Global::new(0);
/// The TCP port that is looked up.
#[unsafe(no_mangle)]
static PORT: Global<u16> = Global::new(0);
/// Numbers of buckets and of places, each less one.
#[unsafe(no_mangle)]
static MASKS: [Global<u32>; 2] = [const { Global::new(0) }; 2];
/// Looks at the clock between one read and the next, which take a quarter of a millisecond or more: as many as the
/// verifier walks through.
const LOOKS: u32 = 10_000;

/// Passes the frame where the key was at no place; what it has read is in [`READ`].
#[inline(always)]
pub fn read() -> u32 {
    let key = Vip4Key::new(Be32::from_wire(ADDRESS.load()), Be16::new(PORT.load()), 6);
    let hash = key.hash();
    let [buckets, places] = &MASKS;
    let bucket = hash.bucket(buckets.load());
    let Some(line) = VIP_BUCKETS.get(bucket / VipHash::A_LINE) else { return xdp_action::XDP_ABORTED };
    let Some(multiplier) = line.get((bucket % VipHash::A_LINE) as usize) else { return xdp_action::XDP_ABORTED };
    // SAFETY: a reference; that what it says may not hold any more is what is looked for.
    let multiplier = unsafe { core::ptr::from_ref(multiplier).read_volatile() };
    dwell();
    let Some(place) = VIPS4.get(hash.place(multiplier, places.load())) else { return xdp_action::XDP_ABORTED };
    // SAFETY: as above.
    let (found, before) =
        unsafe { ((&raw const place.key).read_volatile(), (&raw const place.route.id).read_volatile()) };
    if found != key {
        let _ = READ.set(0, [0, 0], 0);
        return xdp_action::XDP_PASS;
    }
    dwell();
    // SAFETY: as above.
    let after = unsafe { (&raw const place.route.id).read_volatile() };
    let _ = READ.set(0, [before, after], 0);
    xdp_action::XDP_TX
}

#[inline(always)]
fn dwell() {
    for _ in 0..LOOKS {
        // SAFETY: the helper reads the clock.
        core::hint::black_box(unsafe { bpf_ktime_get_ns() });
    }
}
