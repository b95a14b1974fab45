//! Each edit on texts as people write them: what changes, and that nothing else does.

use std::{path::Path, sync::Arc};

use super::*;
use crate::model::{FlowHash, ForwardMode, Given, Port, Settings, Slots, Tracking, keys::NothingElse};

const TEXT: &str = r#"# The edge.
[node]
interfaces = ["eth0"]   # uplink
metrics = "127.0.0.1:9100"
encap_source6 = "fd12:3456:789a:e::/64"

# The shop.
[[vip]]
name = "web"
address = "203.0.113.10"    # in DNS as www
ports = [
  "tcp/80",  # redirects only
  "tcp/443",
]
forward = "ipip"
backends = [
  # rack 1
  { address = "10.0.1.11", weight = 100 },
  { address = "10.0.1.12", weight = 100 }, # new disk
  # rack 2
  { address = "10.0.2.13", weight = 50, state = "drain" },  # until Monday
]

# --- below: tables with headers ---

# Names.
[[vip]]
name = "dns"
address = "2001:db8::53"
ports = ["udp/53"]
forward = "ipip"

  [[vip.backends]]
  address = "2001:db8:1::1" # first
  weight = 10

  [[vip.backends]]
  # second
  address = "2001:db8:1::2"

# The end.
"#;

fn edited(text: &str, edit: serde_json::Value) -> String {
    let edit: Edit = serde_json::from_value(edit).unwrap();
    let text = apply_edit(text, &edit).unwrap();
    Config::parse(&text, Path::new("naru.toml")).unwrap_or_else(|errors| panic!("{edit:?} gives\n{text}\n{errors}"));
    text
}

fn refused(text: &str, edit: serde_json::Value) -> String {
    apply_edit(text, &serde_json::from_value(edit).unwrap()).unwrap_err().to_string()
}

/// Checks that the edit turns `old` into `new` in the text and does nothing else, also where lines end as on Windows
/// and where the text cannot be edited in parts.
#[track_caller]
fn check(edit: serde_json::Value, old: &str, new: &str) {
    assert_eq!(TEXT.matches(old).count(), 1, "`{old}` must be in the text once");
    let expected = TEXT.replace(old, new);
    assert_eq!(edited(TEXT, edit.clone()), expected);
    let windows = |text: &str| text.replace('\n', "\r\n");
    assert_eq!(edited(&windows(TEXT), edit.clone()), windows(&expected));
    // A comment with three quotes makes every line that looks like a header doubtful.
    let whole = |text: &str| format!("# '''\n{text}");
    assert_eq!(edited(&whole(TEXT), edit), whole(&expected));
}

macro_rules! edit {
    ($op:literal $($key:ident : $value:expr),* $(,)?) => {
        serde_json::json!({ "op": $op, $(stringify!($key): $value),* })
    };
}

#[test]
fn a_backend_gets_a_line_like_its_neighbours() {
    let last = "  { address = \"10.0.2.13\", weight = 50, state = \"drain\" },  # until Monday\n";
    check(
        edit!("backend_add" vip: "web", address: "10.0.2.14"),
        last,
        &format!("{last}  {{ address = \"10.0.2.14\" }},\n"),
    );
    check(
        edit!("backend_add" vip: "web", address: "10.0.2.14", weight: 7, state: "down"),
        last,
        &format!("{last}  {{ address = \"10.0.2.14\", weight = 7, state = \"down\" }},\n"),
    );
}

#[test]
fn a_pinned_mac_address_comes_and_goes() {
    let set = |mac: &str| edit!("backend_set" vip: "web", address: "10.0.1.12", mac: mac);
    let (free, pinned) = ("100 }, # new disk", "100, mac = \"02:00:00:00:00:0c\" }, # new disk");
    let mac = "02:00:00:00:00:0C";
    let text = edited(&TEXT.replace("forward = \"ipip\"", "forward = \"l2\""), set(mac));
    assert!(text.contains(pinned), "{text}");
    assert_eq!(edited(&text, set("none")), text.replace(pinned, free));
    let dns = |mac: &str| edit!("backend_set" vip: "dns", address: "2001:db8:1::1", mac: mac);
    let six = TEXT.replace("forward = \"ipip\"", "forward = \"l2\"");
    let text = edited(&six, dns(mac));
    assert!(text.contains("weight = 10\n  mac = \"02:00:00:00:00:0c\"\n"), "{text}");
    assert_eq!(edited(&text, dns("none")), six);
}

