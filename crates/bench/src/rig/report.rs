//! Results as Markdown in docs/benchmarks.md, plots beside it in docs/plots. Each benchmark owns the text between two
//! marks, which a run replaces whole: what stands there came from one run of the command it names.

use super::machine;
use crate::{Result, fail};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A table of strings.
#[derive(Default)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these columns.
    pub fn new(head: &[&str]) -> Self {
        Table { head: head.iter().map(|h| (*h).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// As Markdown: first column to the left, numbers to the right.
    pub fn markdown(&self) -> String {
        let mut out = format!("| {} |\n|---|", self.head.join(" | "));
        out += &"---:|".repeat(self.head.len().saturating_sub(1));
        out.push('\n');
        for row in &self.rows {
            let _ = writeln!(out, "| {} |", row.join(" | "));
        }
        out
    }
}

/// Where results go: a folder with benchmarks.md, or only the terminal.
pub struct Report {
    docs: Option<PathBuf>,
}

impl Report {
    /// Into `docs`, when given.
    pub const fn new(docs: Option<PathBuf>) -> Self {
        Report { docs }
    }

    /// Replaces the section `name` by `body`, and says which command made it and where.
    pub fn section(&self, name: &str, body: &str) -> Result<()> {
        println!("{body}");
        let Some(docs) = &self.docs else { return Ok(()) };
        let path = docs.join("benchmarks.md");
        let text = std::fs::read_to_string(&path)?;
        let command: Vec<String> = std::env::args().skip(1).collect();
        let made = format!(
            "Made by `rekindle-bench {}` at commit {} on {}.\n",
            command.join(" "),
            commit(docs),
            machine::describe()
        );
        std::fs::write(&path, replace(&text, name, &format!("{made}\n{}", body.trim_end()))?)?;
        Ok(())
    }

    /// Writes a plot; `body` may refer to it as `plots/NAME.svg`.
    pub fn plot(&self, name: &str, svg: &str) -> Result<()> {
        let Some(docs) = &self.docs else { return Ok(()) };
        std::fs::create_dir_all(docs.join("plots"))?;
        Ok(std::fs::write(docs.join("plots").join(format!("{name}.svg")), svg)?)
    }
}

fn commit(docs: &Path) -> String {
    let out = std::process::Command::new("git")
        .args(["rev-parse", "--short=10", "HEAD"])
        .current_dir(docs)
        .output();
    out.map_or_else(|_| "unknown".into(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

fn replace(text: &str, name: &str, body: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- bench:{name} -->\n"), format!("<!-- /bench:{name} -->"));
    let Some((before, rest)) = text.split_once(&begin) else {
        return fail(format!("docs/benchmarks.md has no mark for {name}"));
    };
    let Some((_, after)) = rest.split_once(&end) else {
        return fail(format!("docs/benchmarks.md: the mark for {name} does not end"));
    };
    Ok(format!("{before}{begin}{body}\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_whole() {
        let text = "a\n<!-- bench:x -->\nold\n<!-- /bench:x -->\nb\n";
        let new = replace(text, "x", "new").unwrap();
        assert_eq!(new, "a\n<!-- bench:x -->\nnew\n<!-- /bench:x -->\nb\n");
        assert_eq!(replace(&new, "x", "new").unwrap(), new);
        assert!(replace(text, "y", "new").is_err());
    }

    #[test]
    fn tables_are_markdown() {
        let mut table = Table::new(&["a", "b"]);
        table.row(vec!["1".into(), "2".into()]);
        assert_eq!(table.markdown(), "| a | b |\n|---|---:|\n| 1 | 2 |\n");
    }
}
