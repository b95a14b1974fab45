//! Floods that ask for as many ICMP answers as there are packets, beside connections that go on.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use lb_common::Answer;
use naru_tests::{
    connections::Habit,
    lab::{Host, Lab},
    talk::{PORT, Talk},
    vip_text::VipText,
};
use nix::{
    setsockopt_impl, sockopt_impl,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, setsockopt, socket},
};

sockopt_impl!(
    /// Who cuts packets that are too long.
    MtuDiscovery, SetOnly, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::c_int
);

const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 101);
const BACKENDS: usize = 3;
const CONNECTIONS: usize = 100;
const TIME: Duration = Duration::from_secs(5);
/// Of the load balancer's way to the backends: too little for what is sent.
const NARROW: u32 = 1400;

/// Sends echo requests to the VIP as fast as it goes; how many.
fn pings(client: &Host) -> anyhow::Result<u64> {
    client.run(|| {
        let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Icmp)?;
        let to = SockaddrIn::from(SocketAddrV4::new(VIP, 0));
        // With its checksum: of a type and of zeros.
        let request = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
        send(|| sendto(socket.as_raw_fd(), &request, &to, MsgFlags::empty()).is_ok())
    })
}

/// Sends datagrams that do not fit, and does not heed what it is told.
fn long_datagrams(client: &Host) -> anyhow::Result<u64> {
    client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        setsockopt(&socket, MtuDiscovery, &libc::IP_PMTUDISC_PROBE)?;
        let datagram = [0; 1472];
        let to = SocketAddr::new(VIP.into(), PORT);
        send(|| socket.send_to(&datagram, to).is_ok())
    })
}

fn send(packet: impl Fn() -> bool) -> anyhow::Result<u64> {
    let end = Instant::now() + TIME;
    let mut sent = 0;
    while Instant::now() < end {
        sent += (0..100).map(|_| u64::from(packet())).sum::<u64>();
    }
    Ok(sent)
}

#[test]
#[ignore = "needs root"]
fn floods_of_pings_and_of_packets_that_do_not_fit_break_no_connection() {
    let config = |lab: &Lab| {
        let vip = VipText::new("web", VIP, [format!("tcp/{PORT}"), format!("udp/{PORT}")], "ipip");
        vip.backends(lab.backends().iter().map(|backend| backend.ipv4())).to_string()
    };
    let habits = [
        Habit { parts: 3, pause: Duration::from_millis(250), lifetime: None },
        Habit { parts: 1, pause: Duration::from_millis(50), lifetime: Some(Duration::from_secs(1)) },
    ];
    let talk = Talk::start(BACKENDS, &[IpAddr::from(VIP)], config, |_| {}, CONNECTIONS, &habits).unwrap();
    for backend in talk.lab.backends() {
        let route = format!("route add {}/32 dev eth0 mtu {NARROW}\n", backend.ipv4());
        talk.lab.balancer().ip(&route).unwrap();
    }
    let client = talk.lab.client();
    let counts = || [client.echo_replies().unwrap(), client.told_unreachable().unwrap()];
    let (before, from) = (counts(), Instant::now());
    let (pings, long) = thread::scope(|scope| {
        let pings = scope.spawn(|| pings(client).unwrap());
        let long = scope.spawn(|| long_datagrams(client).unwrap());
        (pings.join().unwrap(), long.join().unwrap())
    });
    let seconds = from.elapsed().as_secs();
    talk.check("floods", ["web"]).unwrap();
    let after = counts();
    let answered = [0, 1].map(|kind| after[kind] - before[kind]);
    println!("{pings} pings and {long} long datagrams in {seconds} s: answered {answered:?}");
    let cpus = thread::available_parallelism().unwrap().get() as u64;
    let most = u64::from(Answer::RATE) * cpus * (seconds + 2);
    for (sent, answered) in [pings, long].into_iter().zip(answered) {
        assert!(answered > 0 && answered <= most, "{answered} of {sent} in {seconds} s");
        assert!(sent > 2 * most, "{sent} are no flood");
    }
}
