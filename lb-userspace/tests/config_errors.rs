//! Broken configs: each gives one error, at the place that is wrong, which says what would be right.

use std::path::Path;

use lb_userspace::{
    model::Config,
    source::file::{
        Sections,
        edit::{Edit, apply_edit},
    },
};

/// The errors of `text` as `line:column: message`.
fn errors(text: &str) -> Vec<String> {
    match Config::parse(text, Path::new("naru.toml")) {
        Ok(config) => panic!("no error in\n{text}\nbut {config:?}"),
        Err(errors) => errors.iter().map(|e| format!("{}:{}: {}", e.line, e.column, e.message)).collect(),
    }
}

/// A sound config, in which each case breaks something: its lines are what the expected places count.
const SOUND: &str = r#"[node]
interfaces = ["eth0", "eth1"]
xdp_mode = "auto"
metrics = "127.0.0.1:9100"

[[vip]]
name = "web"
address = "203.0.113.10"
ports = ["tcp/80", "tcp/443"]
forward = "l2"
hash = "5-tuple"
slots = 1009
backends = [
  { address = "10.0.1.11", weight = 100 },
  { address = "10.0.1.12", weight = 50, state = "drain" },
]

[[vip]]
name = "dns"
address = "2001:db8::53"
ports = ["udp/any"]
forward = "ipip"
backends = [{ address = "10.0.2.1" }]
"#;

#[test]
fn a_way_to_an_ipv6_backend_carries_what_ipv6_needs() {
    let text = |of_vip: &str, own: &str| {
        format!(
            "[node]\ninterfaces = []\nencap_source6 = \"fd12:3456:789a:e::/64\"\n[[vip]]\nname = \"web\"\naddress = \
             \"203.0.113.10\"\nports = [\"tcp/80\"]\nforward = \"ipip\"\nmtu = {of_vip}\nbackends = [\n{{ address = \
             \"10.0.1.11\", mtu = 576 }},\n{{ address = \"2001:db8::1\"{own} }},\n{{ address = \"2001:db8::2\"{own} }}]\n"
        )
    };
    for (of_vip, own) in [("1280", ""), ("\"none\"", ""), ("1000", ", mtu = 1300"), ("1000", ", mtu = \"none\"")] {
        Config::parse(&text(of_vip, own), Path::new("naru.toml")).unwrap();
    }
    let needs =
        "the backend `2001:db8::1` has an IPv6 address, for which ways carry 1280 at least; write `mtu = 1280` or more";
    assert_eq!(errors(&text("1000", "")), [format!("9:7: `mtu` is 1000, and {needs}")], "it is said once");
    let own = errors(&text("1400", ", mtu = 1000"));
    assert_eq!((own.len(), own[0].as_str()), (2, format!("12:34: `mtu` is 1000, and {needs}").as_str()));
}

#[test]
fn the_sound_config_is_sound() {
    Config::parse(SOUND, Path::new("naru.toml")).unwrap();
}

