//! A service of which gRPC knows whether it serves.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name; `None` for the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// By which host; the VIP's address where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, host } = self;
        service.as_ref().map_or(Ok(()), |service| write!(f, " {service}"))?;
        host.as_ref().map_or(Ok(()), |host| write!(f, " host {host}"))
    }
}
