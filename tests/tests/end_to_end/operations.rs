//! What operators do in passing: drain, take down and restore by command, over a file that belongs to others.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use lb_userspace::api::types::{Backend, Diff, FileState, ProblemKind};
use naru_tests::{lab::Lab, naru::Naru};

/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

const VIPS: &str = r#"
[[vip]]
name = "web"
address = "203.0.113.10"
ports = ["tcp/80"]
forward = "ipip"
backends = [
  { address = "10.0.1.11", weight = 100 },
  { address = "10.0.1.12", weight = 100, state = "drain" },
]
"#;
const ONE: &str = "10.0.1.11";
const TWO: &str = "10.0.1.12";

fn start() -> (Lab, Naru) {
    Naru::start_in_a_lab(2, VIPS).unwrap()
}

/// Takes the state directory from the daemon; what this returns gives it back.
fn take_state_directory(naru: &Naru) -> impl FnOnce() + use<> {
    let state = naru.state().to_owned();
    let moved = state.with_extension("moved");
    fs::rename(&state, &moved).unwrap();
    fs::write(&state, "a file in its place").unwrap();
    move || {
        fs::remove_file(&state).unwrap();
        fs::rename(&moved, &state).unwrap();
    }
}

fn backend(naru: &Naru, address: &str) -> Backend {
    let backends: Vec<Backend> = naru.read(&["backend", "list", "web"]).unwrap();
    backends.into_iter().find(|backend| backend.address.to_string() == address).unwrap()
}

/// State, state in the file, and who has set the former; slots follow the state.
fn reported(naru: &Naru, address: &str) -> (String, Option<String>, Option<String>) {
    let backend = backend(naru, address);
    assert_eq!(backend.slots > 0, backend.state == "active", "{backend:?}");
    (backend.state, backend.file_state, backend.operation.map(|operation| operation.by))
}

fn by_root(state: &str, file: &str) -> (String, Option<String>, Option<String>) {
    (state.to_owned(), Some(file.to_owned()), Some("root (uid 0)".to_owned()))
}

fn by_file(state: &str) -> (String, Option<String>, Option<String>) {
    (state.to_owned(), None, None)
}

#[test]
#[ignore = "needs root"]
fn an_operation_goes_before_the_file_and_edits_nothing() {
    let (_lab, mut naru) = start();
    let text = naru.config().unwrap();
    let said = naru.cli(&["backend", "drain", "web", ONE, "--why", "a new disk"]).unwrap();
    assert_eq!(said, format!("vip web: backend {ONE} state active → drain\n"));
    assert_eq!(reported(&naru, ONE), by_root("drain", "active"));
    assert_eq!((naru.config().unwrap(), naru.status().unwrap().config.file), (text.clone(), FileState::Applied));
    assert_eq!(naru.status().unwrap().operations, 1);
    let list = naru.cli(&["backend", "list"]).unwrap();
    assert!(list.contains("drain by root (uid 0) since 20") && list.contains(": a new disk (the file says active)"));
    assert!(naru.cli(&["status"]).unwrap().contains("1 of them has a state set by command"));
    let labels = [("vip", "web"), ("backend", ONE), ("state", "drain"), ("set_by", "operator")];
    assert_eq!(naru.metric("naru_backend_state", &labels).unwrap(), 1.0);
    assert_eq!(naru.metric("naru_operations", &[]).unwrap(), 1.0);

    // It outlives the daemon, however that ends.
    naru.kill9().unwrap();
    naru.restart().unwrap();
    assert_eq!(reported(&naru, ONE), by_root("drain", "active"));
    naru.stop().unwrap();
    naru.restart().unwrap();
    assert_eq!(reported(&naru, ONE), by_root("drain", "active"));
    assert_eq!(naru.cli(&["diff"]).unwrap(), "The file is what runs.\n");

    naru.cli(&["backend", "down", "web", ONE]).unwrap();
    assert_eq!(reported(&naru, ONE), by_root("down", "active"));
    naru.cli(&["backend", "restore", "web", ONE]).unwrap();
    assert_eq!(reported(&naru, ONE), by_file("active"));
    // The same for one that the file itself holds back.
    assert_eq!(reported(&naru, TWO), by_file("drain"));
    naru.cli(&["backend", "restore", "web", TWO]).unwrap();
    assert_eq!(reported(&naru, TWO), by_root("active", "drain"));
    assert_eq!(naru.config().unwrap(), text);

    for (command, error) in [
        (["backend", "drain", "webb", ONE], "did you mean `web`?"),
        (["backend", "drain", "web", "10.0.1.13"], "VIP `web` has no backend `10.0.1.13`; did you mean"),
    ] {
        let refused = naru.try_cli(&command).unwrap();
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains(error), "{refused:?}");
    }
}

