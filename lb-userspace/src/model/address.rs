//! Which addresses, prefixes and interface names a config may have, and why not the others.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What an address is for.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    /// Address of a VIP.
    Vip,
    /// Address of a backend.
    Backend,
}

impl Role {
    fn wanted(self) -> &'static str {
        match self {
            Self::Vip => "a VIP needs the unicast address that its clients dial",
            Self::Backend => "a backend needs the real server's own unicast address",
        }
    }
}

/// A unicast address that packets can be routed to.
pub(crate) fn unicast(text: &str, role: Role) -> Result<IpAddr, String> {
    let address = parse(text)?;
    let refused = match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            return Err(format!("`{text}` is an IPv4 address in IPv6 form; write `{}`", address.to_canonical()));
        }
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local address, which is not routed",
        _ => return Ok(address),
    };
    Err(format!("`{text}` is {refused}; {}", role.wanted()))
}

/// An address and a port to listen on.
pub(crate) fn listener(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(address) => format!("`{text}` has no port; write `{}`", SocketAddr::new(address, 9100)),
        Err(_) => format!("`{text}` is not an address and a port; write for instance `127.0.0.1:9100` or `[::]:9100`"),
    })
}

/// A prefix for the outer source addresses of IPv4 encapsulation.
pub(crate) fn source4(text: &str) -> Result<Ipv4Net, String> {
    match source(text, "an IPv4 prefix such as `172.16.0.0/16`", 8)? {
        IpNet::V4(net) => Ok(net),
        IpNet::V6(_) => Err(format!("`{text}` is an IPv6 prefix; it belongs in `encap_source6`")),
    }
}

/// A prefix for the outer source addresses of IPv6 encapsulation.
pub(crate) fn source6(text: &str) -> Result<Ipv6Net, String> {
    match source(text, "an IPv6 prefix of your own such as `fd12:3456:789a:e::/64`", 16)? {
        IpNet::V6(net) if DISCARDED.contains(&net) => Err(format!(
            "`{text}` is of the discard prefix (RFC 6666), from which networks let no packet through; write a prefix \
             of your own that no host uses, such as `fd12:3456:789a:e::/64`"
        )),
        IpNet::V6(net) => Ok(net),
        IpNet::V4(_) => Err(format!("`{text}` is an IPv4 prefix; it belongs in `encap_source4`")),
    }
}

/// The discard-only prefix.
const DISCARDED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64);

/// Checks what Linux asks of an interface name.
pub(crate) fn interface(name: &str) -> Result<(), String> {
    let wrong = match name {
        "" => "is empty",
        "." | ".." => "is not a name",
        // Those of `altname` may be longer than the first one.
        _ if name.len() > 127 => "is longer than 127 bytes",
        _ if name.contains(['/', ':']) => "has a `/` or `:`",
        _ if name.chars().any(|c| c.is_whitespace() || c.is_control()) => "has white space",
        _ => return Ok(()),
    };
    Err(format!("interface name `{}` {wrong}; write it as `ip link` shows it", name.escape_debug()))
}

/// Checks what every system takes for the name of a group (`shadow`'s `is_valid_group_name`, less strict on case).
pub(crate) fn group(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '$' | '@' | '\\');
    if !name.is_empty() && name.len() <= 256 && name.chars().all(allowed) {
        return Ok(());
    }
    Err(format!("group name `{}` cannot be one; write it as `getent group` shows it", name.escape_debug()))
}

fn parse(text: &str) -> Result<IpAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let remedy = if let Ok(with_port) = text.parse::<SocketAddr>() {
        format!("write `{}`, the address without a port", with_port.ip())
    } else if let Ok(prefix) = text.parse::<IpNet>() {
        format!("write `{}`, the address without a prefix length", prefix.addr())
    } else if let Ok(trimmed) = text.trim_matches([' ', '[', ']']).parse::<IpAddr>() {
        format!("write `{trimmed}`")
    } else {
        "write one such as `203.0.113.10` or `2001:db8::10`".to_owned()
    };
    Err(format!("`{text}` is not an IP address; {remedy}"))
}

