//! Reads what is sent to hosts that are to send it back.

use super::super::{
    error::Problems,
    tree::{self, Section},
};
use crate::model::Echo;

/// Of the keys of `health`.
pub fn read(section: &Section<'_>, problems: &mut Problems) -> Option<Echo> {
    if let Some(value) = section.optional("port") {
        let message = "`icmp` asks a host and no port of it; leave `port` out, or use another `type`";
        problems.add(value.span(), message);
    }
    let size = match section.optional("size") {
        Some(value) => tree::number("`size`", value, Echo::SHORTEST.into(), Echo::LONGEST.into(), problems)?,
        None => Echo::SIZE.into(),
    };
    Some(Echo { size: u16::try_from(size).ok()? })
}
