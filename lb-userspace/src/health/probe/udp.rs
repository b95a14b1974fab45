//! Asks by a datagram, and judges the one that comes back.

use std::time::Duration;

use super::{
    question::{Failure, Question},
    socket,
};
use crate::model::{Exchange, Octets};

/// A datagram of which no more is looked at; what begins an answer is shorter.
const LONGEST: usize = 2048;

/// So long a better answer is waited for behind one that is none.
const GRACE: Duration = Duration::from_millis(100);

/// So much of an answer is told, in bytes.
const TOLD: usize = 32;

/// Sends the datagram once, and judges the first that comes back.
pub async fn exchange(question: &Question, exchange: &Exchange, stage: &mut &'static str) -> Result<(), Failure> {
    let judge = |answer: &[u8]| match &exchange.expect {
        Some(start) if !answer.starts_with(start.bytes()) => {
            let told = &answer[..answer.len().min(TOLD)];
            let told = Octets::new(told.to_vec());
            Err(Failure::Answer(format!("the answer does not begin as it should, but with {told}")))
        }
        _ => Ok(()),
    };
    ask(question, exchange.send.bytes(), judge, stage).await
}

/// Sends a datagram, and judges what comes back: the first good answer, or what was wrong with the first where none
/// follows. A stranger who comes first with a datagram or an ICMP error gains nothing by it where the backend answers.
pub async fn ask(
    question: &Question,
    send: &[u8],
    judge: impl Fn(&[u8]) -> Result<(), Failure>,
    stage: &mut &'static str,
) -> Result<(), Failure> {
    let socket = socket::datagrams(question)?;
    socket.send(send).await.map_err(|error| Failure::of_socket(&error))?;
    *stage = "waiting for a datagram";
    let mut answer = vec![0; LONGEST];
    let mut receive = async || {
        let len = socket.recv(&mut answer).await.map_err(|error| Failure::of_socket(&error))?;
        judge(&answer[..len])
    };
    let Err(first) = receive().await else { return Ok(()) };
    let better = async { while receive().await.is_err() {} };
    match tokio::time::timeout(GRACE, better).await {
        Ok(()) => Ok(()),
        Err(_) => Err(first),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;

    use super::super::{Outcome, ask, fixtures::question};
    use super::*;
    use crate::model::Check;

    /// A server that answers each datagram with this, if with anything, and looks at what it was asked.
    async fn server(answer: Option<&'static [u8]>) -> std::net::SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut asked = [0; 64];
            while let Ok((len, from)) = socket.recv_from(&mut asked).await {
                assert_eq!(&asked[..len], b"ping");
                if let Some(answer) = answer {
                    socket.send_to(answer, from).await.unwrap();
                }
            }
        });
        address
    }

    fn check(expect: Option<&[u8]>) -> Check {
        let expect = expect.map(|expect| Octets::new(expect.to_vec()));
        Check::Udp(Exchange { send: Octets::new(b"ping".to_vec()), expect })
    }

    fn begins_with(start: &str) -> Failure {
        Failure::Answer(format!("the answer does not begin as it should, but with {start}"))
    }

    #[tokio::test]
    async fn a_datagram_is_judged_by_how_it_begins() {
        let pong = server(Some(b"pong 7\r\n")).await;
        for good in [None, Some(&b"pong"[..]), Some(b""), Some(b"pong 7\r\n")] {
            assert_eq!(ask(&question(pong, check(good))).await, Outcome::Good);
        }
        for bad in ["ong", "pong 7\r\n\r\n", "PONG"] {
            let failure = begins_with("\"pong 7\\r\\n\"");
            assert_eq!(ask(&question(pong, check(Some(bad.as_bytes())))).await, Outcome::Bad(failure));
        }
        // An empty datagram is an answer.
        assert_eq!(ask(&question(server(Some(b"")).await, check(None))).await, Outcome::Good);
        let binary = ask(&question(server(Some(&[0xff; 99])).await, check(Some(b"x")))).await;
        assert_eq!(binary, Outcome::Bad(begins_with(&format!("0x{}", "ff".repeat(TOLD)))));
    }

    #[tokio::test]
    async fn nobody_there_is_refused_at_once_and_silence_in_time() {
        let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let refused = Outcome::Bad(Failure::Connection("connection refused".into()));
        assert_eq!(ask(&question(gone, check(None))).await, refused);
        let silent = ask(&question(server(None).await, check(None))).await;
        assert_eq!(silent, Outcome::Bad(Failure::TimedOut("waiting for a datagram")));
    }

    /// An answer from elsewhere is none.
    #[tokio::test]
    async fn only_the_backend_answers() {
        let asked = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = asked.local_addr().unwrap();
        tokio::spawn(async move {
            let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let (_, from) = asked.recv_from(&mut [0; 64]).await.unwrap();
            other.send_to(b"pong", from).await.unwrap();
            // It stays open: nobody is refused.
            asked.recv_from(&mut [0; 64]).await.unwrap();
        });
        let silent = Outcome::Bad(Failure::TimedOut("waiting for a datagram"));
        assert_eq!(ask(&question(address, check(None))).await, silent);
    }
}