/// Whether the daemon lives at that moment or not.
#[test]
#[ignore = "needs root"]
fn an_operation_for_a_time_is_taken_back_by_itself() {
    let (_lab, mut naru) = start();
    let said = naru.cli(&["backend", "maintain", "web", ONE, "--for", "8s", "--why", "a new disk"]).unwrap();
    assert_eq!(said, format!("vip web: backend {ONE} state active → drain\n"));
    naru.cli(&["backend", "down", "web", TWO, "--for", "1h"]).unwrap();
    // It outlives the daemon.
    naru.kill9().unwrap();
    naru.restart().unwrap();
    assert_eq!(reported(&naru, ONE), by_root("drain", "active"));
    let list = naru.cli(&["backend", "list"]).unwrap();
    assert!(list.contains(" until 20") && list.contains(": a new disk (the file says active)"), "{list}");
    naru.wait_for("the time is over", LIMIT, |naru| Ok(backend(naru, ONE).state == "active")).unwrap();
    assert_eq!(reported(&naru, ONE), by_file("active"));
    assert_eq!(reported(&naru, TWO), by_root("down", "drain"));
    assert!(naru.log().contains(&format!("backend {ONE} is as the config file says again")), "{}", naru.log());
    // Nobody is there as the time is over.
    naru.cli(&["backend", "maintain", "web", ONE, "--for", "2s"]).unwrap();
    naru.stop().unwrap();
    sleep(Duration::from_secs(3));
    naru.restart().unwrap();
    assert_eq!(reported(&naru, ONE), by_file("active"));
    let refused = naru.try_cli(&["backend", "maintain", "web", ONE]).unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--for <TIME>"), "{refused:?}");
}

#[test]
#[ignore = "needs root"]
fn an_operation_is_done_while_the_file_is_ahead_and_stays_when_the_file_is_replaced() {
    let (_lab, naru) = start();
    let text = naru.config().unwrap();
    // Somebody is in the middle of something: edits are refused, operations are not.
    let ahead = text.replace("weight = 100 }", "weight = 7 }");
    naru.write_config(&ahead).unwrap();
    assert!(naru.cli(&["backend", "set", "web", ONE, "--weight", "5"]).is_err());
    naru.cli(&["backend", "drain", "web", ONE]).unwrap();
    assert_eq!((reported(&naru, ONE), backend(&naru, ONE).weight), (by_root("drain", "active"), 100));
    naru.write_config("[node").unwrap();
    naru.cli(&["backend", "restore", "web", TWO]).unwrap();
    assert_eq!(reported(&naru, TWO), by_root("active", "drain"));

    // A deployment of the file takes nothing back.
    naru.write_config(&ahead).unwrap();
    naru.cli(&["apply"]).unwrap();
    assert_eq!((reported(&naru, ONE), backend(&naru, ONE).weight), (by_root("drain", "active"), 7));
    assert_eq!(reported(&naru, TWO), by_root("active", "drain"));

    // What the file says meanwhile is a change of it, and whoever applies it is told that it is not heard.
    let down = ahead.replace("weight = 7 }", "weight = 7, state = \"down\" }");
    naru.write_config(&down).unwrap();
    assert_eq!(naru.status().unwrap().config.file, FileState::Changed);
    let diff = naru.try_cli(&["diff", "--output", "json"]).unwrap();
    let told_before = String::from_utf8_lossy(&diff.stderr).into_owned();
    assert!(told_before.contains("is drain all the same"), "{told_before}");
    let diff: Diff = serde_json::from_slice(&diff.stdout).unwrap();
    let change = format!("vip web: backend {ONE} state active → down");
    assert_eq!(diff.changes.iter().map(ToString::to_string).collect::<Vec<_>>(), [change]);
    let applied = naru.try_cli(&["apply"]).unwrap();
    let warning = String::from_utf8_lossy(&applied.stderr).into_owned();
    assert!(
        warning.contains(&format!("backend {ONE} is drain all the same (drain by root (uid 0) since")),
        "{warning}"
    );
    assert_eq!(reported(&naru, ONE), by_root("drain", "down"));

    // The file says the same as the operation that restored it, and has the last word from then on.
    naru.write_config(&down.replace(", state = \"drain\"", "")).unwrap();
    naru.cli(&["apply"]).unwrap();
    assert_eq!(reported(&naru, TWO), by_file("active"));

    // One that goes takes what was done to it along.
    let gone = text.replace("  { address = \"10.0.1.11\", weight = 100 },\n", "").replace(", state = \"drain\"", "");
    naru.write_config(&gone).unwrap();
    let applied = naru.try_cli(&["apply"]).unwrap();
    let warning = String::from_utf8_lossy(&applied.stderr).into_owned();
    assert!(warning.contains(&format!("the config has no backend {ONE} any more")), "{warning}");
    naru.write_config(&text).unwrap();
    naru.cli(&["apply"]).unwrap();
    assert_eq!(reported(&naru, ONE), by_file("active"));
}

