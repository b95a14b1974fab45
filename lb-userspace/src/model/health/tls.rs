//! What probes over TLS believe and show.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Of a probe over TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// The name that the backend is asked for, and that its certificate must be for; the host of the page, or else the
    /// VIP's address, where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// By which files.
    #[serde(flatten)]
    pub trust: Trust,
}

/// The files that a probe over TLS goes by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Trust {
    /// Certificates of the authorities that are believed, in PEM; `None` where every certificate is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// What is shown to backends that ask who probes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
}

/// A certificate of this host's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The certificate, and behind it those that vouch for it, in PEM.
    pub client_cert: PathBuf,
    /// Its private key, in PEM.
    pub client_key: PathBuf,
}

/// The name in a `Host` header: without its port, and an IPv6 address without its brackets.
pub fn host_name(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    }
}

impl fmt::Display for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sni, trust: Trust { ca, identity } } = self;
        sni.as_ref().map_or(Ok(()), |sni| write!(f, " sni {sni}"))?;
        match ca {
            Some(ca) => write!(f, " ca {}", ca.display())?,
            None => f.write_str(" without verification")?,
        }
        identity.as_ref().map_or(Ok(()), |own| write!(f, " as {}", own.client_cert.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_with_or_without_a_port() {
        for (host, name) in [
            ("www.example.org", "www.example.org"),
            ("www.example.org:8443", "www.example.org"),
            ("192.0.2.1:8443", "192.0.2.1"),
            ("[2001:db8::1]:8443", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
        ] {
            assert_eq!(host_name(host), name);
        }
    }
}
