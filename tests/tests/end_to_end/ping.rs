//! Pings of VIPs, from the kernel of a client: while it serves, while it does not, and by what the config says of it.

use std::time::Duration;

use naru_tests::{
    lab::Lab,
    ping::ping,
    site::{Family, Site, Vip},
};
use patience::LIMIT;

const VIPS: [Vip; 2] = [Vip::L2, Vip { address: "2001:db8:77::10", backends: Family::V6, ..Vip::IPIP }];
/// How long nothing is waited for.
const SILENCE: Duration = Duration::from_millis(300);

#[test]
#[ignore = "needs root"]
fn vips_answer_pings_as_the_config_says() {
    let site = Site::start(Lab::builder(), &VIPS).unwrap();
    let client = site.lab.client();
    let answers = |vip: &Vip, len, limit| ping(client, vip.ip(), len, limit).unwrap();
    for vip in &VIPS {
        for len in [0, 1, 56, 1400] {
            assert!(answers(vip, len, LIMIT), "{} {len}", vip.name);
        }
        let set = |echo: &str| site.cli(&["vip", "set", vip.name, "--echo", echo]).unwrap();
        set("never");
        assert!(!answers(vip, 56, SILENCE), "{}: never", vip.name);
        set("ready");
        assert!(answers(vip, 56, LIMIT), "{}: ready", vip.name);
        for backend in site.lab.backends() {
            site.cli(&["backend", "drain", vip.name, &vip.address_of(backend).to_string()]).unwrap();
        }
        assert!(!answers(vip, 56, SILENCE), "{}: no backend takes flows", vip.name);
        set("always");
        assert!(answers(vip, 56, LIMIT), "{}: always", vip.name);
        for backend in site.lab.backends() {
            site.cli(&["backend", "restore", vip.name, &vip.address_of(backend).to_string()]).unwrap();
        }
        set("ready");
        assert!(answers(vip, 56, LIMIT), "{}: ready again", vip.name);
    }
}
