//! Quicker ways to read a valid text than all of it at once: of one that differs little from one that is known to be
//! valid only the VIPs that differ, and of one with thousands of VIPs a share of them on each CPU.

use std::sync::Arc;

use toml::de::DeTable;

use super::{
    error::Problems,
    read,
    section::{self, Sections},
    validate,
};
use crate::{
    cpus,
    model::{Config, Parts, Vip},
};

/// VIPs of a text that is long: to read it on all CPUs takes far more than to begin with that.
const LONG: usize = 256;

/// VIPs in a piece of a long text: so few that what is read of them stays in the cache until it is a config.
const A_PIECE: usize = 8;

/// The config that `text` holds, and its sections, where it is long, nothing but VIPs follows its head, and it is valid.
/// `None` says nothing about the text.
pub(super) fn in_pieces(text: &str) -> Option<(Config, Sections)> {
    let starts = section::starts(text)?;
    if starts.len() < LONG {
        return None;
    }
    let mut problems = Problems::default();
    let head = DeTable::parse(&text[..starts[0]]).ok()?;
    let node = read::draft(head.get_ref(), &mut problems).node;
    if !problems.0.is_empty() || head.get_ref().contains_key("vip") {
        return None;
    }
    let pieces = parts(text, &starts.iter().copied().step_by(A_PIECE).collect::<Vec<_>>());
    let vips = cpus::map(&pieces, 1, |piece| vips(piece)).into_iter().collect::<Option<Vec<_>>>()?.concat();
    if vips.len() != starts.len() || !validate::suits(&node, &vips) {
        return None;
    }
    Some((Config::new(Parts { node, vips }).ok()?, Sections::new(starts)))
}

/// The config that `text` holds, and its sections, where that is quick to tell: it differs from `before`, the text of
/// `config`, in whole VIPs only, and is valid. `None` says nothing about the text.
pub(super) fn reparse(config: &Config, before: &str, sections: &Sections, text: &str) -> Option<(Config, Sections)> {
    let starts = sections.starts()?;
    // Each part must be one VIP; `vip = [{ … }]` has none, and says so by its count.
    if starts.len() != config.vips.len() {
        return None;
    }
    let Middle { first, end, from, old_to, new_to } = Middle::of(before, starts, text)?;
    let middle = &text[from..new_to];
    let new_starts = section::starts(middle)?;
    // What stands before the first header belongs to the part above.
    if !middle.is_empty() && new_starts.first() != Some(&0) || has_long_quotes_at(text, [from, new_to]) {
        return None;
    }
    let old_parts: Vec<&str> = parts(&before[..old_to], &starts[first..end]);
    let new_parts: Vec<&str> = parts(middle, &new_starts);
    let same = |(old, new): &(&&str, &&str)| old == new;
    let above = old_parts.iter().zip(&new_parts).take_while(same).count();
    let (old_rest, new_rest) = (&old_parts[above..], &new_parts[above..]);
    let below = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(same).count();
    let gone = &old_rest[..old_rest.len() - below];
    let come = &new_rest[..new_rest.len() - below];
    if !gone.iter().all(|part| section::has_one_header(part) || is_vips(part)) {
        return None;
    }
    let changed = vips(&come.concat())?;
    if changed.len() != come.len() || !validate::suits(&config.node, &changed) {
        return None;
    }
    let after = config.with_vips(first + above..first + above + gone.len(), changed)?;
    if after.vips.is_empty() && !after.node.names_interfaces {
        return None;
    }
    let unchanged = starts[end..].iter().map(|start| start - old_to + new_to);
    let starts = starts[..first].iter().copied().chain(new_starts.iter().map(|start| from + start)).chain(unchanged);
    let sections = Sections::new(starts.collect());
    Some((after, sections))
}

/// The parts within which two texts differ, and one more, whose comments may begin elsewhere now.
struct Middle {
    /// Numbers of the first and behind the last of the parts of the text before.
    first: usize,
    end: usize,
    /// Where they begin in both texts, and where they end in each.
    from: usize,
    old_to: usize,
    new_to: usize,
}

impl Middle {
    /// `None` where the heads differ.
    fn of(before: &str, starts: &[usize], text: &str) -> Option<Self> {
        let above = common_prefix(before.as_bytes(), text.as_bytes());
        let below = common_suffix(&before.as_bytes()[above..], &text.as_bytes()[above..]);
        let first = starts.partition_point(|start| *start < above).checked_sub(1)?;
        let behind = starts.partition_point(|start| *start < before.len() - below);
        let end = (behind + 1).min(starts.len());
        let old_to = starts.get(end).copied().unwrap_or(before.len());
        Some(Self { first, end, from: starts[first], old_to, new_to: text.len() - (before.len() - old_to) })
    }
}

