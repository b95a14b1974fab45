//! From the version before to this one, and back, while connections live: no flow and no count is lost on the way there;
//! on the way back no connection on a settled slot breaks, and tracked flows and counts are lost.

use std::{fs, net::IpAddr, path::Path, time::Duration};

use lb_common::ABI;
use lb_userspace::api::{flows::FlowCount, types::Stats};
use naru_tests::{
    connections::Habit,
    lab::Lab,
    naru::{Naru, naru_binary, naru_binary_before},
    talk::{PORT, Talk},
    vip_text::VipText,
};

/// Name, address and forward mode.
const VIPS: [(&str, &str, &str); 3] =
    [("tunnel", "203.0.113.101", "ipip"), ("direct", "2001:db8:77::101", "l2"), ("always", "203.0.113.102", "ipip")];
const BACKENDS: usize = 4;
const CONNECTIONS: usize = 100;
/// Most talk a few times a second; some come and go all the time.
const HABITS: [Habit; 2] = [
    Habit { parts: 3, pause: Duration::from_millis(250), lifetime: None },
    Habit { parts: 1, pause: Duration::from_millis(50), lifetime: Some(Duration::from_secs(1)) },
];

struct Site(Talk);

impl Site {
    fn start(binary: &Path) -> Self {
        let addresses = VIPS.map(|(_, address, _)| address.parse::<IpAddr>().unwrap());
        let prepare = |naru: &mut Naru| naru.use_binary(binary);
        Self(Talk::start(BACKENDS, &addresses, config, prepare, CONNECTIONS, &HABITS).unwrap())
    }

    /// Gives a backend of each VIP another weight: slots move, and flows on them are remembered.
    fn reweigh(&self, backend: usize, weight: u32) {
        for (name, _, forward) in VIPS {
            let address = address(&self.0.lab, backend, forward).to_string();
            self.0.naru.cli(&["backend", "set", name, &address, "--weight", &weight.to_string()]).unwrap();
        }
    }

    /// Nothing has broken: not yet noticed either.
    fn check(&self, step: &str) {
        self.0.check(step, VIPS.map(|(name, ..)| name)).unwrap();
    }

    /// A daemon of another build takes over what the one before left.
    fn hand_to(&mut self, binary: &Path, step: &str) {
        self.0.naru.use_binary(binary);
        self.0.naru.restart().unwrap();
        self.check(step);
        assert_eq!(self.0.naru.status().unwrap().problems, [], "{step}");
        self.0.naru.cli(&["diff"]).unwrap();
    }

    /// The same, while flows are at risk.
    fn hand_flows_to(&mut self, binary: &Path, step: &str) {
        self.hand_to(binary, step);
        let status = self.0.naru.status().unwrap();
        assert!(status.tracking.moving_slots > 0, "{step}: no slot moves, and nothing is at risk");
        let counts: Vec<FlowCount> = self.0.naru.read(&["flows", "--count"]).unwrap();
        let established: u64 = counts.iter().map(|count| count.established).sum();
        assert!(established > CONNECTIONS as u64, "{step}: only {established} flows are remembered");
    }

    /// Nothing has broken, and each connection was counted once.
    fn end(self) {
        self.check("the end");
        let Self(mut talk) = self;
        let opened: u64 = talk.populations.drain(..).map(|population| population.end().opened).sum();
        let stats: Stats = talk.naru.read(&["stats"]).unwrap();
        let counted: u64 = stats.vips.iter().map(|vip| vip.counts.new_flows).sum();
        let repeated: u64 = talk.lab.clients().iter().map(|client| client.repeated_syns().unwrap()).sum();
        println!("{opened} connections were opened; {counted} SYNs counted, of which {repeated} were sent again");
        assert!(opened > 3 * CONNECTIONS as u64);
        assert_eq!(counted, opened + repeated, "counts were lost on the way");
    }
}

fn config(lab: &Lab) -> String {
    let vip = |(name, vip, forward)| {
        let tracking = if name == "always" { "always" } else { "adaptive" };
        let vip = VipText::new(name, vip, [format!("tcp/{PORT}")], forward).text("tracking", tracking);
        let backends = (0..BACKENDS).map(|backend| address(lab, backend, forward));
        backends.fold(vip, |vip, backend| vip.backend_with(backend, "weight = 100")).to_string()
    };
    VIPS.map(vip).concat()
}

fn address(lab: &Lab, backend: usize, forward: &str) -> IpAddr {
    let host = &lab.backends()[backend];
    if forward == "l2" { host.ipv6().into() } else { host.ipv4().into() }
}

#[test]
#[ignore = "needs root"]
fn an_upgrade_loses_nothing() {
    let Some(before) = naru_binary_before() else {
        return patience::not_tested("an upgrade from the version before", "NARU_BEFORE_BIN names no binary of it");
    };
    let this = naru_binary().unwrap();
    let mut site = Site::start(&before);
    site.reweigh(0, 0);
    site.check("a change before the upgrade");
    site.0.naru.stop().unwrap();
    site.check("no daemon");
    site.hand_flows_to(this, "the upgrade");
    site.reweigh(1, 300);
    site.check("a change after the upgrade");
    site.0.naru.kill9().unwrap();
    site.hand_flows_to(this, "a restart");
    site.reweigh(2, 10);
    site.end();
}

/// The version before does not know how this one lays maps out: it goes on by its config, and what was tracked or
/// counted is not known any more.
#[test]
#[ignore = "needs root"]
fn the_way_back_breaks_nothing_on_settled_slots() {
    let Some(before) = naru_binary_before() else {
        return patience::not_tested("the way back to the version before", "NARU_BEFORE_BIN names no binary of it");
    };
    let mut site = Site::start(naru_binary().unwrap());
    site.0.naru.kill9().unwrap();
    site.hand_to(&before, "the way back");
    site.0.naru.kill9().unwrap();
    site.hand_to(naru_binary().unwrap(), "the upgrade once more");
    site.check("the end");
}

/// Another version has a directory of its own. Here it is one that lays all maps out as this version does.
#[test]
#[ignore = "needs root"]
fn what_another_version_pinned_is_taken_over_and_nothing_is_lost() {
    let this = naru_binary().unwrap();
    let mut site = Site::start(this);
    let place = site.0.naru.bpffs().to_owned();
    let [own, other] = [ABI, ABI + 1].map(|abi| place.join(format!("v{abi}")));
    site.reweigh(0, 0);
    for step in ["a later version's", "a later version's once more"] {
        site.0.naru.kill9().unwrap();
        fs::rename(&own, &other).unwrap();
        site.hand_flows_to(this, step);
        assert!(own.exists() && !other.exists(), "{step}");
        site.reweigh(1, 300);
    }
    site.end();
}
