//! Backends that are asked otherwise than their VIP says.

use naru_tests::{
    lab::Lab,
    naru::Naru,
    site::{Site, Vip},
};

use super::{HEALTH, backends, probed};

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
    let wait_for = |site: &Site, expected: [(&str, &str); 3]| {
        let is_so = |_: &Naru| {
            let known = known(site, &vip);
            let found: Vec<_> = known.iter().map(|(verdict, state)| (verdict.as_str(), state.as_str())).collect();
            anyhow::ensure!(found == expected, "{found:?}");
            Ok(true)
        };
        site.wait_for("verdicts", patience::LIMIT, is_so).unwrap();
    };
    wait_for(&site, [("up", "active"), ("down", "failed"), ("none", "active")]);
    let listed = site.cli(&["health", vip.name]).unwrap();
    assert!(listed.contains("status 404; asked otherwise: http /nowhere, every 400ms"), "{listed}");
    assert!(listed.contains("not asked: counts as working"), "{listed}");
    let shown = site.cli(&["vip", "show", vip.name]).unwrap();
    assert!(shown.contains("http /nowhere, every 400ms"), "{shown}");
    // The others fail: one counts as working for as long as the file says so.
    site.servers.iter_mut().for_each(|server| server.kill().unwrap());
    wait_for(&site, [("down", "failed"), ("down", "failed"), ("none", "active")]);
    site.write_config(&text.replace("health = \"none\", ", "")).unwrap();
    let applied = site.cli(&["apply"]).unwrap();
    assert!(applied.contains("health none → as the VIP's"), "{applied}");
    wait_for(&site, [("down", "active"); 3]);
}