/// Where nothing can be kept, what is asked for at night is done all the same, and kept as soon as it can be.
#[test]
#[ignore = "needs root"]
fn an_operation_is_done_where_it_cannot_be_kept() {
    let (_lab, mut naru) = start();
    let give_back = take_state_directory(&naru);
    naru.cli(&["backend", "drain", "web", ONE]).unwrap();
    assert_eq!(reported(&naru, ONE), by_root("drain", "active"));
    let problems = naru.status().unwrap().problems;
    let problem = problems.iter().find(|problem| problem.kind == ProblemKind::State).expect("a problem is told");
    assert!(problem.reason.contains("would not know what was drained"), "{}", problem.reason);
    give_back();
    naru.wait_for("it is kept", LIMIT, |naru| Ok(naru.status().unwrap().problems.is_empty())).unwrap();
    naru.kill9().unwrap();
    naru.restart().unwrap();
    assert_eq!(reported(&naru, ONE), by_root("drain", "active"));
    let book = naru.state().join("operations.json");
    let kept = fs::metadata(&book).unwrap();
    assert_eq!(kept.permissions().mode() & 0o777, 0o600);
    // Damaged, it is told.
    fs::write(&book, "{").unwrap();
    fs::set_permissions(&book, Permissions::from_mode(0o600)).unwrap();
    naru.kill9().unwrap();
    naru.restart().unwrap();
    let problems = naru.status().unwrap().problems;
    assert!(problems.iter().any(|problem| problem.reason.contains("operations.json cannot be read")), "{problems:?}");
}

/// A hundred drains and restores, while an editor saves the file and a deployment replaces and applies it.
#[test]
#[ignore = "needs root"]
fn no_operation_and_no_save_is_lost_to_the_other() {
    const ROUNDS: u32 = 50;
    let (_lab, naru) = start();
    let text = naru.config().unwrap();
    let file = naru.config_path();
    let (is_over, saves, deployments) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        let editor = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let save = saves.load(Ordering::Relaxed);
                save_in_place(file, &with_comment(&fs::read_to_string(file).unwrap(), "editor", save));
                assert!(has(file, "editor", save) || is_deployed_over(file, save), "save {save} is lost");
                saves.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(5));
            }
        });
        let deployment = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let number = deployments.load(Ordering::Relaxed);
                let weight = format!("{ONE}\", weight = {}", 1 + number % 100);
                let text = text.replace(&format!("{ONE}\", weight = 100"), &weight);
                let new = file.with_extension("deployed");
                fs::write(&new, with_comment(&text, "deployment", number)).unwrap();
                fs::rename(&new, file).unwrap();
                // The editor may be in the middle of a save: that is no fault of the deployment's.
                let _ = naru.try_cli(&["apply"]).unwrap();
                deployments.fetch_add(1, Ordering::Relaxed);
            }
        });
        for round in 0..ROUNDS {
            naru.cli(&["backend", "drain", "web", ONE, "--why", &format!("round {round}")]).unwrap();
            let drained = backend(&naru, ONE);
            assert_eq!((drained.state.as_str(), drained.slots), ("drain", 0), "round {round}: {drained:?}");
            let why = drained.operation.and_then(|operation| operation.why);
            assert_eq!(why, Some(format!("round {round}")));
            naru.cli(&["backend", "restore", "web", ONE]).unwrap();
            assert_eq!(reported(&naru, ONE), by_file("active"), "round {round}");
        }
        is_over.store(true, Ordering::Relaxed);
        editor.join().unwrap();
        deployment.join().unwrap();
    });
    let (saves, deployments) = (saves.into_inner(), deployments.into_inner());
    println!("{} operations beside {saves} saves and {deployments} deployments", 2 * ROUNDS);
    assert!(saves >= ROUNDS && deployments >= ROUNDS / 4, "{saves} saves, {deployments} deployments");
    let left: Vec<_> = fs::read_dir(file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".naru-")), "{left:?}");
}

