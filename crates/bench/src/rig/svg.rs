//! Plots as SVG, small and readable on light and dark pages: bars with the ranges of their rounds.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const COLOURS: [&str; 7] = ["#d95f02", "#7570b3", "#1b9e77", "#a6761d", "#666666", "#e7298a", "#66a61e"];

/// One bar: a value and the range of its rounds.
pub struct Bar {
    /// What.
    pub label: String,
    /// Median.
    pub value: f64,
    /// Smallest and largest.
    pub range: (f64, f64),
}

/// A group of bars under one heading.
pub struct Group {
    /// Heading.
    pub title: String,
    /// Its bars.
    pub bars: Vec<Bar>,
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn head(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\"><rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\
         <text x=\"10\" y=\"20\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
        escape(title)
    )
}

/// Horizontal bars, each group scaled to its own largest value.
pub fn bars(title: &str, unit: &str, groups: &[Group]) -> String {
    let rows: usize = groups.iter().map(|g| g.bars.len() + 2).sum();
    let mut out = head(title, 36.0 + rows as f64 * 18.0);
    let mut y = 40.0;
    for group in groups {
        let most = group.bars.iter().map(|b| b.range.1).fold(f64::MIN_POSITIVE, f64::max);
        let scale = 440.0 / most;
        let _ =
            writeln!(out, "<text x=\"10\" y=\"{y}\" font-weight=\"bold\">{}</text>", escape(&group.title));
        for (i, bar) in group.bars.iter().enumerate() {
            y += 18.0;
            let (low, high) = bar.range;
            let _ = writeln!(
                out,
                "<text x=\"180\" y=\"{y}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"190\" y=\"{:.1}\" width=\"{:.1}\" height=\"12\" fill=\"{}\"/>\
                 <path d=\"M{:.1} {:.1}H{:.1}\" stroke=\"#000\" stroke-width=\"1.5\"/>\
                 <text x=\"{:.1}\" y=\"{y}\">{} {unit}</text>",
                escape(&bar.label),
                y - 10.0,
                bar.value * scale,
                COLOURS[i % COLOURS.len()],
                190.0 + low * scale,
                y - 4.0,
                190.0 + high * scale,
                196.0 + high * scale,
                significant(bar.value),
            );
        }
        y += 30.0;
    }
    out + "</svg>\n"
}

/// Three significant digits.
pub fn significant(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_are_well_formed() {
        let bar = |l: &str, v| Bar { label: l.into(), value: v, range: (v * 0.9, v * 1.1) };
        let svg = bars(
            "a < b",
            "k",
            &[Group { title: "reads".into(), bars: vec![bar("x", 1.0), bar("y", 250.0)] }],
        );
        assert!(svg.contains("a &lt; b") && svg.ends_with("</svg>\n") && svg.contains("250 k"));
    }
}
