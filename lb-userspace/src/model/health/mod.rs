//! How a VIP has it found out whether its backends work.

mod check;
mod echo;
mod exchange;
mod header;
mod lookup;
mod octets;
mod page;
mod program;
mod service;
mod tls;

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{
    check::Check,
    echo::Echo,
    exchange::Exchange,
    header::{Header, HeaderError},
    lookup::{Lookup, LookupError, Rcodes, RecordType},
    octets::{Octets, OctetsError},
    page::{Page, StatusError, Statuses, Version},
    program::Program,
    service::Service,
    tls::{Identity, Tls, Trust, host_name},
};
use super::{
    Share,
    word::{UnknownValue, Word, text_serde, words},
};

/// How it is found out whether the backends of a VIP work, and what follows where one does not.
///
/// As JSON: `{"check": {"type": "http", "path": "/", …}, "interval_ms": 2000, …}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What a backend is asked.
    pub check: Check,
    /// Which way probes go.
    pub via: ProbeVia,
    /// At which of its ports; `None` for the VIP's first port of the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// From one probe to the next.
    #[serde(rename = "interval_ms", with = "milliseconds")]
    pub interval: Duration,
    /// The same while a verdict is forming: after an answer that speaks against the verdict that stands.
    #[serde(rename = "fast_interval_ms", with = "milliseconds")]
    pub fast_interval: Duration,
    /// From the begin of a probe until an answer is too late.
    #[serde(rename = "timeout_ms", with = "milliseconds")]
    pub timeout: Duration,
    /// As many good answers in a row bring a backend back.
    pub rise: u32,
    /// As many failures in a row take it out.
    pub fall: u32,
    /// What becomes of the connections of one that is out.
    pub on_failure: OnFailure,
    /// Where fewer of the backends than this share work, all serve.
    pub panic: Share,
}

words! {
    /// Which way probes of a backend go.
    ProbeVia: "via" {
        /// As clients' packets: to the VIP, by its forward mode.
        Path = "path",
        /// To the backend's own address.
        Address = "address",
    }
}

words! {
    /// What becomes of the connections of a backend that fails its probes.
    OnFailure: "on_failure" {
        /// They go to the slots' new owners at once, which answer with RST, as with `state = "down"`.
        Reset = "reset",
        /// They stay, as with `state = "drain"`.
        Drain = "drain",
    }
}

impl Health {
    /// Without `interval`.
    pub const INTERVAL: Duration = Duration::from_secs(2);
    /// Without `fast_interval`.
    pub const FAST_INTERVAL: Duration = Duration::from_millis(500);
    /// Without `timeout`.
    pub const TIMEOUT: Duration = Duration::from_secs(1);
    /// Without `rise`.
    pub const RISE: u32 = 2;
    /// Without `fall`.
    pub const FALL: u32 = 3;
    /// Without `panic`: all serve where none works.
    pub const PANIC: Share = Share(0);
    /// Largest `rise` and `fall`.
    pub const MAX_COUNT: u32 = 100;
}

/// In one line, for people: `http :8080/healthz, every 2s (500ms), timeout 1s, rise 2, fall 3, reset`.
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, via, port, interval, fast_interval, timeout, rise, fall, on_failure, panic } = self;
        check.describe(*port, f)?;
        if *via == ProbeVia::Address {
            f.write_str(" via address")?;
        }
        let [interval, fast_interval, timeout] = [*interval, *fast_interval, *timeout].map(humantime::format_duration);
        write!(f, ", every {interval} ({fast_interval}), timeout {timeout}, rise {rise}, fall {fall}, {on_failure}")?;
        if *panic == Self::PANIC { Ok(()) } else { write!(f, ", panic {panic}") }
    }
}

/// Durations as whole milliseconds.
mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(duration.as_millis().try_into().unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_told_in_a_line() {
        let page = Page {
            path: "/healthz".into(),
            host: Some("www.example.org".into()),
            version: Version::Http1,
            size: Some(4000),
            status: "200".parse().unwrap(),
            header: Some("x-role: primary".parse().unwrap()),
            body: Some("ok".into()),
        };
        let health = Health {
            check: Check::Http(page),
            via: ProbeVia::Path,
            port: Some(8080),
            interval: Health::INTERVAL,
            fast_interval: Health::FAST_INTERVAL,
            timeout: Health::TIMEOUT,
            rise: 2,
            fall: 3,
            on_failure: OnFailure::Reset,
            panic: Health::PANIC,
        };
        let rest = "every 2s (500ms), timeout 1s, rise 2, fall 3, reset";
        assert_eq!(
            health.to_string(),
            format!(
                "http :8080/healthz host www.example.org size 4000 status 200 header x-role: primary body \"ok\", {rest}"
            )
        );
        assert_eq!(serde_json::from_value::<Health>(serde_json::to_value(&health).unwrap()).unwrap(), health);
        let tcp = Health { check: Check::Tcp, port: None, panic: "50%".parse().unwrap(), ..health };
        assert_eq!(tcp.to_string(), format!("tcp, {rest}, panic 50%"));
    }
}
