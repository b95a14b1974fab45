//! The flow table on the API: what may be asked of them, and what is answered.

use std::{net::IpAddr, str::FromStr};

use clap::ValueEnum;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What `GET /v1/flows` and `GET /v1/flows/counts` are narrowed to; each that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowQuery {
    /// Name of the VIP.
    pub vip: Option<String>,
    /// Address of the backend.
    pub backend: Option<IpAddr>,
    /// Where the clients are.
    pub client: Option<ClientRange>,
    /// Port of the client.
    pub client_port: Option<u16>,
    /// The table.
    pub table: Option<FlowTable>,
    /// How far the flow has come.
    pub state: Option<FlowState>,
    /// Flows to list at most, [`FlowQuery::DEFAULT_LIMIT`] unless told, [`FlowQuery::MAX_LIMIT`] at most; all are
    /// counted.
    pub limit: Option<u32>,
}

impl FlowQuery {
    /// Flows that are listed unless told otherwise.
    pub const DEFAULT_LIMIT: u32 = 100;
    /// Flows that are listed at most: an answer is made in memory, and one of as many takes some ten megabytes.
    pub const MAX_LIMIT: u32 = 100_000;
}

/// A client's address or a range of them: `198.51.100.7`, `198.51.100.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientRange(IpNet);

impl ClientRange {
    /// Whether `client` is in it.
    pub fn contains(&self, client: IpAddr) -> bool {
        self.0.contains(&client)
    }
}

impl FromStr for ClientRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = text.parse::<IpAddr>().map(IpNet::from).or_else(|_| text.parse());
        range.map(Self).map_err(|_| format!("`{text}` is neither an IP address nor a range such as `198.51.100.0/24`"))
    }
}

impl TryFrom<String> for ClientRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ClientRange> for String {
    fn from(ClientRange(range): ClientRange) -> Self {
        range.to_string()
    }
}

/// A flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FlowTable {
    /// Flows of which two packets were seen.
    Established,
    /// Flows of which one packet was seen.
    Embryonic,
}

impl FlowTable {
    /// As operators read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Embryonic => "embryonic",
        }
    }
}

/// How far a flow has come, as far as the packets of the client tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FlowState {
    /// Packets flow; always so with UDP.
    Open,
    /// A SYN was seen and nothing after it.
    Syn,
    /// The client has sent FIN.
    Fin,
    /// The client has sent RST.
    Rst,
}

impl FlowState {
    /// As operators read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => lb_common::FlowState::Open.name(),
            Self::Syn => lb_common::FlowState::Syn.name(),
            Self::Fin => lb_common::FlowState::Fin.name(),
            Self::Rst => lb_common::FlowState::Rst.name(),
        }
    }
}

impl From<lb_common::FlowState> for FlowState {
    fn from(state: lb_common::FlowState) -> Self {
        match state {
            lb_common::FlowState::Open => Self::Open,
            lb_common::FlowState::Syn => Self::Syn,
            lb_common::FlowState::Fin => Self::Fin,
            lb_common::FlowState::Rst => Self::Rst,
        }
    }
}

/// Answer of `GET /v1/flows`. Packets went on meanwhile: a flow that came or went may be there or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// The flows, by VIP and client; any of them where there are more than the limit.
    pub flows: Vec<Flow>,
    /// How many there are.
    pub matched: u64,
}

/// An entry of a flow table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Address of the client.
    pub client: IpAddr,
    /// Port of the client.
    pub client_port: u16,
    /// Name of the VIP.
    pub vip: String,
    /// The port that the client dialled: `tcp/80`.
    pub port: String,
    /// Address of the backend that the flow belongs to.
    pub backend: IpAddr,
    /// The table that it is in.
    pub table: FlowTable,
    /// How far it has come.
    pub state: FlowState,
    /// Seconds since its last packet.
    pub idle_seconds: u64,
}

/// How many flows of a backend are in the tables, as `GET /v1/flows/counts` lists it, by VIP and backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCount {
    /// Name of the VIP.
    pub vip: String,
    /// Address of the backend.
    pub backend: IpAddr,
    /// In the table of established flows.
    pub established: u64,
    /// In the table of embryonic flows.
    pub embryonic: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_named_by_address_or_range() {
        let range = |text: &str| text.parse::<ClientRange>().unwrap();
        let [inside, outside, v6] = ["198.51.100.7", "198.51.101.7", "2001:db8::7"].map(|text| text.parse().unwrap());
        assert!(range("198.51.100.0/24").contains(inside) && !range("198.51.100.0/24").contains(outside));
        assert!(range("198.51.100.7").contains(inside) && !range("198.51.100.7").contains(outside));
        assert!(range("2001:db8::/32").contains(v6) && !range("0.0.0.0/0").contains(v6));
        assert!("198.51.100.0/33".parse::<ClientRange>().unwrap_err().contains("neither"));
    }

    #[test]
    fn names_are_those_of_json() {
        for table in [FlowTable::Established, FlowTable::Embryonic] {
            assert_eq!(serde_json::to_value(table).unwrap(), table.name());
        }
        for state in lb_common::FlowState::ALL.map(FlowState::from) {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
    }
}
