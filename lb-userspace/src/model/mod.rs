//! What operators want and what they are told, in types that every room shares. Values are read by the sources; a
//! [`Config`] in hand is one whose VIPs go together.

pub(crate) mod address;
mod backend;
mod config;
mod conflict;
mod deadline;
mod desired;
mod echo_reply;
mod forward;
mod health;
mod icmp_rate;
mod idle;
pub mod keys;
mod lasting;
mod mac;
mod node;
mod operation;
mod port;
pub(crate) mod prime;
mod problem;
mod readers;
mod readiness;
mod returns;
mod share;
pub(crate) mod suggest;
mod target;
mod tracking;
mod value;
mod verdict;
mod via;
mod vip;
mod way_mtu;
mod word;

pub use self::{
    backend::{Backend, state_serde},
    config::{Config, Difference, Local, Parts},
    conflict::{Claims, Conflict, conflicts},
    deadline::DrainDeadline,
    desired::{Desired, Overridden, Sources},
    echo_reply::EchoReply,
    forward::ForwardMode,
    health::{
        Check, Echo, Exchange, Fail, Header, HeaderError, Health, Identity, Least, LeastError, Lookup, LookupError,
        Octets, OctetsError, OnFailure, Page, ProbeVia, Program, Rcodes, RecordType, Service, StatusError, Statuses,
        Tls, Trust, Version, host_name,
    },
    icmp_rate::IcmpRate,
    idle::{IdleTime, TimeError},
    keys::{Given, Settings},
    lasting::Lasting,
    mac::{Mac, MacChoice, MacError},
    node::{Node, XdpMode},
    operation::{Operate, OperateError, Operation, Operations, Verb},
    port::{Port, PortError, Protocol},
    prime::Slots,
    problem::ProblemKind,
    readers::Readers,
    readiness::Unready,
    returns::{Returns, slow_start_duration, slow_start_now, slow_start_time},
    share::{Share, ShareError},
    target::Target,
    tracking::{FlowHash, Tracking},
    value::KeyValue,
    verdict::Verdicts,
    via::{Mark, Vrf, mark_word},
    vip::Vip,
    way_mtu::{WayMtu, WayMtuChoice},
    word::{UnknownValue, Word},
};

#[cfg(test)]
mod tests {
    use std::fmt;

    use lb_common::BackendState;

    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        fn check<T: Word + fmt::Debug>(all: &[T]) {
            assert_eq!(T::WORDS.len(), all.len());
            for value in all {
                assert_eq!(T::from_word(value.word()).as_ref(), Ok(value));
            }
        }
        check(&[BackendState::Active, BackendState::Drain, BackendState::Down]);
        check(&[Protocol::Tcp, Protocol::Udp]);
        check(&[ForwardMode::L2, ForwardMode::Ipip]);
        check(&[FlowHash::FiveTuple, FlowHash::SourceIp]);
        check(&[Tracking::Adaptive, Tracking::Always, Tracking::Never]);
        check(&[EchoReply::Always, EchoReply::Ready, EchoReply::Never]);
        check(&[XdpMode::Auto, XdpMode::Native, XdpMode::Generic]);
        check(&[Fail::Open, Fail::Closed]);
        check(&[OnFailure::Reset, OnFailure::Drain]);
        check(&[ProbeVia::Path, ProbeVia::Address]);
        check(&[Version::Http1, Version::H2c, Version::H2]);
    }
}
