//! Columns of text, each as wide as its widest cell.

use std::fmt::Write as _;

/// To which side a column leans.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Align {
    /// Words.
    Left,
    /// Quantities.
    Right,
}

/// A table under construction.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(columns: &[Align]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row. Cells beyond the columns are dropped; those that lack are empty.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let mut cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// The lines, each after `indent`, cells two spaces apart, without spaces at the end.
    pub fn render(&self, indent: &str) -> String {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for ((cell, align), width) in row.iter().zip(&self.columns).zip(&widths) {
                // Writing to a String cannot fail.
                let _ = match align {
                    Align::Left => write!(line, "{cell:<width$}  "),
                    Align::Right => write!(line, "{cell:>width$}  "),
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_aligned_and_lines_end_where_their_text_ends() {
        let mut table = Table::new(&[Align::Left, Align::Right, Align::Left]);
        table.row(["LINK", "RTT", "STATE"]);
        table.row(["l0", "301 ms", ""]);
        table.row(["l10", "9 ms", "suspect"]);
        assert_eq!(table.render("  "), "  LINK     RTT  STATE\n  l0    301 ms\n  l10     9 ms  suspect\n");
    }

    #[test]
    fn width_is_counted_in_characters_and_rows_are_made_to_fit() {
        let mut table = Table::new(&[Align::Left, Align::Left]);
        table.row(["é", "x"]);
        table.row(["ab", "y", "too much"]);
        table.row(["c"]);
        assert_eq!(table.render(""), "é   x\nab  y\nc\n");
    }
}
