//! A daemon that is killed at every step of a change, one after the other: afterwards the data plane serves one config
//! whole, the one before or the one that was to come, and the daemon says which.
//!
//! The steps are counted first (`lb_userspace::fault`); then each of them is where one daemon dies, by its own SIGKILL.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

use lb_common::ABI;
use lb_userspace::api::types::{Backend, FileState, ProblemKind};
use naru_tests::{
    lab::Lab,
    maps::{Served, served},
    naru::Naru,
};

/// How long a step may take to be reached on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// The config before every change.
const BEFORE: &str = r#"
[[vip]]
name = "web"
address = "203.0.113.10"
ports = ["tcp/80", "udp/53"]
forward = "ipip"
slots = 251
backends = [
  { address = "10.0.1.11", weight = 100 },
  { address = "10.0.1.12", weight = 100 },
]

[[vip]]
name = "old"
address = "2001:db8::20"
ports = ["tcp/any"]
forward = "ipip"
slots = 53
backends = [{ address = "10.0.1.11" }]

[[vip]]
name = "stays"
address = "203.0.113.30"
ports = ["tcp/443"]
forward = "ipip"
slots = 53
backends = [{ address = "10.0.1.12" }]
"#;

/// A VIP goes, one comes, one changes.
fn applied(node: &str) -> String {
    let web = BEFORE.replace("10.0.1.12\", weight = 100", "10.0.1.12\", weight = 30");
    let web = web.replace("\"udp/53\"]", "\"udp/54\"]");
    node.to_owned() + &web.replace("name = \"old\"", "name = \"new\"").replace("2001:db8::20", "2001:db8::21")
}

fn edited(node: &str) -> String {
    node.to_owned() + &BEFORE.replacen("10.0.1.11\", weight = 100", "10.0.1.11\", weight = 7", 1)
}

/// Flow tables of another size need other maps.
fn handed_over(node: &str) -> String {
    applied(&node.replacen("[node]\n", "[node]\nmax_flows = 5000\n", 1))
}

/// A change that daemons are killed at.
struct Change {
    /// The text of the file afterwards, by its `[node]` before.
    after: fn(&str) -> String,
    /// The file is written by hand before the command, and not by the command.
    by_hand: bool,
    command: &'static [&'static str],
    /// It is made once more at each place, and what was applied is lost with the daemon: the start has only the file,
    /// and maps that are half-way to it.
    loses_history: bool,
    /// Places that must be among those that it passes.
    passes: &'static [&'static str],
}

struct Bed {
    lab: Lab,
    naru: Naru,
    node: String,
    faults: PathBuf,
    /// Whether the change was answered with success before the daemon died.
    is_answered: bool,
}

impl Bed {
    fn new() -> Self {
        let lab = Lab::builder().backends(2).build().unwrap();
        let interfaces = lab.interfaces();
        let naru = Naru::prepare(&lab, &format!("[node]\ninterfaces = {interfaces:?}\n")).unwrap();
        let (node, faults) = (naru.config().unwrap(), lab.dir().join("faults"));
        fs::create_dir(&faults).unwrap();
        Self { lab, naru, node, faults, is_answered: false }
    }

    fn text_before(&self) -> String {
        format!("{}{BEFORE}", self.node)
    }

    /// A daemon over nothing that was before, with the config before.
    fn begin(&mut self) {
        self.wipe();
        self.naru.write_config(&self.text_before()).unwrap();
        self.restart();
    }

    fn restart(&mut self) {
        let faults = self.faults.clone();
        self.naru.restart_in(&[], &[("NARU_FAULTS", &faults)]).unwrap();
        // The socket listens before the start is over: what answers has begun.
        self.naru.cli(&["status"]).unwrap();
    }

    fn wipe(&mut self) {
        let _ = self.naru.kill9();
        self.naru.cli(&["interface", "detach", "--all"]).unwrap();
        let _ = fs::remove_dir_all(self.naru.state());
    }

    /// What whole generations serve; while a daemon runs there is one.
    fn served(&self) -> Vec<Served> {
        served(self.naru.bpffs()).unwrap()
    }

    fn arm(&self, place: usize) {
        let _ = fs::remove_file(self.faults.join("passed"));
        fs::write(self.faults.join("armed"), place.to_string()).unwrap();
    }

    fn disarm(&self) {
        fs::remove_file(self.faults.join("armed")).unwrap();
    }

