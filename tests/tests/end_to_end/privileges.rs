//! The daemon with the privileges that its unit leaves it, and no others, through all that a daemon does; and what it
//! keeps of root's where root has started it.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use lb_userspace::{api::types::Backend, privileges::NEEDED};
use naru_tests::{
    lab::{Lab, Legs},
    load::{Load, Options},
    naru::{Naru, lab_binary, naru_binary},
    service::GROUP_ID,
    site::{Site, Vip},
};
use nix::sys::signal::{Signal, kill};
use patience::LIMIT;

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("configs")
}

/// The values of a line of `/proc/PID/task/TID/status`, one for each thread.
fn of_threads(naru: &Naru, name: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{}/task", naru.pid().unwrap())).unwrap();
    // A thread may end between the two looks.
    let texts = threads.filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).ok());
    let value =
        |text: String| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t").map(str::to_owned));
    texts.map(|text| value(text).unwrap()).collect()
}

/// Every thread has the capabilities that are needed, none has others, and none gets any.
fn assert_reduced(naru: &Naru) {
    let needed: u64 = NEEDED.iter().map(|capability| capability.bitmask()).sum();
    for (set, expected) in [("CapEff", needed), ("CapPrm", needed), ("CapBnd", needed), ("CapInh", 0), ("CapAmb", 0)] {
        let all = of_threads(naru, set);
        assert!(all.len() > 1, "the daemon has one thread");
        assert!(all.iter().all(|value| *value == format!("{expected:016x}")), "{set}: {all:?}, not {expected:016x}");
    }
    assert!(of_threads(naru, "NoNewPrivs").iter().all(|value| value == "1"));
}

/// The prober's thread is in a network namespace of its own, which takes CAP_SYS_ADMIN to make.
fn assert_has_prober(naru: &Naru) {
    let process = PathBuf::from(format!("/proc/{}", naru.pid().unwrap()));
    let threads = fs::read_dir(process.join("task")).unwrap().map(|thread| thread.unwrap().path());
    let mut probers =
        threads.filter(|thread| fs::read_to_string(thread.join("comm")).is_ok_and(|name| name == "prober\n"));
    let prober = probers.next().expect("no thread of the prober's");
    let namespace = |path: &Path| fs::read_link(path.join("ns/net")).unwrap();
    assert_ne!(namespace(&prober), namespace(&process));
}

fn assert_served(site: &Site, vip: &Vip) {
    let report = Load::start(site.lab.client(), Options::new(vip.http()).count(50)).unwrap().wait();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
}

#[test]
#[ignore = "needs root"]
fn three_capabilities_are_enough_for_a_whole_life() {
    let vips = [Vip::IPIP, Vip::L2];
    let unit = configs().join("naru.service");
    let mut site = Site::start_with(Lab::builder().legs(Legs::Two), &vips, |naru| {
        let logging = naru.config().unwrap().replacen("[node]\n", "[node]\nlog_packets = true\n", 1);
        naru.write_config(&logging).unwrap();
        naru.confine(&unit);
    })
    .unwrap();
    assert_reduced(&site);
    assert_has_prober(&site);
    assert!(of_threads(&site, "Seccomp").iter().all(|value| value == "2"), "no filter of system calls is in force");
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", site.pid().unwrap())).unwrap();
    let root = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    assert!(root.split(' ').nth(5).unwrap().starts_with("ro"), "{root}");
    let socket = fs::metadata(site.lab.dir().join("naru.sock")).unwrap();
    assert_eq!((socket.gid(), socket.permissions().mode() & 0o777), (GROUP_ID, 0o660));

    // It forwards, and tells what it forwards.
    for vip in &vips {
        assert_served(&site, vip);
    }
    let is_logged = |naru: &Naru| Ok(naru.log().contains("to backend"));
    site.wait_for("messages of the data plane are in the log", LIMIT, is_logged).unwrap();
    assert!(site.metric("naru_vip_new_flows_total", &[("vip", "web")]).unwrap() >= 50.0);

    // Edits, changes of the file, more than the maps have room for.
    let first = site.lab.backends()[0].ipv4().to_string();
    site.cli(&["backend", "drain", "web", &first]).unwrap();
    assert!(!site.config().unwrap().contains("drain"), "it is no edit");
    assert!(std::fs::read_to_string(site.state().join("operations.json")).unwrap().contains("drain"));
    site.cli(&["backend", "set", "web", &first, "--weight", "99"]).unwrap();
    assert!(site.config().unwrap().contains("weight = 99"));
    site.cli(&["interface", "detach", "eth1"]).unwrap();
    site.cli(&["interface", "attach", "eth1"]).unwrap();
    let mut text = site.config().unwrap();
    for number in 0..80 {
        let address = format!("198.18.0.{number}");
        write!(text, "[[vip]]\nname = \"more-{number}\"\naddress = \"{address}\"\nports = [\"tcp/80\"]\n").unwrap();
        write!(text, "forward = \"ipip\"\nbackends = [{{ address = \"{first}\" }}]\n").unwrap();
    }
    let before = generation(&site);
    site.write_config(&text).unwrap();
    site.cli(&["apply"]).unwrap();
    assert_ne!(generation(&site), before, "the maps did not grow");
    site.write_config(&text.replace("log_packets = true", "log_packets = false")).unwrap();
    kill(site.pid().unwrap(), Signal::SIGHUP).unwrap();
    let applied = |naru: &Naru| Ok(naru.cli(&["diff"]).is_ok());
    site.wait_for("SIGHUP has the file applied", LIMIT, applied).unwrap();
    assert_served(&site, &Vip::IPIP);

    // The next ones adopt what it leaves, whichever way it ends.
    site.stop().unwrap();
    site.restart().unwrap();
    site.kill9().unwrap();
    site.restart().unwrap();
    assert_reduced(&site);
    let backends: Vec<Backend> = site.read(&["backend", "list", "web"]).unwrap();
    assert_eq!(backends.iter().find(|backend| backend.address.to_string() == first).unwrap().state, "drain");
    site.wait_until_ready().unwrap();
    assert_served(&site, &Vip::L2);

    site.stop().unwrap();
    site.restart_with(&["--detach-on-exit"]).unwrap();
    site.stop().unwrap();
    let links = patience::output(site.lab.balancer().command("ip").args(["link", "show"])).unwrap();
    assert!(!String::from_utf8(links.stdout).unwrap().contains("prog/xdp"), "it did not detach");
    assert!(!site.log().contains("ERROR") && !site.log().contains("not permitted"), "{}", site.log());
}

