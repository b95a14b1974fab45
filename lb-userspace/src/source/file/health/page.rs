//! Reads what a page is asked for by, and judged by.

use super::super::{
    error::Problems,
    tree::{self, Section},
};
use crate::model::Page;

/// Of the keys of `health`.
pub fn read(section: &Section<'_>, problems: &mut Problems) -> Option<Page> {
    let mut line = |key: &str| {
        let value = section.optional(key)?;
        let text = tree::text(&format!("`{key}`"), value, problems)?;
        let is_line = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_line {
            problems.add(
                value.span(),
                format!("`{key}` is empty or has spaces or special characters; write it as URLs do"),
            );
        }
        is_line.then(|| text.to_owned())
    };
    let (path, host) = (line("path").unwrap_or_else(|| Page::PATH.to_owned()), line("host"));
    if let Some(value) = section.optional("path").filter(|_| !path.starts_with('/')) {
        problems.add(value.span(), format!("`path` is `{path}`; it must begin with `/`"));
    }
    let status = match section.optional("status") {
        Some(value) => tree::parsed("`status`", value, problems)?,
        None => Default::default(),
    };
    let body = match section.optional("body") {
        Some(value) => Some(tree::text("`body`", value, problems)?.to_owned()),
        None => None,
    };
    Some(Page { path, host, status, body })
}
