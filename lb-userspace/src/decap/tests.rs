//! The real object on real interfaces. All of it needs root.

use std::{fs, net::IpAddr};

use ipnet::IpNet;
use lb_common::{DECAP_ABI, DecapSource};
use patience::{Namespace, ip};

use super::{
    accepted::{network, ranges},
    place::Place,
    *,
};
use crate::{
    dataplane::{
        DECAP, Mode,
        fixtures::{Pins, veth},
        names,
    },
    model::{Config, XdpMode},
};

#[test]
fn ranges_survive_the_way_into_the_map_and_take_in_what_they_say() {
    let texts = ["172.16.0.0/16", "fd6e:e::/64", "10.1.2.3/32", "2001:db8::/127"];
    let nets: Vec<IpNet> = texts.iter().map(|text| text.parse().unwrap()).collect();
    let ranges = ranges(&nets).unwrap();
    assert_eq!(ranges.iter().filter_map(network).collect::<Vec<_>>(), nets);
    for (inside, outside, range) in [
        ("172.16.255.1", "172.17.0.0", ranges[0]),
        ("fd6e:e::ffff:1", "fd6e:e:0:1::", ranges[1]),
        ("10.1.2.3", "10.1.2.2", ranges[2]),
        ("2001:db8::1", "::ffff:10.1.2.3", ranges[3]),
    ] {
        assert!(range.contains(inside.parse::<IpAddr>().unwrap().into()), "{inside}");
        assert!(!range.contains(outside.parse::<IpAddr>().unwrap().into()), "{outside}");
    }
    assert_eq!(network(&DecapSource::default()), None);
    assert!(!DecapSource::default().contains("0.0.0.0".parse::<IpAddr>().unwrap().into()));
}

/// Decapsulation of everything sent to 10.0.0.1 on an interface of this network namespace.
fn options(pins: &Pins, interface: &str, mode: XdpMode) -> Options {
    let (from, to) = (vec!["172.16.0.0/16".parse().unwrap()], vec!["10.0.0.1".parse().unwrap()]);
    Options { interface: interface.to_owned(), from, to, vips: Vec::new(), mode, bpffs: pins.0.clone() }
}

#[test]
#[ignore = "needs root"]
fn the_status_tells_the_vips_as_they_were_named() {
    let pins = Pins::new();
    veth("lb0", "client");
    let vips: Vec<IpNet> = ["203.0.113.0/24", "203.0.113.10/32", "2001:db8::/32", "2001:db8:f::10/128"]
        .map(|text| text.parse().unwrap())
        .into();
    attach(&Options { vips: vips.clone(), ..options(&pins, "lb0", XdpMode::Auto) }).unwrap();
    let reported = || status(&pins.0).unwrap().remove(0).vips;
    assert_eq!(reported(), vips);
    attach(&options(&pins, "lb0", XdpMode::Auto)).unwrap();
    assert_eq!(reported(), []);
    let all = Options { vips: vec!["::/0".parse().unwrap()], ..options(&pins, "lb0", XdpMode::Auto) };
    let error = attach(&all).unwrap_err().to_string();
    assert!(error.contains("::/0 takes in every address"), "{error}");
    assert_eq!(reported(), [], "what ran before runs on");
}

/// IPv6 that is forwarded although the interface is set not to would be taken for local.
#[test]
#[ignore = "needs root"]
fn a_host_of_two_minds_must_name_its_vips() {
    let pins = Pins::new();
    veth("lb0", "client");
    fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    attach(&options(&pins, "lb0", XdpMode::Auto)).unwrap();
    fs::write("/proc/sys/net/ipv6/conf/lb0/forwarding", "0").unwrap();
    let error = attach(&options(&pins, "lb0", XdpMode::Auto)).unwrap_err().to_string();
    assert!(error.contains("--vip") && error.contains("net.ipv6.conf.lb0.forwarding=1"), "{error}");
    let vips = vec!["2001:db8:f::10/128".parse().unwrap()];
    attach(&Options { vips, ..options(&pins, "lb0", XdpMode::Auto) }).unwrap();
}

