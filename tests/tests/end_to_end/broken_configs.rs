//! Broken configs: each is refused with one precise error, and what runs is untouched, by the maps themselves.

use lb_userspace::api::types::{Backend, Vip as VipState};
use naru_tests::{
    lab::Lab,
    load::{Load, Options},
    maps,
    site::{Family, Site, Vip},
};

/// Replacements in the config of the site below, each breaking one thing, and what the error must name.
const BROKEN: [(&str, &str, &str); 27] = [
    ("[node]\n", "[node\n", "naru.toml:1:"),
    ("[node]\n", "[node]\ninterface = [\"eth0\"]\n", "interface"),
    ("name = \"web\"", "naem = \"web\"", "naem"),
    ("name = \"web\"", "name = \"web server\"", "web server"),
    ("name = \"direct\"", "name = \"web\"", "web"),
    ("address = \"203.0.113.10\"", "address = \"203.0.113.300\"", "203.0.113.300"),
    ("address = \"203.0.113.10\"", "address = \"224.0.0.1\"", "224.0.0.1"),
    ("address = \"203.0.113.10\"", "address = \"203.0.113.20\"", "203.0.113.20"),
    ("address = \"10.0.1.11\"", "address = \"10.0.1.\"", "10.0.1."),
    ("address = \"10.0.1.11\"", "address = \"10.0.1.12\"", "10.0.1.12"),
    ("address = \"10.0.1.11\"", "address = \"203.0.113.10\"", "203.0.113.10"),
    ("address = \"10.0.1.11\"", "address = \"127.0.0.1\"", "127.0.0.1"),
    ("ports = [\"tcp/80\"", "ports = [\"tcp/0\"", "tcp/0"),
    ("ports = [\"tcp/80\"", "ports = [\"tcp/80000\"", "80000"),
    ("ports = [\"tcp/80\"", "ports = [\"sctp/80\"", "sctp"),
    ("ports = [\"tcp/80\"", "ports = [\"udp/9\"", "udp/9"),
    ("ports = [\"tcp/80\", \"udp/9\"]", "ports = []", "ports"),
    ("forward = \"ipip\"", "forward = \"ipp\"", "ipp"),
    ("weight = 100 }, # b1\n", "weight = 70000 }, # b1\n", "70000"),
    ("weight = 100", "weight = 0", "weight"),
    ("forward = \"ipip\"\n", "forward = \"ipip\"\nslots = 16380\n", "16380"),
    ("forward = \"ipip\"\n", "forward = \"ipip\"\nslots = 2\n", "slots"),
    (
        "forward = \"ipip\"\nbackends = [\n  { address = \"fd6e",
        "forward = \"l2\"\nbackends = [\n  { address = \"fd6e",
        "l2",
    ),
    ("forward = \"ipip\"\n", "forward = \"ipip\"\ntracking = \"sometimes\"\n", "sometimes"),
    ("forward = \"ipip\"\n", "forward = \"ipip\"\ntcp_idle = 900\n", "`\"900s\"`"),
    ("[node]\n", "[node]\nmax_flows = 100\n", "max_flows"),
    ("interfaces = [\"eth0\"]", "interfaces = [\"eth0\", \"nosuch0\"]", "nosuch0"),
];

/// The last VIP's backends are IPv6, so that `l2` cannot carry it.
const MIXED: Vip =
    Vip { name: "mixed", address: "203.0.113.30", forward: "ipip", backends: Family::V6, weights: &[100; 3] };

