//! "Did you mean": the known word that a mistyped one is closest to.

/// The candidate that `text` most likely stands for, where one is near enough to be worth naming.
pub(crate) fn nearest<'c>(text: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let lower = text.to_lowercase();
    // One edit in three letters: `adress` is near `address`, `health` is near nothing.
    let near_enough = (lower.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= near_enough)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Every candidate within reach of `text`, nearest first, at most three.
pub(crate) fn near<'c>(text: &str, candidates: impl IntoIterator<Item = &'c str>) -> Vec<&'c str> {
    let mut scored: Vec<_> = candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(text, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= 0.8)
        .collect();
    scored.sort_by(|(left, _), (right, _)| right.total_cmp(left));
    scored.into_iter().take(3).map(|(_, candidate)| candidate).collect()
}

/// What to write instead of `text`: the nearest candidate, or else all of them.
pub(crate) fn remedy<'c>(text: &str, candidates: impl Iterator<Item = &'c str> + Clone) -> String {
    match nearest(text, candidates.clone()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => format!("use one of {}", list(candidates)),
    }
}

/// `` `a`, `b`, `c` ``.
pub(crate) fn list<'c>(words: impl Iterator<Item = &'c str>) -> String {
    words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_named_and_far_ones_are_not() {
        let keys = ["name", "address", "ports", "forward"];
        for (text, expected) in [
            ("adress", Some("address")),
            ("Address", Some("address")),
            ("port", Some("ports")),
            ("fowrard", Some("forward")),
            ("health", None),
            ("x", None),
        ] {
            assert_eq!(nearest(text, keys), expected, "{text}");
        }
    }

    #[test]
    fn the_nearest_comes_first() {
        assert_eq!(near("web-1", ["dns", "web-2", "web-1b", "web"]), ["web-1b", "web-2", "web"]);
        assert!(near("mail", ["dns", "web"]).is_empty());
    }
}
