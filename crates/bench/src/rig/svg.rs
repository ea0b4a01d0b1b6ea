//! Plots as SVG, small and readable on light and dark pages: bars with ranges, and lines.

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

/// A named line of points.
pub struct Line {
    /// What.
    pub label: String,
    /// Ascending in x.
    pub points: Vec<(f64, f64)>,
}

/// Lines over common axes that begin at zero.
pub fn lines(title: &str, x_title: &str, y_title: &str, lines: &[Line]) -> String {
    const HEIGHT: f64 = 360.0;
    let (left, top, right, bottom) = (60.0, 40.0, WIDTH - 190.0, HEIGHT - 45.0);
    let most = |f: fn(&(f64, f64)) -> f64| {
        lines.iter().flat_map(|l| l.points.iter()).map(f).fold(f64::MIN_POSITIVE, f64::max)
    };
    let (x_most, y_most) = (most(|p| p.0), most(|p| p.1));
    let mut out = head(title, HEIGHT);
    for tick in 0..=4 {
        let share = f64::from(tick) / 4.0;
        let (x, y) = (left + share * (right - left), bottom - share * (bottom - top));
        let _ = writeln!(
            out,
            "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            left - 6.0,
            y + 4.0,
            significant(y_most * share),
            bottom + 16.0,
            significant(x_most * share),
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text><text x=\"{left}\" y=\"34\">{}</text>",
        f64::midpoint(left, right),
        bottom + 34.0,
        escape(x_title),
        escape(y_title)
    );
    for (i, line) in lines.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let place = |&(x, y): &(f64, f64)| {
            let (x, y) = (left + x / x_most * (right - left), bottom - y / y_most * (bottom - top));
            format!("{x:.1},{y:.1}")
        };
        let points: Vec<String> = line.points.iter().map(place).collect();
        let y = top + 10.0 + i as f64 * 18.0;
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <rect x=\"{:.1}\" y=\"{:.1}\" width=\"12\" height=\"3\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            points.join(" "),
            right + 12.0,
            y - 5.0,
            right + 30.0,
            y,
            escape(&line.label)
        );
    }
    out + "</svg>\n"
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
        let line = Line { label: "l".into(), points: vec![(0.0, 0.0), (1.0, 2.0)] };
        let svg = lines("t", "x", "y", &[line]);
        assert!(svg.contains("polyline points=\"60.0,315.0 570.0,40.0\""), "{svg}");
    }
}