/// `text` with a last line of its own instead of the one before.
fn with_comment(text: &str, who: &str, number: u32) -> String {
    let rest = text.lines().filter(|line| !line.starts_with("# by ")).map(|line| format!("{line}\n"));
    format!("{}# by {who} {number}\n", rest.collect::<String>())
}

fn has(file: &Path, who: &str, number: u32) -> bool {
    let comment = format!("# by {who} {number}");
    fs::read_to_string(file).is_ok_and(|text| text.lines().any(|line| line == comment))
}

/// Whether the file is a deployment's by now. Between a rename and the next, no daemon writes it.
fn is_deployed_over(file: &Path, save: u32) -> bool {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        let text = fs::read_to_string(file).unwrap_or_default();
        if text.contains("# by deployment") || has(file, "editor", save) {
            return true;
        }
        thread::yield_now();
    }
    false
}

fn save_in_place(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
}

/// Somebody's save takes its time, and an apply waits for it: operations wait for neither, and what they did is in
/// force while it waits.
#[test]
#[ignore = "needs root"]
fn operations_do_not_wait_for_an_apply_that_waits_for_a_save() {
    let (_lab, naru) = start();
    let saver = File::options().append(true).open(naru.config_path()).unwrap();
    thread::scope(|scope| {
        let apply = scope.spawn(|| naru.try_cli(&["apply"]).unwrap());
        // As many as there is time for: the apply gives up after two seconds.
        let mut done = 0;
        while !apply.is_finished() {
            let operations = ["drain", "restore"].map(|verb| {
                let naru = &naru;
                scope.spawn(move || {
                    naru.cli(&["backend", verb, "web", if verb == "drain" { ONE } else { TWO }]).unwrap()
                })
            });
            operations.into_iter().for_each(|operation| drop(operation.join().unwrap()));
            done += u32::from(!apply.is_finished());
        }
        assert!(done > 0, "nothing was done while the apply waited");
        let applied = apply.join().unwrap();
        assert!(!applied.status.success(), "nothing was waited for: {applied:?}");
    });
    drop(saver);
    assert_eq!((reported(&naru, ONE), reported(&naru, TWO)), (by_root("drain", "active"), by_root("active", "drain")));
}

/// That nobody has applied the file is told until somebody does: an operation is no apply.
#[test]
#[ignore = "needs root"]
fn an_operation_leaves_it_told_that_nobody_applied_the_file() {
    let (_lab, mut naru) = start();
    naru.write_config(&naru.config().unwrap().replace("weight = 100 }", "weight = 7 }")).unwrap();
    naru.kill9().unwrap();
    naru.restart().unwrap();
    let told_so =
        |naru: &Naru| naru.status().unwrap().problems.iter().any(|problem| problem.kind == ProblemKind::Config);
    let before = naru.status().unwrap().config.applied_at_us;
    assert!(told_so(&naru));
    naru.cli(&["backend", "drain", "web", ONE]).unwrap();
    assert_eq!((told_so(&naru), naru.status().unwrap().config.applied_at_us), (true, before));
    naru.cli(&["apply"]).unwrap();
    assert!(!told_so(&naru) && naru.status().unwrap().config.applied_at_us > before);
}