/// How many bytes are the same from the beginning.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    // Whole blocks are compared many bytes at a time.
    const BLOCK: usize = 4096;
    let blocks = a.chunks_exact(BLOCK).zip(b.chunks_exact(BLOCK)).take_while(|(a, b)| a == b).count() * BLOCK;
    blocks + a[blocks..].iter().zip(&b[blocks..]).take_while(|(a, b)| a == b).count()
}

/// How many bytes are the same from the end.
fn common_suffix(a: &[u8], b: &[u8]) -> usize {
    const BLOCK: usize = 4096;
    let blocks = a.rchunks_exact(BLOCK).zip(b.rchunks_exact(BLOCK)).take_while(|(a, b)| a == b).count() * BLOCK;
    let (a, b) = (&a[..a.len() - blocks], &b[..b.len() - blocks]);
    blocks + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

/// Whether the quotes of a string of several lines may stand across one of these places.
fn has_long_quotes_at(text: &str, places: [usize; 2]) -> bool {
    let around = |place: usize| &text.as_bytes()[place.saturating_sub(2)..(place + 2).min(text.len())];
    places.into_iter().any(|place| around(place).windows(3).any(|quotes| quotes == b"\"\"\"" || quotes == b"'''"))
}

/// `text` cut at each of `starts`.
fn parts<'t>(text: &'t str, starts: &[usize]) -> Vec<&'t str> {
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().zip(ends).map(|(start, end)| &text[*start..end]).collect()
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
    validate::vips(&draft).filter(|_| problems.0.is_empty())
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

    fn quick(before: &str, text: &str) -> Option<(Config, Sections)> {
        reparse(&config(before).unwrap(), before, &Sections::of(before), text)
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
            let (quick, sections) = quick(&before, &text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(Some(quick), config(&text), "{text}");
            assert_eq!(sections, Sections::of(&text), "{text}");
        }
    }

    /// A text with so many VIPs, each from `vip` with its number in the place of `#`.
    fn long(head: &str, vip: &str) -> String {
        (0..LONG + 16 * A_PIECE + 1).fold(head.to_owned(), |text, number| {
            text + &vip.replace('#', &format!("{}.{}", number / 250, number % 250))
        })
    }

    const NUMBERED: &str = "[[vip]]\nname = \"v#\"\naddress = \"198.18.#\"\nports = [\"tcp/1\"]\nforward = \"ipip\"\n\
                            backends = [ { address = \"10.0.0.1\" } ]\n";

    #[test]
    fn long_texts_are_read_in_pieces() {
        for head in ["", "# head\n", "[node]\nmax_vips = 400\nencap_source6 = \"fd00::/64\"\n"] {
            for vip in [NUMBERED, &NUMBERED.replace("10.0.0.1", "2001:db8::1")] {
                let text = long(head, vip);
                let whole = config(&text);
                let read = in_pieces(&text);
                assert_eq!(read, whole.map(|whole| (whole, Sections::of(&text))), "{head}{vip}");
            }
        }
        assert!(in_pieces(&long("", NUMBERED)).is_some());
    }

    #[test]
    fn doubt_and_mistakes_in_long_texts_are_left_to_a_whole_parse() {
        let sound = long("[node]\nmax_vips = 400\n", NUMBERED);
        for text in [
            sound.replace("max_vips = 400", "max_vips = 300"),
            sound.replace("max_vips", "max_vip"),
            sound.replacen("v1.4\"", "v0.4\"", 1),
            sound.replacen("198.18.1.4", "198.18.0.4", 1),
            sound.replacen("198.18.1.4", "198.18.1.444", 1),
            sound.replacen("forward = \"ipip\"\n", "", 1),
            sound.replacen("backends = [", "backends = [ #", 1),
            sound.replacen("[[vip]]", "x = '''\n[[vip]]", 1) + "'''\n",
            sound.replacen("[node]\nmax_vips = 400\n", "", 1) + "[node]\nmax_vips = 400\n",
            sound.clone() + "[other]\n",
            sound.replacen("[node]", "vip = []\n[node]", 1),
        ] {
            assert_eq!(in_pieces(&text), None, "{}", &text[..200]);
        }
        assert!(in_pieces(&sound).is_some());
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
            assert_eq!(quick(&before, &text), None, "{text}");
        }
    }

    #[test]
    fn a_node_among_the_vips_is_not_overlooked() {
        let before = sound().replace("[node]\nmax_vips = 4\n", "") + "[node]\nmax_vips = 3\n";
        let known = config(&before).unwrap();
        for text in [before.replace("[node]\nmax_vips = 3\n", ""), before.replace("max_vips = 3", "max_vips = 9")] {
            let reparsed = known.reparse(&before, &Sections::of(&before), &text, "f".as_ref());
            assert_eq!(reparsed.ok().map(|(config, _)| config), config(&text));
            assert_ne!(config(&text), Some(known.clone()));
        }
    }
}
