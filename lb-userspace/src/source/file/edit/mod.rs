//! Edits of a config's text as an operator would make them: comments, order and layout of the rest stay as they are.
//!
//! [`apply_edit`] is a pure function from text to text. It does not judge the outcome: what it returns is to be parsed
//! by [`Config::parse`](super::Config::parse) before it is used. How a text gets into a file is the business of
//! [`disk`](crate::disk).

mod array;
mod document;
mod table;

use std::{fmt, net::IpAddr};

use lb_common::BackendState;
use serde::{Deserialize, Serialize};

use self::document::Document;
use super::section::Sections;
use crate::model::{Config, ForwardMode, Given, Mac, MacChoice, Port, keys::NothingElse, state_serde, suggest};

/// A change of a config file. What a `…Set` has no value for stays as it is, in an `…Add` it gets its default.
///
/// As JSON: `{"op": "backend_set", "vip": "web", "address": "10.0.1.11", "weight": 50}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Edit {
    /// A new VIP at the end of the file.
    VipAdd(NewVip),
    /// Other values for a VIP.
    VipSet(VipValues),
    /// A VIP and its backends go, with the comments inside and directly above it.
    VipRemove {
        /// Its name.
        name: String,
    },
    /// A new backend, behind the other ones of its VIP.
    BackendAdd {
        /// Name of the VIP.
        vip: String,
        /// The backend's address.
        address: IpAddr,
        /// Its weight.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weight: Option<u32>,
        /// Its state.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "state_serde::option")]
        state: Option<BackendState>,
        /// Its MAC address, to be pinned.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mac: Option<Mac>,
    },
    /// Other values for a backend.
    BackendSet {
        /// Name of the VIP.
        vip: String,
        /// The backend's address.
        address: IpAddr,
        /// Its new weight.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weight: Option<u32>,
        /// Its new state.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "state_serde::option")]
        state: Option<BackendState>,
        /// The MAC address to pin, or that none is to be pinned.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mac: Option<MacChoice>,
    },
    /// A backend goes, with the comment on its line.
    BackendRemove {
        /// Name of the VIP.
        vip: String,
        /// The backend's address.
        address: IpAddr,
    },
    /// Another interface for the data plane.
    InterfaceAdd {
        /// Its name.
        name: String,
    },
    /// One interface less for the data plane.
    InterfaceRemove {
        /// Its name.
        name: String,
    },
}

/// As it goes over the API: what somebody asked for, in one line.
impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        // One with thousands of backends would fill the log.
        match json.char_indices().nth(Self::TOLD) {
            Some((end, _)) => write!(f, "{}…", &json[..end]),
            None => f.write_str(&json),
        }
    }
}

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
}

/// Why an edit cannot be made. The text is then as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The text is not TOML.
    #[error("the config file is not TOML, so it cannot be edited; `naru check` shows what is wrong: {0}")]
    Syntax(String),
    /// Something in the text has a type that it must not have.
    #[error(
        "`{0}` in the config file is not what it should be, so it cannot be edited; `naru check` shows what is wrong"
    )]
    Shape(&'static str),
    /// The edit has nothing but `None`.
    #[error("nothing to set; name at least one value")]
    NothingToSet,
    /// The name is taken.
    #[error("VIP `{0}` exists already; change it with `naru vip set`, or choose another name")]
    VipExists(String),
    /// No VIP of that name.
    #[error("no VIP is named `{name}`; {}", near_or(near, "`naru vip list` shows the VIPs"))]
    UnknownVip {
        /// The name asked for.
        name: String,
        /// Names that it may be a misspelling of.
        near: Vec<String>,
    },
    /// The VIP has the backend already.
    #[error("VIP `{vip}` has the backend `{address}` already; change it with `naru backend set`")]
    BackendExists {
        /// Name of the VIP.
        vip: String,
        /// The backend's address.
        address: IpAddr,
    },
    /// The VIP has no backend of that address.
    #[error("VIP `{vip}` has no backend `{address}`; {}", near_or(near, "`naru backend list` shows its backends"))]
    UnknownBackend {
        /// Name of the VIP.
        vip: String,
        /// The address asked for.
        address: IpAddr,
        /// Addresses that it may be a misspelling of.
        near: Vec<String>,
    },
    /// The interface is listed already.
    #[error("interface `{0}` is in the config already")]
    InterfaceExists(String),
    /// The interface is not listed.
    #[error("interface `{name}` is not in the config; {}", near_or(near, "`naru interface list` shows those that are"))]
    UnknownInterface {
        /// The name asked for.
        name: String,
        /// Names that it may be a misspelling of.
        near: Vec<String>,
    },
}

