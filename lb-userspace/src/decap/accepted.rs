//! What the program accepts, as it compares it and as operators write it.

use std::net::IpAddr;

use anyhow::{Context as _, bail};
use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use lb_common::{Address, DECAP_VIP_BITS, DECAP_VIPS, DecapSource};
use nix::ifaddrs::getifaddrs;

/// What the program is to accept, as it compares it.
pub(super) struct Accepted {
    pub(super) sources: Vec<DecapSource>,
    pub(super) destinations: Vec<IpAddr>,
    /// None: whatever is local.
    pub(super) vips: Vec<Key<Address>>,
}

/// Ranges as the program compares them.
pub(super) fn ranges(from: &[IpNet]) -> anyhow::Result<Vec<DecapSource>> {
    if from.is_empty() || from.len() > DecapSource::MAX as usize {
        bail!(
            "name 1 to {} ranges of outer source addresses, as the load balancers' `encap_source4` and \
               `encap_source6` say",
            DecapSource::MAX
        );
    }
    from.iter()
        .map(|range| {
            if range.prefix_len() == 0 {
                bail!(
                    "{range} takes in every address, so that anyone could send encapsulated packets: name the load \
                       balancers' range"
                );
            }
            let mask = match range.netmask() {
                // The prefix of a mapped address counts as well.
                IpAddr::V4(mask) => Address::from(IpAddr::V6(std::net::Ipv6Addr::from_bits(
                    u128::MAX << 32 | u128::from(mask.to_bits()),
                ))),
                mask => mask.into(),
            };
            Ok(DecapSource { network: range.network().into(), mask })
        })
        .collect()
}

/// The VIPs as the program compares them.
pub(super) fn prefixes(vips: &[IpNet]) -> anyhow::Result<Vec<Key<Address>>> {
    if vips.len() > DECAP_VIPS as usize {
        bail!("{} VIPs are more than the {DECAP_VIPS} that one decapsulation delivers: name prefixes", vips.len());
    }
    let key = |vip: &IpNet| {
        if vip.prefix_len() == 0 {
            bail!("{vip} takes in every address, so that anything would be delivered: name the VIPs");
        }
        let mapped = if vip.addr().is_ipv4() { DECAP_VIP_BITS - 32 } else { 0 };
        Ok(Key::new(u32::from(vip.prefix_len()) + mapped, Address::from(vip.network())))
    };
    vips.iter().map(key).collect()
}

/// A VIP as the operator wrote it; `None` where that cannot be.
pub(super) fn written(key: &Key<Address>) -> Option<IpNet> {
    let network = IpAddr::from(key.data());
    let mapped = if network.is_ipv4() { DECAP_VIP_BITS - 32 } else { 0 };
    IpNet::new(network, u8::try_from(key.prefix_len().checked_sub(mapped)?).ok()?).ok()
}

/// A range as the operator wrote it; `None` for an unused entry.
pub(super) fn network(source: &DecapSource) -> Option<IpNet> {
    let DecapSource { network, mask } = *source;
    let ones: u32 = mask.0.iter().map(|word| word.wire().count_ones()).sum();
    let network = IpAddr::from(network);
    let prefix = if network.is_ipv4() { ones.checked_sub(96)? } else { ones };
    (ones != 0).then(|| IpNet::new(network, prefix as u8).ok()).flatten()
}

/// The addresses of an interface that packets from elsewhere can be sent to.
pub(super) fn addresses_of(interface: &str) -> anyhow::Result<Vec<IpAddr>> {
    let all = getifaddrs().context("cannot list the addresses of this host")?;
    let addresses: Vec<IpAddr> = all
        .filter(|entry| entry.interface_name == interface)
        .filter_map(|entry| {
            let address = entry.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .collect();
    if addresses.is_empty() {
        bail!("{interface} has no address: name the outer destination addresses with --to");
    }
    Ok(addresses)
}
