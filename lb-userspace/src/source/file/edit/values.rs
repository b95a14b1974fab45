//! What an edit gives a VIP or a backend.

use std::net::IpAddr;

use lb_common::BackendState;
use serde::{Deserialize, Serialize};

use super::health::{BackendHealthEdit, HealthEdit};
use crate::model::{ForwardMode, Given, Mac, Port, WayMtu, keys::NothingElse, state_serde};

/// A VIP that comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewVip {
    /// Its name, which no other VIP may have.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// What is served on it.
    pub ports: Vec<Port>,
    /// How packets reach its backends.
    pub forward: ForwardMode,
    /// How its backends are asked whether they work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthEdit>,
    /// Values for its other keys.
    #[serde(flatten)]
    pub given: Given,
    /// Its backends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<NewBackend>,
    /// No other field is taken.
    #[serde(flatten)]
    pub rest: NothingElse,
}

/// What a VIP is to have from now on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipValues {
    /// Its name, which stays.
    pub name: String,
    /// Its new address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// All that is to be served on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<Port>>,
    /// How packets are to reach its backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<ForwardMode>,
    /// How its backends are to be asked whether they work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthEdit>,
    /// Values for its other keys.
    #[serde(flatten)]
    pub given: Given,
    /// No other field is taken.
    #[serde(flatten)]
    pub rest: NothingElse,
}

/// A backend that a new VIP comes with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBackend {
    /// Its address.
    pub address: IpAddr,
    /// Its weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Its state.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "state_serde::option")]
    pub state: Option<BackendState>,
    /// Its MAC address, to be pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The largest packet that the way to it carries, where that is not as the VIP says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<WayMtu>,
    /// How it is asked, where that is not as the VIP says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<BackendHealthEdit>,
}
