//! The types of probes.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{exchange::Exchange, page::Page};
use crate::model::Protocol;

/// What a backend is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Check {
    /// For a TCP connection.
    Tcp,
    /// For a datagram.
    Udp(Exchange),
    /// For a page, by HTTP/1.1.
    Http(Page),
}

impl Check {
    /// Of which protocol the port is that is asked.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Tcp | Self::Http(_) => Protocol::Tcp,
            Self::Udp(_) => Protocol::Udp,
        }
    }

    /// In words, as `http :8080/healthz`.
    pub(super) fn describe(&self, port: Option<u16>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = port.map_or_else(String::new, |port| format!(":{port}"));
        match self {
            Self::Tcp if port.is_empty() => f.write_str("tcp"),
            Self::Tcp => write!(f, "tcp {port}"),
            Self::Udp(exchange) if port.is_empty() => write!(f, "udp {exchange}"),
            Self::Udp(exchange) => write!(f, "udp {port} {exchange}"),
            Self::Http(page) => write!(f, "http {port}{page}"),
        }
    }
}
