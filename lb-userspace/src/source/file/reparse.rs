//! Reads a text that differs little from one that is known to be valid: only the VIPs that differ.

use std::sync::Arc;

use toml::de::DeTable;

use super::{error::Problems, read, section, validate};
use crate::model::{Config, Vip};

/// The config that `text` holds, where that is quick to tell: it differs from `before`, the text of `config`, in whole
/// VIPs only, and is valid. `None` says nothing about the text.
pub(super) fn reparse(config: &Config, before: &str, text: &str) -> Option<Config> {
    let (old, new) = (Parts::of(before)?, Parts::of(text)?);
    // Each part must be one VIP; `vip = [{ … }]` has none, and says so by its count.
    if old.head != new.head || old.vips.len() != config.vips.len() {
        return None;
    }
    let same = |(old, new): &(&&str, &&str)| old == new;
    let above = old.vips.iter().zip(&new.vips).take_while(same).count();
    let (old_rest, new_rest) = (&old.vips[above..], &new.vips[above..]);
    let below = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(same).count();
    let gone = &old_rest[..old_rest.len() - below];
    let come = &new_rest[..new_rest.len() - below];
    if !gone.iter().all(|part| is_vips(part)) {
        return None;
    }
    let changed = vips(&come.concat())?;
    let mut config = config.clone();
    config.vips.splice(above..above + gone.len(), changed);
    (config.vips.len() == new.vips.len() && validate::go_together(&config)).then_some(config)
}

/// A text cut before each `[[vip]]`.
struct Parts<'t> {
    head: &'t str,
    vips: Vec<&'t str>,
}

impl<'t> Parts<'t> {
    fn of(text: &'t str) -> Option<Self> {
        let starts = section::sections(text)?;
        let ends = starts.iter().skip(1).copied().chain([text.len()]);
        let vips = starts.iter().zip(ends).map(|(start, end)| &text[*start..end]).collect();
        Some(Self { head: &text[..starts.first().copied().unwrap_or(text.len())], vips })
    }
}

/// Whether nothing but VIPs is in the text.
fn is_vips(text: &str) -> bool {
    DeTable::parse(text).is_ok_and(|root| root.get_ref().keys().all(|key| key.get_ref() == "vip"))
}

/// The VIPs in a text that has nothing else, if each of them is sound.
fn vips(text: &str) -> Option<Vec<Arc<Vip>>> {
    let root = DeTable::parse(text).ok()?;
    if root.get_ref().keys().any(|key| key.get_ref() != "vip") {
        return None;
    }
    let mut problems = Problems::default();
    let draft = read::draft(root.get_ref(), &mut problems);
    validate::check_each(text, &draft, &mut problems);
    validate::finish(draft).filter(|_| problems.0.is_empty()).map(|config| config.vips)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# head
[node]
max_vips = 4
[[vip]]
name = "a"
address = "192.0.2.1"
ports = ["tcp/1"]
forward = "ipip"
# of b
[[vip]]
name = "b"
address = "192.0.2.2"
ports = ["tcp/1"]
forward = "ipip"
  [[vip.backends]]
  address = "10.0.0.1"

[[vip]]
name = "c"
address = "192.0.2.3"
ports = ["tcp/1"]
forward = "ipip"
[metadata]
"#;

    /// A sound text: `TEXT` has a table that no config has.
    fn sound() -> String {
        TEXT.replace("[metadata]\n", "")
    }

    fn config(text: &str) -> Option<Config> {
        Config::parse(text, "f".as_ref()).ok()
    }

    #[test]
    fn changed_vips_are_read() {
        let before = sound();
        let b = &before[before.find("# of b").unwrap()..before.find("[[vip]]\nname = \"c\"").unwrap()];
        let d = b.replace("\"b\"", "\"d\"").replace("192.0.2.2", "192.0.2.4");
        for text in [
            before.clone(),
            before.replace("10.0.0.1", "10.0.0.2"),
            before.replace("\"a\"", "\"x\""),
            before.replace("192.0.2.3", "192.0.2.4"),
            before.replace(
                "  [[vip.backends]]",
                "tracking = \"never\"\ntcp_idle = \"1h\"\nudp_idle = \"5s\"\n  [[vip.backends]]",
            ),
            before.replace(b, ""),
            before.replace(b, &format!("{d}{b}")),
            format!("{before}{d}"),
            before.replace(b, &d).replace("\"c\"", "\"e\""),
        ] {
            let quick = reparse(&config(&before).unwrap(), &before, &text);
            assert_eq!(quick, config(&text), "{text}");
            assert!(quick.is_some(), "{text}");
        }
    }

    #[test]
    fn doubt_and_mistakes_are_left_to_a_whole_parse() {
        let before = sound();
        let extra = |number: u8| {
            format!(
                "[[vip]]\nname = \"x{number}\"\naddress = \"192.0.3.{number}\"\nports = [\"tcp/1\"]\nforward = \"l2\"\n"
            )
        };
        for text in [
            before.replace("\"b\"", "\"a\""),
            before.replace("192.0.2.2", "192.0.2.1"),
            before.replace("10.0.0.1", "192.0.2.2"),
            before.replace("name = \"b\"", "nam = \"b\""),
            before.replace("# of b\n[[vip]]", "[[vip]]\ntcp_idle = 900"),
            before.replace("max_vips = 4", "max_vips = 4\nmax_flows = 2048"),
            before.replace("max_vips = 4", "max_vips = 5"),
            before.replace("forward = \"ipip\"\n  [[", "forward = \"ipip\"\nhash = [\n  [["),
            before.replace("# of b", "''' of b"),
            format!("{before}{}{}", extra(1), extra(2)),
            TEXT.to_owned(),
            before.replace("  [[vip.backends]]", "[node]\n  [[vip.backends]]"),
        ] {
            assert_eq!(reparse(&config(&before).unwrap(), &before, &text), None, "{text}");
        }
    }

    #[test]
    fn a_node_among_the_vips_is_not_overlooked() {
        let before = sound().replace("[node]\nmax_vips = 4\n", "") + "[node]\nmax_vips = 3\n";
        let known = config(&before).unwrap();
        for text in [before.replace("[node]\nmax_vips = 3\n", ""), before.replace("max_vips = 3", "max_vips = 9")] {
            assert_eq!(known.reparse(&before, &text, "f".as_ref()).ok(), config(&text));
            assert_ne!(config(&text), Some(known.clone()));
        }
    }
}
