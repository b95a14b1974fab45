//! What accidents do: crashes amid an edit by hand, files that are not whole, state that is lost, slow and full disks.

use std::{
    fs,
    path::Path,
    process::Output,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use lb_userspace::api::types::{Applied, Backend, FileState, ProblemKind, Status};
use naru_tests::{lab::Lab, naru::Naru};

/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

const VIPS: &str = r#"
[[vip]]
name = "web"
address = "203.0.113.10"
ports = ["tcp/80"]
forward = "ipip"
backends = [
  { address = "10.0.1.11", weight = 100 },
  { address = "10.0.1.12", weight = 100 },
]

[[vip]]
name = "dns"
address = "203.0.113.53"
ports = ["udp/53"]
forward = "ipip"
backends = [{ address = "10.0.1.11" }]
"#;

fn start() -> (Lab, Naru) {
    let lab = Lab::builder().backends(2).build().unwrap();
    let naru = Naru::start(&lab, VIPS).unwrap();
    // The socket listens before the start is over: what answers has begun.
    status(&naru);
    (lab, naru)
}

fn weights(naru: &Naru) -> Vec<u32> {
    let backends: Vec<Backend> = naru.read(&["backend", "list", "web"]).unwrap();
    backends.iter().map(|backend| backend.weight).collect()
}

fn status(naru: &Naru) -> Status {
    naru.read(&["status"]).unwrap()
}

/// The reason of a problem of this kind, if there is one.
fn problem(naru: &Naru, kind: ProblemKind) -> Option<String> {
    status(naru).problems.into_iter().find(|problem| problem.kind == kind).map(|problem| problem.reason)
}

fn says(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Half of what somebody is about to change.
fn edit_by_hand(naru: &Naru) {
    let text = naru.config().unwrap();
    naru.write_config(&text.replacen("weight = 100", "weight = 1", 1)).unwrap();
}

#[test]
fn after_a_crash_nobodys_unfinished_edit_is_in_force() {
    let (_lab, mut naru) = start();
    edit_by_hand(&naru);
    naru.kill9().unwrap();
    naru.restart().unwrap();
    assert_eq!(weights(&naru), [100, 100]);
    assert_eq!(status(&naru).config.file, FileState::Changed);
    let because = problem(&naru, ProblemKind::Config).expect("the start is silent about the file");
    assert!(because.contains("did not stop cleanly"), "{because}");
    assert!(naru.cli(&["status"]).unwrap().contains(&because), "{because}");
    assert!(naru.log().contains(&because), "{}", naru.log());
    assert_eq!(naru.try_cli(&["diff"]).unwrap().status.code(), Some(1));
    assert_eq!(naru.metric("naru_problems", &[("kind", "config")]).unwrap(), 1.0);

    naru.cli(&["apply"]).unwrap();
    assert_eq!(weights(&naru), [1, 100]);
    assert_eq!(problem(&naru, ProblemKind::Config), None);

    // From now on that is what was applied last, and a file that says the same is nothing to tell.
    naru.kill9().unwrap();
    naru.restart().unwrap();
    assert_eq!(weights(&naru), [1, 100]);
    assert_eq!(problem(&naru, ProblemKind::Config), None);
}

#[test]
fn after_a_clean_stop_the_file_is_applied_once() {
    let (_lab, mut naru) = start();
    naru.stop().unwrap();
    edit_by_hand(&naru);
    naru.restart().unwrap();
    assert_eq!(weights(&naru), [1, 100]);
    // The mark of the clean stop is used up.
    edit_by_hand(&naru);
    naru.kill9().unwrap();
    naru.restart().unwrap();
    assert_eq!(weights(&naru), [1, 100]);
}

#[test]
fn edits_by_command_are_applied_too() {
    let (_lab, mut naru) = start();
    naru.cli(&["backend", "set", "web", "10.0.1.11", "--weight", "7"]).unwrap();
    edit_by_hand(&naru);
    naru.kill9().unwrap();
    naru.restart().unwrap();
    assert_eq!(weights(&naru), [7, 100]);
}

#[test]
fn a_file_that_is_not_valid_does_not_keep_the_daemon_down() {
    let (_lab, mut naru) = start();
    let good = naru.config().unwrap();
    for (clean, text) in [(true, "[node"), (false, "[node"), (true, &good[..good.len() - 3]), (false, "")] {
        if clean { naru.stop() } else { naru.kill9() }.unwrap();
        naru.write_config(text).unwrap();
        naru.restart().unwrap();
        assert_eq!(weights(&naru), [100, 100], "{text}");
        assert!(problem(&naru, ProblemKind::Config).is_some(), "{text}");
    }
    naru.kill9().unwrap();
    fs::remove_file(naru.config_path()).unwrap();
    naru.restart().unwrap();
    assert_eq!(weights(&naru), [100, 100], "without a file");
    naru.write_config(&good).unwrap();
    naru.cli(&["apply"]).unwrap();
    assert_eq!(problem(&naru, ProblemKind::Config), None);
}

#[test]
fn a_machine_that_lost_power_comes_up_with_what_was_applied_last() {
    let (_lab, mut naru) = start();
    naru.kill9().unwrap();
    // Nothing that was pinned is there after a boot, and the file is what somebody was at.
    naru.cli(&["interface", "detach", "--all"]).unwrap();
    edit_by_hand(&naru);
    naru.restart().unwrap();
    assert_eq!(weights(&naru), [100, 100]);
    naru.wait_until_ready().unwrap();
    assert!(problem(&naru, ProblemKind::Config).is_some());
}

#[test]
fn state_that_is_lost_or_damaged_is_told_and_keeps_nobody_down() {
    let (_lab, mut naru) = start();
    let applied = naru.state().join("applied.toml");
    naru.kill9().unwrap();
    let kept = fs::read_to_string(&applied).unwrap();
    fs::write(&applied, &kept[..kept.len() / 2]).unwrap();
    naru.restart().unwrap();
    // It was told, and mended by the first thing that was applied: the file, for there was nothing else.
    assert_eq!(weights(&naru), [100, 100]);
    assert!(naru.log().contains("applied.toml is damaged"), "{}", naru.log());
    assert_eq!(fs::read_to_string(&applied).unwrap(), kept);

    naru.kill9().unwrap();
    fs::remove_dir_all(naru.state()).unwrap();
    naru.restart().unwrap();
    assert_eq!(weights(&naru), [100, 100]);
    assert_eq!(fs::read_to_string(&applied).unwrap(), kept);

    // Removed while the daemon runs, it is made again.
    fs::remove_dir_all(naru.state()).unwrap();
    naru.cli(&["backend", "set", "web", "10.0.1.11", "--weight", "7"]).unwrap();
    assert!(fs::read_to_string(&applied).unwrap().contains("weight = 7"));

    naru.stop().unwrap();
    fs::remove_dir_all(naru.state()).unwrap();
    fs::write(naru.state(), "in the way").unwrap();
    naru.restart().unwrap();
    assert!(problem(&naru, ProblemKind::State).unwrap().contains("cannot make the state directory"));
    naru.cli(&["backend", "set", "web", "10.0.1.11", "--weight", "8"]).unwrap();
    assert_eq!(weights(&naru), [8, 100]);
}

/// A file system of a few pages, in a mount namespace of this thread.
fn small_disk_on(directory: &Path) {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>).unwrap();
    fs::create_dir_all(directory).unwrap();
    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
}

#[test]
fn a_full_disk_changes_nothing() {
    let lab = Lab::builder().backends(2).build().unwrap();
    let interfaces = lab.interfaces();
    let mut naru = Naru::prepare(&lab, &format!("[node]\ninterfaces = {interfaces:?}\n{VIPS}")).unwrap();
    small_disk_on(naru.state());
    naru.restart().unwrap();
    let filler = naru.state().join("filler");
    // To the last page.
    let mut size = 64 << 10;
    while size > 0 {
        match fs::write(&filler, vec![0; size]) {
            Ok(()) => break,
            Err(_) => size -= 4096,
        }
    }
    let text = naru.config().unwrap();
    let command = ["backend", "set", "web", "10.0.1.11", "--weight", "7"];
    let refused = naru.try_cli(&command).unwrap();
    assert_eq!(refused.status.code(), Some(4), "{}", says(&refused));
    let message = says(&refused);
    assert!(message.contains("applied.toml") && message.contains("No space left on device"), "{message}");
    assert!(message.contains("nothing was changed"), "{message}");
    assert_eq!((weights(&naru), naru.config().unwrap()), (vec![100, 100], text));

    edit_by_hand(&naru);
    assert_eq!(naru.try_cli(&["apply"]).unwrap().status.code(), Some(4));
    assert_eq!(weights(&naru), [100, 100]);
    fs::remove_file(filler).unwrap();
    naru.cli(&["apply"]).unwrap();
    assert_eq!(weights(&naru), [1, 100]);
}

#[test]
fn a_slow_disk_holds_up_neither_the_network_nor_reads() {
    const SLOW: Duration = Duration::from_secs(3);
    let (lab, mut naru) = start();
    naru.wait_until_ready().unwrap();
    naru.stop().unwrap();
    let faults = lab.dir().join("faults");
    fs::create_dir(&faults).unwrap();
    naru.restart_in(&[], &[("NARU_FAULTS", &faults)]).unwrap();
    naru.wait_until_ready().unwrap();
    fs::write(faults.join("slow"), SLOW.as_millis().to_string()).unwrap();

    let backend = &lab.backends()[0];
    let mac = || -> String {
        let backends: Vec<Backend> = naru.read(&["backend", "list", "web"]).unwrap();
        format!("{:?}", backends[0].next_hop)
    };
    let before = mac();
    thread::scope(|scope| {
        let started = Instant::now();
        let edit = scope.spawn(|| naru.read::<Applied>(&["backend", "set", "web", "10.0.1.12", "--weight", "7"]));
        // The disk has been asked to flush, and takes its time.
        while !faults.join("flushing").exists() {
            assert!(started.elapsed() < LIMIT, "no flush began");
            sleep(Duration::from_millis(1));
        }
        let link = format!("neigh replace {} lladdr 02:00:00:00:00:99 dev eth0 nud permanent\n", backend.ipv4());
        lab.balancer().ip(&link).unwrap();
        let changed = Instant::now();
        while mac() == before {
            assert!(changed.elapsed() < SLOW, "the next hop waits for the disk");
        }
        println!("a next hop was followed in {:?} while the disk was busy", changed.elapsed());
        assert!(!edit.is_finished(), "the disk was not slow: this proves nothing");
        assert!(mac().contains("02:00:00:00:00:99"));
        edit.join().unwrap().unwrap();
        assert!(started.elapsed() >= SLOW, "the answer came before the file was on disk");
    });
    fs::remove_file(faults.join("slow")).unwrap();
    assert!(naru.config().unwrap().contains("weight = 7"));
}
