//! What each VIP may enter into the flow table until the next sweep: so much that a flood on one takes nothing of what
//! the others are guaranteed. Pure.

/// Slots of the table that no VIP is guaranteed, as a divisor: every second one.
const COMMON: u64 = 2;

/// A VIP whose flows are tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// Its id.
    pub vip: u32,
    /// Entries that it has.
    pub entries: u64,
    /// Flows of it were entered or refused since the sweep before.
    pub is_active: bool,
}

/// What each of so many VIPs is guaranteed, in a table with room for `room`.
pub fn guaranteed(room: u64, vips: u64) -> u64 {
    room / COMMON / vips.max(1)
}

/// How many flows each CPU may enter for each VIP, in a table with room for `room` and on `cpus` CPUs.
///
/// Half of the room is guaranteed, to every VIP as much. What a VIP has beyond that is of the other half, of which half of
/// what is left goes to all VIPs alike, and half to those that are active. Together with the entries that are there it
/// comes to no more than the room: a flood on one VIP never takes what another one is guaranteed, however many CPUs it
/// comes on. By so much it can be overrun: where less is left to a VIP than a flow for each CPU, each may enter one even so,
/// once; and what is entered behind a sweep's back while it walks, a few milliseconds, it counts only the next time.
pub fn allowances(room: u64, cpus: u64, tracked: &[Tracked]) -> Vec<(u32, u32)> {
    let vips = (tracked.len() as u64).max(1);
    let active = tracked.iter().filter(|tracked| tracked.is_active).count() as u64;
    let guaranteed = guaranteed(room, vips);
    let common: u64 = tracked.iter().map(|tracked| tracked.entries.saturating_sub(guaranteed)).sum();
    let left = (room - guaranteed * vips).saturating_sub(common);
    let allowance = |tracked: &Tracked| {
        let own = guaranteed.saturating_sub(tracked.entries);
        let more = if tracked.is_active { left / 2 / active } else { 0 };
        let flows = own + left / 2 / vips + more;
        (tracked.vip, of_each_cpu(flows, cpus))
    };
    tracked.iter().map(allowance).collect()
}

/// How many of so many flows each CPU may enter: one at least, where there are any.
pub fn of_each_cpu(flows: u64, cpus: u64) -> u32 {
    let each = if flows > 0 { (flows / cpus.max(1)).max(1) } else { 0 };
    u32::try_from(each).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracked(vip: u32, entries: u64, is_active: bool) -> Tracked {
        Tracked { vip, entries, is_active }
    }

    #[test]
    fn one_vip_may_have_all_and_never_more() {
        let mut entries = 0;
        for _ in 0..100 {
            let [(_, each)] = allowances(1 << 20, 4, &[tracked(1, entries, true)])[..] else { panic!("one VIP") };
            entries += 4 * u64::from(each);
            assert!(entries <= 1 << 20);
        }
        assert!(entries > (1 << 20) - 100, "{entries}");
    }

    /// However it goes on, and on however many CPUs.
    #[test]
    fn a_flood_on_one_takes_nothing_that_another_is_guaranteed() {
        const ROOM: u64 = 100_000;
        const CPUS: u64 = 64;
        let mut flooded = 0;
        for _ in 0..1000 {
            let vips: Vec<_> =
                [tracked(1, flooded, true)].into_iter().chain((2..=10).map(|vip| tracked(vip, 0, false))).collect();
            let allowed = allowances(ROOM, CPUS, &vips);
            flooded += CPUS * u64::from(allowed[0].1);
            for (vip, each) in &allowed[1..] {
                assert!(CPUS * u64::from(*each) >= ROOM / 2 / 10 - CPUS, "{vip} may enter {each} on each CPU");
            }
        }
        assert!(flooded > ROOM / 2 && flooded <= ROOM / 2 + ROOM / 20 + CPUS, "{flooded}: the common half and its own");
    }

    #[test]
    fn a_share_of_less_than_a_flow_for_each_cpu_is_one_for_each() {
        let vips: Vec<_> = (1..=10_000).map(|vip| tracked(vip, 0, false)).collect();
        assert!(allowances(1 << 16, 128, &vips).iter().all(|(_, each)| *each == 1));
        let full: Vec<_> = (1..=10_000).map(|vip| tracked(vip, 7, true)).collect();
        assert!(allowances(1 << 16, 128, &full).iter().all(|(_, each)| *each == 0));
    }
}
