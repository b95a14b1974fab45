//! Why an edit cannot be made.

use std::net::IpAddr;

use crate::model::suggest;

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
    /// Keys of `health` are to be changed, and there are none.
    #[error("VIP `{0}` has no `health` that could be changed; name a type, as in `--health 'tcp interval=2s'`")]
    NoHealth(String),
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

fn near_or(near: &[String], otherwise: &str) -> String {
    match near {
        [] => otherwise.to_owned(),
        near => format!("did you mean {}?", suggest::list(near.iter().map(String::as_str))),
    }
}
