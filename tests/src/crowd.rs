//! A crowd of backends that are all addresses of one real server, in a namespace of its own behind the load balancer's
//! interface: it has all VIPs, and takes them out of their tunnel.

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread::sleep,
    time::Duration,
};

use crate::{
    lab::{Host, Lab},
    naru::{Naru, attach_decap_to},
    server::Server,
    vip_text::VipText,
};

/// Backends of each VIP.
pub const A_VIP: u32 = 10;
const PORT: u16 = 80;
/// Of the server, which backends of different VIPs share: decapsulation takes packets to no more than 256.
const ADDRESSES: u32 = 250;
/// The first one of the server's.
const BACKENDS: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
/// The first VIP.
const VIPS: Ipv4Addr = Ipv4Addr::new(203, 64, 0, 0);

/// Has a host serve every VIP, out of a tunnel, and at every address of the backends.
///
/// # Errors
///
/// When routes, decapsulation or the server cannot be had.
pub fn serve(lab: &Lab, host: &Host) -> anyhow::Result<Server> {
    host.ip(&format!("route add local {BACKENDS}/14 dev lo\nroute add local {VIPS}/14 dev lo\n"))?;
    lab.balancer().ip(&format!("route add {BACKENDS}/14 via {}\n", host.ipv4()))?;
    let addresses: Vec<_> = (0..ADDRESSES).map(|number| after(BACKENDS, number).into()).collect();
    attach_decap_to(lab, host, &addresses)?;
    Server::start(host, lab.dir(), &[SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT))], &[])
}

/// VIPs with so many backends together, and these lines of keys each.
pub fn vips(backends: u32, keys: &str) -> String {
    let vip = |number: u32| {
        let text = VipText::new(format!("vip{number}"), after(VIPS, number), [format!("tcp/{PORT}")], "ipip");
        let first = number * A_VIP % ADDRESSES;
        let backends = (first..first + A_VIP).map(|number| after(BACKENDS, number));
        backends.fold(text.lines(keys), VipText::backend).to_string()
    };
    (0..backends / A_VIP).map(vip).collect()
}

fn after(first: Ipv4Addr, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(first) + number)
}

/// Waits until every backend has answered.
///
/// # Errors
///
/// When not all have within `limit`.
pub fn wait_until_known(naru: &Naru, backends: u32, limit: Duration) -> anyhow::Result<()> {
    naru.wait_for("every backend has answered", limit, |naru| {
        // A scrape is as old as a second.
        sleep(Duration::from_secs(1));
        let text = naru.metrics()?;
        let good = text.lines().filter(|line| line.starts_with("naru_health_probes_total") && line.contains("good"));
        let known = good.filter(|line| !line.ends_with(" 0")).count();
        Ok(known == backends as usize)
    })
}

/// Counts of all probes since the daemon started.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Probes that are over.
    pub probes: u64,
    /// Those without a good answer.
    pub failed: u64,
    /// Those of which nothing follows.
    pub void: u64,
    /// Those that began more than 100 ms late.
    pub late: u64,
    /// Verdicts that changed.
    pub flips: u64,
}

impl Counts {
    /// What they are now.
    ///
    /// # Errors
    ///
    /// When `/metrics` does not answer.
    pub fn of(naru: &Naru) -> anyhow::Result<Self> {
        // Not what was scraped a moment ago.
        sleep(Duration::from_secs(1));
        let text = naru.metrics()?;
        let sum = |name: &str, label: &str| -> u64 {
            let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
        };
        Ok(Self {
            probes: sum("naru_health_probes_total{", ""),
            failed: sum("naru_health_probes_total{", "\"failed\""),
            void: sum("naru_health_probes_total{", "void"),
            late: sum("naru_health_late_probes_total", ""),
            flips: sum("naru_health_flips_total{", ""),
        })
    }
}
