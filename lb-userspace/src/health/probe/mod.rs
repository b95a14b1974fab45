//! One probe: asks a backend once.
//!
//! Each type of probe is a file here, with an arm in [`answer`]; what they are of the config is in `model::Check`.

mod dns;
mod exec;
mod grpc;
mod http;
mod http2;
mod icmp;
mod question;
mod socket;
mod tls;
mod udp;

use std::time::Duration;

use tokio::{sync::OwnedSemaphorePermit, time::Instant};

pub use self::{
    question::{Failure, Outcome, Question, To},
    socket::{PING_GROUPS, may_echo},
};
use crate::model::Check;

/// By how much a timeout may itself be late: later, this host was too busy to tell who was slow.
const LATE: Duration = Duration::from_millis(100);

/// Asks once. The permit is given back when nothing is left of that.
pub async fn ask_by(question: &Question, permit: Option<OwnedSemaphorePermit>) -> Outcome {
    let end = Instant::now() + question.timeout;
    let mut stage = "connecting";
    match tokio::time::timeout_at(end, answer(question, permit, &mut stage)).await {
        Ok(Ok(())) => Outcome::Good,
        Ok(Err(failure @ Failure::Unsent(_))) => Outcome::Void(failure),
        Ok(Err(failure)) => Outcome::Bad(failure),
        Err(_) if end.elapsed() > LATE => Outcome::Void(Failure::TimedOut(stage)),
        Err(_) => Outcome::Bad(Failure::TimedOut(stage)),
    }
}

async fn answer(
    question: &Question,
    permit: Option<OwnedSemaphorePermit>,
    stage: &mut &'static str,
) -> Result<(), Failure> {
    let check = &question.check;
    match check {
        Check::Icmp(echo) => icmp::echo(question, echo, stage).await,
        Check::Exec(program) => exec::run(question, program, permit, stage).await,
        Check::Tcp => socket::connect(question).await.map(drop),
        Check::Udp(exchange) => udp::exchange(question, exchange, stage).await,
        Check::Dns(lookup) => dns::look_up(question, lookup, stage).await,
        Check::Http(page) => {
            let stream = socket::connect(question).await?;
            *stage = "waiting for the page";
            http::get(stream, page, question.vip).await
        }
        Check::Tls(_) => tls::connect(question, check.server_name(), None, stage).await.map(drop),
        Check::Https { page, .. } => {
            let stream = tls::connect(question, check.server_name(), Some(http::alpn(page)), stage).await?;
            *stage = "waiting for the page";
            http::get(stream, page, question.vip).await
        }
        Check::Grpc { service, tls: None } => {
            let stream = socket::connect(question).await?;
            *stage = "waiting for the answer";
            grpc::check(stream, false, service, question.vip).await
        }
        Check::Grpc { service, tls: Some(_) } => {
            let stream = tls::connect(question, check.server_name(), Some(http2::ALPN), stage).await?;
            *stage = "waiting for the answer";
            grpc::check(stream, true, service, question.vip).await
        }
    }
}

/// Asks once, however much is under way.
#[cfg(test)]
async fn ask(question: &Question) -> Outcome {
    ask_by(question, None).await
}

#[cfg(test)]
mod fixtures {
    use std::{net::SocketAddr, time::Duration};

    use super::{Question, To};
    use crate::model::Check;

    pub const TIMEOUT: Duration = Duration::from_millis(500);

    pub fn question(server: SocketAddr, check: Check) -> Question {
        let to = To::Address(server, Default::default());
        Question { to, vip: [192, 0, 2, 1].into(), check, trusted: None, timeout: TIMEOUT }
    }
}