#[test]
#[ignore = "needs root"]
fn a_broken_config_changes_nothing() {
    let vips = [Vip::IPIP, Vip::L2, MIXED];
    let site = Site::start(Lab::builder(), &vips).unwrap();
    let good = site.config().unwrap();
    let maps_before = maps::dump(site.bpffs()).unwrap();
    let state = || -> (Vec<VipState>, Vec<Backend>) {
        (site.read(&["vip", "list"]).unwrap(), site.read(&["backend", "list"]).unwrap())
    };
    let state_before = state();
    for (from, to, named) in BROKEN {
        assert!(good.contains(from), "{from} is not in the config");
        // Zero weights are a mistake only when all are; elsewhere the first place is enough.
        let broken = if named == "weight" { good.replace(from, to) } else { good.replacen(from, to, 1) };
        site.write_config(&broken).unwrap();
        let output = site.try_cli(&["apply"]).unwrap();
        let says = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{to} was applied");
        assert!(says.contains(named), "{to}: the error does not name {named}: {says}");
        let places = says.matches("naru.toml:").count();
        let expected = if named == "weight" { vips.len() } else { 1 };
        if named != "nosuch0" {
            assert_eq!(places, expected, "{to}: not one error for one mistake: {says}");
        }
        assert_eq!(maps::dump(site.bpffs()).unwrap(), maps_before, "{to} changed a map");
        assert_eq!(state(), state_before, "{to} changed the daemon's state");
        assert_eq!(site.config().unwrap(), broken, "the daemon wrote to a file that it refused");
    }
    site.write_config(&good).unwrap();
    site.cli(&["diff"]).unwrap();
    site.cli(&["apply"]).unwrap();
    assert_eq!(maps::dump(site.bpffs()).unwrap(), maps_before, "applying what runs changed a map");
    let report = Load::start(site.lab.client(), Options::new(Vip::IPIP.http()).count(200)).unwrap().wait();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
}

#[test]
#[ignore = "needs root"]
fn a_refused_edit_changes_nothing() {
    let vip = Vip::L2;
    let site = Site::start(Lab::builder(), &[vip]).unwrap();
    let (text, maps_before) = (site.config().unwrap(), maps::dump(site.bpffs()).unwrap());
    for args in [
        &["backend", "add", "direct", "2001:db8::1"][..],
        &["backend", "add", "direct", "10.0.1.11"],
        &["backend", "add", "driect", "10.0.1.14"],
        &["backend", "set", "direct", "10.0.1.99", "--weight", "1"],
        &["backend", "remove", "direct", "10.0.1.99"],
        &["vip", "add", "direct", "--address", "203.0.113.77", "--port", "tcp/80", "--forward", "l2"],
        &["vip", "add", "twin", "--address", "203.0.113.20", "--port", "tcp/80", "--forward", "l2"],
        &["vip", "set", "direct", "--slots", "100"],
        &["vip", "set", "direct", "--tcp-idle", "13h"],
        &["vip", "set", "direct", "--tracking", "sometimes"],
        &["vip", "remove", "nosuch"],
        &["interface", "attach", "nosuch0"],
    ] {
        let output = site.try_cli(args).unwrap();
        assert!(!output.status.success(), "`naru {}` was done", args.join(" "));
        assert!(!output.stderr.is_empty(), "`naru {}` gives no reason", args.join(" "));
        assert_eq!(site.config().unwrap(), text, "`naru {}` changed the file", args.join(" "));
        assert_eq!(maps::dump(site.bpffs()).unwrap(), maps_before, "`naru {}` changed a map", args.join(" "));
    }
}

#[test]
#[ignore = "needs root"]
fn an_edit_over_a_file_with_other_changes_is_refused() {
    let vip = Vip::L2;
    let site = Site::start(Lab::builder(), &[vip]).unwrap();
    let edited = site.config().unwrap().replacen("weight = 100", "weight = 50", 1);
    site.write_config(&edited).unwrap();
    let diff = site.try_cli(&["diff"]).unwrap();
    assert_eq!(diff.status.code(), Some(1), "`naru diff` sees no difference");
    let edit = ["backend", "set", vip.name, "10.0.1.12", "--state", "drain"];
    assert!(site.cli(&edit).is_err());
    assert_eq!(site.config().unwrap(), edited);
    site.cli(&["apply"]).unwrap();
    site.cli(&edit).unwrap();
}