#[test]
fn the_mtu_of_a_backend_comes_and_goes() {
    let set = |mtu: serde_json::Value| edit!("backend_set" vip: "web", address: "10.0.1.12", mtu: mtu);
    let (plain, own) = ("100 }, # new disk", "100, mtu = 1400 }, # new disk");
    let text = edited(TEXT, set(1400.into()));
    assert!(text.contains(own), "{text}");
    assert_eq!(edited(&text, set("none".into())), text.replace("1400", "\"none\""));
    assert_eq!(edited(&text, set("vip".into())), text.replace(own, plain));
    let vip = edited(TEXT, edit!("vip_set" name: "web", mtu: 1400, echo: "never"));
    assert!(vip.contains("echo = \"never\"\nmtu = 1400\nbackends"), "{vip}");
}

fn set_health(health: impl Into<serde_json::Value>) -> serde_json::Value {
    edit!("vip_set" name: "web", health: health.into())
}

#[test]
fn health_gets_a_line_and_changes_in_place() {
    let forward = "forward = \"ipip\"\nbackends = [\n  # rack 1\n";
    let whole = "health = { type = \"http\", interval = \"1s\", path = \"/healthz\" }\nbackends";
    check(set_health("http path=/healthz interval=1s"), forward, &forward.replace("backends", whole));
    let text = edited(TEXT, set_health("http path=/healthz interval=1s")).replace("\" }\nb", "\" } # soon\nb");
    let became = |text: &str, health: &str| {
        let after = edited(text, set_health(health));
        assert_eq!(edited(&after, set_health(health)), after, "{health} once more");
        let line = after.lines().find(|line| line.starts_with("health")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{after}"))
    };
    for (health, line) in [
        ("http path=/healthz interval=1s", r#"{ type = "http", interval = "1s", path = "/healthz" } # soon"#),
        // With a type it is all of `health`.
        ("tcp", r#"{ type = "tcp" } # soon"#),
        ("http port=8080", r#"{ type = "http", port = 8080 } # soon"#),
        ("none", r#""none" # soon"#),
        // Without, the other keys stay.
        ("interval=3s rise=4", r#"{ type = "http", interval = "3s", path = "/healthz", rise = 4 } # soon"#),
        ("body='all is well'", r#"{ type = "http", interval = "1s", path = "/healthz", body = "all is well" } # soon"#),
    ] {
        assert_eq!(became(&text, health), format!("health = {line}"));
    }
    let none = edited(&text, set_health("none"));
    assert_eq!(became(&none, "tcp rise=1"), r#"health = { type = "tcp", rise = 1 } # soon"#);
    let table = serde_json::json!({ "type": "exec", "command": ["/bin/true", "a b"] });
    let text = edited(&text, set_health(table));
    assert!(text.contains(r#"health = { type = "exec", command = ["/bin/true", "a b"] } # soon"#), "{text}");
    assert_eq!(
        refused(&none, set_health("rise=4")),
        "VIP `web` has no `health` that could be changed; name a type, as in `--health 'tcp interval=2s'`"
    );
}

#[test]
fn health_with_lines_of_its_own_keeps_them() {
    let lines = "\n# asked\n[vip.health]\n# a page\ntype = 'http' # for now\npath = \"/a\" # here\n\n# --- below";
    let text = TEXT.replace("\n# --- below", lines);
    assert_eq!(edited(&text, set_health("http path=/a")), text, "what says the same stays as it is written");
    assert_eq!(edited(&text, set_health("http path=/b")), text.replace("\"/a\"", "\"/b\""));
    assert_eq!(edited(&text, set_health("rise=3")), text.replace("# here\n", "# here\nrise = 3\n"));
    let none = edited(&text, set_health("none"));
    assert!(none.contains("health = \"none\"\n") && !none.contains("[vip.health]"), "{none}");
    let forward = "address = \"203.0.113.10\"    # in DNS as www\n";
    let dotted = format!("{forward}health.type = \"tcp\" # soon\nhealth.rise = 3 # slow\n");
    let text = TEXT.replace(forward, &dotted);
    assert_eq!(edited(&text, set_health("rise=5")), text.replace("rise = 3", "rise = 5"));
    assert_eq!(edited(&text, set_health("tcp")), text.replace("health.rise = 3 # slow\n", ""));
}

#[test]
fn a_backend_is_asked_otherwise_and_as_the_vip_says() {
    let text = edited(TEXT, set_health("tcp"));
    let set = |health: &str| edit!("backend_set" vip: "web", address: "10.0.1.12", health: health);
    let plain = "weight = 100 }, # new";
    for (health, own) in [("port=8080", "{ port = 8080 }"), ("none", "\"none\"")] {
        let after = edited(&text, set(health));
        assert_eq!(after, text.replace(plain, &format!("weight = 100, health = {own} }}, # new")));
        assert_eq!(edited(&after, set(health)), after);
        assert_eq!(edited(&after, set("vip")), text);
    }
    let added = edited(&text, edit!("backend_add" vip: "web", address: "10.0.2.14", health: "http path=/b"));
    assert!(added.contains("{ address = \"10.0.2.14\", health = { type = \"http\", path = \"/b\" } },\n"), "{added}");
}

#[test]
fn what_is_wrong_with_health_is_found_in_the_text_that_comes_of_it() {
    for (health, wrong) in [
        ("http pth=/", "unknown key `pth` in health; did you mean `path`?"),
        ("ftp", "unknown type `ftp` of probes"),
        ("tcp interval=5", "`interval` is `5`; write a time"),
        ("tcp rise=many", "`rise` must be a whole number without quotes, not a string"),
    ] {
        let text = apply_edit(TEXT, &serde_json::from_value(set_health(health)).unwrap()).unwrap();
        let errors = Config::parse(&text, Path::new("naru.toml")).unwrap_err().to_string();
        assert!(errors.contains(wrong), "{errors}");
    }
}

#[test]
fn a_mark_is_written_as_marks_are_read() {
    let forward = "forward = \"ipip\"\nbackends = [\n  # rack 1\n";
    check(
        edit!("vip_set" name: "web", vrf: "blue", mark: 16),
        forward,
        &forward.replace("backends", "vrf = \"blue\"\nmark = 0x10\nbackends"),
    );
}

#[test]
fn a_backend_gets_a_header_like_its_neighbours() {
    let last = "  address = \"2001:db8:1::2\"\n";
    let new = "\n  [[vip.backends]]\n  address = \"2001:db8:1::3\"\n  weight = 5\n";
    check(edit!("backend_add" vip: "dns", address: "2001:db8:1::3", weight: 5), last, &format!("{last}{new}"));
}

#[test]
fn a_backend_changes_in_place() {
    let set = |address: &str, weight: Option<u32>, state: Option<&str>| {
        let vip = if address.contains(':') { "dns" } else { "web" };
        edit!("backend_set" vip: vip, address: address, weight: weight, state: state)
    };
    check(set("10.0.1.11", Some(1), None), "10.0.1.11\", weight = 100 }", "10.0.1.11\", weight = 1 }");
    check(set("10.0.1.12", None, Some("drain")), "100 }, # new", "100, state = \"drain\" }, # new");
    check(
        set("10.0.2.13", Some(60), Some("active")),
        "weight = 50, state = \"drain\"",
        "weight = 60, state = \"active\"",
    );
    check(set("2001:db8:1::1", Some(20), None), "weight = 10\n", "weight = 20\n");
    let second = "  # second\n  address = \"2001:db8:1::2\"\n";
    check(set("2001:DB8:1:0::2", None, Some("down")), second, &format!("{second}  state = \"down\"\n"));
}

#[test]
fn a_backend_goes_with_its_line() {
    let remove = |vip: &str, address: &str| edit!("backend_remove" vip: vip, address: address);
    check(remove("web", "10.0.1.11"), "  { address = \"10.0.1.11\", weight = 100 },\n", "");
    check(remove("web", "10.0.1.12"), "  { address = \"10.0.1.12\", weight = 100 }, # new disk\n", "");
    check(
        remove("web", "10.0.2.13"),
        "  { address = \"10.0.2.13\", weight = 50, state = \"drain\" },  # until Monday\n",
        "",
    );
    check(
        remove("dns", "2001:db8:1::1"),
        "\n  [[vip.backends]]\n  address = \"2001:db8:1::1\" # first\n  weight = 10\n",
        "",
    );
    check(remove("dns", "2001:db8:1::2"), "\n  [[vip.backends]]\n  # second\n  address = \"2001:db8:1::2\"\n", "");
}

#[test]
fn all_backends_may_go_and_others_come() {
    let mut text = TEXT.to_owned();
    for address in ["2001:db8:1::1", "2001:db8:1::2"] {
        text = edited(&text, edit!("backend_remove" vip: "dns", address: address));
    }
    text = edited(&text, edit!("backend_add" vip: "dns", address: "2001:db8:1::9"));
    let expected = "forward = \"ipip\"\nbackends = [\n  { address = \"2001:db8:1::9\" },\n]\n\n# The end.\n";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn a_vip_changes_in_place() {
    let set = |key: &str, value: serde_json::Value| {
        let mut edit = edit!("vip_set" name: "web");
        edit[key] = value;
        edit
    };
    check(set("address", "203.0.113.20".into()), "\"203.0.113.10\"    # in", "\"203.0.113.20\"    # in");
    check(set("slots", 65_537.into()), "forward = \"ipip\"\nbackends", "forward = \"ipip\"\nslots = 65537\nbackends");
    check(
        set("tracking", "never".into()),
        "forward = \"ipip\"\nbackends",
        "forward = \"ipip\"\ntracking = \"never\"\nbackends",
    );
    check(
        edit!("vip_set" name: "dns", udp_idle: "90s", tcp_idle: "1h"),
        "ports = [\"udp/53\"]\nforward = \"ipip\"\n",
        "ports = [\"udp/53\"]\nforward = \"ipip\"\ntcp_idle = \"1h\"\nudp_idle = \"1m 30s\"\n",
    );
    check(set("forward", "l2".into()), "forward = \"ipip\"\nbackends", "forward = \"l2\"\nbackends");
    check(
        set("ports", vec!["tcp/443", "udp/443"].into()),
        "  \"tcp/80\",  # redirects only\n  \"tcp/443\",\n",
        "  \"tcp/443\",\n  \"udp/443\",\n",
    );
    check(
        edit!("vip_set" name: "dns", ports: ["udp/53", "tcp/53"], hash: "source-ip"),
        "ports = [\"udp/53\"]\nforward = \"ipip\"\n",
        "ports = [\"udp/53\", \"tcp/53\"]\nforward = \"ipip\"\nhash = \"source-ip\"\n",
    );
}

#[test]
fn a_vip_comes_last() {
    check(
        edit!(
            "vip_add" name: "mail", address: "203.0.113.25", ports: ["tcp/25"], forward: "l2", slots: 997,
            tracking: "always", tcp_idle: "30m", udp_idle: "10s",
            backends: serde_json::json!([
                { "address": "10.0.3.1", "weight": 5 },
                { "address": "10.0.3.2", "state": "drain" },
            ]),
        ),
        "# The end.\n",
        r#"# The end.

[[vip]]
name = "mail"
address = "203.0.113.25"
ports = ["tcp/25"]
forward = "l2"
slots = 997
tracking = "always"
tcp_idle = "30m"
udp_idle = "10s"
backends = [
  { address = "10.0.3.1", weight = 5 },
  { address = "10.0.3.2", state = "drain" },
]
"#,
    );
    let text = edited("", edit!("vip_add" name: "a", address: "192.0.2.1", ports: ["tcp/any"], forward: "ipip"));
    let expected =
        "[[vip]]\nname = \"a\"\naddress = \"192.0.2.1\"\nports = [\"tcp/any\"]\nforward = \"ipip\"\nbackends = []\n";
    assert_eq!(text, expected);
}

#[test]
fn a_vip_goes_with_what_is_said_about_it() {
    let text = edited(TEXT, edit!("vip_remove" name: "web"));
    let (from, to) = (TEXT.find("# The shop.").unwrap(), TEXT.find("# ---").unwrap());
    assert_eq!(text, [&TEXT[..from], "\n", &TEXT[to..]].concat());
    let text = edited(TEXT, edit!("vip_remove" name: "dns"));
    let from = TEXT.find("# Names.").unwrap();
    assert_eq!(text, [&TEXT[..from], "\n# The end.\n"].concat());
}

#[test]
fn interfaces_come_and_go() {
    check(edit!("interface_add" name: "eth1"), "[\"eth0\"]   # uplink", "[\"eth0\", \"eth1\"]   # uplink");
    check(edit!("interface_remove" name: "eth0"), "[\"eth0\"]   # uplink", "[]   # uplink");
    let add = || edit!("interface_add" name: "eth0");
    assert_eq!(edited("", add()), "[node]\ninterfaces = [\"eth0\"]\n");
    assert_eq!(edited("[node]\nmax_vips = 9\n", add()), "[node]\nmax_vips = 9\ninterfaces = [\"eth0\"]\n");
    assert_eq!(edited("vip = []", add()), "vip = []\n\n[node]\ninterfaces = [\"eth0\"]\n");
    assert_eq!(edited("node.max_vips = 9\n", add()), "node.max_vips = 9\nnode.interfaces = [\"eth0\"]\n");
}

#[test]
fn vips_in_braces_can_be_edited_too() {
    let text = r#"vip = [{ name = "a", address = "192.0.2.1", ports = ["tcp/80"], forward = "ipip", backends = [] }]
"#;
    let text = edited(text, edit!("backend_add" vip: "a", address: "10.0.0.1"));
    let text = edited(&text, edit!("backend_set" vip: "a", address: "10.0.0.1", weight: 3));
    let text = edited(&text, edit!("vip_set" name: "a", slots: 97, tcp_idle: "1h"));
    let text = edited(&text, edit!("vip_add" name: "b", address: "192.0.2.2", ports: ["udp/1"], forward: "l2"));
    let a = r#"{ name = "a", address = "192.0.2.1", ports = ["tcp/80"], forward = "ipip""#;
    let backend = r#"{ address = "10.0.0.1", weight = 3 }"#;
    let b = r#"{ name = "b", address = "192.0.2.2", ports = ["udp/1"], forward = "l2", backends = [] }"#;
    assert_eq!(text, format!("vip = [{a}, backends = [{backend}], slots = 97, tcp_idle = \"1h\" }}, {b}]\n"));
    let text = edited(&text, edit!("vip_remove" name: "a"));
    let expected = r#"vip = [{ name = "b", address = "192.0.2.2", ports = ["udp/1"], forward = "l2", backends = [] }]
"#;
    assert_eq!(text, expected);
}

#[test]
fn what_is_not_there_is_named_with_what_is() {
    for (edit, message) in [
        (edit!("vip_remove" name: "wep"), "no VIP is named `wep`; did you mean `web`?"),
        (edit!("vip_set" name: "mail", slots: 97), "no VIP is named `mail`; `naru vip list` shows the VIPs"),
        (
            edit!("backend_remove" vip: "web", address: "10.0.1.13"),
            "VIP `web` has no backend `10.0.1.13`; did you mean `10.0.1.11`, `10.0.1.12`, `10.0.2.13`?",
        ),
        (
            edit!("backend_set" vip: "dns", address: "192.0.2.1", weight: 1),
            "VIP `dns` has no backend `192.0.2.1`; `naru backend list` shows its backends",
        ),
        (edit!("interface_remove" name: "eth1"), "interface `eth1` is not in the config; did you mean `eth0`?"),
        (
            edit!("vip_add" name: "web", address: "192.0.2.1", ports: ["tcp/1"], forward: "l2"),
            "VIP `web` exists already; change it with `naru vip set`, or choose another name",
        ),
        (
            edit!("backend_add" vip: "dns", address: "2001:db8:1:0::1"),
            "VIP `dns` has the backend `2001:db8:1::1` already; change it with `naru backend set`",
        ),
        (edit!("interface_add" name: "eth0"), "interface `eth0` is in the config already"),
        (edit!("vip_set" name: "web"), "nothing to set; name at least one value"),
        (edit!("backend_set" vip: "web", address: "10.0.1.11"), "nothing to set; name at least one value"),
    ] {
        assert_eq!(refused(TEXT, edit), message);
    }
}

#[test]
fn a_text_that_is_no_config_is_left_alone() {
    let message = refused("[[vip]\n", edit!("interface_add" name: "eth0"));
    assert!(message.starts_with("the config file is not TOML, so it cannot be edited"), "{message}");
    let message = refused("vip = 5\n", edit!("vip_remove" name: "a"));
    assert!(message.starts_with("`vip` in the config file is not what it should be"), "{message}");
    let message = refused("[[vip]]\nname = \"a\"\nbackends = 5\n", edit!("backend_add" vip: "a", address: "10.0.0.1"));
    assert!(message.starts_with("`backends` in the config file is not what it should be"), "{message}");
}

#[test]
fn edits_survive_json() {
    let edits = [
        Edit::VipAdd(NewVip {
            name: "a".into(),
            address: "192.0.2.1".parse().unwrap(),
            ports: vec!["udp/any".parse().unwrap()],
            forward: ForwardMode::L2,
            health: Some("http path=/healthz port=8080".parse().unwrap()),
            given: Given {
                hash: Some(FlowHash::SourceIp),
                slots: Some(Slots::new(97)),
                tracking: Some(Tracking::Never),
                tcp_idle: Some("15m".parse().unwrap()),
                metrics_backends: Some(false),
                vrf: Some("blue".parse().unwrap()),
                mark: Some(16.into()),
                mtu: Some("none".parse().unwrap()),
                echo: Some("ready".parse().unwrap()),
                ..Given::default()
            },
            backends: vec![NewBackend {
                address: "10.0.0.1".parse().unwrap(),
                weight: None,
                state: Some(BackendState::Drain),
                mac: Some("02:00:00:00:00:01".parse().unwrap()),
                mtu: Some("1400".parse().unwrap()),
                health: Some("none".parse().unwrap()),
            }],
            rest: NothingElse,
        }),
        Edit::VipSet(VipValues {
            name: "a".into(),
            health: Some("none".parse().unwrap()),
            given: Given { udp_idle: Some("1m 30s".parse().unwrap()), ..Given::default() },
            ..VipValues::default()
        }),
        Edit::BackendSet {
            vip: "a".into(),
            address: "10.0.0.1".parse().unwrap(),
            weight: Some(1),
            state: None,
            mac: None,
            mtu: Some("vip".parse().unwrap()),
            health: Some("vip".parse().unwrap()),
        },
        Edit::InterfaceRemove { name: "eth0".into() },
    ];
    for edit in edits {
        let json = serde_json::to_string(&edit).unwrap();
        assert_eq!(serde_json::from_str::<Edit>(&json).unwrap(), edit, "{json}");
    }
    let set = Edit::BackendSet {
        vip: "a".into(),
        address: "10.0.0.1".parse().unwrap(),
        weight: Some(1),
        state: None,
        mac: None,
        mtu: None,
        health: None,
    };
    let json = serde_json::to_value(&set).unwrap();
    assert_eq!(json, edit!("backend_set" vip: "a", address: "10.0.0.1", weight: 1));
    for bad in [
        edit!("backend_set" vip: "a", address: "10.0.0.1", wieght: 1),
        edit!("backend_set" vip: "a", address: "10.0.0.1", state: "drained"),
        edit!("backend_drain" vip: "a", address: "10.0.0.1"),
        edit!("vip_set" name: "a", tcp_idel: "15m"),
        edit!("vip_set" name: "a", tcp_idle: "15m", forwad: "l2"),
        edit!("vip_set" name: "a", tcp_idle: 900),
        edit!("vip_set" name: "a", udp_idle: "13h"),
        edit!("vip_set" name: "a", health: "http /healthz"),
        edit!("vip_add" name: "a", address: "192.0.2.1", ports: ["tcp/1"], forward: "l2", traking: "never"),
    ] {
        assert!(serde_json::from_value::<Edit>(bad.clone()).is_err(), "{bad}");
    }
    let misspelt = edit!("vip_set" name: "a", tcp_idel: "15m");
    assert_eq!(serde_json::from_value::<Edit>(misspelt).unwrap_err().to_string(), "unknown field `tcp_idel`");
}

/// A deterministic stream of choices.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) as usize % sides
    }

    fn pick<'p>(&mut self, of: &[&'p str]) -> &'p str {
        of[self.roll(of.len())]
    }
}

/// One VIP, laid out in one of the ways that people lay them out.
fn random_vip(dice: &mut Dice, number: usize) -> String {
    let comment = |dice: &mut Dice| dice.pick(&["", "", "# note", "# [[vip]]", "# a, b ]"]).to_owned();
    let backends: Vec<String> = (0..dice.roll(4))
        .map(|host| {
            let more = dice.pick(&["", ", weight = 7", ", state = \"drain\"", ", weight = 7, state = \"down\""]);
            format!("address = \"10.{number}.0.{host}\"{more}")
        })
        .collect();
    let mut text = format!("{}\n[[vip]] {}\n", comment(dice), comment(dice));
    text += &format!("name = \"v{number}\"\naddress = \"192.0.2.{number}\"\nports = [\"tcp/1\"]\n");
    let last = backends.len().saturating_sub(1);
    match dice.roll(4) {
        0 => {
            text += "forward = \"ipip\"\n";
            for backend in backends {
                let indent = dice.pick(&["", "  "]);
                let keys = backend.replace(", ", &format!("\n{indent}"));
                text += &format!("{}{indent}[[vip.backends]]\n{indent}{keys}\n", dice.pick(&["", "\n", "\n# x\n"]));
            }
        }
        1 => {
            text += &format!(
                "backends = [{}]\nforward = \"ipip\"\n",
                backends.iter().map(|b| format!("{{ {b} }}")).collect::<Vec<_>>().join(", ")
            )
        }
        style => {
            text += &format!("forward = \"ipip\" {}\nbackends = [ {}\n", comment(dice), comment(dice));
            for (index, backend) in backends.iter().enumerate() {
                let comma = if style == 2 && index == last { "" } else { "," };
                text += &format!("    {}\n\t{{{backend}}}{comma} {}\n", comment(dice), comment(dice));
            }
            text += &format!("{}  ]\n", dice.pick(&["", "# end\n"]));
        }
    }
    text + dice.pick(&["", "\n", "\n# detached\n\n"])
}

/// The UDP idle time of random edits.
const UDP_IDLE: &str = "1m 30s";

/// An edit of `config` that leaves it valid, and the config that it leaves.
fn random_edit(dice: &mut Dice, config: &Config, serial: usize) -> (Edit, Config) {
    let mut after = config.clone();
    let address = IpAddr::from([10, 200, (serial / 250) as u8, (serial % 250) as u8]);
    if config.vips.is_empty() || dice.roll(8) == 0 {
        let name = format!("n{serial}");
        let backends = vec![
            NewBackend { address, weight: Some(3), state: None, mac: None, mtu: None, health: None };
            dice.roll(2)
        ];
        let ports: Vec<Port> = vec!["udp/9000".parse().unwrap()];
        after.vips.push(Arc::new(crate::model::Vip {
            health: None,
            asked_otherwise: Default::default(),
            waives_health: false,
            has_tiers: false,
            name: name.clone(),
            address,
            ports: ports.clone(),
            forward: ForwardMode::Ipip,
            settings: Settings {
                hash: FlowHash::SourceIp,
                tracking: Tracking::Always,
                udp_idle: UDP_IDLE.parse().unwrap(),
                mark: Some(16.into()),
                ..Settings::default()
            },
            backends: Vec::new(),
        }));
        let vip_address = IpAddr::from([10, 201, (serial / 250) as u8, (serial % 250) as u8]);
        let vip = Arc::make_mut(after.vips.last_mut().unwrap());
        vip.address = vip_address;
        vip.backends.extend(backends.iter().map(|new| backend(new.address, new.weight, new.state)));
        let add = NewVip {
            name,
            address: vip_address,
            ports,
            forward: ForwardMode::Ipip,
            given: Given {
                hash: Some(FlowHash::SourceIp),
                tracking: Some(Tracking::Always),
                udp_idle: Some(UDP_IDLE.parse().unwrap()),
                mark: Some(16.into()),
                ..Given::default()
            },
            health: None,
            backends,
            rest: NothingElse,
        };
        return (Edit::VipAdd(add), after);
    }
    let index = dice.roll(config.vips.len());
    let vip = after.vip_mut(index);
    let name = vip.name.clone();
    let chosen = dice.roll(vip.backends.len().max(1));
    let edit = match (dice.roll(7), vip.backends.get_mut(chosen)) {
        (0, _) => {
            after.vips.remove(index);
            Edit::VipRemove { name }
        }
        (1, _) => {
            vip.settings.slots = Slots::new(if vip.settings.slots.get() == 997 { 1009 } else { 997 });
            vip.ports.push(Port { protocol: crate::model::Protocol::Udp, port: Some(1 + serial as u16) });
            vip.settings.tracking = Tracking::Never;
            vip.settings.udp_idle = UDP_IDLE.parse().unwrap();
            Edit::VipSet(VipValues {
                name,
                ports: Some(vip.ports.clone()),
                given: Given {
                    slots: Some(vip.settings.slots),
                    tracking: Some(vip.settings.tracking),
                    udp_idle: Some(UDP_IDLE.parse().unwrap()),
                    ..Given::default()
                },
                ..VipValues::default()
            })
        }
        (2 | 3, Some(backend)) => {
            (backend.weight, backend.state) = (1 + serial as u32, BackendState::Drain);
            let (weight, state) = (Some(backend.weight), Some(backend.state));
            Edit::BackendSet { vip: name, address: backend.address, weight, state, mac: None, mtu: None, health: None }
        }
        (4 | 5, Some(_)) => Edit::BackendRemove { vip: name, address: vip.backends.remove(chosen).address },
        _ => {
            let weight = (dice.roll(2) == 0).then_some(5);
            vip.backends.push(backend(address, weight, None));
            Edit::BackendAdd { vip: name, address, weight, state: None, mac: None, mtu: None, health: None }
        }
    };
    (edit, after)
}

fn backend(address: IpAddr, weight: Option<u32>, state: Option<BackendState>) -> crate::model::Backend {
    use crate::model::Backend;
    let (weight, state) = (weight.unwrap_or(Backend::DEFAULT_WEIGHT), state.unwrap_or_default());
    Backend { weight, state, ..Backend::plain(address) }
}

/// Whatever a text looks like and whatever is done to it, the edited text says what the edit says, comments stay, and a
/// reading of the difference says the same as a reading of the whole.
#[test]
fn edits_mean_what_they_say_on_any_layout() {
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let vips: String = (0..dice.roll(5)).map(|number| random_vip(&mut dice, number + 1)).collect();
        const INTERFACES: &str = "[node]\ninterfaces = [\"eth0\"]\n";
        let head = dice.pick(&["", INTERFACES, "# '''\n"]);
        let mut text = format!("{}{vips}", if vips.is_empty() { INTERFACES } else { head });
        if dice.roll(4) == 0 {
            text = text.replace('\n', "\r\n");
        }
        for serial in 0..12 {
            let config = parse(&text);
            let (edit, expected) = random_edit(&mut dice, &config, serial);
            // A text that says nothing at all is refused, whoever wrote it.
            if expected.vips.is_empty() && !expected.node.names_interfaces {
                continue;
            }
            let after =
                apply_edit(&text, &edit).unwrap_or_else(|error| panic!("seed {seed}: {edit:?}: {error} in\n{text}"));
            let outcome = parse(&after);
            assert_eq!(outcome, expected, "seed {seed}: {edit:?} makes of\n{text}\nthis:\n{after}");
            let known = Sections::of(&text);
            assert_eq!(apply_edit_to(&text, &known, Some(&config), &edit).as_ref(), Ok(&after), "seed {seed}");
            let (reparsed, sections) = config.reparse(&text, &known, &after, Path::new("naru.toml")).unwrap();
            assert_eq!((reparsed, sections), (outcome.clone(), Sections::of(&after)), "seed {seed}");
            let (old, new) = (comments(&text), comments(&after));
            match edit {
                // What is removed takes its own comments along.
                Edit::VipRemove { .. } | Edit::BackendRemove { .. } => {
                    let mut old = old.iter();
                    assert!(new.iter().all(|kept| old.any(|comment| comment == kept)), "seed {seed}: {edit:?}");
                }
                _ => assert_eq!(old, new, "seed {seed}: {edit:?}"),
            }
            text = after;
        }
    }
}

/// The comments in the order of the text, which must have no `#` in strings.
fn comments(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| Some(line.split_once('#')?.1)).collect()
}

fn parse(text: &str) -> Config {
    Config::parse(text, Path::new("naru.toml")).unwrap_or_else(|errors| panic!("{errors}\nin\n{text}"))
}
