//! Backends that are asked otherwise than their VIP says.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
};

use naru_tests::{
    lab::Lab,
    naru::Naru,
    site::{Site, Vip},
};

use super::{HEALTH, OUT, UP, backends, probed, wait_for};

/// Verdicts, `none` where there is none, and states.
fn known(site: &Site, vip: &Vip) -> Vec<(String, String)> {
    let verdict = |own: &lb_userspace::api::types::Backend| own.health.as_ref().map(|health| health.verdict.clone());
    let backends = backends(site, vip).into_iter();
    backends.map(|own| (verdict(&own).unwrap_or_else(|| "none".to_owned()), own.state)).collect()
}

#[test]
#[ignore = "needs root"]
fn one_backend_is_asked_otherwise_and_another_not_at_all() {
    let vip = Vip::IPIP;
    let mut site = probed(Lab::builder(), &[vip], HEALTH);
    let text = site.config().unwrap();
    let mut backends = text.split("{ address = \"");
    let own = ["", "health = { path = \"/nowhere\" }, ", "health = \"none\", "];
    let head = backends.next().unwrap().to_owned();
    let text = backends.zip(own).fold(head, |text, (rest, own)| format!("{text}{{ {own}address = \"{rest}"));
    site.write_config(&text).unwrap();
    site.cli(&["apply"]).unwrap();
    let wait_until = |site: &Site, expected: [(&str, &str); 3]| {
        let is_so = |_: &Naru| {
            let known = known(site, &vip);
            let found: Vec<_> = known.iter().map(|(verdict, state)| (verdict.as_str(), state.as_str())).collect();
            anyhow::ensure!(found == expected, "{found:?}");
            Ok(true)
        };
        site.wait_for("verdicts", patience::LIMIT, is_so).unwrap();
    };
    wait_until(&site, [("up", "active"), ("down", "failed"), ("none", "active")]);
    let listed = site.cli(&["health", vip.name]).unwrap();
    assert!(listed.contains("status 404; asked otherwise: http /nowhere, every 400ms"), "{listed}");
    assert!(listed.contains("not asked: counts as working"), "{listed}");
    let shown = site.cli(&["vip", "show", vip.name]).unwrap();
    assert!(shown.contains("http /nowhere, every 400ms"), "{shown}");
    // The others fail: one counts as working for as long as the file says so.
    site.servers.iter_mut().for_each(|server| server.kill().unwrap());
    wait_until(&site, [("down", "failed"), ("down", "failed"), ("none", "active")]);
    site.write_config(&text.replace("health = \"none\", ", "")).unwrap();
    let applied = site.cli(&["apply"]).unwrap();
    assert!(applied.contains("health none → as the VIP's"), "{applied}");
    wait_until(&site, [("down", "active"); 3]);
}

#[test]
#[ignore = "needs root"]
fn health_is_set_by_command() {
    let vip = Vip::IPIP;
    let site = Site::start(Lab::builder(), &[vip]).unwrap();
    let set = |health: &str| site.cli(&["vip", "set", vip.name, "--health", health]);
    let how = "http path=/healthz interval=400ms timeout=400ms fall=2";
    assert!(set(how).unwrap().contains("health none → http /healthz, every 400ms"));
    wait_for(&site, &vip, &[UP; 3]);
    let text = site.config().unwrap();
    assert_eq!(set(how).unwrap(), "nothing to change\n");
    assert_eq!(site.config().unwrap(), text);
    let refused = set("http pth=/healthz").unwrap_err().to_string();
    assert!(refused.contains("unknown key `pth` in health; did you mean `path`?"), "{refused}");
    // Nobody has root start a program by it that is not root's.
    let program = site.lab.dir().join("probe");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o777)).unwrap();
    let refused = set(&format!("exec command={}", program.display())).unwrap_err().to_string();
    assert!(refused.contains(&format!("`health` of vip {}", vip.name)), "{refused}");
    assert!(refused.contains(&format!("{} can be changed by others than root", program.display())), "{refused}");
    let second = backends(&site, &vip)[1].address.to_string();
    let own = ["backend", "set", vip.name, &second, "--health", &format!("exec command={}", program.display())];
    assert!(site.cli(&own).unwrap_err().to_string().contains("can be changed by others than root"));
    assert_eq!(site.config().unwrap(), text);
    site.cli(&["backend", "set", vip.name, &second, "--health", "path=/nowhere"]).unwrap();
    wait_for(&site, &vip, &[UP, OUT, UP]);
    site.cli(&["backend", "set", vip.name, &second, "--health", "vip"]).unwrap();
    wait_for(&site, &vip, &[UP; 3]);
    set("none").unwrap();
    assert!(site.config().unwrap().contains("health = \"none\""));
    assert!(backends(&site, &vip).iter().all(|own| own.health.is_none()));
}