/// What to replace in the sound config, by what, and the one error that it gives.
const BROKEN: &[(&str, &str, &str)] = &[
    // Syntax.
    ("forward = \"l2\"", "forward = l2", "10:11: `l2` is not a TOML value; write text in quotes: `\"l2\"`"),
    (
        "\"203.0.113.10\"",
        "203.0.113.10",
        "8:11: `203.0.113.10` is not a TOML value; write text in quotes: `\"203.0.113.10\"`",
    ),
    ("slots = 1009", "tcp_idle = 15m", "12:12: `15m` is not a TOML value; write text in quotes: `\"15m\"`"),
    ("name = \"web\"", "name = \"web", "7:12: this is not TOML: invalid basic string, expected `\"`"),
    ("[node]", "[node", "1:6: this is not TOML: unclosed table, expected `]`"),
    ("hash = \"5-tuple\"", "name = \"shop\"", "11:1: `name` is already set above; remove one of the two"),
    ("metrics =", "[node]\nmetrics =", "4:2: [node] is already defined above; merge the two"),
    // Keys.
    ("\nslots", "\nslot", "12:1: unknown key `slot` in [[vip]]; did you mean `slots`?"),
    (
        "address = \"2001:db8::53\"",
        "adress = \"2001:db8::53\"",
        "20:1: unknown key `adress` in [[vip]]; did you mean `address`?",
    ),
    (
        "hash = \"5-tuple\"",
        "probe = true",
        "11:1: unknown key `probe` in [[vip]]; the keys here are `name`, `address`, `ports`, `forward`, `hash`, `slots`, \
         `tracking`, `tcp_idle`, `udp_idle`, `drain_deadline`, `echo`, `mtu`, `metrics_backends`, `vrf`, `mark`, `health`, \
         `backends`",
    ),
    // Health.
    (
        "hash = \"5-tuple\"",
        "health = \"http\"",
        "11:10: `health` must be a table, `{ type = \"tcp\" }`, or `\"none\"`, not a string",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { via = \"address\" }",
        "11:10: missing key `type` in health; add `type = \"tcp\"`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"tcp\", via = \"vip\" }",
        "11:32: unknown via `vip`; use one of `path`, `address`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"ftp\", via = \"address\" }",
        "11:19: unknown type `ftp` of probes; use one of `icmp`, `tcp`, `udp`, `dns`, `http`, `tls`, `https`, `grpc`, `exec`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"tcp\", via = \"address\", path = \"/\" }",
        "11:50: `path` is for `type = \"http\"` or `type = \"https\"`; leave it out, or write that",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"http\", via = \"address\", path = \"healthz\" }",
        "11:51: `path` is `healthz`; it must begin with `/`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"http\", via = \"address\", status = \"2xx\" }",
        "11:53: `2xx` is no HTTP status or range of them; write such as `200`, `200-399` or `200,301-302`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"http\", via = \"address\", host = \"a b\" }",
        "11:51: `host` is empty or has spaces or special characters; write it as URLs do",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"tcp\", via = \"address\", interval = \"5\" }",
        "11:54: `interval` is `5`; write a time such as `2s` or `500ms`, between `10ms` and `1h`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"tcp\", via = \"address\", slow_start = \"900ms\" }",
        "11:56: `slow_start` is `900ms`; write a time such as `30s`, between `1s` and `1h`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"tcp\", via = \"address\", slow_start = \"2h\" }",
        "11:56: `slow_start` is `2h`; write a time such as `30s`, between `1s` and `1h`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"tcp\", via = \"address\", slow_start = \"none\" }",
        "11:56: `slow_start` is `none`; write a time such as `30s`, between `1s` and `1h`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"tcp\", via = \"address\", slow_start = \"30\" }",
        "11:56: `slow_start` is `30`; write a time such as `30s`, between `1s` and `1h`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"tcp\", via = \"address\", slow_start = 30 }",
        "11:56: `slow_start` must be a string in quotes, not a whole number",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"tcp\", via = \"address\", fast_interval = \"5s\" }",
        "11:59: `fast_interval` is longer than `interval`; write a shorter one, or leave it out",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"tcp\", via = \"address\", rise = 0 }",
        "11:50: `rise` is 0; it must be from 1 to 100",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"tcp\", via = \"address\", on_failure = \"down\" }",
        "11:56: unknown on_failure `down`; use one of `reset`, `drain`",
    ),
    (
        "weight = 100 }",
        "tier = 1 }",
        "14:35: nobody asks whether the backends of tiers before work; write `health` for the VIP",
    ),
    ("weight = 100 }", "tier = 10 }", "14:35: `tier` is 10; it must be from 0 to 9"),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"tcp\", fail = \"shut\" }",
        "11:33: unknown fail `shut`; use one of `open`, `closed`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"tcp\", fail = \"closed\", panic = \"50%\" }",
        "11:51: with `fail = \"closed\"` those that fail never serve; leave `panic` out",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"tcp\", min_healthy = \"two\" }",
        "11:40: `two` is no number of backends; write one such as `2`, or a share such as `\"50%\"`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"tcp\", min_healthy = 0 }",
        "11:40: `min_healthy` is 0; it must be from 1 to 4294967295",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"tcp\", max_out = 0.3 }",
        "11:36: `max_out` must be a string in quotes, not a number with a fraction",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"tcp\", via = \"address\", panic = \"half\" }",
        "11:51: `half` is not a share; write whole per cent from `\"0%\"` to `\"100%\"`",
    ),
    (
        "ports = [\"udp/any\"]",
        "ports = [\"udp/any\"]\nhealth = { type = \"tcp\", via = \"address\" }",
        "22:10: the VIP serves no TCP port by its number; say at which one probes are: `port = 80`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"udp\", via = \"address\", port = 53 }",
        "11:19: `udp` needs to know what to send; add `send = \"ping\"`, or `send_hex = \"1b0000\"`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"udp\", via = \"address\", port = 53, send = \"a\", send_hex = \"61\" }",
        "11:77: `send` and `send_hex` are two texts for one thing; leave one out",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"udp\", via = \"address\", port = 53, send = \"a\", expect_hex = \"0x1b\" }",
        "11:79: `0x1b` is not bytes in hexadecimal; write two digits for each, such as `1b00ff`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"http\", via = \"address\", send = \"a\" }",
        "11:51: `send` is for `type = \"udp\"`; leave it out, or write that",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"udp\", via = \"address\", send = \"a\" }",
        "11:10: the VIP serves no UDP port by its number; say at which one probes are: `port = 80`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"tls\", via = \"address\", port = 443 }",
        "11:19: it is to be said whose certificates are good: add `ca = \"/etc/naru/ca.pem\"`, or `verify = false` if any is; the system's authorities are not asked, for they vouch for everybody, and not for your backends",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"https\", via = \"address\", verify = true }",
        "11:19: it is to be said whose certificates are good: add `ca = \"/etc/naru/ca.pem\"`, or `verify = false` if any is; the system's authorities are not asked, for they vouch for everybody, and not for your backends",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"https\", via = \"address\", verify = false, ca = \"/ca.pem\" }",
        "11:54: `verify = false` takes every certificate, whatever `ca` has; leave one of the two out",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"https\", via = \"address\", verify = \"no\" }",
        "11:54: `verify` must be `true` or `false` without quotes, not a string",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"https\", via = \"address\", ca = \"ca.pem\" }",
        "11:50: `ca` is `ca.pem`; write an absolute path, one that begins with `/`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"https\", via = \"address\", ca = \"/ca\", client_cert = \"/c\" }",
        "11:71: `client_cert` is shown by who has its key; add `client_key`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"https\", via = \"address\", ca = \"/ca\", client_key = \"/k\" }",
        "11:70: `client_key` is of a certificate; add `client_cert`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"https\", via = \"address\", ca = \"/ca\", sni = \"a/b\" }",
        "11:63: `a/b` is no name that a certificate can be for; write a DNS name or an address in `sni`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"https\", via = \"address\", ca = \"/ca\", host = \"a!b:8443\" }",
        "11:64: `a!b` is no name that a certificate can be for; write a DNS name or an address in `sni`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"http\", via = \"address\", ca = \"/ca\" }",
        "11:49: `ca` is for `type = \"tls\"` or `type = \"https\"` or `type = \"grpc\"`; leave it out, or write that",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"icmp\", via = \"address\", port = 80 }",
        "11:51: `icmp` asks a host and no port of it; leave `port` out, or use another `type`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"icmp\", via = \"address\", size = 15 }",
        "11:51: `size` is 15; it must be from 16 to 9000",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"exec\", via = \"address\" }",
        "11:19: `exec` needs a program to start; add `command = [\"/usr/local/lib/naru/probe\", \"argument\"]`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"exec\", via = \"address\", command = [] }",
        "11:54: `command` is empty; write the path of a program, and its arguments",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"exec\", via = \"address\", command = \"/bin/true\" }",
        "11:54: `command` must be an array in brackets, not a string",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"exec\", via = \"address\", command = [\"true\"] }",
        "11:55: the program of `command` is `true`; write an absolute path, one that begins with `/`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"exec\", via = \"address\", command = [\"/bin/true\", 7] }",
        "11:68: each word of `command` must be a string in quotes, not a whole number",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"http\", via = \"address\", size = 9000 }",
        "11:51: `size` is 9000; it must be from 16 to 8000",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"http\", via = \"address\", header = \"X Role: a\" }",
        "11:53: `X Role: a` is no header; write one such as `X-Role: primary`, or `X-Role` if its value may be anything",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"http\", via = \"address\", version = \"2\" }",
        "11:54: unknown version `2`; did you mean `h2`?",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"http\", via = \"address\", version = \"h2\" }",
        "11:54: `h2` is HTTP/2 over TLS; write `version = \"h2c\"`, or `type = \"https\"`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"https\", via = \"address\", verify = false, version = \"h2c\" }",
        "11:71: `h2c` is HTTP/2 without TLS; write `version = \"h2\"`, or `type = \"http\"`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"http\", via = \"address\", host = \"a@b@c\" }",
        "11:51: `host` has characters that may not be there; write it as URLs do",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"grpc\", via = \"address\", service = \"a b\" }",
        "11:54: `service` is empty or has spaces; write a name such as `example.v1.Shop`, or leave it out for the server \
         as a whole",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"grpc\", via = \"address\", ca = \"/ca.pem\" }",
        "11:49: `ca` is for gRPC over TLS; add `tls = true`, or leave it out",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"grpc\", via = \"address\", tls = true }",
        "11:19: it is to be said whose certificates are good: add `ca = \"/etc/naru/ca.pem\"`, or `verify = false` if any \
         is; the system's authorities are not asked, for they vouch for everybody, and not for your backends",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"http\", via = \"address\", service = \"a\" }",
        "11:54: `service` is for `type = \"grpc\"`; leave it out, or write that",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"dns\", via = \"address\", port = 53 }",
        "11:19: `dns` needs a name to ask for; add `name = \"www.example.org\"`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"dns\", via = \"address\", port = 53, name = \"a..b\" }",
        "11:61: `a..b` is no DNS name; write one such as `www.example.org`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"dns\", via = \"address\", port = 53, name = \"a\", record = \"ADDRESS\" }",
        "11:75: `ADDRESS` is no type of DNS records; write one such as `A`, `AAAA`, `SOA` or `TYPE65`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"dns\", via = \"address\", port = 53, name = \"a\", rcode = \"OK\" }",
        "11:74: `OK` is no DNS response code or list of them; write such as `NOERROR` or `NOERROR,NXDOMAIN`",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"udp\", via = \"address\", port = 53, send = \"a\", name = \"b\" }",
        "11:73: `name` is for `type = \"dns\"`; leave it out, or write that",
    ),
    (
        "hash = \"5-tuple\"",
        "health = { type = \"tcp\", share = true }",
        "11:34: a probe by the clients' path goes to one VIP, and says nothing of the way by another; add `via = \
         \"address\"`, or leave `share` out",
    ),
    // Health of a backend.
    (
        "weight = 50",
        "health = { port = 8080 }",
        "15:37: this lies over the VIP's `health`, and there is none; write that, and `health = \"none\"` for backends that \
         are not to be asked",
    ),
    (
        "weight = 50",
        "health = \"tcp\"",
        "15:37: `health` of a backend must be a table, `{ port = 8080 }`, or `\"none\"`, not a string",
    ),
    (
        "hash = \"5-tuple\"\nslots = 1009\nbackends = [\n  { address = \"10.0.1.11\", weight = 100 }",
        "health = { type = \"tcp\" }\nslots = 1009\nbackends = [\n  { address = \"10.0.1.11\", health = { fail = \"closed\" } }",
        "14:46: `fail` is about all backends of a VIP; write it into the VIP's `health`",
    ),
    (
        "hash = \"5-tuple\"\nslots = 1009\nbackends = [\n  { address = \"10.0.1.11\", weight = 100 }",
        "health = { type = \"tcp\" }\nslots = 1009\nbackends = [\n  { address = \"10.0.1.11\", health = { fal = 3 } }",
        "14:39: unknown key `fal` in health; did you mean `fall`?",
    ),
    (
        "hash = \"5-tuple\"\nslots = 1009\nbackends = [\n  { address = \"10.0.1.11\", weight = 100 }",
        "health = { type = \"tcp\" }\nslots = 1009\nbackends = [\n  { address = \"10.0.1.11\", health = { path = \"/\" } }",
        "14:46: `path` is for `type = \"http\"` or `type = \"https\"`; leave it out, or write that",
    ),
    (
        "hash = \"5-tuple\"\nslots = 1009\nbackends = [\n  { address = \"10.0.1.11\", weight = 100 }",
        "health = { type = \"tcp\", fast_interval = \"1s\" }\nslots = 1009\nbackends = [\n  { address = \"10.0.1.11\", health = { interval = \"500ms\" } }",
        "14:37: together with the VIP's `health`: `fast_interval` is longer than `interval`; write a shorter one, or leave \
         it out",
    ),
    (
        "hash = \"5-tuple\"\nslots = 1009\nbackends = [\n  { address = \"10.0.1.11\", weight = 100 }",
        "health = { type = \"tcp\" }\nslots = 1009\nbackends = [\n  { address = \"10.0.1.11\", health = { type = \"udp\", send = \"a\" } }",
        "14:37: the VIP serves no UDP port by its number; say at which one probes are: `port = 80`",
    ),
    // What is wrong with the VIP's is said once.
    (
        "hash = \"5-tuple\"\nslots = 1009\nbackends = [\n  { address = \"10.0.1.11\", weight = 100 }",
        "health = { type = \"tcp\", rise = 0 }\nslots = 1009\nbackends = [\n  { address = \"10.0.1.11\", health = { fall = 2 } }",
        "11:33: `rise` is 0; it must be from 1 to 100",
    ),
    (
        "slots = 1009",
        "tcp_timeout = \"15m\"",
        "12:1: unknown key `tcp_timeout` in [[vip]]; the keys here are `name`, `address`, `ports`, `forward`, `hash`, \
         `slots`, `tracking`, `tcp_idle`, `udp_idle`, `drain_deadline`, `echo`, `mtu`, `metrics_backends`, `vrf`, `mark`, \
         `health`, `backends`",
    ),
    ("slots = 1009", "upd_idle = \"1m\"", "12:1: unknown key `upd_idle` in [[vip]]; did you mean `udp_idle`?"),
    (", weight = 50", ", wieght = 50", "15:28: unknown key `wieght` in a backend; did you mean `weight`?"),
    (
        "metrics =",
        "readers = \"adm\"\nmetrics =",
        "4:11: `readers` is `adm`; write `\"all\"`, or a list of groups: `[\"adm\"]`",
    ),
    (
        "metrics =",
        "readers = [\"adm\", \"a dm\"]\nmetrics =",
        "4:19: group name `a dm` cannot be one; write it as `getent group` shows it",
    ),
    (
        "metrics =",
        "readers = [\"adm\", \"adm\"]\nmetrics =",
        "4:19: group `adm` is listed twice; remove one of the two",
    ),
    (
        "metrics =",
        "metrics_backends = 1\nmetrics =",
        "4:20: `metrics_backends` must be `true` or `false` without quotes, not a whole number",
    ),
    ("interfaces =", "interface =", "2:1: unknown key `interface` in [node]; did you mean `interfaces`?"),
    ("[node]", "[nodes]", "1:2: unknown key `nodes` at the top level; did you mean `node`?"),
    ("address = \"203.0.113.10\"\n", "", "6:1: missing key `address` in [[vip]]; add `address = \"203.0.113.10\"`"),
    (
        "forward = \"ipip\"\n",
        "",
        "18:1: missing key `forward` in [[vip]]; add `forward = \"ipip\"` or `forward = \"l2\"`",
    ),
    (
        "{ address = \"10.0.1.11\", weight",
        "{ weight",
        "14:3: missing key `address` in a backend; add `address = \"10.0.1.11\"`",
    ),
    // Types.
    ("\"203.0.113.10\"", "42", "8:11: `address` must be a string in quotes, not a whole number"),
    ("[\"tcp/80\", \"tcp/443\"]", "\"tcp/80\"", "9:9: `ports` must be an array in brackets, not a string"),
    ("\"tcp/80\", ", "80, ", "9:10: a port must be a string in quotes, not a whole number"),
    ("weight = 100", "weight = \"100\"", "14:37: `weight` must be a whole number without quotes, not a string"),
    (
        "weight = 100",
        "weight = 0.5",
        "14:37: `weight` must be a whole number without quotes, not a number with a fraction",
    ),
    (
        "{ address = \"10.0.1.11\", weight = 100 }",
        "\"10.0.1.11\"",
        "14:3: a backend must be a table: `{ address = \"10.0.1.11\" }`, not a string",
    ),
    (
        "xdp_mode = \"auto\"",
        "log_packets = \"yes\"",
        "3:15: `log_packets` must be `true` or `false` without quotes, not a string",
    ),
    (
        "xdp_mode = \"auto\"",
        "icmp_rate = \"1000\"",
        "3:13: `icmp_rate` must be a whole number without quotes, not a string",
    ),
    ("xdp_mode = \"auto\"", "icmp_rate = 1000001", "3:13: `icmp_rate` is 1000001; it must be from 0 to 1000000"),
    ("slots = 1009", "mark = \"0x10\"", "12:8: `mark` must be a whole number without quotes, not a string"),
    ("slots = 1009", "mark = -1", "12:8: `mark` is -1; it must be from 0 to 4294967295"),
    ("slots = 1009", "vrf = \"a vrf\"", "12:7: interface name `a vrf` has white space; write it as `ip link` shows it"),
    (
        "weight = 100",
        "mac = \"ff:ff:ff:ff:ff:ff\"",
        "14:34: `ff:ff:ff:ff:ff:ff` is a group's MAC address; write the backend's own, such as `02:00:00:00:00:01`",
    ),
    (
        "backends = [{ address = \"10.0.2.1\" }]",
        "backends = [{ address = \"10.0.2.1\", mac = \"02:00:00:00:00:01\" }]",
        "23:43: `mac` pins the MAC address of an `l2` backend, and frames of a VIP with `forward = \"ipip\"` may go \
         to a router; remove the key (a router's address is pinned by `ip neigh replace ADDRESS lladdr MAC dev \
         INTERFACE nud permanent`)",
    ),
    ("slots = 1009", "echo = true", "12:8: `echo` must be a string in quotes, not a boolean"),
    ("slots = 1009", "echo = \"reday\"", "12:8: unknown echo `reday`; did you mean `ready`?"),
    ("slots = 1009", "echo = \"no\"", "12:8: unknown echo `no`; use one of `always`, `ready`, `never`"),
    ("slots = 1009", "mtu = 575", "12:7: `mtu` is 575; it must be from 576 to 65535"),
    (
        "slots = 1009",
        "mtu = \"1400\"",
        "12:7: `mtu` must be a whole number without quotes, or `\"none\"`, not a string",
    ),
    ("weight = 100", "mtu = 65536", "14:34: `mtu` is 65536; it must be from 576 to 65535"),
    (
        "ports = [\"udp/any\"]",
        "ports = [\"udp/any\"]\nmtu = 1279",
        "22:7: `mtu` is 1279, and the VIP has an IPv6 address, for which ways carry 1300 at least; write `mtu = 1300` or \
         more",
    ),
    (
        "backends = [{ address = \"10.0.2.1\" }]",
        "backends = [{ address = \"10.0.2.1\", mtu = 600 }]",
        "23:43: `mtu` is 600, and the VIP has an IPv6 address, for which ways carry 1300 at least; write `mtu = 1300` or \
         more",
    ),
    ("slots = 1009", "tracking = true", "12:12: `tracking` must be a string in quotes, not a boolean"),
    ("slots = 1009", "drain_deadline = 900", "12:18: `drain_deadline` needs a unit, and quotes; write `\"900s\"`"),
    ("slots = 1009", "tcp_idle = 900", "12:12: `tcp_idle` needs a unit, and quotes; write `\"900s\"`"),
    (
        "slots = 1009",
        "udp_idle = 0",
        "12:12: `udp_idle` needs a unit, and quotes; write one such as `\"15m\"`, between `\"1s\"` and `\"12h\"`",
    ),
    (
        "slots = 1009",
        "udp_idle = -60",
        "12:12: `udp_idle` needs a unit, and quotes; write one such as `\"15m\"`, between `\"1s\"` and `\"12h\"`",
    ),
    ("slots = 1009", "udp_idle = 1.5", "12:12: `udp_idle` must be a string in quotes, not a number with a fraction"),
    (
        "xdp_mode = \"auto\"",
        "max_flows = \"1M\"",
        "3:13: `max_flows` must be a whole number without quotes, not a string",
    ),
    // Values.
    (
        "xdp_mode = \"auto\"",
        "hash_seed_file = \"hash_seed\"",
        "3:18: `hash_seed_file` is `hash_seed`; write an absolute path, one that begins with `/`",
    ),
    ("slots = 1009", "tracking = \"alway\"", "12:12: unknown tracking `alway`; did you mean `always`?"),
    (
        "slots = 1009",
        "tracking = \"katran\"",
        "12:12: unknown tracking `katran`; use one of `adaptive`, `always`, `never`",
    ),
    ("slots = 1009", "tcp_idle = \"900\"", "12:12: `900` has no unit; write `900s`"),
    (
        "slots = 1009",
        "tcp_idle = \"a while\"",
        "12:12: `a while` is not a duration; write one such as `15m`, between `1s` and `12h`",
    ),
    (
        "slots = 1009",
        "udp_idle = \"500ms\"",
        "12:12: `500ms` is too short or too long; write one such as `15m`, between `1s` and `12h`",
    ),
    (
        "slots = 1009",
        "udp_idle = \"1.5s\"",
        "12:12: `1.5s` is not a whole number of seconds; write one such as `15m`, between `1s` and `12h`",
    ),
    (
        "slots = 1009",
        "tcp_idle = \"1day\"",
        "12:12: `1day` is too short or too long; write one such as `15m`, between `1s` and `12h`",
    ),
    ("xdp_mode = \"auto\"", "max_flows = 1023", "3:13: `max_flows` is 1023; it must be from 1024 to 16777216"),
    ("xdp_mode = \"auto\"", "max_flows = 16777217", "3:13: `max_flows` is 16777217; it must be from 1024 to 16777216"),
    ("\"auto\"", "\"nativ\"", "3:12: unknown XDP mode `nativ`; did you mean `native`?"),
    ("\"l2\"", "\"nat\"", "10:11: unknown forward mode `nat`; use one of `l2`, `ipip`"),
    ("\"5-tuple\"", "\"quic-cid\"", "11:8: unknown hash `quic-cid`; use one of `5-tuple`, `source-ip`"),
    ("\"drain\"", "\"drained\"", "15:49: unknown state `drained`; did you mean `drain`?"),
    ("127.0.0.1:9100", "127.0.0.1", "4:11: `127.0.0.1` has no port; write `127.0.0.1:9100`"),
    (
        "metrics = \"127.0.0.1:9100\"",
        "socket = \"naru.sock\"",
        "4:10: `socket` is `naru.sock`; write an absolute path, one that begins with `/`",
    ),
    (
        "metrics = \"127.0.0.1:9100\"",
        "encap_source4 = \"172.16.0.1/16\"",
        "4:17: `172.16.0.1/16` has bits behind its prefix length; write `172.16.0.0/16`",
    ),
    (
        "metrics = \"127.0.0.1:9100\"",
        "encap_source6 = \"100::/64\"",
        "4:17: `100::/64` is of the discard prefix (RFC 6666), from which networks let no packet through; write a \
         prefix of your own that no host uses, such as `fd12:3456:789a:e::/64`",
    ),
    ("\"eth1\"", "\"eth0\"", "2:23: interface `eth0` is listed twice; remove one of the two"),
    ("\"eth1\"", "\"eth1/2\"", "2:23: interface name `eth1/2` has a `/` or `:`; write it as `ip link` shows it"),
    ("\"web\"", "\"web shop\"", "7:8: VIP name `web shop` has a ` `; use 1 to 64 letters, digits, `.`, `_` or `-`"),
    ("\"web\"", "\"\"", "7:8: VIP name `` is empty; use 1 to 64 letters, digits, `.`, `_` or `-`"),
    (
        "203.0.113.10",
        "203.0.113.300",
        "8:11: `203.0.113.300` is not an IP address; write one such as `203.0.113.10` or `2001:db8::10`",
    ),
    (
        "203.0.113.10",
        "203.0.113.10:80",
        "8:11: `203.0.113.10:80` is not an IP address; write `203.0.113.10`, the address without a port",
    ),
    (
        "203.0.113.10",
        "::ffff:203.0.113.10",
        "8:11: `::ffff:203.0.113.10` is an IPv4 address in IPv6 form; write `203.0.113.10`",
    ),
    (
        "203.0.113.10",
        "224.0.0.1",
        "8:11: `224.0.0.1` is a multicast address; a VIP needs the unicast address that its clients dial",
    ),
    (
        "10.0.1.12",
        "127.0.0.1",
        "15:15: `127.0.0.1` is a loopback address; a backend needs the real server's own unicast address",
    ),
    (
        "10.0.1.12",
        "0.0.0.0",
        "15:15: `0.0.0.0` is the unspecified address; a backend needs the real server's own unicast address",
    ),
    ("tcp/443", "tcp/0", "9:20: port 0 cannot be dialled; for every port write `tcp/any`"),
    (
        "tcp/443",
        "tcp/70000",
        "9:20: `70000` is not a port; write a number from 1 to 65535, or `tcp/any` for every port",
    ),
    ("tcp/443", "443", "9:20: `443` does not say protocol and port; write `tcp/80`, `udp/53` or `tcp/any`"),
    ("tcp/443", "tpc/443", "9:20: unknown protocol `tpc`; did you mean `tcp`?"),
    ("[\"tcp/80\", \"tcp/443\"]", "[]", "9:9: the VIP serves no ports; list them, for instance `[\"tcp/80\"]`"),
    ("weight = 100", "weight = 70000", "14:37: `weight` is 70000; it must be from 0 to 65535"),
    ("weight = 100", "weight = -1", "14:37: `weight` is -1; it must be from 0 to 65535"),
    ("slots = 1009", "slots = 1000", "12:9: `slots` is 1000, which is not a prime; write 997 or 1009"),
    ("slots = 1009", "slots = 2", "12:9: `slots` is 2; it must be from 5 to 1048573"),
    (
        "slots = 1009",
        "slots = 99999999999999999999",
        "12:9: `slots` is 99999999999999999999; it must be from 5 to 1048573",
    ),
    // Values against each other.
    ("tcp/443", "tcp/80", "9:20: port `tcp/80` is listed twice; remove one of the two"),
    ("tcp/443", "tcp/any", "9:10: `tcp/any` already covers `tcp/80`; remove one of the two"),
    ("10.0.1.12", "10.0.1.11", "15:15: backend `10.0.1.11` is already listed in line 14; remove one of the two"),
    (
        "10.0.1.12",
        "203.0.113.10",
        "15:15: this is the VIP's own address, from where packets would come back here; write the real server's own \
         address",
    ),
    (
        "10.0.1.12",
        "2001:db8::12",
        "15:15: `l2` forwards IPv4 packets unchanged, so it cannot reach the IPv6 backend `2001:db8::12`; write \
         `forward = \"ipip\"`, or give the backend's IPv4 address",
    ),
    (
        "\"10.0.2.1\"",
        "\"10.0.2.1\", weight = 0",
        "23:46: every backend of this VIP has weight 0, so none would take traffic; give at least one a weight, or \
         take backends out with `state = \"drain\"`",
    ),
    (
        "10.0.2.1",
        "2001:db8:1::1",
        "23:25: `ipip` reaches the backend `2001:db8:1::1` inside IPv6, for which packets need a source address; \
         write into [node] a prefix of your own that no host uses and that backends accept, for instance \
         `encap_source6 = \"fd12:3456:789a:e::/64\"`",
    ),
    ("\"dns\"", "\"web\"", "19:8: VIP name `web` is already taken in line 7; rename one of the two"),
    (
        "address = \"2001:db8::53\"\nports = [\"udp/any\"]",
        "address = \"203.0.113.10\"\nports = [\"udp/any\", \"tcp/443\"]",
        "21:21: `tcp/443` on 203.0.113.10 is already served by VIP `web` in line 6; change the port or the address of \
         one of the two",
    ),
    (
        "xdp_mode = \"auto\"",
        "max_vips = 1",
        "18:1: the config has 2 VIPs, above `max_vips`, which is 1; write `max_vips = 2` or more in [node]",
    ),
    (
        "xdp_mode = \"auto\"",
        "max_backends = 2",
        "18:1: the config has 3 backends, above `max_backends`, which is 2; write `max_backends = 3` or more in [node]",
    ),
    (
        "xdp_mode = \"auto\"",
        "max_slots = 16381",
        "18:1: the config has 17390 slots, above `max_slots`, which is 16381; write `max_slots = 17390` or more in \
         [node]",
    ),
];

