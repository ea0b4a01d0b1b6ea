//! Plain tables: a head, columns as wide as their widest cell, two spaces between, no frames, nothing at line ends.

/// Which side a column's cells lean to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table being filled.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; a title that begins with `>` leans right.
    pub fn new(titles: &[&str]) -> Table {
        let column = |t: &&str| match t.strip_prefix('>') {
            Some(t) => (t.to_string(), Align::Right),
            None => (t.to_string(), Align::Left),
        };
        Table { columns: titles.iter().map(column).collect(), rows: Vec::new() }
    }
    /// Appends a row; it has as many cells as there are columns.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let row: Vec<String> = cells.into_iter().map(|c| printable(&c.into())).collect();
        assert_eq!(row.len(), self.columns.len(), "a row has a cell for every column");
        self.rows.push(row);
    }
    /// The lines, head first.
    pub fn lines(&self) -> Vec<String> {
        let head: Vec<String> = self.columns.iter().map(|(t, _)| t.clone()).collect();
        let all: Vec<&Vec<String>> = std::iter::once(&head).chain(&self.rows).collect();
        let width =
            |i: usize| all.iter().map(|r| r[i].chars().count()).max().expect("the head is always there");
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        all.iter().map(|r| self.format(r, &widths)).collect()
    }
    fn format(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[i] - cell.chars().count());
            match self.columns[i].1 {
                Align::Left => line.extend([cell.as_str(), &pad]),
                Align::Right => line.extend([pad.as_str(), cell]),
            }
            line.push_str("  ");
        }
        line.trim_end().to_string()
    }
}

/// Names from a repository or a path may hold anything; a terminal must not be steered by them.
pub fn printable(s: &str) -> String {
    s.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut t = Table::new(&["NAME", ">SIZE", "STATE"]);
        t.row(["shop/data", "412 GiB", "live"]);
        t.row(["db", "8 MiB", "online, 93 %"]);
        assert_eq!(
            t.lines(),
            ["NAME          SIZE  STATE", "shop/data  412 GiB  live", "db           8 MiB  online, 93 %",]
        );
    }

    #[test]
    fn control_characters_reach_no_terminal() {
        let mut t = Table::new(&["NAME"]);
        t.row(["a\x1b[2Jb\n"]);
        assert_eq!(t.lines()[1], "a\u{fffd}[2Jb\u{fffd}");
    }
}
