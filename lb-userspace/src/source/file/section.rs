//! A text in parts that can be parsed one by one: in a config of thousands of VIPs, parsing them all would be nearly
//! all of the time that a change of one backend takes.
//!
//! Parts are given only where each is certain to be a TOML document of its own with the same meaning as within the
//! whole; where that is not certain, the caller takes the whole text.

use std::{ops::Range, sync::Arc};

use toml::de::{DeTable, DeValue};

use crate::model::Config;

/// Where the parts of a text begin: each is a `[[vip]]` with the comments directly above it; what stands before the
/// first is the head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sections(Option<Arc<[usize]>>);

impl Sections {
    /// Of any text.
    pub fn of(text: &str) -> Self {
        Self(starts(text).map(Arc::from))
    }

    /// Of a text with these parts.
    pub(super) fn new(starts: Vec<usize>) -> Self {
        Self(Some(starts.into()))
    }

    /// Where they begin; `None` where a line that looks like a header may be part of a string.
    pub(super) fn starts(&self) -> Option<&[usize]> {
        self.0.as_deref()
    }

    /// The VIP of that name in `text`, which these are of; where the parts are the VIPs of `config`, at its place
    /// there.
    pub(super) fn vip(&self, text: &str, config: Option<&Config>, name: &str) -> Option<Range<usize>> {
        let starts = self.starts()?;
        let part = |index: usize| starts[index]..starts.get(index + 1).copied().unwrap_or(text.len());
        let is_it = |range: &Range<usize>| is_vip(&text[range.clone()], name);
        if let Some(config) = config.filter(|config| config.vips.len() == starts.len()) {
            let found = config.vips.iter().position(|vip| vip.name == name).map(part);
            return found.filter(|range| has_one_header(&text[range.clone()]) || is_it(range));
        }
        // Only parts in which the name stands in quotes can be it; nearly always there is one.
        let places = ['"', '\''].into_iter().flat_map(|quote| matches_of(text, format!("{quote}{name}{quote}")));
        let mut parts = places.filter_map(|place| starts.partition_point(|start| *start <= place).checked_sub(1));
        parts.find_map(|index| Some(part(index)).filter(is_it))
    }

    /// The last VIP of `text` and what follows it.
    pub(super) fn last(&self, text: &str) -> Option<Range<usize>> {
        Some(*self.starts()?.last()?..text.len())
    }

    /// The head of `text`, if `[node]` is there.
    pub(super) fn node(&self, text: &str) -> Option<Range<usize>> {
        let end = *self.starts()?.first()?;
        let root = DeTable::parse(&text[..end]).ok()?;
        (root.get_ref().contains_key("node") && !root.get_ref().contains_key("vip")).then_some(0..end)
    }
}

/// Where each `[[vip]]` begins, with the comments directly above it; `None` where a line that looks like a header may
/// be part of a string.
pub(super) fn starts(text: &str) -> Option<Vec<usize>> {
    if ["\"\"\"", "'''"].into_iter().any(|quotes| text.contains(quotes)) {
        return None;
    }
    let mut starts = Vec::new();
    let mut line_start = 0;
    let mut comments = None;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim_start();
        if trimmed.starts_with('#') {
            comments.get_or_insert(line_start);
        } else {
            let above = comments.take();
            if is_header(trimmed) {
                starts.push(above.unwrap_or(line_start));
            }
        }
        line_start += line.len();
    }
    Some(starts)
}

/// Whether a part of a valid text has no header but the one that it begins with: then all of it is of that VIP.
pub(super) fn has_one_header(part: &str) -> bool {
    part.split('\n').filter(|line| line.trim_start().starts_with('[')).count() == 1
}

fn is_header(line: &str) -> bool {
    let inner = line.strip_prefix("[[").and_then(|line| line.split_once("]]"));
    inner.is_some_and(|(key, _)| key.trim_matches([' ', '\t']) == "vip")
}

