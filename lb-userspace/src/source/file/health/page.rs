//! Reads what a page is asked for by, and judged by.

use hyper::http::uri::{Authority, PathAndQuery};

use super::super::{
    error::Problems,
    tree::{self, Section},
};
use crate::model::{Page, Version};

/// Of the keys of `health`; by TLS or without it.
pub fn read(section: &Section<'_>, is_tls: bool, problems: &mut Problems) -> Option<Page> {
    let before = problems.0.len();
    let path = line("path", section, problems, |text| !text.starts_with('/') || PathAndQuery::try_from(text).is_ok());
    let path = path.unwrap_or_else(|| Page::PATH.to_owned());
    if let Some(value) = section.optional("path").filter(|_| !path.starts_with('/')) {
        problems.add(value.span(), format!("`path` is `{path}`; it must begin with `/`"));
    }
    let host = host(section, problems);
    let version = version(section, is_tls, problems)?;
    let status = tree::parsed_or(section, "status", Default::default(), problems)?;
    let size = match section.optional("size") {
        Some(value) => {
            let size = tree::number("`size`", value, Page::SHORTEST.into(), Page::LONGEST.into(), problems)?;
            u16::try_from(size).ok()
        }
        None => None,
    };
    let header = match section.optional("header") {
        Some(value) => Some(tree::parsed("`header`", value, problems)?),
        None => None,
    };
    let body = match section.optional("body") {
        Some(value) => Some(tree::text("`body`", value, problems)?.to_owned()),
        None => None,
    };
    (problems.0.len() == before).then_some(Page { path, host, version, size, status, header, body })
}

/// The name that a backend is asked by, with a port or without.
pub fn host(section: &Section<'_>, problems: &mut Problems) -> Option<String> {
    line("host", section, problems, |text| Authority::try_from(text).is_ok() && !text.contains(['/', '?', '#', '@']))
}

/// A text of visible characters that `is_sound`: of others no request can be made.
fn line(key: &str, section: &Section<'_>, problems: &mut Problems, is_sound: fn(&str) -> bool) -> Option<String> {
    let value = section.optional(key)?;
    let text = tree::text(&format!("`{key}`"), value, problems)?;
    let is_line = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    let wrong = match is_line {
        false => "is empty or has spaces or special characters",
        true if !is_sound(text) => "has characters that may not be there",
        true => return Some(text.to_owned()),
    };
    problems.add(value.span(), format!("`{key}` {wrong}; write it as URLs do"));
    None
}

fn version(section: &Section<'_>, is_tls: bool, problems: &mut Problems) -> Option<Version> {
    let Some(value) = section.optional("version") else { return Some(Version::default()) };
    let version = tree::parsed("`version`", value, problems)?;
    let message = match (version, is_tls) {
        (Version::H2c, true) => "`h2c` is HTTP/2 without TLS; write `version = \"h2\"`, or `type = \"http\"`",
        (Version::H2, false) => "`h2` is HTTP/2 over TLS; write `version = \"h2c\"`, or `type = \"https\"`",
        _ => return Some(version),
    };
    problems.add(value.span(), message);
    None
}
