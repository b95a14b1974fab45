//! Whether the address of a VIP answers echo requests.

use std::{fmt, str::FromStr};

use super::{
    UnknownValue, Word,
    word::{text_serde, words},
};

words! {
    /// Whether the address of a VIP answers echo requests. One that several VIPs have answers where any of them says so.
    EchoReply: "echo" {
        /// It does.
        Always = "always",
        /// While the VIP is ready.
        Ready = "ready",
        /// Not on account of this VIP.
        Never = "never",
    }
}