    fn passed(&self) -> Vec<String> {
        let text = fs::read_to_string(self.faults.join("passed")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Makes the change; whether it was answered with success.
    fn make(&self, change: &Change) -> bool {
        if change.by_hand {
            self.naru.write_config(&(change.after)(&self.node)).unwrap();
        }
        self.naru.try_cli(change.command).unwrap().status.success()
    }

    /// Waits until the daemon has killed itself.
    fn wait_for_death(&mut self, place: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.naru.ended().unwrap() {
                assert_eq!(status.signal(), Some(9), "{place}: {status}");
                return;
            }
            assert!(Instant::now() < deadline, "{place} was not reached: only {:?}", self.passed());
            sleep(Duration::from_millis(2));
        }
    }

    /// Kills a daemon at each place of a change; the places.
    fn kill_everywhere(&mut self, change: &Change) -> Vec<String> {
        self.begin();
        let [before] = &self.served()[..] else { panic!("not one generation") };
        let before = before.clone();
        self.arm(0);
        assert!(self.make(change), "{}", self.naru.log());
        if !change.by_hand {
            // The last look at the old file.
            self.naru.wait_for("the change is over", LIMIT, |_| Ok(!litter(&self.lab))).unwrap();
        }
        let places = self.passed();
        self.disarm();
        let [after] = &self.served()[..] else { panic!("not one generation") };
        let after = after.clone();
        assert_ne!(before, after, "the change changes nothing");
        assert_eq!(self.naru.config().unwrap(), (change.after)(&self.node), "the test knows another outcome");
        for (index, name) in places.iter().enumerate() {
            let place = format!("place {} of {} ({name})", index + 1, places.len());
            self.kill_at(change, index + 1, &place);
            self.check_alone(&place, &before, &after);
            self.restart();
            self.check_served(change, &place, &before, &after);
            if change.loses_history && (name == "map write" || name.starts_with("note")) {
                self.kill_at(change, index + 1, &place);
                fs::remove_dir_all(self.naru.state()).unwrap();
                self.restart();
                assert_eq!(self.served(), std::slice::from_ref(&after), "{place}, and what was applied is lost");
            }
        }
        self.wipe();
        places
    }

    /// Has a daemon die at a place of the change.
    fn kill_at(&mut self, change: &Change, number: usize, place: &str) {
        self.begin();
        self.arm(number);
        self.is_answered = self.make(change);
        self.wait_for_death(place);
        self.disarm();
    }

    /// Nobody is there, and packets come: every service leads to a whole table.
    fn check_alone(&self, place: &str, before: &Served, after: &Served) {
        for generation in self.served() {
            for (service, table) in &generation {
                // A service that is about to go leads to whatever table its VIP has.
                let is_whole = before.values().chain(after.values()).any(|whole| whole == table);
                assert!(is_whole, "{place}: {service} has half a table");
            }
            for service in before.keys().filter(|service| after.contains_key(*service)) {
                assert!(generation.contains_key(service), "{place}: {service} is not served");
            }
        }
    }

    /// A daemon is there again: one config is served, and it says which.
    fn check_served(&mut self, change: &Change, place: &str, before: &Served, after: &Served) {
        let [now] = &self.served()[..] else { panic!("{place}: not one generation") };
        assert!(now == before || now == after, "{place}: neither config is served whole");
        let text = self.naru.config().unwrap();
        let of_file = if text == self.text_before() { before } else { after };
        assert!(text == self.text_before() || text == (change.after)(&self.node), "{place}: half a file:\n{text}");
        let status = self.naru.status().unwrap();
        let reported = status.problems.iter().any(|problem| problem.kind == ProblemKind::Config);
        if now == of_file {
            assert_eq!((status.config.file, reported), (FileState::Applied, false), "{place}");
        } else {
            assert_eq!((status.config.file, reported), (FileState::Changed, true), "{place}");
        }
        assert!(!self.is_answered || now == after, "{place}: what was answered is not in force");
        let attached = status.interfaces.iter().all(|interface| interface.attached.is_some());
        assert!(attached, "{place}: {:?}", status.interfaces);

        // Whatever was left behind, the next change goes through.
        self.naru.write_config(&(change.after)(&self.node)).unwrap();
        self.naru.cli(&["apply", "--force"]).unwrap();
        assert_eq!(self.served(), std::slice::from_ref(after), "{place}");
    }
}

/// Whether an edit has left its old file.
fn litter(lab: &Lab) -> bool {
    let entries = fs::read_dir(lab.dir()).unwrap();
    entries.into_iter().any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with(".naru-"))
}

fn check(change: &Change) {
    if !patience::has_faults("a kill at any step of a change") {
        return;
    }
    let places = Bed::new().kill_everywhere(change);
    for passes in change.passes {
        assert!(places.iter().any(|place| place == passes), "{passes} is not among {places:?}");
    }
    println!("killed at {} places: {places:?}", places.len());
}

#[test]
#[ignore = "needs root"]
fn a_daemon_killed_at_any_step_of_an_apply_serves_one_config_whole() {
    check(&Change {
        after: applied,
        by_hand: true,
        command: &["apply"],
        loses_history: true,
        passes: &["note that an apply begins", "map write", "note that an apply has ended", "rename a file"],
    });
}

#[test]
#[ignore = "needs root"]
fn a_daemon_killed_at_any_step_of_an_edit_serves_one_config_whole() {
    check(&Change {
        after: edited,
        by_hand: false,
        command: &["backend", "set", "web", "10.0.1.11", "--weight", "7"],
        loses_history: false,
        passes: &["map write", "exchange the config file", "look at what came out", "look at the file before"],
    });
}

