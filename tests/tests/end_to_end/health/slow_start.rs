//! A backend that was out gets its slots back in parts, whatever becomes of it and of the daemon meanwhile.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use lb_userspace::api::types::Backend;
use naru_tests::{
    connections::{self, Habit, Population},
    lab::Lab,
    naru::Naru,
    server::Server,
    site::{ECHO, Site, Vip},
    talk,
};
use patience::LIMIT;

use super::{OUT, UP, backends, probe, serve_again, wait_for};

const VIP: Vip = Vip { weights: &[100; 4], ..Vip::IPIP };

/// The one that comes and goes.
const OWN: usize = 1;

/// Long enough for a daemon to be killed and started between two parts.
const SLOW_START: Duration = Duration::from_secs(12);
const HEALTH: &str = "{ type = \"http\", interval = \"300ms\", fast_interval = \"100ms\", fall = 2, \
                      on_failure = \"drain\", slow_start = \"12s\" }";

const CONNECTIONS: usize = 100;

#[test]
#[ignore = "needs root"]
fn a_backend_that_was_out_gets_its_slots_back_in_parts_and_no_connection_breaks() {
    let mut site = Site::start(Lab::builder().backends(4), &[VIP]).unwrap();
    // Connections do not end with the server that is probed.
    let target = SocketAddr::new(VIP.ip(), talk::PORT);
    let start = |host| Server::start_talking(host, site.lab.dir(), &[target]).unwrap();
    let _servers: Vec<_> = site.lab.backends().iter().map(start).collect();
    let ports = format!("\"udp/{ECHO}\", \"tcp/{}\"", talk::PORT);
    site.write_config(&site.config().unwrap().replace(&format!("\"udp/{ECHO}\""), &ports)).unwrap();
    probe(&site, [(VIP, HEALTH)]);
    wait_for(&site, &VIP, &[UP; 4]);
    let whole = slots(&site);

    let stays = Habit { parts: 1, pause: Duration::from_millis(200), lifetime: None };
    let comes_and_goes = Habit { lifetime: Some(Duration::from_secs(1)), ..stays };
    let habits = vec![stays, comes_and_goes];
    let options = connections::Options { target, connections: CONNECTIONS, habits, timeout: LIMIT };
    let population = Population::start(&site.lab.clients()[..1], options).unwrap();
    patience::until("all connections are open", || population.tally().open_now() == CONNECTIONS as u64);

    site.servers[OWN].kill().unwrap();
    wait_for(&site, &VIP, &[UP, OUT, UP, UP]);
    serve_again(&mut site, &[VIP], OWN);
    let first = reach(&site, Some(1));
    for command in ["list", "health"] {
        let arguments = if command == "list" { vec!["backend", "list"] } else { vec!["health"] };
        let listed = site.cli(&arguments).unwrap();
        assert!(listed.contains("slow start: 1 of 8 parts of its slots, all in "), "{listed}");
    }
    let labels = [("vip", VIP.name), ("backend", &first.address.to_string())];
    assert_eq!(site.metric("naru_backend_slow_start", &labels).unwrap(), 0.125);

    // It goes on where it was: neither from the beginning nor at once.
    let second = reach(&site, Some(2));
    let from = Instant::now();
    site.kill9().unwrap();
    site.restart().unwrap();
    let after = backends(&site, &VIP).swap_remove(OWN);
    println!("the daemon was away for {:.1?}: {:?} → {:?}", from.elapsed(), second.slow_start, after.slow_start);
    assert!(left(&after) < left(&second), "{after:?}");
    assert!(after.slow_start.unwrap().eighths >= 2 && after.slots >= second.slots, "{after:?}");
    let third = reach(&site, Some(4));
    let last = reach(&site, None);
    println!("it has {} slots, then {}, {} and {}", first.slots, second.slots, third.slots, last.slots);
    for (part, eighths) in [(first.slots, 1.0), (second.slots, 2.0), (third.slots, 4.0)] {
        let expected = f64::from(whole[OWN]) * eighths / 8.0;
        assert!((f64::from(part) - expected).abs() < 5.0 * expected.sqrt(), "{part} slots instead of {expected}");
    }
    assert_eq!(slots(&site), whole);
    let is_told = |naru: &Naru| Ok(naru.log().contains("has all of its slots again"));
    site.wait_for("the end is told", LIMIT, is_told).unwrap();
    assert_eq!(site.log().matches("gets its slots back in parts").count(), 1, "{}", site.log());

    // It fails again in the middle, and begins anew.
    for ends in [false, true] {
        site.servers[OWN].kill().unwrap();
        wait_for(&site, &VIP, &[UP, OUT, UP, UP]);
        assert_eq!(slots(&site)[OWN], 0);
        serve_again(&mut site, &[VIP], OWN);
        let again = reach(&site, Some(1));
        assert_eq!(again.slots, first.slots, "they are the same ones");
        assert!(left(&again) <= SLOW_START);
        if ends {
            // Who operates it may end that.
            site.cli(&["backend", "restore", VIP.name, &again.address.to_string()]).unwrap();
            assert_eq!((slots(&site), backends(&site, &VIP)[OWN].slow_start), (whole.clone(), None));
        }
    }
    population.wait_until_heard(Instant::now(), LIMIT).unwrap();
    let tally = population.end();
    println!("{} connections, {} broke", tally.opened, tally.failures.len());
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
}

/// Waits until it has so many eighths of its slots; all with `None`.
fn reach(site: &Site, eighths: Option<u32>) -> Backend {
    let own = || backends(site, &VIP).swap_remove(OWN);
    let is_so = |_: &Naru| {
        let own = own();
        let has = own.slow_start.map(|slow| slow.eighths);
        anyhow::ensure!(own.state == "active" && has == eighths, "{own:?}");
        Ok(true)
    };
    site.wait_for(&format!("it has {eighths:?} eighths"), LIMIT, is_so).unwrap();
    own()
}

/// How long until it has all of its slots.
fn left(backend: &Backend) -> Duration {
    Duration::from_millis(backend.slow_start.expect("it has a part").whole_ms)
}

fn slots(site: &Site) -> Vec<u32> {
    backends(site, &VIP).iter().map(|own| own.slots).collect()
}
