//! The types of probes.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    echo::Echo,
    exchange::Exchange,
    lookup::Lookup,
    page::Page,
    program::Program,
    service::Service,
    tls::{self, Tls, Trust},
};
use crate::model::Protocol;

/// What a backend is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Check {
    /// For an echo.
    Icmp(Echo),
    /// For a TCP connection.
    Tcp,
    /// For a datagram.
    Udp(Exchange),
    /// For records of a name.
    Dns(Lookup),
    /// For a page, by HTTP/1.1 or HTTP/2.
    Http(Page),
    /// For a TLS connection.
    Tls(Tls),
    /// For a page over TLS.
    Https {
        /// The page.
        #[serde(flatten)]
        page: Page,
        /// Over what.
        #[serde(flatten)]
        tls: Tls,
    },
    /// Whether a service serves, by gRPC.
    Grpc {
        /// The service.
        #[serde(flatten)]
        service: Service,
        /// Over TLS, if so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tls: Option<Tls>,
    },
    /// What a program says.
    Exec(Program),
}

impl Check {
    /// Whether a packet of it is one that the data plane forwards to a backend.
    pub fn is_forwarded(&self) -> bool {
        !matches!(self, Self::Icmp(_) | Self::Exec(_))
    }

    /// Of which protocol the port is that is asked; `None` where it is the host that is asked.
    pub fn protocol(&self) -> Option<Protocol> {
        match self {
            Self::Icmp(_) | Self::Exec(_) => None,
            Self::Tcp | Self::Http(_) | Self::Tls(_) | Self::Https { .. } | Self::Grpc { .. } => Some(Protocol::Tcp),
            Self::Udp(_) | Self::Dns(_) => Some(Protocol::Udp),
        }
    }

    /// The files that it goes by, where it is over TLS.
    pub fn trust(&self) -> Option<&Trust> {
        match self {
            Self::Tls(tls) | Self::Https { tls, .. } => Some(&tls.trust),
            Self::Grpc { tls, .. } => tls.as_ref().map(|tls| &tls.trust),
            Self::Icmp(_) | Self::Tcp | Self::Udp(_) | Self::Dns(_) | Self::Http(_) | Self::Exec(_) => None,
        }
    }

    /// The name that a certificate must be for, where the config has one.
    pub fn server_name(&self) -> Option<&str> {
        match self {
            Self::Tls(tls) => tls.sni.as_deref(),
            Self::Https { page, tls } => tls.sni.as_deref().or(page.host.as_deref().map(tls::host_name)),
            Self::Grpc { service, tls } => tls.as_ref()?.sni.as_deref().or(service.host.as_deref().map(tls::host_name)),
            Self::Icmp(_) | Self::Tcp | Self::Udp(_) | Self::Dns(_) | Self::Http(_) | Self::Exec(_) => None,
        }
    }

    /// In words, as `http :8080/healthz`.
    pub(super) fn describe(&self, port: Option<u16>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = port.map_or_else(String::new, |port| format!(":{port}"));
        let spaced = if port.is_empty() { "" } else { " " };
        match self {
            Self::Icmp(echo) => write!(f, "icmp{echo}"),
            Self::Exec(program) => write!(f, "exec{spaced}{port}{program}"),
            Self::Tcp => write!(f, "tcp{spaced}{port}"),
            Self::Udp(exchange) => write!(f, "udp{spaced}{port} {exchange}"),
            Self::Dns(lookup) => write!(f, "dns{spaced}{port} {lookup}"),
            Self::Http(page) => write!(f, "http {port}{page}"),
            Self::Tls(tls) => write!(f, "tls{spaced}{port}{tls}"),
            Self::Https { page, tls } => write!(f, "https {port}{page}{tls}"),
            Self::Grpc { service, tls } => {
                write!(f, "grpc{spaced}{port}{service}")?;
                tls.as_ref().map_or(Ok(()), |tls| write!(f, " tls{tls}"))
            }
        }
    }
}
