//! Sends an echo request (RFC 792, RFC 4443), and wants it back as it was sent.

use std::io;

use super::{
    question::{Failure, Question},
    socket,
};
use crate::model::Echo;

/// Type, code, checksum, identifier and sequence number; the kernel fills in checksum and identifier.
const HEADER: usize = 8;

/// The part of the header that the kernel leaves alone.
const SEQUENCE: std::ops::Range<usize> = 6..8;

/// Sends the request once, unfragmented, and waits for its reply.
pub async fn echo(question: &Question, echo: &Echo, stage: &mut &'static str) -> Result<(), Failure> {
    let (request, reply) = if question.to.destination().is_ipv4() { (8, 0) } else { (128, 129) };
    let size = usize::from(echo.size);
    let mut sent = vec![0; HEADER + size];
    getrandom::fill(&mut sent[SEQUENCE.start..]).map_err(|error| Failure::Unsent(error.to_string()))?;
    sent[0] = request;
    let socket = socket::echoes(question)?;
    socket.send(&sent).await.map_err(|error| unsent(&error, size))?;
    *stage = "waiting for an echo reply";
    // By a byte more than what is good.
    let mut got = vec![0; sent.len() + 1];
    loop {
        let (len, from) = socket.recv_from(&mut got).await.map_err(|error| failed(&error, size))?;
        let is_reply = got[..2] == [reply, 0] && got[SEQUENCE.start..len.max(HEADER)] == sent[SEQUENCE.start..];
        // Others have another identifier; of those that have it by chance, or are forged, nothing follows.
        if from.ip() == question.to.destination().ip() && is_reply {
            return Ok(());
        }
    }
}

fn unsent(error: &io::Error, size: usize) -> Failure {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => Failure::Unsent(format!(
            "with {size} bytes it is longer than the MTU of the interface that leads to the backend; write a smaller \
             `size`"
        )),
        _ => Failure::of_socket(error),
    }
}

fn failed(error: &io::Error, size: usize) -> Failure {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => {
            Failure::Answer(format!("a router on the way says that a packet with {size} bytes is too long for it"))
        }
        _ => Failure::of_socket(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, net::SocketAddr, process::Command};

    use caps::{CapSet, Capability};
    use nix::sched::{CloneFlags, unshare};

    use super::super::{Outcome, ask, fixtures::question};
    use super::*;
    use crate::model::Check;

    /// What comes of it; where this host's groups may not ask so, that is what is told.
    async fn outcome(address: &str, size: u16) -> Option<Outcome> {
        let server = SocketAddr::new(address.parse().unwrap(), 0);
        match ask(&question(server, Check::Icmp(Echo { size }))).await {
            Outcome::Void(Failure::Unsent(why)) if why.contains("ping_group_range") => None,
            outcome => Some(outcome),
        }
    }

    #[tokio::test]
    async fn an_echo_comes_back_of_every_size() {
        for address in ["127.0.0.1", "::1"] {
            for size in [Echo::SHORTEST, Echo::SIZE, 1472, Echo::LONGEST] {
                let outcome = outcome(address, size).await;
                assert!(outcome.is_none_or(|outcome| outcome == Outcome::Good), "{address} with {size}");
            }
        }
    }

    /// In a network namespace of this thread's own, and without the right to raw sockets.
    #[test]
    #[ignore = "needs root"]
    fn a_group_that_may_is_enough_and_the_mtu_is_the_limit() {
        let test = async {
            assert_eq!(outcome("127.0.0.1", 56).await, None, "nobody may in a new namespace");
            fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
            for (address, most) in [("127.0.0.1", 1472), ("::1", 1452)] {
                assert_eq!(outcome(address, most).await, Some(Outcome::Good), "{address}");
                let longer = outcome(address, most + 1).await;
                assert!(
                    matches!(&longer, Some(Outcome::Void(Failure::Unsent(why))) if why.contains("write a smaller `size`")),
                    "{longer:?}"
                );
            }
            // Behind a router to a cable whose other end says nothing.
            let silent = Some(Outcome::Bad(Failure::TimedOut("waiting for an echo reply")));
            for (router, backend, most) in [("192.0.2.2", "198.51.100.1", 1372), ("2001:db8::2", "2001:db8:1::1", 1352)]
            {
                assert_eq!(outcome(router, most + 1).await, Some(Outcome::Good), "{router}");
                assert_eq!(outcome(backend, most).await, silent, "{backend}");
                let long = format!("a router on the way says that a packet with {} bytes is too long for it", most + 1);
                assert_eq!(outcome(backend, most + 1).await, Some(Outcome::Bad(Failure::Answer(long))), "{backend}");
            }
        };
        let thread = move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            for set in [CapSet::Effective, CapSet::Permitted] {
                caps::drop(None, set, Capability::CAP_NET_RAW).unwrap();
            }
            let mut other = Command::new("unshare").args(["-n", "sleep", "60"]).spawn().unwrap();
            let setup = "sleep 0.3; ip link set lo up mtu 1500; \
                         ip link add near type veth peer name far netns $1; \
                         ip addr add 192.0.2.1/24 dev near; ip -6 addr add 2001:db8::1/64 dev near nodad; \
                         ip link set near up; ip route add 198.51.100.0/24 via 192.0.2.2; \
                         ip route add 2001:db8:1::/64 via 2001:db8::2; \
                         nsenter -t $1 -n sh -ec 'ip link set far up; ip addr add 192.0.2.2/24 dev far; \
                         ip -6 addr add 2001:db8::2/64 dev far nodad; ip link add next type veth peer name end; \
                         ip link set end up; ip link set next mtu 1400 up; ip route add 198.51.100.0/24 dev next; \
                         ip route add 2001:db8:1::/64 dev next; cd /proc/sys/net; \
                         echo 1 > ipv4/ip_forward; echo 1 > ipv6/conf/all/forwarding'";
            let status = Command::new("sh").args(["-ec", setup, "sh", &other.id().to_string()]).status().unwrap();
            assert!(status.success());
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
            other.kill().unwrap();
            other.wait().unwrap();
        };
        std::thread::spawn(thread).join().unwrap();
    }
}
