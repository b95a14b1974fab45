//! Whose flows a drain waits for: the prefixes that most of a backend's flows come from.

use std::{cmp::Reverse, collections::HashMap, net::IpAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lb_common::Address;

/// Flows by prefix, of one backend. However many prefixes there are, it has a bounded number: those of which there are
/// more than one in [`Clients::MOST`] are among them (Misra and Gries, "Finding repeated elements", 1982).
#[derive(Clone, Debug, Default)]
pub struct Clients(HashMap<IpNet, u64>);

impl Clients {
    /// Prefixes that are counted at once.
    const MOST: usize = 1024;

    /// Counts one flow of a client.
    pub fn add(&mut self, client: Address) {
        let prefix = prefix_of(client.into());
        if let Some(count) = self.0.get_mut(&prefix) {
            *count += 1;
        } else if self.0.len() < Self::MOST {
            self.0.insert(prefix, 1);
        } else {
            self.0.retain(|_, count| {
                *count -= 1;
                *count > 0
            });
        }
    }

    /// The prefixes with most flows, at most so many.
    pub fn most(&self, number: usize) -> Vec<(IpNet, u64)> {
        let mut all: Vec<_> = self.0.iter().map(|(prefix, flows)| (*prefix, *flows)).collect();
        all.sort_by_key(|(prefix, flows)| (Reverse(*flows), *prefix));
        all.truncate(number);
        all
    }
}

/// 24 bits of IPv4 and 48 of IPv6: what the smallest networks have that are routed on their own.
fn prefix_of(client: IpAddr) -> IpNet {
    match client {
        IpAddr::V4(client) => Ipv4Net::new_assert(client, 24).trunc().into(),
        IpAddr::V6(client) => Ipv6Net::new_assert(client, 48).trunc().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn whose_most_are_is_found_among_however_many_others() {
        let mut clients = Clients::default();
        let address = |bits: u32| Address::from(IpAddr::from(Ipv4Addr::from_bits(bits)));
        for number in 0..50_000u32 {
            // Others, each of a prefix of its own; every third flow is of one prefix.
            clients.add(address(0x0a00_0000 + (number << 8)));
            if number % 2 == 0 {
                clients.add(address(0xc633_6400 + number % 256));
            }
        }
        assert!(clients.0.len() <= Clients::MOST);
        let [(first, _)] = clients.most(1)[..] else { panic!("one prefix") };
        assert_eq!(first.to_string(), "198.51.100.0/24");
        let mut few = Clients::default();
        for client in ["2001:db8::1", "2001:db8:0:7::2", "192.0.2.1"] {
            few.add(Address::from(client.parse::<IpAddr>().unwrap()));
        }
        let named: Vec<_> = few.most(9).into_iter().map(|(prefix, flows)| format!("{prefix} {flows}")).collect();
        assert_eq!(named, ["2001:db8::/48 2", "192.0.2.0/24 1"]);
    }
}
