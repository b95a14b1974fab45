//! A text in parts that can be parsed one by one: in a config of thousands of VIPs, parsing them all would be nearly
//! all of the time that a change of one backend takes.
//!
//! Parts are given only where each is certain to be a TOML document of its own with the same meaning as within the
//! whole; where that is not certain, the caller takes the whole text.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// The `[[vip]]` of that name, with the comments directly above its header.
pub(super) fn vip(text: &str, name: &str) -> Option<Range<usize>> {
    let sections = sections(text)?;
    // Only sections in which the name stands in quotes can be it; nearly always there is one.
    ['"', '\''].into_iter().flat_map(|quote| matches_of(text, format!("{quote}{name}{quote}"))).find_map(|place| {
        let index = sections.partition_point(|start| *start <= place).checked_sub(1)?;
        let end = sections.get(index + 1).copied().unwrap_or(text.len());
        let range = sections[index]..end;
        is_vip(&text[range.clone()], name).then_some(range)
    })
}

/// The last `[[vip]]` and what follows it.
pub(super) fn last(text: &str) -> Option<Range<usize>> {
    Some(*sections(text)?.last()?..text.len())
}

/// What stands before the first `[[vip]]`, if `[node]` is there.
pub(super) fn node(text: &str) -> Option<Range<usize>> {
    let end = *sections(text)?.first()?;
    let root = DeTable::parse(&text[..end]).ok()?;
    (root.get_ref().contains_key("node") && !root.get_ref().contains_key("vip")).then_some(0..end)
}

/// Where each `[[vip]]` begins, with the comments directly above it; `None` where a line that looks like a header may
/// be part of a string.
pub(super) fn sections(text: &str) -> Option<Vec<usize>> {
    if text.contains("\"\"\"") || text.contains("'''") {
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
