//! Keeps the map of the MAC addresses that frames for this host are addressed to.

use std::collections::BTreeMap;

use lb_common::OwnMac;

/// MAC addresses by the index of the interface that frames to them come in by, the one that most are addressed to
/// first.
pub type OwnMacs = BTreeMap<u32, Vec<[u8; 6]>>;

/// A MAC address on an interface that there is no room for.
pub type LeftOut = (u32, [u8; 6]);

/// What has to be stored where so that the places, which hold `now`, hold `wanted` and nothing else; and what finds no
/// room. Addresses that stay keep their places, and what is new is stored before what is old goes: no frame meets a map
/// without the address that it is for.
pub fn changes(now: &[OwnMac], wanted: &OwnMacs) -> (Vec<(u32, OwnMac)>, Vec<LeftOut>) {
    let mut places = now.to_vec();
    let (mut changes, mut left_out) = (Vec::new(), Vec::new());
    let words = || wanted.iter().flat_map(|(ifindex, macs)| macs.iter().map(move |mac| (*ifindex, *mac)));
    for (ifindex, mac) in words() {
        let word = OwnMac::new(mac, ifindex);
        let window = OwnMac::window(ifindex)..OwnMac::window(ifindex) + OwnMac::WINDOW;
        let held = |wanted: OwnMac| window.clone().find(|place| places[*place as usize] == wanted);
        if held(word).is_some() {
            continue;
        }
        match held(OwnMac::FREE) {
            Some(place) => {
                places[place as usize] = word;
                changes.push((place, word));
            }
            None => left_out.push((ifindex, mac)),
        }
    }
    let is_wanted = |word: OwnMac| words().any(|(ifindex, mac)| OwnMac::new(mac, ifindex) == word);
    let old = (0..).zip(&places).filter(|(_, word)| **word != OwnMac::FREE && !is_wanted(**word));
    changes.extend(old.map(|(place, _)| (place, OwnMac::FREE)));
    (changes, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETH0: u32 = 2;
    /// Shares its window.
    const VETH: u32 = ETH0 + OwnMac::WINDOWS;

    fn mac(last: u8) -> [u8; 6] {
        [2, 0, 0, 0, 0, last]
    }

    /// Does the changes one by one; every address of `both` has to be there all the time.
    fn change(places: &mut [OwnMac], wanted: &OwnMacs, both: &[(u32, u8)]) -> Vec<LeftOut> {
        let (changes, left_out) = changes(places, wanted);
        for (place, word) in changes {
            places[place as usize] = word;
            for (ifindex, last) in both {
                let window = OwnMac::window(*ifindex) as usize..;
                let found = places[window].iter().take(OwnMac::WINDOW as usize);
                assert!(found.into_iter().any(|word| *word == OwnMac::new(mac(*last), *ifindex)));
            }
        }
        left_out
    }

    #[test]
    fn the_first_address_is_where_it_is_looked_for_first() {
        let mut places = vec![OwnMac::FREE; OwnMac::PLACES as usize];
        let wanted = OwnMacs::from([(ETH0, vec![mac(1), mac(2)]), (VETH, vec![mac(1)])]);
        assert_eq!(change(&mut places, &wanted, &[]), []);
        let window = OwnMac::window(ETH0) as usize;
        let words = [OwnMac::new(mac(1), ETH0), OwnMac::new(mac(2), ETH0), OwnMac::new(mac(1), VETH), OwnMac::FREE];
        assert_eq!(places[window..window + 4], words);
        assert_eq!(changes(&places, &wanted), (vec![], vec![]));
    }

    #[test]
    fn what_stays_is_there_all_the_while() {
        let mut places = vec![OwnMac::FREE; OwnMac::PLACES as usize];
        change(&mut places, &OwnMacs::from([(ETH0, vec![mac(1), mac(2)]), (VETH, vec![mac(9)])]), &[]);
        let wanted = OwnMacs::from([(ETH0, vec![mac(3), mac(2)])]);
        change(&mut places, &wanted, &[(ETH0, 2), (ETH0, 3)]);
        let held = places.iter().filter(|word| **word != OwnMac::FREE).count();
        assert_eq!(held, 2);
    }

    #[test]
    fn what_finds_no_room_is_told() {
        let mut places = vec![OwnMac::FREE; OwnMac::PLACES as usize];
        let many = (0..OwnMac::WINDOW as u8 + 2).map(mac).collect();
        let left_out = change(&mut places, &OwnMacs::from([(ETH0, many)]), &[]);
        assert_eq!(left_out, [(ETH0, mac(32)), (ETH0, mac(33))]);
    }
}
