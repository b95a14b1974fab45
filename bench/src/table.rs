//! The one look of all reports.

use comfy_table::{CellAlignment, Table, presets};

/// A table with this header, its first `words` columns to the left and the others, which are numbers, to the right.
pub fn table<const N: usize>(header: [&str; N], words: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for column in table.column_iter_mut().skip(words) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