#[test]
fn each_broken_config_gives_one_precise_error() {
    let mut unexpected = String::new();
    for (sound, broken, expected) in BROKEN {
        assert!(SOUND.contains(sound), "`{sound}` is not in the sound config");
        let found = errors(&SOUND.replacen(sound, broken, 1));
        if found != [*expected] {
            unexpected += &format!("`{broken}` for `{sound}`\n  gives    {found:?}\n  and not  {expected:?}\n");
        }
    }
    assert!(unexpected.is_empty(), "{unexpected}");
}

#[test]
fn more_backends_than_slots_are_refused() {
    let backends: String = (1..=8).map(|host| format!("{{ address = \"10.0.0.{host}\" }}, ")).collect();
    let vip = r#"name = "a", address = "192.0.2.1", ports = ["tcp/1"], forward = "ipip""#;
    let text = format!("vip = [{{ {vip}, slots = 7, backends = [{backends}] }}]");
    assert_eq!(errors(&text), ["1:90: 7 slots are too few for 8 backends; write `slots = 809`"]);
}

#[test]
fn independent_mistakes_are_told_together_and_in_order() {
    let text = SOUND.replace("\"auto\"", "\"fast\"").replace("tcp/443", "tcp/0").replace("name = \"dns\"\n", "");
    assert_eq!(
        errors(&text),
        [
            "3:12: unknown XDP mode `fast`; use one of `auto`, `native`, `generic`",
            "9:20: port 0 cannot be dialled; for every port write `tcp/any`",
            "18:1: missing key `name` in [[vip]]; add `name = \"web\"`",
        ]
    );
}

