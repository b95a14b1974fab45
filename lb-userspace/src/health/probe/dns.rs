//! Asks a name server over UDP (RFC 1035), and judges its answer.

use std::str::FromStr as _;

use domain::base::{Message, MessageBuilder, Name, UnknownRecordData, iana::Rcode};

use super::{
    question::{Failure, Question},
    udp,
};
use crate::model::Lookup;

/// Asks once. An answer over UDP has at most 512 bytes, for no more is asked for.
pub async fn look_up(question: &Question, lookup: &Lookup, stage: &mut &'static str) -> Result<(), Failure> {
    let query = query(lookup).map_err(Failure::Unsent)?;
    udp::ask(question, query.as_slice(), |answer| judge(&query, lookup, answer.to_vec()), stage).await
}

fn query(lookup: &Lookup) -> Result<Message<Vec<u8>>, String> {
    let name = Name::<Vec<u8>>::from_str(&lookup.name).map_err(|error| error.to_string())?;
    let id = getrandom::u32().map_err(|error| error.to_string())? as u16;
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_id(id);
    // Without it a resolver answers what it happens to know.
    message.header_mut().set_rd(true);
    let mut questions = message.question();
    questions.push((name, lookup.record.0)).map_err(|error| error.to_string())?;
    Ok(questions.into_message())
}

fn judge(query: &Message<Vec<u8>>, lookup: &Lookup, answer: Vec<u8>) -> Result<(), Failure> {
    let malformed = |what: &str| Failure::Protocol("DNS", what.to_owned());
    let answer = Message::from_octets(answer).map_err(|_| malformed("the answer is too short"))?;
    if !answer.is_answer(query) {
        return Err(malformed("the answer is to another question"));
    }
    let rcode = answer.header().rcode();
    if !lookup.rcode.contain(rcode) {
        return Err(Failure::Answer(format!("rcode {rcode}")));
    }
    if rcode != Rcode::NOERROR {
        // It has no records, and was wanted.
        return Ok(());
    }
    let mut has_record = false;
    for record in answer.answer().map_err(|_| malformed("its question cannot be read"))? {
        let record = record.map_err(|_| malformed("a record of the answer cannot be read"))?;
        has_record |= record.rtype() == lookup.record.0;
        record.into_record::<UnknownRecordData<_>>().map_err(|_| malformed("a record of the answer cannot be read"))?;
    }
    match has_record {
        true => Ok(()),
        false if answer.header().tc() => Err(Failure::Answer("the answer was cut off before its records".to_owned())),
        false => Err(Failure::Answer(format!("no {} record in the answer", lookup.record))),
    }
}

#[cfg(test)]
mod tests {
    use domain::{
        base::iana::Rtype,
        rdata::{A, Cname},
    };
    use tokio::net::UdpSocket;

    use super::super::{Outcome, ask, fixtures::question};
    use super::*;
    use crate::model::{Check, Rcodes};

    type Serve = fn(&[u8]) -> Vec<u8>;

    fn check(record: &str, rcode: &str) -> Check {
        let rcode: Rcodes = rcode.parse().unwrap();
        Check::Dns(Lookup { name: "www.example.org".into(), record: record.parse().unwrap(), rcode })
    }

    /// What a name server of one zone answers.
    fn serve(query: &[u8]) -> Vec<u8> {
        let query = Message::from_octets(query).unwrap();
        let asked = query.sole_question().unwrap();
        assert_eq!(asked.qname().to_string(), "www.example.org");
        assert!(query.header().rd() && !query.header().qr());
        let builder = MessageBuilder::new_vec();
        let rcode = if asked.qtype() == Rtype::TXT { Rcode::NXDOMAIN } else { Rcode::NOERROR };
        let mut answer = builder.start_answer(&query, rcode).unwrap();
        match asked.qtype() {
            Rtype::A => answer.push((asked.qname(), 60, A::from_octets(192, 0, 2, 1))).unwrap(),
            Rtype::AAAA => answer.push((asked.qname(), 60, Cname::new(asked.qname()))).unwrap(),
            _ => {}
        }
        answer.finish()
    }

    async fn answer(check: Check, serve: Serve) -> Outcome {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let mut query = [0; 512];
            let (len, from) = socket.recv_from(&mut query).await.unwrap();
            socket.send_to(&serve(&query[..len]), from).await.unwrap();
        });
        let outcome = ask(&question(address, check)).await;
        server.await.unwrap();
        outcome
    }

    #[tokio::test]
    async fn an_answer_is_judged_by_code_and_record() {
        let bad = |what: &str| Outcome::Bad(Failure::Answer(what.into()));
        assert_eq!(answer(check("A", "NOERROR"), serve).await, Outcome::Good);
        assert_eq!(answer(check("MX", "NOERROR"), serve).await, bad("no MX record in the answer"));
        // A name that is another one, of which the address is not said.
        assert_eq!(answer(check("AAAA", "NOERROR"), serve).await, bad("no AAAA record in the answer"));
        assert_eq!(answer(check("TXT", "NOERROR"), serve).await, bad("rcode NXDOMAIN"));
        assert_eq!(answer(check("TXT", "NOERROR,NXDOMAIN"), serve).await, Outcome::Good);
        assert_eq!(answer(check("A", "NXDOMAIN"), serve).await, bad("rcode NOERROR"));
    }

    #[tokio::test]
    async fn what_is_no_answer_to_the_question_is_a_failure() {
        let broken: [Serve; 6] = [
            |_| b"pong".to_vec(),
            |_| Vec::new(),
            // The question itself.
            <[u8]>::to_vec,
            // Another id.
            |query| {
                let mut answer = serve(query);
                answer[0] ^= 1;
                answer
            },
            // The answer to another question.
            |query| {
                let mut answer = serve(query);
                answer[13] ^= 1;
                answer
            },
            // Cut off within the record.
            |query| {
                let mut answer = serve(query);
                answer.truncate(answer.len() - 1);
                answer
            },
        ];
        for serve in broken {
            let outcome = answer(check("A", "NOERROR"), serve).await;
            assert!(matches!(outcome, Outcome::Bad(Failure::Protocol("DNS", _))), "{outcome:?}");
        }
        // A loop of compressed names ends.
        let looped = answer(check("A", "NOERROR"), |query| {
            let mut answer = serve(query);
            let at = query.len();
            answer[at..at + 2].copy_from_slice(&[0xc0, at as u8]);
            answer
        });
        assert!(matches!(looped.await, Outcome::Bad(_)));
    }
}
