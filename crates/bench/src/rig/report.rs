//! Results as Markdown in docs/benchmarks.md, plots beside it in docs/plots. Each benchmark owns the text between two
//! marks, which a run replaces whole: what stands there came from one run of the command it names.

use super::machine;
use crate::stats::Rounds;
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

/// A target, and what was measured of it.
pub struct Goal {
    what: String,
    limit: f64,
    more_is_better: bool,
    found: Rounds,
}

impl Goal {
    /// Reached by a median of `limit` or more.
    pub fn at_least(limit: f64, what: impl Into<String>, found: Rounds) -> Self {
        Goal { what: what.into(), limit, more_is_better: true, found }
    }

    /// Reached by a median of `limit` or less.
    pub fn at_most(limit: f64, what: impl Into<String>, found: Rounds) -> Self {
        Goal { what: what.into(), limit, more_is_better: false, found }
    }

    fn judged(&self) -> &'static str {
        let median = self.found.median();
        let reached = if self.more_is_better { median >= self.limit } else { median <= self.limit };
        match (median.is_nan(), reached) {
            (true, _) => "not measured",
            (_, true) => "yes",
            (_, false) => "**no**",
        }
    }
}

/// Targets as a table: a median reaches or misses its own, whatever the range.
pub fn goals(all: &[Goal]) -> String {
    let mut table = Table::new(&["target", "limit", "measured", "reached"]);
    for goal in all {
        let limit = format!("{} {}", if goal.more_is_better { "at least" } else { "at most" }, goal.limit);
        table.row(vec![goal.what.clone(), limit, goal.found.show(2), goal.judged().into()]);
    }
    table.markdown()
}

/// Where the results of one section go: a folder with benchmarks.md, or only the terminal.
pub struct Report {
    docs: Option<PathBuf>,
    /// What else ran when the section began.
    load: f64,
}

impl Report {
    /// Into `docs`, when given. The section begins now.
    pub fn new(docs: Option<PathBuf>) -> Self {
        Report { docs, load: machine::load() }
    }

    /// Replaces the section `name` by `body`, and says which command made it and where.
    pub fn section(&self, name: &str, body: &str) -> Result<()> {
        println!("{body}");
        let Some(docs) = &self.docs else { return Ok(()) };
        let path = docs.join("benchmarks.md");
        let text = std::fs::read_to_string(&path)?;
        let command: Vec<String> = std::env::args().skip(1).collect();
        let made = format!(
            "Made by `make bench ONLY={name}` (`rekindle-bench {}`) at commit {} on {}; load average before it {:.1}.\n",
            command.join(" "),
            commit(docs),
            machine::describe(),
            self.load
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
    fn goals_are_judged_by_their_medians() {
        let found = |v: &[f64]| Rounds(v.to_vec());
        let text = goals(&[
            Goal::at_least(1.5, "a", found(&[1.0, 1.5, 9.0])),
            Goal::at_most(1.0, "b", found(&[1.1])),
            Goal::at_most(1.0, "c", found(&[])),
        ]);
        let ends: Vec<&str> = text.lines().skip(2).map(|l| l.rsplit("| ").next().unwrap_or("")).collect();
        assert_eq!(ends, ["yes |", "**no** |", "not measured |"], "{text}");
    }

    #[test]
    fn tables_are_markdown() {
        let mut table = Table::new(&["a", "b"]);
        table.row(vec!["1".into(), "2".into()]);
        assert_eq!(table.markdown(), "| a | b |\n|---|---:|\n| 1 | 2 |\n");
    }
}