/// Directories of generations.
fn generation(naru: &Naru) -> Vec<String> {
    let place = naru.bpffs().join(format!("v{}", lb_common::ABI));
    let names = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('g')).collect()
}

#[test]
#[ignore = "needs root"]
fn a_daemon_that_root_starts_by_hand_gives_the_rest_up() {
    let site = Site::start(Lab::builder(), &[Vip::L2]).unwrap();
    assert_reduced(&site);
    assert_has_prober(&site);
    assert_served(&site, &Vip::L2);
    let status = site.status().unwrap();
    assert!(status.unreachable.is_empty());
}

#[test]
#[ignore = "needs root"]
fn a_config_of_another_owner_is_read_and_not_taken_over() {
    let site = Site::start(Lab::builder(), &[Vip::L2]).unwrap();
    let (path, text) = (site.config_path(), site.config().unwrap());
    chown(path, Some(12_345), Some(54_321)).unwrap();
    let refused = |args: &[&str]| site.cli(args).unwrap_err().to_string();
    let says = refused(&["backend", "set", "direct", "10.0.1.11", "--weight", "7"]);
    assert!(says.contains("it belongs to user 12345 and group 54321") && says.contains("chown root:root"), "{says}");
    // What is no edit is done.
    site.cli(&["backend", "drain", "direct", "10.0.1.11"]).unwrap();
    site.cli(&["backend", "restore", "direct", "10.0.1.11"]).unwrap();
    assert_eq!(site.config().unwrap(), text);
    site.write_config(&text.replacen("weight = 100", "weight = 50", 1)).unwrap();
    site.cli(&["apply"]).unwrap();

    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    let says = refused(&["apply"]);
    assert!(says.contains("Permission denied") && says.contains("make the file root's"), "{says}");
    assert_served(&site, &Vip::L2);
}

#[test]
#[ignore = "needs root"]
fn whoever_may_too_little_is_told_what_he_lacks() {
    let site = Site::start(Lab::builder(), &[Vip::L2]).unwrap();
    let mut command = site.lab.balancer().command("setpriv");
    command.arg("--bounding-set=-perfmon").arg(naru_binary().unwrap()).arg("run");
    let output = patience::output(command.arg("--config").arg(site.config_path())).unwrap();
    let says = String::from_utf8(output.stderr).unwrap();
    assert!(says.contains("the daemon lacks CAP_PERFMON: run it as root"), "{says}");
    assert_eq!(output.status.code(), Some(4));
}

#[test]
#[ignore = "needs root"]
fn they_are_enough_for_the_decapsulation_too() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let (backend, bpffs) = (&lab.backends()[0], lab.bpffs().join("decap"));
    let decap = |line: &str| {
        let mut command = backend.command(lab_binary().unwrap());
        command.args(["service", "--unit"]).arg(configs().join("naru-decap@.service"));
        command.arg("--directory").arg(lab.dir()).arg("--").arg(naru_binary().unwrap()).arg("decap");
        let output = patience::output(command.args(line.split(' ')).arg("--bpffs").arg(&bpffs)).unwrap();
        assert!(output.status.success(), "decap {line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(decap("attach eth0 --from 172.16.0.0/16"), "decapsulating on eth0 in native mode\n");
    assert!(decap("status").contains("172.16.0.0/16"));
    assert_eq!(decap("detach eth0"), "no longer decapsulating on eth0\n");
}

/// Below 3 is what systemd calls OK.
#[test]
fn the_units_leave_little_to_be_exposed() {
    let directory = tempfile::tempdir().unwrap();
    for (unit, instance) in [("naru.service", "naru.service"), ("naru-decap@.service", "naru-decap@eth0.service")] {
        fs::copy(configs().join(unit), directory.path().join(instance)).unwrap();
    }
    for unit in ["naru.service", "naru-decap@eth0.service"] {
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--threshold=30"]).arg(directory.path().join(unit));
        let output = patience::output(&mut command).unwrap();
        let says = String::from_utf8(output.stdout).unwrap();
        let verdict = says.lines().rfind(|line| line.contains("Overall exposure level")).unwrap_or_default();
        assert!(output.status.success() && verdict.contains(unit), "{verdict}\n{says}");
    }
}
