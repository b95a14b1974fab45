//! How a VIP has it found out whether its backends work.

mod check;
mod echo;
mod exchange;
mod header;
mod least;
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
    least::{Least, LeastError},
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
    /// Whether VIPs whose backends have the same address and the same probe share it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub share: bool,
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
    /// What follows where none works.
    pub fail: Fail,
    /// With fewer that work the VIP is not ready.
    pub min_healthy: Least,
    /// Probes take out no more of the backends than this share at a time.
    pub max_out: Share,
    /// Where fewer of a tier's backends than this share work, the next tier serves as well.
    pub spare_below: Share,
    /// How long a backend that was out takes to get all of its slots back, in parts; `None` for at once.
    #[serde(default, rename = "slow_start_ms", with = "milliseconds::option", skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Duration>,
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
    /// What follows where no backend works.
    Fail: "fail" {
        /// All serve: either the probes are at fault, or nothing is lost.
        Open = "open",
        /// None serves: connections and datagrams are refused at once.
        Closed = "closed",
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
    /// Without `fail`.
    pub const FAIL: Fail = Fail::Open;
    /// Without `min_healthy`.
    pub const MIN_HEALTHY: Least = Least::Count(1);
    /// Without `max_out`: any number.
    pub const MAX_OUT: Share = Share(100);
    /// Without `spare_below`.
    pub const SPARE_BELOW: Share = Share(50);
    /// Largest `rise` and `fall`.
    pub const MAX_COUNT: u32 = 100;

    /// Of a VIP that says what its backends are asked and nothing else.
    #[cfg(test)]
    pub fn new(check: Check) -> Self {
        let via = if check.is_forwarded() { ProbeVia::Path } else { ProbeVia::Address };
        Self {
            check,
            via,
            share: false,
            port: None,
            interval: Self::INTERVAL,
            fast_interval: Self::FAST_INTERVAL,
            timeout: Self::TIMEOUT,
            rise: Self::RISE,
            fall: Self::FALL,
            on_failure: OnFailure::Reset,
            panic: Self::PANIC,
            fail: Self::FAIL,
            min_healthy: Self::MIN_HEALTHY,
            max_out: Self::MAX_OUT,
            spare_below: Self::SPARE_BELOW,
            slow_start: None,
        }
    }
}

impl Health {
    /// How a backend is asked, and nothing of what follows: `http :8080/healthz, every 2s (500ms), timeout 1s, rise 2, fall 3`.
    pub fn asks(&self) -> impl fmt::Display {
        fmt::from_fn(|f| {
            let Self { check, via, share, port, interval, fast_interval, timeout, rise, fall, .. } = self;
            check.describe(*port, f)?;
            if *via == ProbeVia::Address {
                f.write_str(" via address")?;
            }
            if *share {
                f.write_str(" shared")?;
            }
            let times = [*interval, *fast_interval, *timeout].map(humantime::format_duration);
            let [interval, fast_interval, timeout] = times;
            write!(f, ", every {interval} ({fast_interval}), timeout {timeout}, rise {rise}, fall {fall}")
        })
    }
}

/// In one line, for people: how a backend is asked, and what follows: `…, reset`.
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.asks(), self.on_failure)?;
        let Self { panic, fail, min_healthy, max_out, spare_below, slow_start, .. } = self;
        let mut told = |is_default: bool, name: &str, value: &dyn fmt::Display| {
            if is_default { Ok(()) } else { write!(f, ", {name} {value}") }
        };
        told(*panic == Self::PANIC, "panic", panic)?;
        told(*fail == Self::FAIL, "fail", fail)?;
        told(*min_healthy == Self::MIN_HEALTHY, "min_healthy", min_healthy)?;
        told(*max_out == Self::MAX_OUT, "max_out", max_out)?;
        told(*spare_below == Self::SPARE_BELOW, "spare_below", spare_below)?;
        let slow_start = slow_start.map(humantime::format_duration);
        slow_start.map_or(Ok(()), |time| write!(f, ", slow start {time}"))
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

    /// The same where there may be none.
    pub mod option {
        use super::*;

        pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
            match duration {
                Some(duration) => super::serialize(duration, serializer),
                None => serializer.serialize_none(),
            }
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
            Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
        }
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
        let health = Health { port: Some(8080), ..Health::new(Check::Http(page)) };
        let rest = "every 2s (500ms), timeout 1s, rise 2, fall 3, reset";
        assert_eq!(
            health.to_string(),
            format!(
                "http :8080/healthz host www.example.org size 4000 status 200 header x-role: primary body \"ok\", {rest}"
            )
        );
        assert_eq!(serde_json::from_value::<Health>(serde_json::to_value(&health).unwrap()).unwrap(), health);
        let slow_start = Some(Duration::from_secs(90));
        let tcp = Health { check: Check::Tcp, port: None, panic: "50%".parse().unwrap(), slow_start, ..health };
        assert_eq!(tcp.to_string(), format!("tcp, {rest}, panic 50%, slow start 1m 30s"));
        assert_eq!(serde_json::from_value::<Health>(serde_json::to_value(&tcp).unwrap()).unwrap(), tcp);
    }
}