#[test]
#[ignore = "needs root"]
fn a_daemon_killed_at_any_step_of_a_handover_serves_one_config_whole() {
    check(&Change {
        after: handed_over,
        by_hand: true,
        command: &["apply"],
        loses_history: false,
        passes: &["make maps", "pin the program", "hand a link over", "carry counts", "remove a generation"],
    });
}

#[test]
#[ignore = "needs root"]
fn a_daemon_killed_at_any_step_of_a_drain_has_drained_or_not_and_says_which() {
    const DRAIN: [&str; 6] = ["backend", "drain", "web", "10.0.1.11", "--why", "disk"];
    if !patience::has_faults("a kill at any step of a drain") {
        return;
    }
    let mut bed = Bed::new();
    let one = |bed: &Bed| <[Served; 1]>::try_from(bed.served()).expect("one generation is served")[0].clone();
    bed.begin();
    let before = one(&bed);
    bed.arm(0);
    bed.naru.cli(&DRAIN).unwrap();
    let places = bed.passed();
    bed.disarm();
    let after = one(&bed);
    assert_ne!(before, after, "the drain changes nothing");
    for passes in ["stage a file", "map write", "rename a file"] {
        assert!(places.iter().any(|place| place == passes), "{passes} is not among {places:?}");
    }
    for (index, name) in places.iter().enumerate() {
        let place = format!("place {} of {} ({name})", index + 1, places.len());
        bed.begin();
        bed.arm(index + 1);
        let is_answered = bed.naru.try_cli(&DRAIN).unwrap().status.success();
        bed.wait_for_death(&place);
        bed.disarm();
        bed.check_alone(&place, &before, &after);
        bed.restart();
        let now = one(&bed);
        assert!(now == before || now == after, "{place}: half a drain is served");
        assert!(!is_answered || now == after, "{place}: what was answered is not in force");
        let backends: Vec<Backend> = bed.naru.read(&["backend", "list", "web"]).unwrap();
        assert_eq!(backends[0].operation.is_some(), now == after, "{place}: {:?}", backends[0]);
        let status = bed.naru.status().unwrap();
        assert_eq!((status.config.file, status.problems.len()), (FileState::Applied, 0), "{place}");
        assert_eq!(bed.naru.config().unwrap(), bed.text_before(), "{place}");
        bed.naru.cli(&DRAIN).unwrap();
        assert_eq!(one(&bed), after, "{place}");
    }
    bed.wipe();
    println!("killed at {} places: {places:?}", places.len());
}

/// The maps and links that another version pinned. Its directory has the number behind this one's.
#[test]
#[ignore = "needs root"]
fn a_daemon_killed_at_any_step_of_taking_over_from_another_version_serves_on() {
    if !patience::has_faults("a kill at any step of taking over from another version") {
        return;
    }
    let mut bed = Bed::new();
    let [own, other] = [ABI, ABI + 1].map(|abi| bed.naru.bpffs().join(format!("v{abi}")));
    let leave_to_other = |bed: &mut Bed| {
        bed.begin();
        let before = bed.served();
        bed.naru.kill9().unwrap();
        fs::rename(&own, &other).unwrap();
        before
    };
    leave_to_other(&mut bed);
    bed.arm(0);
    bed.restart();
    let places = bed.passed();
    bed.disarm();
    let passes =
        ["make maps", "pin the program", "take a link over", "carry counts", "remove the pins of another version"];
    for passes in passes {
        assert!(places.iter().any(|place| place == passes), "{passes} is not among {places:?}");
    }
    for (index, name) in places.iter().enumerate() {
        let place = format!("place {} of {} ({name})", index + 1, places.len());
        let before = leave_to_other(&mut bed);
        bed.arm(index + 1);
        let faults = bed.faults.clone();
        // It dies before it serves, or a moment later.
        if bed.naru.restart_in(&[], &[("NARU_FAULTS", &faults)]).is_ok() {
            bed.wait_for_death(&place);
        }
        assert_eq!(bed.passed().len(), index + 1, "{place}");
        bed.disarm();
        assert!(bed.served().iter().all(|served| *served == before[0]), "{place}: something else is served");
        for interface in bed.lab.interfaces() {
            let is_pinned = [&own, &other].iter().any(|root| root.join("links").join(interface).exists());
            assert!(is_pinned, "{place}: {interface} runs nothing");
        }
        bed.restart();
        assert_eq!(bed.served(), before, "{place}");
        assert!(own.exists() && !other.exists(), "{place}: what is pinned is not taken over");
        let status = bed.naru.status().unwrap();
        assert_eq!(status.problems, [], "{place}");
        assert!(status.interfaces.iter().all(|interface| interface.attached.is_some()), "{place}");
    }
    println!("killed at {} places: {places:?}", places.len());
}