#[test]
#[ignore = "needs root"]
fn the_status_names_interfaces_as_the_kernel_does_and_survives_what_broke_off() {
    let pins = Pins::new();
    veth("lb0.100", "client");
    attach(&options(&pins, "lb0.100", XdpMode::Generic)).unwrap();
    let of = |interface: &str| status(&pins.0).unwrap().into_iter().find(|status| status.interface == interface);
    let whole = of("lb0.100").unwrap();
    assert_eq!((whole.mode, &whole.problem), (Some(Mode::Generic), &None));
    assert_eq!(whole.to, ["10.0.0.1".parse::<IpAddr>().unwrap()]);

    // Ended between the link and the maps' last place: all is there.
    let place = Place::new(&pins.0, "lb0.100");
    fs::rename(&place.maps, &place.staged).unwrap();
    assert_eq!(of("lb0.100").unwrap(), whole);
    // Ended before the link.
    fs::create_dir_all(Place::new(&pins.0, "client").staged).unwrap();
    let broken = of("client").unwrap();
    assert_eq!((broken.mode, broken.outcomes), (None, vec![]));
    assert!(broken.problem.unwrap().contains("`naru decap detach client`"));
    assert_eq!(of("lb0.100").unwrap(), whole);

    detach("client", &pins.0).unwrap();
    detach("lb0.100", &pins.0).unwrap();
    assert_eq!(status(&pins.0).unwrap(), []);
}

#[test]
#[ignore = "needs root"]
fn an_attach_that_fails_leaves_nothing_or_what_was_there() {
    let pins = Pins::new();
    veth("lb0", "client");
    ip("link set lo up");
    // The loopback has no native XDP.
    assert!(attach(&options(&pins, "lo", XdpMode::Native)).is_err());
    assert!(names(&Place::base(&pins.0)).unwrap().is_empty());

    attach(&options(&pins, "lb0", XdpMode::Auto)).unwrap();
    let mut others = options(&pins, "lb0", XdpMode::Auto);
    others.to = (0..=255).flat_map(|a| [1, 2].map(|b| IpAddr::from([10, 0, a, b]))).collect();
    assert!(attach(&others).is_err(), "more addresses than there is room for");
    let status = &status(&pins.0).unwrap()[0];
    assert_eq!((status.mode, status.to.len()), (Some(Mode::Native), 1));
}

#[test]
#[ignore = "needs root"]
fn the_status_asked_for_in_another_network_namespace_detaches_nothing() {
    let pins = Pins::new();
    veth("lb0", "client");
    attach(&options(&pins, "lb0", XdpMode::Native)).unwrap();
    let home = Namespace::current();
    let problem = || status(&pins.0).unwrap().remove(0).problem.unwrap();
    Namespace::unshare();
    assert_eq!(problem(), "is in another network namespace: ask there");
    veth("lb0", "client");
    assert_eq!(problem(), "is in another network namespace: ask there");
    let error = format!("{:#}", attach(&options(&pins, "lb0", XdpMode::Native)).unwrap_err());
    assert!(error.contains("`naru decap detach lb0`"), "{error}");
    home.enter();
    assert_eq!(status(&pins.0).unwrap()[0].mode, Some(Mode::Native));

    ip("link del lb0");
    assert!(problem().starts_with("has gone"));
}

#[test]
#[ignore = "needs root"]
fn a_decapsulation_that_is_in_the_way_is_named_and_detached_whatever_its_version() {
    let pins = Pins::new();
    let (ifindex, _) = veth("lb0", "client");
    attach(&options(&pins, "lb0", XdpMode::Native)).unwrap();
    fs::rename(Place::base(&pins.0), pins.0.join(format!("{DECAP}{}", DECAP_ABI + 1))).unwrap();
    let mut dataplane = pins.open(&Config::default());
    for error in [
        format!("{:#}", attach(&options(&pins, "lb0", XdpMode::Native)).unwrap_err()),
        dataplane.attach("lb0", ifindex, XdpMode::Auto).unwrap_err().to_string(),
    ] {
        assert!(error.ends_with("; take it off with `naru decap detach lb0`, then try again"), "{error}");
    }
    detach("lb0", &pins.0).unwrap();
    dataplane.attach("lb0", ifindex, XdpMode::Auto).unwrap();
    let error = format!("{:#}", attach(&options(&pins, "lb0", XdpMode::Native)).unwrap_err());
    assert!(error.ends_with("; take it off with `naru interface detach lb0`, then try again"), "{error}");
    assert!(detach("lb0", &pins.0).is_err());
}

#[test]
fn a_range_of_everything_is_refused() {
    for text in ["0.0.0.0/0", "::/0"] {
        assert!(ranges(&[text.parse().unwrap()]).is_err());
    }
    assert!(ranges(&[]).is_err());
}
