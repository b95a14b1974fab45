//! Long-lived connections while backends, the daemon and the maps change: what is tracked does not break.

use std::{
    fmt::Write as _,
    net::IpAddr,
    ops::{Deref, DerefMut},
    thread::sleep,
    time::Duration,
};

use naru_tests::{
    connections::{Cause, Habit, Tally},
    lab::Lab,
    talk::{PORT, Talk},
    vip_text::VipText,
};

/// A VIP of the lab, named after what is different about it.
struct Vip {
    name: &'static str,
    address: &'static str,
    forward: &'static str,
    tracking: &'static str,
}

const VIPS: [Vip; 3] = [
    Vip { name: "adaptive", address: "203.0.113.101", forward: "ipip", tracking: "adaptive" },
    Vip { name: "adaptive6", address: "2001:db8:77::101", forward: "l2", tracking: "adaptive" },
    Vip { name: "never", address: "203.0.113.102", forward: "ipip", tracking: "never" },
];
const NEVER: usize = 2;
const BACKENDS: usize = 4;

const CONNECTIONS: usize = 120;
/// Most talk a few times a second; some come and go.
const HABITS: [Habit; 2] = [
    Habit { parts: 4, pause: Duration::from_millis(250), lifetime: None },
    Habit { parts: 1, pause: Duration::from_millis(100), lifetime: Some(Duration::from_secs(2)) },
];
/// For slots to age and to settle during the test, and longer than any connection is silent.
const TCP_IDLE: &str = "6s";
const A_MOMENT: Duration = Duration::from_millis(700);

struct Site(Talk);

impl Deref for Site {
    type Target = Talk;

    fn deref(&self) -> &Talk {
        &self.0
    }
}

impl DerefMut for Site {
    fn deref_mut(&mut self) -> &mut Talk {
        &mut self.0
    }
}

impl Site {
    fn start() -> Self {
        let addresses = VIPS.map(|vip| vip.address.parse::<IpAddr>().unwrap());
        let config = |lab: &Lab| VIPS.iter().map(|vip| vip.config(lab)).collect();
        Self(Talk::start(BACKENDS, &addresses, config, |_| {}, CONNECTIONS, &HABITS).unwrap())
    }

    /// A `naru backend` command for each VIP.
    fn edit(&self, verb: &str, backend: usize, options: &[&str]) {
        for vip in &VIPS {
            let address = vip.backend(&self.lab, backend).to_string();
            self.naru.cli(&[&["backend", verb, vip.name, &address], options].concat()).unwrap();
        }
    }

    /// After `step`, no connection of a VIP that tracks may have broken.
    fn check(&self, step: &str) {
        self.0.check(step, VIPS[..NEVER].iter().map(|vip| vip.name)).unwrap();
    }

    fn end(self) -> Vec<Tally> {
        self.0.end()
    }
}

impl Vip {
    fn backend(&self, lab: &Lab, index: usize) -> IpAddr {
        let host = &lab.backends()[index];
        if self.forward == "l2" { host.ipv6().into() } else { host.ipv4().into() }
    }

    /// All backends but the last.
    fn config(&self, lab: &Lab) -> String {
        let Self { name, address, forward, tracking } = self;
        let backends = (0..BACKENDS - 1).map(|index| self.backend(lab, index));
        let vip = VipText::new(name, address, [format!("tcp/{PORT}")], forward).backends(backends);
        vip.text("tracking", tracking).text("tcp_idle", TCP_IDLE).to_string()
    }
}

#[test]
#[ignore = "needs root"]
fn nothing_that_is_done_to_backends_breaks_a_connection() {
    let site = Site::start();
    site.edit("add", 3, &[]);
    site.check("add");
    site.edit("set", 0, &["--weight", "25"]);
    site.edit("set", 1, &["--weight", "300"]);
    site.check("reweight");
    site.edit("drain", 1, &[]);
    site.check("drain");
    site.edit("remove", 2, &[]);
    site.check("removal");
    site.edit("restore", 1, &[]);
    site.check("recovery");
    site.edit("add", 2, &[]);
    site.check("adding again");
    for backend in 0..BACKENDS {
        site.edit("drain", backend, &[]);
        sleep(A_MOMENT);
        site.edit("restore", backend, &[]);
    }
    site.check("rolling restart");
    let tallies = site.end();
    for (vip, tally) in VIPS.iter().zip(&tallies) {
        assert!(tally.opened as usize > CONNECTIONS, "{}: {} connections were opened", vip.name, tally.opened);
    }
    assert!(tallies[..NEVER].iter().all(|tally| tally.failures.is_empty()), "connections broke when they were closed");
    assert!(!tallies[NEVER].failures.is_empty(), "nothing would have broken without tracking: this proves nothing");
}

#[test]
#[ignore = "needs root"]
fn nothing_that_is_done_to_the_daemon_and_its_maps_breaks_a_connection() {
    let mut site = Site::start();
    // From now on slots move: there is something to lose.
    site.edit("drain", 0, &[]);
    site.edit("add", 3, &[]);
    sleep(A_MOMENT);
    site.naru.kill9().unwrap();
    site.check("kill -9");
    site.naru.restart().unwrap();
    site.check("restart");
    site.edit("drain", 1, &[]);
    let before = site.naru.config().unwrap();

    // More slots than the maps have room for: they grow.
    let mut grown = before.clone();
    for number in 0..80 {
        write!(
            grown,
            "[[vip]]\nname = \"more-{number}\"\naddress = \"198.18.0.{number}\"\nports = [\"tcp/80\"]\nforward = \
             \"ipip\"\nbackends = []\n"
        )
        .unwrap();
    }
    site.naru.write_config(&grown).unwrap();
    site.naru.cli(&["apply"]).unwrap();
    site.check("growth");

    let resized = before.replacen("[node]\n", "[node]\nmax_flows = 5000\n", 1);
    site.naru.write_config(&resized).unwrap();
    site.naru.cli(&["apply", "--force"]).unwrap();
    site.check("a flow table of another size");
    site.edit("restore", 0, &[]);
    site.check("recovery afterwards");
    assert!(site.end()[..NEVER].iter().all(|tally| tally.failures.is_empty()));
}

#[test]
#[ignore = "needs root"]
fn connections_of_a_backend_that_is_marked_down_end_at_once_and_no_others() {
    let site = Site::start();
    // Flows that the tables know of, beside those that they do not.
    site.edit("drain", 0, &[]);
    sleep(A_MOMENT);
    site.edit("restore", 0, &[]);
    sleep(A_MOMENT);
    site.check("before");
    site.edit("down", 1, &[]);
    site.wait_until_heard().unwrap();
    for (vip, population) in VIPS[..NEVER].iter().zip(&site.populations) {
        let failures = population.tally().failures;
        assert!(failures.len() > 10, "{}: only {} broke", vip.name, failures.len());
        for failure in failures {
            assert_eq!((failure.cause, failure.backend.as_deref()), (Cause::Reset, Some("b2")), "{}", vip.name);
        }
    }
    let stats = site.naru.cli(&["stats"]).unwrap();
    assert!(stats.lines().any(|line| line.starts_with("rerouted")), "{stats}");
    site.end();
}
