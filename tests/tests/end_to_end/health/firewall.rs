//! A firewall of the load balancer's host that lets nothing in, out or through but what neighbours are resolved by.

use naru_tests::{
    lab::{Host, Lab},
    load::{Load, Options},
    naru::Naru,
    site::{Site, Vip},
};

use super::{HEALTH, OUT, UP, WHOLE, backends, health, probe, serve_again, wait_for};

/// ARP passes a firewall of this family; IPv6 resolves neighbours by ICMPv6 (RFC 4890 §4.4.1).
const RULES: &str = "
table inet host {
    chain input {
        type filter hook input priority filter; policy drop;
        iif lo accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
    chain forward { type filter hook forward priority filter; policy drop; }
    chain output {
        type filter hook output priority filter; policy drop;
        oif lo accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
}
";

/// What probes by the backends' own addresses need besides.
const BY_ADDRESS: &str = "
add rule inet host input ct state established accept
add rule inet host output tcp dport 80 accept
";

/// One more, which is probed by address.
const BLIND: Vip = Vip { name: "address", address: "203.0.113.40", ..Vip::L2 };

#[test]
#[ignore = "needs root"]
fn a_firewall_is_in_no_probes_way_over_the_path() {
    for mode in ["native", "generic"] {
        let vips = [WHOLE.as_slice(), &[BLIND]].concat();
        let in_mode = |naru: &mut Naru| {
            let text = naru.config().unwrap().replacen("[node]\n", &format!("[node]\nxdp_mode = \"{mode}\"\n"), 1);
            naru.write_config(&text).unwrap();
        };
        let mut site = Site::start_with(Lab::builder(), &vips, in_mode).unwrap();
        filter(site.lab.balancer(), RULES);
        // Nothing is left of what was known without it.
        site.stop().unwrap();
        site.lab.balancer().ip("neigh flush dev eth0\n").unwrap();
        site.restart().unwrap();
        site.wait_until_ready().unwrap();
        let by_address = HEALTH.replace(" }", ", via = \"address\" }");
        probe(&site, WHOLE.map(|vip| (vip, HEALTH)).into_iter().chain([(BLIND, by_address.as_str())]));
        WHOLE.iter().for_each(|vip| wait_for(&site, vip, &[UP; 3]));
        // Its own connections are the firewall's business: all fail, so that all serve.
        wait_for(&site, &BLIND, &[("down", "active"); 3]);
        println!("{mode}: by address: {:?}", health(&backends(&site, &BLIND)[0]).failure);
        filter(site.lab.balancer(), BY_ADDRESS);
        wait_for(&site, &BLIND, &[UP; 3]);

        site.servers[1].kill().unwrap();
        vips.iter().for_each(|vip| wait_for(&site, vip, &[UP, OUT, UP]));
        for vip in &vips {
            let report = Load::start(site.lab.client(), Options::new(vip.http()).count(20)).unwrap().wait();
            assert_eq!(report.succeeded(), 20, "{mode} {}: {:?}", vip.name, report.failed);
        }
        serve_again(&mut site, &vips, 1);
        WHOLE.iter().for_each(|vip| wait_for(&site, vip, &[UP; 3]));
        for own in WHOLE.iter().flat_map(|vip| backends(&site, vip)) {
            println!("{mode} {} {}: {} good, {} failed", own.vip, own.address, health(&own).good, health(&own).failed);
        }
    }
}

/// Adds rules to the firewall of a host.
fn filter(host: &Host, rules: &str) {
    let output = patience::fed(host.command("nft").args(["-f", "-"]), rules.as_bytes());
    let output = output.unwrap_or_else(|error| panic!("{error:#}: install nftables (`cargo xtask setup` does)"));
    assert!(output.status.success(), "{output:?}");
}