#[test]
fn a_copied_vip_is_told_once() {
    let vip = &SOUND[SOUND.find("[[vip]]").unwrap()..SOUND.rfind("[[vip]]").unwrap()];
    let text = format!("{SOUND}\n{vip}");
    assert_eq!(errors(&text), ["26:8: VIP name `web` is already taken in line 7; rename one of the two"]);
}

#[test]
fn single_brackets_around_vip_are_told() {
    let text = "[vip]\nname = \"web\"\n";
    assert_eq!(errors(text), ["1:1: `vip` must be an array of tables: `[[vip]]` with two brackets, not a table"]);
}

#[test]
fn an_error_shows_file_line_and_carets() {
    let text = SOUND.replace("address = \"203", "adress = \"203");
    let message = Config::parse(&text, Path::new("/etc/naru/naru.toml")).unwrap_err().to_string();
    let expected = "\
/etc/naru/naru.toml:8:1: unknown key `adress` in [[vip]]; did you mean `address`?
    8 | adress = \"203.0.113.10\"
      | ^^^^^^";
    assert_eq!(message, expected);
}

/// Whatever an editor, or a disk, does to a config: it is read, or refused with a place that is in it; an edit is made,
/// or refused.
#[test]
fn damaged_configs_never_panic() {
    let edits = [
        r#"{"op": "backend_add", "vip": "web", "address": "10.0.1.13"}"#,
        r#"{"op": "backend_set", "vip": "web", "address": "10.0.1.12", "weight": 1}"#,
        r#"{"op": "backend_remove", "vip": "dns", "address": "10.0.2.1"}"#,
        r#"{"op": "vip_set", "name": "web", "slots": 97, "ports": ["tcp/443"]}"#,
        r#"{"op": "vip_set", "name": "dns", "tracking": "always", "udp_idle": "2m"}"#,
        r#"{"op": "vip_remove", "name": "dns"}"#,
        r#"{"op": "interface_add", "name": "eth2"}"#,
    ]
    .map(|json| serde_json::from_str::<Edit>(json).unwrap());
    let snippets = [
        "[",
        "]",
        "\"",
        "{",
        "}",
        ",",
        "#",
        "\n",
        "=",
        "0",
        "-",
        ".",
        "é",
        "\r",
        "[[vip]]\n",
        "'''",
        "vip",
        "::",
        "\u{1}",
    ];
    let sound = Config::parse(SOUND, Path::new("naru.toml")).unwrap();
    let mut random = 1u64;
    let mut roll = |sides: usize| {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (random >> 33) as usize % sides
    };
    for _ in 0..1_000 {
        let mut text = SOUND.to_owned();
        for _ in 0..1 + roll(3) {
            let from = text.floor_char_boundary(roll(text.len()));
            let to = text.ceil_char_boundary((from + roll(4)).min(text.len()));
            text.replace_range(from..to, snippets[roll(snippets.len())]);
        }
        let outcome = Config::parse(&text, Path::new("naru.toml"));
        if let Err(errors) = &outcome {
            assert!(errors.iter().count() > 0, "{text}");
            for error in errors {
                let line = text.split('\n').nth(error.line - 1).unwrap_or_else(|| panic!("{error} in\n{text}"));
                assert!(line.starts_with(&error.source), "{error} in\n{text}");
                assert!(error.column <= line.chars().count() + 1, "{error} in\n{text}");
            }
        }
        let reparsed = sound.reparse(SOUND, &Sections::of(SOUND), &text, Path::new("naru.toml"));
        assert_eq!(reparsed.map(|(config, _)| config), outcome, "{text}");
        for edit in &edits {
            // Only whether it returns: a damaged text may be edited or not.
            let _ = apply_edit(&text, edit);
        }
    }
}
