//! Adding to and removing from an array in the way it is laid out.
//!
//! What stands between two elements besides the comma, their *gap*, is white space and comments. A comment on an
//! element's own line belongs to that element; comments on lines of their own belong to the place, and stay.

use toml_edit::{Array, RawString, Value};

/// Appends `value`: on a line of its own where the other elements are, with their indentation. `indent` is that of the
/// line that the array begins in, for an array that has no elements yet. With `own_line`, such an array gets one line
/// per element.
pub(super) fn push(array: &mut Array, value: impl Into<Value>, indent: &str, own_line: bool) {
    let mut value: Value = value.into();
    let (before, after) = gaps_around_new(array, indent, own_line);
    if array.is_empty() && before.contains('\n') {
        array.set_trailing_comma(true);
    }
    set_gap(array, array.len(), "");
    value.decor_mut().clear();
    array.push_formatted(value);
    set_gap(array, array.len() - 1, &before);
    set_gap(array, array.len(), &after);
}

/// Removes the element at `index`, which must be there, and the comment on its line.
pub(super) fn remove(array: &mut Array, index: usize) {
    let (before, after) = (gap(array, index), gap(array, index + 1));
    let at_end = index + 1 == array.len();
    let joined = match (split_last_line(&before), after.find('\n')) {
        // The element has its lines for itself: they go.
        (Some((above, _)), Some(line_end)) => format!("{above}{}", &after[line_end..]),
        _ if at_end && before.contains('#') => format!("{}\n", before.trim_end()),
        _ if at_end || after.contains('#') && !before.contains('#') => after,
        _ if after.contains('#') => format!("{before}{after}"),
        _ => before,
    };
    array.remove(index);
    let joined = if array.is_empty() && joined.trim().is_empty() { "" } else { &joined };
    set_gap(array, index, joined);
}

/// Removes the first element that `is_it` says yes to, as [`remove`] does; `false` where there is none.
pub(super) fn remove_where(array: &mut Array, is_it: impl Fn(&Value) -> bool) -> bool {
    let index = array.iter().position(is_it);
    if let Some(index) = index {
        remove(array, index);
    }
    index.is_some()
}

/// What is to stand before and behind a new last element.
fn gaps_around_new(array: &Array, indent: &str, own_line: bool) -> (String, String) {
    let last = gap(array, array.len());
    if array.is_empty() {
        return match own_line || last.contains('\n') {
            true => (format!("{}\n{indent}  ", last.trim_end()), format!("\n{indent}")),
            false => (String::new(), last),
        };
    }
    // The last element that begins a line shows how to.
    let gaps = (0..array.len()).rev().map(|index| gap(array, index));
    match gaps.into_iter().find_map(|gap| Some(split_last_line(&gap)?.1.to_owned())) {
        Some(indent) => {
            let closing = split_last_line(&last).map_or(last.clone(), |(_, line)| format!("\n{line}"));
            (format!("{}\n{indent}", last.trim_end()), closing)
        }
        None => (" ".to_owned(), last),
    }
}

/// What stands before the element at `index`, or before the closing bracket, besides the comma.
fn gap(array: &Array, index: usize) -> String {
    let behind = index.checked_sub(1).and_then(|index| array.get(index)?.decor().suffix()).and_then(RawString::as_str);
    let before = match array.get(index) {
        Some(value) => value.decor().prefix(),
        None => Some(array.trailing()),
    };
    [behind, before.and_then(RawString::as_str)].map(Option::unwrap_or_default).concat()
}

fn set_gap(array: &mut Array, index: usize, gap: &str) {
    let at_end = index == array.len();
    // Without a comma behind the last element, its gap is its own.
    let behind = if at_end && !array.trailing_comma() { gap } else { "" };
    let has_behind = index > 0;
    if let Some(value) = index.checked_sub(1).and_then(|index| array.get_mut(index)) {
        value.decor_mut().set_suffix(behind);
    }
    match array.get_mut(index) {
        Some(value) => value.decor_mut().set_prefix(gap),
        None if has_behind && !behind.is_empty() => array.set_trailing(""),
        None => array.set_trailing(gap),
    }
}

/// The text above its last line, and that line.
fn split_last_line(gap: &str) -> Option<(&str, &str)> {
    gap.rsplit_once('\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(text: &str) -> Array {
        text.parse::<Value>().unwrap().as_array().unwrap().clone()
    }

    fn pushed(text: &str) -> String {
        let mut array = array(text);
        push(&mut array, 9, "", false);
        array.to_string()
    }

    fn removed(text: &str, index: usize) -> String {
        let mut array = array(text);
        remove(&mut array, index);
        array.to_string()
    }

    #[test]
    fn a_new_element_looks_like_its_neighbours() {
        for (before, after) in [
            ("[]", "[9]"),
            ("[ ]", "[9 ]"),
            ("[1]", "[1, 9]"),
            ("[1,]", "[1, 9,]"),
            ("[ 1, 2 ]", "[ 1, 2, 9 ]"),
            ("[\n  1,\n  2,\n]", "[\n  1,\n  2,\n  9,\n]"),
            ("[\n  1,\n  2\n]", "[\n  1,\n  2,\n  9\n]"),
            ("[\n  1, # one\n  2, # two\n]", "[\n  1, # one\n  2, # two\n  9,\n]"),
            ("[\n  1,\n  2 # two\n]", "[\n  1,\n  2, # two\n  9\n]"),
            ("[\n\t1,\n\t# the end\n]", "[\n\t1,\n\t# the end\n\t9,\n]"),
            ("[\n  1,\n  2 ]", "[\n  1,\n  2,\n  9 ]"),
            ("[\n    1,\n  ]", "[\n    1,\n    9,\n  ]"),
            ("[ # none yet\n]", "[ # none yet\n  9,\n]"),
        ] {
            assert_eq!(pushed(before), after, "{before}");
        }
        let mut own_line = array("[]");
        push(&mut own_line, 9, "\t", true);
        assert_eq!(own_line.to_string(), "[\n\t  9,\n\t]");
    }

    #[test]
    fn an_element_goes_with_its_line() {
        let lines = "[\n  # first\n  1, # one\n  # second\n  2, # two\n  3, # three\n]";
        for (before, index, after) in [
            ("[1]", 0, "[]"),
            ("[1, 2, 3]", 0, "[2, 3]"),
            ("[1, 2, 3]", 1, "[1, 3]"),
            ("[1, 2, 3]", 2, "[1, 2]"),
            ("[ 1, 2, ]", 1, "[ 1, ]"),
            ("[ 1, 2 ]", 1, "[ 1 ]"),
            ("[\n  1,\n]", 0, "[]"),
            (lines, 0, "[\n  # first\n  # second\n  2, # two\n  3, # three\n]"),
            (lines, 1, "[\n  # first\n  1, # one\n  # second\n  3, # three\n]"),
            (lines, 2, "[\n  # first\n  1, # one\n  # second\n  2, # two\n]"),
            ("[\n  1, # one\n  2 # two\n]", 1, "[\n  1 # one\n]"),
            ("[\n  1, # one\n  2 # two\n]", 0, "[\n  2 # two\n]"),
            ("[\n  # why none\n  1,\n]", 0, "[\n  # why none\n]"),
            ("[ 1, 2, # pair\n  3 ]", 1, "[ 1, # pair\n  3 ]"),
            ("[ 1, # one\n  2 ]", 1, "[ 1 # one\n]"),
        ] {
            assert_eq!(removed(before, index), after, "{index} of {before}");
            after.parse::<Value>().unwrap();
        }
    }
}