impl Edit {
    /// Characters of an edit that are shown.
    const TOLD: usize = 500;
}

/// The text of a config after `edit`.
pub fn apply_edit(text: &str, edit: &Edit) -> Result<String, EditError> {
    apply_edit_to(text, &Sections::of(text), None, edit)
}

/// The same for a text of which it is known what its `sections` are, and which `config` it holds.
pub fn apply_edit_to(
    text: &str,
    sections: &Sections,
    config: Option<&Config>,
    edit: &Edit,
) -> Result<String, EditError> {
    let vip = |name: &str| sections.vip(text, config, name);
    let range = match edit {
        Edit::VipAdd(NewVip { name, .. }) => match vip(name) {
            Some(_) => return Err(EditError::VipExists(name.clone())),
            None => sections.last(text),
        },
        Edit::VipSet(VipValues { name, .. }) | Edit::VipRemove { name } => vip(name),
        Edit::BackendAdd { vip: name, .. }
        | Edit::BackendSet { vip: name, .. }
        | Edit::BackendRemove { vip: name, .. } => vip(name),
        Edit::InterfaceAdd { .. } | Edit::InterfaceRemove { .. } => sections.node(text),
    };
    // A section is a whole document to TOML, and in a config of thousands of VIPs much quicker to edit.
    let range = range.unwrap_or(0..text.len());
    let edited = edit_document(&text[range.clone()], edit)?;
    Ok([&text[..range.start], &edited, &text[range.end..]].concat())
}

fn edit_document(text: &str, edit: &Edit) -> Result<String, EditError> {
    let mut document = Document::parse(text)?;
    match edit {
        Edit::VipAdd(vip) => return document.vip_add(text, &vip.name, &table::vip(vip)),
        Edit::VipSet(values) => document.vip(&values.name)?.set_values(values)?,
        Edit::VipRemove { name } => document.vip_remove(name)?,
        Edit::BackendAdd { vip, address, weight, state, mac } => {
            let backend = NewBackend { address: *address, weight: *weight, state: *state, mac: *mac };
            document.vip(vip)?.backend_add(vip, &backend)?;
        }
        Edit::BackendSet { vip, address, weight: None, state: None, mac: None } => {
            document.vip(vip)?.backend(vip, *address)?;
            return Err(EditError::NothingToSet);
        }
        Edit::BackendSet { vip, address, weight, state, mac } => {
            let mut vip_table = document.vip(vip)?;
            let mut backend = vip_table.backend(vip, *address)?;
            backend.set_some("weight", weight.map(i64::from));
            backend.set_some("state", state.map(crate::model::Word::word));
            match mac {
                Some(MacChoice::Pinned(mac)) => backend.set("mac", mac.to_string().into()),
                Some(MacChoice::None) => backend.unset("mac"),
                None => {}
            }
        }
        Edit::BackendRemove { vip, address } => document.vip(vip)?.backend_remove(vip, *address)?,
        Edit::InterfaceAdd { name } => return document.interface_add(text, name),
        Edit::InterfaceRemove { name } => document.interface_remove(name)?,
    }
    Ok(document.text())
}

fn near_or(near: &[String], otherwise: &str) -> String {
    match near {
        [] => otherwise.to_owned(),
        near => format!("did you mean {}?", suggest::list(near.iter().map(String::as_str))),
    }
}

#[cfg(test)]
mod tests;
