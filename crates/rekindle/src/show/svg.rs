//! One SVG: the coverage curve and the histogram of a usage map. No script, no font, no outside reference.

use super::curve::Point;
use std::fmt::Write;

/// What is drawn.
#[derive(Debug)]
pub struct Drawing<'a> {
    /// Above the picture.
    pub title: &'a str,
    /// Share of the volume to share of I/O, ascending.
    pub curve: &'a [Point],
    /// Label and height of each bar.
    pub bars: &'a [(String, f64)],
}

const WIDTH: f64 = 720.0;
const LEFT: f64 = 60.0;
const PLOT: f64 = WIDTH - LEFT - 20.0;
const HIGH: f64 = 220.0;

/// The SVG as text.
pub fn render(d: &Drawing<'_>) -> String {
    let mut s = String::new();
    let _ = write!(
        s,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} 620\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<title>{0}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"16\">{0}</text>\n",
        escape(d.title)
    );
    curve(&mut s, d.curve, 50.0);
    bars(&mut s, d.bars, 350.0);
    s.push_str("</svg>\n");
    s
}

fn curve(s: &mut String, points: &[Point], top: f64) {
    frame(s, top, "share of I/O", "share of the volume, hottest first");
    let mut path = format!("M{LEFT:.1} {:.1}", top + HIGH);
    for &(x, y) in points {
        let _ = write!(path, " L{:.1} {:.1}", LEFT + clamp(x) * PLOT, top + HIGH - clamp(y) * HIGH);
    }
    let _ = writeln!(s, "<path d=\"{path}\" fill=\"none\" stroke=\"#b03a2e\" stroke-width=\"2\"/>");
    for tick in [0.0, 0.5, 1.0] {
        let _ = writeln!(
            s,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.0} %</text>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.0} %</text>",
            LEFT + tick * PLOT,
            top + HIGH + 16.0,
            tick * 100.0,
            LEFT - 6.0,
            top + HIGH - tick * HIGH + 4.0,
            tick * 100.0
        );
    }
}

fn bars(s: &mut String, bars: &[(String, f64)], top: f64) {
    frame(s, top, "extents", "operations per extent");
    let max = bars.iter().map(|b| b.1).fold(0.0, f64::max);
    let step = PLOT / bars.len().max(1) as f64;
    for (i, (label, value)) in bars.iter().enumerate() {
        let high = if max > 0.0 { value / max * HIGH } else { 0.0 };
        let x = LEFT + i as f64 * step;
        let _ = writeln!(
            s,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{high:.1}\" fill=\"#2e6da4\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x + step * 0.1,
            top + HIGH - high,
            step * 0.8,
            x + step / 2.0,
            top + HIGH + 16.0,
            escape(label)
        );
    }
}

fn frame(s: &mut String, top: f64, y_title: &str, x_title: &str) {
    let _ = writeln!(
        s,
        "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{PLOT}\" height=\"{HIGH}\" fill=\"none\" stroke=\"#999\"/>\n\
         <text x=\"{LEFT}\" y=\"{:.1}\">{y_title}</text>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{x_title}</text>",
        top - 6.0,
        LEFT + PLOT,
        top + HIGH + 34.0
    );
}

fn clamp(x: f64) -> f64 {
    if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) }
}

fn escape(s: &str) -> String {
    super::table::printable(s)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_numbers_stay_inside() {
        let d = Drawing {
            title: "<a>&\"",
            curve: &[(0.5, 2.0), (f64::NAN, 1.0)],
            bars: &[("1".into(), 3.0), ("2".into(), 0.0)],
        };
        let svg = render(&d);
        assert!(svg.contains("<title>&lt;a&gt;&amp;&quot;</title>"));
        assert!(svg.contains("<path d=\"M60.0 270.0 L380.0 50.0 L60.0 50.0\""), "{svg}");
        assert!(!svg.contains("NaN") && svg.ends_with("</svg>\n"));
    }
}
