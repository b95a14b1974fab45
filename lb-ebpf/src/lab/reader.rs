//! A packet on its way that is slow: it looks a VIP up, takes its time, and only then reads what it has found.

use aya_ebpf::{
    Global,
    bindings::xdp_action,
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, HashMap},
};
use lb_common::{Be16, Be32, Vip4Key, VipRoute};

/// The forwarder's, by its pin.
#[map]
static VIPS4: HashMap<Vip4Key, VipRoute> = HashMap::with_max_entries(1, 0);
/// Ids of the VIP that the last packet found, and of the one whose route it read.
#[map]
static READ: Array<[u32; 2]> = Array::with_max_entries(1, 0);

/// The address that is looked up, in network byte order.
#[unsafe(no_mangle)]
static ADDRESS: Global<u32> = Global::new(0);
/// The TCP port that is looked up.
#[unsafe(no_mangle)]
static PORT: Global<u16> = Global::new(0);
/// Looks at the clock between look-up and reading, which take half a millisecond or more: as many as the verifier walks
/// through.
const LOOKS: u32 = 20_000;

/// Passes the frame; what it has read is in [`READ`].
#[inline(always)]
pub fn read() -> u32 {
    let key = Vip4Key::new(Be32::from_wire(ADDRESS.load()), Be16::new(PORT.load()), 6);
    // SAFETY: the entry is read below; that it may have become another's meanwhile is what is looked for.
    let Some(route) = (unsafe { VIPS4.get(key) }) else { return xdp_action::XDP_PASS };
    // SAFETY: points to the value of an entry, which stays memory of the map.
    let before = unsafe { core::ptr::read_volatile(&route.id) };
    dwell();
    // SAFETY: as above.
    let after = unsafe { core::ptr::read_volatile(&route.id) };
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
