//! Probes that VIPs share, at servers that count what they are asked.

use naru_tests::{
    lab::Lab,
    naru::Naru,
    site::{Site, Vip},
};

use super::{OUT, UP, backends, health, probed, serve_again, wait_for};

const PATH: &str = "/healthz";
const SHARED: &str = "{ type = \"http\", path = \"/healthz\", via = \"address\", share = true, interval = \"200ms\", \
                      fast_interval = \"100ms\", timeout = \"200ms\", fall = 2 }";

/// Good answers of each backend.
fn good(site: &Site, vip: &Vip) -> Vec<u64> {
    backends(site, vip).iter().map(|own| health(own).good).collect()
}

/// Probes that each server has got.
fn asked(site: &Site) -> Vec<u64> {
    let probes =
        site.servers.iter().map(|server| server.requests().unwrap().into_iter().filter(|own| own.path == PATH));
    probes.map(|probes| probes.count() as u64).collect()
}

#[test]
#[ignore = "needs root"]
fn backends_of_vips_that_share_a_probe_are_asked_once() {
    let vips = [Vip::IPIP, Vip::L2];
    let mut site = probed(Lab::builder(), &vips, SHARED);
    vips.iter().for_each(|vip| wait_for(&site, vip, &[UP; 3]));
    let are_many = |_: &Naru| Ok(vips.iter().all(|vip| good(&site, vip).iter().all(|good| *good >= 20)));
    site.wait_for("answers come", patience::LIMIT, are_many).unwrap();
    let before = vips.map(|vip| good(&site, &vip));
    let asked = asked(&site);
    let after = vips.map(|vip| good(&site, &vip));
    println!("probes {asked:?}; good answers between {before:?} and {after:?}");
    for (before, after) in before.iter().zip(&after) {
        for ((asked, before), after) in asked.iter().zip(before).zip(after) {
            // One may be under way.
            assert!(
                (*before..=after + 1).contains(asked),
                "{asked} probes for {before} to {after} answers of each VIP"
            );
        }
    }
    assert_eq!(backends(&site, &vips[0])[0].health.as_ref().unwrap().shared_by, Some(2));

    // Each has its own verdict, which stays when another goes.
    site.servers[1].kill().unwrap();
    vips.iter().for_each(|vip| wait_for(&site, vip, &[UP, OUT, UP]));
    let text = site.config().unwrap();
    let line = format!("health = {SHARED}\n");
    let at = text.rfind(&line).unwrap();
    site.write_config(&[&text[..at], &text[at + line.len()..]].concat()).unwrap();
    let before = good(&site, &vips[0]);
    site.cli(&["apply"]).unwrap();
    let more =
        |_: &Naru| Ok(good(&site, &vips[0]).iter().zip(&before).filter(|(now, before)| *now > *before).count() == 2);
    site.wait_for("the other's probes go on", patience::LIMIT, more).unwrap();
    wait_for(&site, &vips[0], &[UP, OUT, UP]);
    let own = backends(&site, &vips[0]).swap_remove(1);
    assert_eq!((health(&own).flips, health(&own).shared_by), (1, Some(1)));
    let states: Vec<_> = backends(&site, &vips[1]).into_iter().map(|own| (own.state, own.health)).collect();
    assert_eq!(states, vec![("active".to_owned(), None); 3]);
    serve_again(&mut site, &vips, 1);
    wait_for(&site, &vips[0], &[UP; 3]);
}
