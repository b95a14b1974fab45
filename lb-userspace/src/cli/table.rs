//! The one printer of everything that commands answer: tables for people, JSON for programs.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

/// How answers are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs; the same fields as the API's.
    Json,
}

impl Output {
    /// Prints `answer` as JSON, or as the text that `text` makes of it.
    pub fn print<T: Serialize>(self, answer: &T, text: impl FnOnce(&T) -> String) {
        let printed = match self {
            Self::Table => text(answer),
            Self::Json => serde_json::to_string_pretty(answer).unwrap_or_else(|error| error.to_string()) + "\n",
        };
        print(&printed);
    }
}

/// Prints `text` as it is. A reader that has gone (`naru vip list | head`) ends the process quietly.
pub fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Where the cells of a column stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table without borders: a header in capitals, columns three blanks apart. Just `(none)` where there is no row.
pub fn table<const N: usize>(header: [(&str, Align); N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.map(|(name, _)| name));
    table.add_rows(rows);
    if table.is_empty() {
        return "(none)\n".to_owned();
    }
    for (column, (_, align)) in table.column_iter_mut().zip(header) {
        column.set_padding((0, 3));
        column.set_cell_alignment(match align {
            Align::Left => CellAlignment::Left,
            Align::Right => CellAlignment::Right,
        });
    }
    table.trim_fmt() + "\n"
}

/// Names with their values, one a line, the values below each other.
pub fn fields(fields: &[(&str, &dyn Display)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len() + 1).max().unwrap_or_default();
    fields.iter().map(|(name, value)| format!("{:width$}  {value}\n", format!("{name}:"))).collect()
}

/// `bytes` with a binary prefix: `26.0 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_with_their_text() {
        let text = table(
            [("NAME", Align::Left), ("PACKETS", Align::Right), ("WHY", Align::Left)],
            [["web".into(), "5".into(), String::new()], ["dns-long".into(), "123456789".into(), "because".into()]],
        );
        assert_eq!(
            text, "NAME         PACKETS   WHY\nweb                5\ndns-long   123456789   because\n",
            "\n{text}"
        );
    }

    #[test]
    fn no_rows_is_said() {
        assert_eq!(table([("NAME", Align::Left)], []), "(none)\n");
    }

    #[test]
    fn bytes_have_the_largest_prefix_that_leaves_one_digit() {
        let texts = [0, 1023, 1024, 1536, 27_262_976, u64::MAX].map(bytes);
        assert_eq!(texts, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "26.0 MiB", "16777216.0 TiB"]);
    }

    #[test]
    fn fields_line_up() {
        assert_eq!(fields(&[("a", &1), ("long", &"x")]), "a:     1\nlong:  x\n");
    }
}
