//! Says what is wrong with a text that is not TOML, in words that help more than the grammar's.

use std::ops::Range;

use super::error::Problem;

/// The problem that `error` is in `text`.
pub(super) fn problem(text: &str, error: &toml::de::Error) -> Problem {
    let span = error.span().unwrap_or(0..0);
    if error.message() == "duplicate key" {
        return duplicate(text, span);
    }
    if let Some(word) = bare_word(text, &span) {
        let value = &text[word.clone()];
        let message = if value.bytes().all(|byte| byte.is_ascii_digit()) {
            format!("`{value}` begins with a zero; write `{}`", value.trim_start_matches('0'))
        } else {
            format!("`{value}` is not a TOML value; write text in quotes: `\"{value}\"`")
        };
        return Problem { span: word, message };
    }
    Problem { span, message: format!("this is not TOML: {}", error.message()) }
}

fn duplicate(text: &str, span: Range<usize>) -> Problem {
    let key = text.get(span.clone()).unwrap_or_default();
    let line_start = text[..span.start].rfind('\n').map_or(0, |newline| newline + 1);
    let message = if text[line_start..span.start].trim_start().starts_with('[') {
        format!("[{key}] is already defined above; merge the two")
    } else {
        format!("`{key}` is already set above; remove one of the two")
    };
    Problem { span, message }
}

/// The unquoted word around `span`, where it stands as a value. The parser gives up somewhere within it: at the second
/// dot of `10.0.0.1`.
fn bare_word(text: &str, span: &Range<usize>) -> Option<Range<usize>> {
    let in_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '/' | '-' | '_');
    let start = text.get(..span.start)?.trim_end_matches(in_word).len();
    let length = text[start..].find(|c| !in_word(c)).unwrap_or(text.len() - start);
    let before = text[..start].trim_end();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let in_header = before.ends_with('[') && before[line_start..].trim_start().trim_start_matches('[').is_empty();
    let is_value = before.ends_with(['=', '[', ',']) && !in_header;
    let word = &text[start..start + length];
    // A value that is TOML is not what the parser complains of.
    let is_toml = toml::de::DeValue::parse(word).is_ok();
    (is_value && !span.is_empty() && length > 0 && !is_toml).then_some(start..start + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> (String, String) {
        let error = toml::de::DeTable::parse(text).unwrap_err();
        let Problem { span, message } = problem(text, &error);
        (text[span].to_owned(), message)
    }

    #[test]
    fn forgotten_quotes_are_told() {
        for (text, word) in [
            ("a = ipip", "ipip"),
            ("a = 10.0.0.1 # x", "10.0.0.1"),
            ("a = [tcp/80]", "tcp/80"),
            ("a = [\n  \"tcp/80\",\n  tcp/443,\n]", "tcp/443"),
            ("a = { b = 2001:db8::1 }", "2001:db8::1"),
        ] {
            let expected = format!("`{word}` is not a TOML value; write text in quotes: `\"{word}\"`");
            assert_eq!(message(text), (word.to_owned(), expected), "{text}");
        }
        assert_eq!(message("a = 007").1, "`007` begins with a zero; write `7`");
    }

    #[test]
    fn repeated_keys_and_tables_are_told() {
        assert_eq!(message("a = 1\na = 2").1, "`a` is already set above; remove one of the two");
        assert_eq!(message("[a]\n[a]").1, "[a] is already defined above; merge the two");
    }

    #[test]
    fn the_rest_is_in_the_words_of_the_grammar() {
        assert_eq!(message("[vip\n").1, "this is not TOML: unclosed table, expected `]`");
        assert_eq!(message("[[vip]\n").1, "this is not TOML: unclosed array table, expected `]`");
        assert_eq!(message("a = 5 5").1, "this is not TOML: string values must be quoted, expected literal string");
    }
}