/// A disk that does not answer holds no operation up for long, and none is lost once it does.
#[test]
#[ignore = "needs root"]
fn operations_are_done_while_the_disk_hangs() {
    if !patience::has_faults("operations while the disk hangs") {
        return;
    }
    let lab = Lab::builder().backends(2).build().unwrap();
    let faults = lab.dir().join("faults");
    fs::create_dir(&faults).unwrap();
    let mut naru = Naru::prepare(&lab, &Naru::node(&lab, VIPS)).unwrap();
    naru.restart_in(&[], &[("NARU_FAULTS", &faults)]).unwrap();
    naru.status().unwrap();
    fs::write(faults.join("held"), "").unwrap();
    let drained = naru.try_cli(&["backend", "drain", "web", ONE]).unwrap();
    let warning = String::from_utf8_lossy(&drained.stderr).into_owned();
    assert!(drained.status.success() && warning.contains("the disk does not answer"), "{warning}");
    naru.cli(&["backend", "restore", "web", TWO]).unwrap();
    assert_eq!((reported(&naru, ONE), reported(&naru, TWO)), (by_root("drain", "active"), by_root("active", "drain")));
    // An apply waits for the disk, and then is done.
    thread::scope(|scope| {
        let text = naru.config().unwrap();
        naru.write_config(&format!("{text}# saved\n")).unwrap();
        let apply = scope.spawn(|| naru.try_cli(&["apply"]).unwrap());
        fs::remove_file(faults.join("held")).unwrap();
        assert!(apply.join().unwrap().status.success());
    });
    naru.wait_for("all is kept", LIMIT, |naru| Ok(naru.status().unwrap().problems.is_empty())).unwrap();
    naru.kill9().unwrap();
    naru.restart().unwrap();
    assert_eq!((reported(&naru, ONE), reported(&naru, TWO)), (by_root("drain", "active"), by_root("active", "drain")));
}

/// A state directory that is somebody else's at the start is taken once that has ended: what was kept there is in force
/// again, what was done since is kept, and a clean stop from before counts for nothing.
#[test]
#[ignore = "needs root"]
fn a_state_directory_that_comes_late_is_read_before_it_is_written() {
    let (_lab, mut naru) = start();
    naru.cli(&["backend", "drain", "web", ONE]).unwrap();
    naru.stop().unwrap();
    let state = File::open(naru.state()).unwrap();
    let held = nix::fcntl::Flock::lock(state, nix::fcntl::FlockArg::LockExclusive).unwrap();
    naru.restart().unwrap();
    assert_eq!(reported(&naru, ONE), by_file("active"), "nobody may read what was done");
    let restored = naru.try_cli(&["backend", "restore", "web", TWO]).unwrap();
    let warning = String::from_utf8_lossy(&restored.stderr).into_owned();
    assert!(restored.status.success() && warning.contains("nor what was drained"), "{warning}");
    drop(held);
    naru.wait_for("it is kept", LIMIT, |naru| Ok(naru.status().unwrap().problems.is_empty())).unwrap();
    let both = |naru: &Naru| (reported(naru, ONE), reported(naru, TWO));
    assert_eq!(both(&naru), (by_root("drain", "active"), by_root("active", "drain")));
    let text = naru.config().unwrap();
    naru.write_config(&text.replace("weight = 100 }", "weight = 7 }")).unwrap();
    naru.kill9().unwrap();
    naru.restart().unwrap();
    assert_eq!(both(&naru), (by_root("drain", "active"), by_root("active", "drain")));
    assert_eq!(backend(&naru, ONE).weight, 100, "nobody has applied the file");
}

/// A stop keeps what could not be kept before.
#[test]
#[ignore = "needs root"]
fn a_stop_keeps_what_was_done() {
    let (_lab, mut naru) = start();
    let give_back = take_state_directory(&naru);
    naru.cli(&["backend", "drain", "web", ONE]).unwrap();
    give_back();
    naru.stop().unwrap();
    naru.restart().unwrap();
    assert_eq!(reported(&naru, ONE), by_root("drain", "active"));
}

/// An operation does one thing to one backend, whatever else is not as the file says.
#[test]
#[ignore = "needs root"]
fn an_operation_detaches_nothing() {
    let (lab, mut naru) = start();
    naru.stop().unwrap();
    let [eth0, ..] = lab.interfaces() else { panic!("the lab has no interface") };
    let text = naru.config().unwrap();
    naru.write_config(&text.replacen(&format!("\"{eth0}\""), "\"absent\"", 1)).unwrap();
    naru.restart().unwrap();
    let attached = |naru: &Naru| {
        let interfaces = naru.status().unwrap().interfaces;
        interfaces.iter().find(|interface| interface.name == *eth0).is_some_and(|found| found.attached.is_some())
    };
    assert!(attached(&naru), "{}", naru.log());
    naru.cli(&["backend", "drain", "web", ONE]).unwrap();
    assert!(attached(&naru), "{}", naru.log());
}
