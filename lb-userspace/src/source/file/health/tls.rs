//! Reads what probes over TLS believe and show. The files are not read here: what is in them is no matter of the text.

use rustls::pki_types::ServerName;

use super::super::{
    error::Problems,
    tree::{self, Section, Value},
};
use crate::model::{Identity, Tls, Trust, host_name};

/// Of the keys of `health`, whose type is at `kind`; `host` is that of the page.
pub fn read(section: &Section<'_>, kind: &Value<'_>, host: Option<&str>, problems: &mut Problems) -> Option<Tls> {
    let before = problems.0.len();
    let mut path = |key: &str| {
        let value = section.optional(key)?;
        tree::path(&format!("`{key}`"), value, problems)
    };
    let [ca, client_cert, client_key] = ["ca", "client_cert", "client_key"].map(&mut path);
    verification(section, kind, problems);
    let identity = match (section.optional("client_cert"), section.optional("client_key")) {
        (Some(value), None) => {
            problems.add(value.span(), "`client_cert` is shown by who has its key; add `client_key`");
            None
        }
        (None, Some(value)) => {
            problems.add(value.span(), "`client_key` is of a certificate; add `client_cert`");
            None
        }
        _ => client_cert.zip(client_key).map(|(client_cert, client_key)| Identity { client_cert, client_key }),
    };
    let sni = name(section, host, problems);
    (problems.0.len() == before).then_some(Tls { sni, trust: Trust { ca, identity } })
}

/// Whom to believe is to be said.
fn verification(section: &Section<'_>, kind: &Value<'_>, problems: &mut Problems) {
    let verify = section.optional("verify");
    let is_verified = match verify {
        Some(value) => match tree::boolean("`verify`", value, problems) {
            Some(verify) => verify,
            None => return,
        },
        None => true,
    };
    match (section.optional("ca"), verify) {
        (Some(_), Some(value)) if !is_verified => {
            let message = "`verify = false` takes every certificate, whatever `ca` has; leave one of the two out";
            problems.add(value.span(), message);
        }
        (None, _) if is_verified => {
            let message = "it is to be said whose certificates are good: add `ca = \"/etc/naru/ca.pem\"`, or \
                           `verify = false` if any is; the system's authorities are not asked, for they vouch for \
                           everybody, and not for your backends";
            problems.add(kind.span(), message);
        }
        _ => {}
    }
}

/// The name, if `sni` says one; it or the one in `host` must be one that certificates have.
fn name(section: &Section<'_>, host: Option<&str>, problems: &mut Problems) -> Option<String> {
    let sni = match section.optional("sni") {
        Some(value) => Some((value, tree::text("`sni`", value, problems)?)),
        None => None,
    };
    let of_host = section.optional("host").zip(host.map(host_name));
    if let Some((value, name)) = sni.or(of_host)
        && ServerName::try_from(name).is_err()
    {
        let name = name.escape_debug();
        let message =
            format!("`{name}` is no name that a certificate can be for; write a DNS name or an address in `sni`");
        problems.add(value.span(), message);
    }
    sni.map(|(_, name)| name.to_owned())
}