fn source(text: &str, expected: &str, shortest: u8) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|_| format!("`{text}` is not a prefix; write {expected}"))?;
    let first = net.network();
    let refused = match first {
        _ if net.prefix_len() < shortest => {
            return Err(format!("`{text}` is too wide for outer source addresses; use /{shortest} or longer"));
        }
        _ if net.addr() != first => {
            return Err(format!("`{text}` has bits behind its prefix length; write `{}`", net.trunc()));
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "of IPv4 addresses in IPv6 form",
        _ if first.is_unspecified() => "of the unspecified address",
        _ if first.is_loopback() => "of loopback addresses",
        _ if first.is_multicast() => "of multicast addresses",
        IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.octets()[0] >= 240 => "of reserved addresses",
        IpAddr::V4(v4) if v4.is_link_local() => "of link-local addresses, which are not routed",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "of link-local addresses, which are not routed",
        _ => return Ok(net),
    };
    Err(format!("`{text}` is a prefix {refused}; write {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_addresses_are_refused_with_a_remedy() {
        for (text, message) in [
            ("10.0.0.256", "`10.0.0.256` is not an IP address; write one such as `203.0.113.10` or `2001:db8::10`"),
            (
                "10.0.0.1/24",
                "`10.0.0.1/24` is not an IP address; write `10.0.0.1`, the address without a prefix length",
            ),
            ("[::1]", "`[::1]` is not an IP address; write `::1`"),
            (
                "[2001:db8::1]:80",
                "`[2001:db8::1]:80` is not an IP address; write `2001:db8::1`, the address without a port",
            ),
            ("::ffff:10.0.0.1", "`::ffff:10.0.0.1` is an IPv4 address in IPv6 form; write `10.0.0.1`"),
            ("::", "`::` is the unspecified address; a VIP needs the unicast address that its clients dial"),
            ("127.1.2.3", "`127.1.2.3` is a loopback address; a VIP needs the unicast address that its clients dial"),
            ("ff02::1", "`ff02::1` is a multicast address; a VIP needs the unicast address that its clients dial"),
            (
                "255.255.255.255",
                "`255.255.255.255` is the broadcast address; a VIP needs the unicast address that its clients dial",
            ),
            (
                "fe80::1",
                "`fe80::1` is a link-local address, which is not routed; a VIP needs the unicast address that its \
                 clients dial",
            ),
        ] {
            assert_eq!(unicast(text, Role::Vip).unwrap_err(), message);
        }
        for text in ["203.0.113.10", "2001:db8::10", "169.254.0.1"] {
            assert_eq!(unicast(text, Role::Backend).unwrap().to_string(), text);
        }
    }

    #[test]
    fn outer_sources_are_sane_prefixes() {
        for text in ["172.16.0.0/16", "10.0.0.0/8", "192.0.2.7/32"] {
            assert_eq!(source4(text).unwrap().to_string(), text);
        }
        for text in ["fd6e:e::/64", "2001:db8::/32", "2001:db8::1/128"] {
            assert_eq!(source6(text).unwrap().to_string(), text);
        }
        for (text, message) in [
            ("172.16.0.0", "`172.16.0.0` is not a prefix; write an IPv4 prefix such as `172.16.0.0/16`"),
            ("172.16.1.0/16", "`172.16.1.0/16` has bits behind its prefix length; write `172.16.0.0/16`"),
            ("0.0.0.0/0", "`0.0.0.0/0` is too wide for outer source addresses; use /8 or longer"),
            (
                "127.0.0.0/8",
                "`127.0.0.0/8` is a prefix of loopback addresses; write an IPv4 prefix such as `172.16.0.0/16`",
            ),
            ("fd6e:e::/64", "`fd6e:e::/64` is an IPv6 prefix; it belongs in `encap_source6`"),
        ] {
            assert_eq!(source4(text).unwrap_err(), message);
        }
        for text in ["100::/64", "100::ab00/120"] {
            assert!(source6(text).unwrap_err().contains("discard prefix"));
        }
        assert!(source6("ff00::/16").unwrap_err().contains("multicast"));
        assert!(source6("fe80::/64").unwrap_err().contains("link-local"));
    }

    #[test]
    fn interface_names_are_those_of_linux() {
        for name in ["eth0", "enp0s31f6.4000", "a", "veth-αβ"] {
            assert_eq!(interface(name), Ok(()), "{name}");
        }
        for name in ["", ".", "a/b", "eth 0", "eth0:1", "eth0\n"] {
            assert!(interface(name).is_err(), "{name}");
        }
        assert_eq!((interface(&"x".repeat(127)), interface(&"x".repeat(128)).is_err()), (Ok(()), true));
    }
}
