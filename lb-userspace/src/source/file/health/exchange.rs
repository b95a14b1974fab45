//! Reads what datagrams are sent, and how good answers begin.

use super::super::{
    error::Problems,
    tree::{self, Section, Value},
};
use crate::model::{Exchange, Octets};

/// Of the keys of `health`, whose type is at `kind`.
pub fn read(section: &Section<'_>, kind: &Value<'_>, problems: &mut Problems) -> Option<Exchange> {
    let before = problems.0.len();
    let send = octets(section, "send", "send_hex", problems);
    let expect = octets(section, "expect", "expect_hex", problems);
    if send.is_none() && problems.0.len() == before {
        let message = "`udp` needs to know what to send; add `send = \"ping\"`, or `send_hex = \"1b0000\"`";
        problems.add(kind.span(), message);
    }
    Some(Exchange { send: send?, expect }).filter(|_| problems.0.len() == before)
}

/// Bytes, which the key `text` has as text or the key `hex` in hexadecimal.
fn octets(section: &Section<'_>, text: &str, hex: &str, problems: &mut Problems) -> Option<Octets> {
    let (value, octets) = match (section.optional(text), section.optional(hex)) {
        (None, None) => return None,
        (Some(_), Some(value)) => {
            problems.add(value.span(), format!("`{text}` and `{hex}` are two texts for one thing; leave one out"));
            return None;
        }
        (Some(value), None) => {
            let text = tree::text(&format!("`{text}`"), value, problems)?;
            (value, Octets::new(text.as_bytes().to_vec()))
        }
        (None, Some(value)) => (value, tree::parsed(&format!("`{hex}`"), value, problems)?),
    };
    let len = octets.bytes().len();
    if len > Exchange::LONGEST {
        let message = format!("this is {len} bytes; a datagram of a probe has at most {}", Exchange::LONGEST);
        problems.add(value.span(), message);
    }
    Some(octets)
}
