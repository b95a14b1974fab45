//! Which of several hops of a route an address takes. Always the same one while it is alive, so that backends spread
//! over the hops by their weights, as ECMP spreads flows, and stay where they are when another hop comes or goes.

use std::net::IpAddr;

use crate::mix::mix;

/// What of a hop decides how many addresses take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Outgoing interface.
    pub ifindex: u32,
    /// Next router, if there is one.
    pub gateway: Option<IpAddr>,
    /// Its share in proportion to the other weights.
    pub weight: u32,
    /// Whether the kernel would send by it: its interface is up and has a carrier.
    pub alive: bool,
}

/// The hop that `address` takes: of those alive, or of all where none is, so that somebody learns why. By weighted
/// rendezvous hashing (Thaler and Ravishankar 1998; weights as by Schindelhauer and Schomaker, SPAA 2005).
pub(super) fn pick<T>(hops: &[T], address: IpAddr, share: impl Fn(&T) -> Share) -> Option<&T> {
    let shares: Vec<Share> = hops.iter().map(share).collect();
    let any_alive = shares.iter().any(|share| share.alive);
    let candidates = hops.iter().zip(&shares).filter(|(_, share)| share.alive || !any_alive);
    candidates.max_by(|(_, a), (_, b)| score(address, a).total_cmp(&score(address, b))).map(|(hop, _)| hop)
}

fn score(address: IpAddr, share: &Share) -> f64 {
    let gateway = share.gateway.map_or(0, |gateway| digest(0, gateway));
    let hash = digest(mix(gateway ^ u64::from(share.ifindex)), address);
    // Above 0 and below 1.
    let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    f64::from(share.weight) / -uniform.ln()
}

fn digest(seed: u64, address: IpAddr) -> u64 {
    let bits = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    mix(mix(seed ^ (bits >> 64) as u64) ^ bits as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(ifindex: u32, weight: u32, alive: bool) -> Share {
        Share { ifindex, gateway: Some([10, 0, ifindex as u8, 1].into()), weight, alive }
    }

    fn addresses() -> impl Iterator<Item = IpAddr> {
        (0..4000u32).map(|index| IpAddr::from((0x0a00_0000 + index).to_be_bytes()))
    }

    fn by(hops: &[Share], address: IpAddr) -> u32 {
        pick(hops, address, |hop| *hop).unwrap().ifindex
    }

    #[test]
    fn addresses_are_shared_out_by_weight() {
        let hops = [share(2, 1, true), share(3, 3, true)];
        let heavy = addresses().filter(|address| by(&hops, *address) == 3).count();
        // 3000 are expected, with a standard deviation of 27.
        assert!((2850..3150).contains(&heavy), "{heavy}");
        let reversed = [hops[1], hops[0]];
        assert!(addresses().all(|address| by(&hops, address) == by(&reversed, address)), "their order is no matter");
    }

    #[test]
    fn a_hop_that_dies_gives_its_addresses_away_and_moves_no_other() {
        let alive = [share(2, 1, true), share(3, 1, true), share(4, 1, true)];
        let dead = [share(2, 1, true), share(3, 1, false), share(4, 1, true)];
        for address in addresses() {
            match by(&alive, address) {
                3 => assert_ne!(by(&dead, address), 3),
                other => assert_eq!(by(&dead, address), other),
            }
        }
        let none = [share(2, 1, false), share(3, 1, false)];
        assert!(pick(&none, [10, 0, 0, 1].into(), |hop| *hop).is_some());
        assert!(pick(&[], [10, 0, 0, 1].into(), |hop: &Share| *hop).is_none());
    }
}
