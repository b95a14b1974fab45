//! The real program over the packets of flows on slots that move: where each goes, and what the flow tables learn from it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::{FlowEntry, FlowState};
use naru_tests::{
    forwarder::{Forwarder, Verdict},
    frames::Packet,
};

#[test]
fn probe_race() {
    let mut forwarder = Forwarder::new(&config("always", &[("10.0.1.11", "active"), ("10.0.1.12", "active")])).unwrap();
    let vip = "203.0.113.10:80".parse().unwrap();
    let clients: Vec<SocketAddr> =
        (0..60_000u32).map(|n| SocketAddr::from(([198, 51, (n >> 14) as u8, 7], 1024 + (n & 0x3fff) as u16))).collect();
    let _ = &mut forwarder;
    let barrier = std::sync::Barrier::new(2);
    for c in &clients {
        forwarder.run(&Packet::syn(*c, vip).frame()).unwrap();
    }
    println!("{:?}", outcomes(&forwarder));
    let turn = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                let frames: Vec<_> = clients.iter().map(|c| Packet::data(*c, vip, b"").frame()).collect();
                barrier.wait();
                for (i, f) in frames.iter().enumerate() {
                    turn.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    while turn.load(std::sync::atomic::Ordering::SeqCst) < 2 * (i + 1) {
                        std::hint::spin_loop();
                    }
                    forwarder.run(f).unwrap();
                }
            });
        }
    });
    println!("{:?}", outcomes(&forwarder));
}

fn outcomes(forwarder: &Forwarder) -> BTreeMap<&'static str, u64> {
    let counts = forwarder.dataplane().counters().unwrap().flow_packets.into_iter();
    counts.filter(|(_, count)| *count > 0).map(|(outcome, count)| (outcome.name(), count)).collect()
}

fn config(tracking: &str, backends: &[(&str, &str)]) -> String {
    let backends: Vec<_> = backends.iter().map(|(a, s)| format!("{{ address = \"{a}\", state = \"{s}\" }}")).collect();
    format!(
        "[[vip]]\nname = \"web\"\naddress = \"203.0.113.10\"\nports = [\"tcp/80\", \"udp/53\"]\nforward = \"ipip\"\nudp_idle = \"1s\"\ntracking = \"{tracking}\"\nbackends = [{}]\n",
        backends.join(", ")
    )
}
