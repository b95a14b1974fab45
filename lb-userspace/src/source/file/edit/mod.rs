//! Edits of a config's text as an operator would make them: comments, order and layout of the rest stay as they are.
//!
//! [`apply_edit`] is a pure function from text to text. It does not judge the outcome: what it returns is to be parsed
//! by [`Config::parse`](super::Config::parse) before it is used. How a text gets into a file is the business of
//! [`disk`](crate::disk).

mod array;
mod document;
mod error;
mod health;
mod table;
mod values;

use std::{fmt, net::IpAddr};

use lb_common::BackendState;
use serde::{Deserialize, Serialize};

use self::document::Document;
pub use self::{
    error::EditError,
    health::{BackendHealthEdit, HealthEdit, HealthEditError, HealthValue},
    values::{NewBackend, NewVip, VipValues},
};
use super::section::Sections;
use crate::model::{Config, KeyValue as _, Mac, MacChoice, WayMtu, WayMtuChoice, state_serde};

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
        /// The largest packet that the way to it carries, where that is not as the VIP says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mtu: Option<WayMtu>,
        /// How it is asked, where that is not as the VIP says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        health: Option<BackendHealthEdit>,
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
        /// The largest packet that the way to it carries, or that it is to be as the VIP says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mtu: Option<WayMtuChoice>,
        /// How it is asked from now on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        health: Option<BackendHealthEdit>,
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
        match json.char_indices().nth(Self::LISTED) {
            Some((end, _)) => write!(f, "{}…", &json[..end]),
            None => f.write_str(&json),
        }
    }
}

impl Edit {
    /// Characters of an edit that are shown.
    const LISTED: usize = 500;
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
        Edit::BackendAdd { vip, address, weight, state, mac, mtu, health } => {
            let (weight, state, mac, mtu, health) = (*weight, *state, *mac, *mtu, health.clone());
            document.vip(vip)?.backend_add(vip, &NewBackend { address: *address, weight, state, mac, mtu, health })?;
        }
        Edit::BackendSet { vip, address, weight: None, state: None, mac: None, mtu: None, health: None } => {
            document.vip(vip)?.backend(vip, *address)?;
            return Err(EditError::NothingToSet);
        }
        Edit::BackendSet { vip, address, weight, state, mac, mtu, health } => {
            let mut vip_table = document.vip(vip)?;
            let mut backend = vip_table.backend(vip, *address)?;
            backend.set_some("weight", weight.map(i64::from));
            backend.set_some("state", state.map(crate::model::Word::word));
            match mac {
                Some(MacChoice::Pinned(mac)) => backend.set("mac", mac.to_string().into()),
                Some(MacChoice::None) => backend.unset("mac"),
                None => {}
            }
            match mtu {
                Some(WayMtuChoice::Own(mtu)) => backend.set("mtu", table::toml_value(&mtu.scalar())),
                Some(WayMtuChoice::AsVip) => backend.unset("mtu"),
                None => {}
            }
            match health {
                Some(BackendHealthEdit::Own(health)) => backend.set_health(health),
                Some(BackendHealthEdit::AsVip) => backend.unset("health"),
                None => {}
            }
        }
        Edit::BackendRemove { vip, address } => document.vip(vip)?.backend_remove(vip, *address)?,
        Edit::InterfaceAdd { name } => return document.interface_add(text, name),
        Edit::InterfaceRemove { name } => document.interface_remove(name)?,
    }
    Ok(document.text())
}

#[cfg(test)]
mod tests;