fn matches_of(text: &str, pattern: String) -> Vec<usize> {
    text.match_indices(&pattern).map(|(place, _)| place).collect()
}

/// Whether `section` holds one VIP, of that name, and nothing else.
fn is_vip(section: &str, name: &str) -> bool {
    let Ok(root) = DeTable::parse(section) else { return false };
    let root = root.get_ref();
    let Some(DeValue::Array(vips)) = root.get("vip").map(|vips| vips.get_ref()) else { return false };
    let is_it = |vip: &DeValue<'_>| vip.get("name").is_some_and(|value| value.get_ref().as_str() == Some(name));
    root.len() == 1 && vips.len() == 1 && vips.iter().all(|vip| is_it(vip.get_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(text: &str, name: &str) -> Option<Range<usize>> {
        Sections::of(text).vip(text, None, name)
    }

    fn node(text: &str) -> Option<Range<usize>> {
        Sections::of(text).node(text)
    }

    fn last(text: &str) -> Option<Range<usize>> {
        Sections::of(text).last(text)
    }

    #[test]
    fn a_vip_begins_at_the_comments_above_it() {
        let text =
            "# top\n[node]\n\n# of a\n[[vip]]\nname = \"a\"\n\n# about both\n\n# of b\n  [[ vip ]]\nname = 'b'\n";
        let part = |range: Option<Range<usize>>| &text[range.unwrap()];
        assert_eq!(part(node(text)), "# top\n[node]\n\n");
        assert_eq!(part(vip(text, "a")), "# of a\n[[vip]]\nname = \"a\"\n\n# about both\n\n");
        assert_eq!(part(vip(text, "b")), "# of b\n  [[ vip ]]\nname = 'b'\n");
        assert_eq!(vip(text, "c"), None);
        assert_eq!(last(text), vip(text, "b"));
        assert_eq!(last("[node]\n"), None);
    }

    #[test]
    fn a_part_with_one_header_is_its_vip_alone() {
        for (part, is_certain) in [
            ("# of a\n  [[vip]]\nname = \"a\" # [node]\nports = [\n  \"tcp/1\",\n]\n# [node]\n", true),
            ("[[vip]]\r\nname = \"a\"\r\n", true),
            ("[[vip]]\nname = \"a\"\n\t[node]\n", false),
            ("[[vip]]\nname = \"a\"\n[[vip.backends]]\naddress = \"10.0.0.1\"\n", false),
            ("[[vip]]\nports = [\n[\"tcp/1\"],\n]\n", false),
        ] {
            assert_eq!(has_one_header(part), is_certain, "{part}");
        }
    }

    #[test]
    fn a_vip_with_another_table_behind_it_is_no_part_although_the_config_is_known() {
        let a = "[[vip]]\nname = \"a\"\naddress = \"192.0.2.1\"\nports = [\"tcp/1\"]\nforward = \"l2\"\n";
        let b = a.replace("\"a\"", "\"b\"").replace("192.0.2.1", "192.0.2.2");
        let text = format!("{a}{b}[node]\ninterfaces = []\n");
        let config = Config::parse(&text, "f".as_ref()).unwrap();
        let vip = |name| Sections::of(&text).vip(&text, Some(&config), name);
        assert_eq!((vip("a"), vip("b"), vip("c")), (Some(0..a.len()), None, None));
    }

    #[test]
    fn doubt_means_the_whole_text() {
        let string = "[[vip]]\nname = \"\"\"\n[[vip]]\nname = \"a\"\n\"\"\"\n";
        assert_eq!(vip(string, "a"), None);
        let interleaved = "[[vip]]\nname = \"a\"\n[node]\n[[vip.backends]]\n[[vip]]\nname = \"b\"\n";
        assert_eq!(vip(interleaved, "a"), None);
        assert_eq!(node(interleaved), None);
        assert_eq!(vip("vip = [{ name = \"a\" }]", "a"), None);
        assert_eq!(vip("[[vip]]\naddress = \"a\"\n", "a"), None);
    }
}
