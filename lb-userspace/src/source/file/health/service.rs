//! Reads which service is asked for by gRPC.

use super::{
    super::{
        error::Problems,
        tree::{self, Section, Value},
    },
    page, tls,
};
use crate::model::{Check, Service, keys::HEALTH_TLS};

/// Of the keys of `health`, whose type is at `kind`.
pub fn read(section: &Section<'_>, kind: &Value<'_>, problems: &mut Problems) -> Option<Check> {
    let before = problems.0.len();
    let service = match section.optional("service") {
        Some(value) => name(value, problems),
        None => None,
    };
    let service = Service { service, host: page::host(section, problems) };
    let is_tls = match section.optional("tls") {
        Some(value) => tree::boolean("`tls`", value, problems)?,
        None => false,
    };
    let tls = match is_tls {
        true => Some(tls::read(section, kind, service.host.as_deref(), problems)?),
        false => {
            let keys = HEALTH_TLS.iter().filter_map(|key| Some((key.name, section.optional(key.name)?)));
            for (key, value) in keys {
                problems.add(value.span(), format!("`{key}` is for gRPC over TLS; add `tls = true`, or leave it out"));
            }
            None
        }
    };
    (problems.0.len() == before).then_some(Check::Grpc { service, tls })
}

fn name(value: &Value<'_>, problems: &mut Problems) -> Option<String> {
    let name = tree::text("`service`", value, problems)?;
    let is_name = !name.is_empty() && name.chars().all(|part| !part.is_whitespace() && !part.is_control());
    if !is_name {
        let message = "`service` is empty or has spaces; write a name such as `example.v1.Shop`, or leave it out for \
                       the server as a whole";
        problems.add(value.span(), message);
    }
    is_name.then(|| name.to_owned())
}
