//! Reads what name servers are asked, and how answers are judged.

use std::str::FromStr as _;

use domain::base::Name;

use super::super::{
    error::Problems,
    tree::{self, Section, Value},
};
use crate::model::{Lookup, LookupError, Rcodes, RecordType};

/// Of the keys of `health`, whose type is at `kind`.
pub fn read(section: &Section<'_>, kind: &Value<'_>, problems: &mut Problems) -> Option<Lookup> {
    let name = match section.optional("name") {
        Some(value) => name(value, problems),
        None => {
            problems.add(kind.span(), "`dns` needs a name to ask for; add `name = \"www.example.org\"`");
            None
        }
    };
    let record = tree::parsed_or(section, "record", RecordType::default(), problems);
    let rcode = tree::parsed_or(section, "rcode", Rcodes::default(), problems);
    Some(Lookup { name: name?, record: record?, rcode: rcode? })
}

fn name(value: &Value<'_>, problems: &mut Problems) -> Option<String> {
    let name = tree::text("`name`", value, problems)?;
    let is_name = !name.is_empty() && Name::<Vec<u8>>::from_str(name).is_ok();
    if !is_name {
        problems.add(value.span(), LookupError::Name(name.escape_debug().to_string()).to_string());
    }
    is_name.then(|| name.to_owned())
}
