//! A curve in block characters: the share of all I/O covered when the hottest x % of the volume are local.

/// A point of a curve: both from 0 to 1.
pub type Point = (f64, f64);

/// Draws an ascending curve as columns of eighth blocks, `width` by `height` characters, with axes in per cent.
pub fn draw(points: &[Point], width: usize, height: usize) -> Vec<String> {
    const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let column = |x: usize| {
        let y = value_at(points, (x + 1) as f64 / width as f64);
        (y.clamp(0.0, 1.0) * (height * 8) as f64).round() as usize
    };
    let columns: Vec<usize> = (0..width).map(column).collect();
    let mut lines: Vec<String> = (0..height)
        .map(|row| {
            let floor = (height - 1 - row) * 8;
            let cells: String = columns.iter().map(|c| EIGHTHS[c.saturating_sub(floor).min(8)]).collect();
            let label = match row {
                0 => "100 %",
                _ if row == height / 2 => " 50 %",
                _ => "     ",
            };
            format!("{label} |{}", cells.trim_end())
        })
        .collect();
    lines.push(format!("  0 % +{}", "-".repeat(width)));
    lines.push(format!("       0 %{:>1$}", "100 % of the volume", width.saturating_sub(3)));
    lines
}

/// The curve's height at `x`, straight between points; it begins at the origin.
pub fn value_at(points: &[Point], x: f64) -> f64 {
    let mut last = (0.0, 0.0);
    for &(px, py) in points {
        if px >= x {
            let span = px - last.0;
            return if span <= 0.0 { py } else { last.1 + (py - last.1) * (x - last.0) / span };
        }
        last = (px, py);
    }
    last.1
}

/// The smallest x at which the curve reaches `y`, if it does.
pub fn reaches(points: &[Point], y: f64) -> Option<f64> {
    let mut last = (0.0, 0.0);
    for &(px, py) in points {
        if py >= y {
            let span = py - last.1;
            return Some(if span <= 0.0 { px } else { last.0 + (px - last.0) * (y - last.1) / span });
        }
        last = (px, py);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_curve() {
        let points = [(0.1, 0.8), (0.5, 1.0), (1.0, 1.0)];
        assert_eq!(
            draw(&points, 30, 4),
            [
                "100 % |  ▂▂▃▃▄▄▅▅▆▆▇▇████████████████",
                "      | ▁████████████████████████████",
                " 50 % |▁█████████████████████████████",
                "      |██████████████████████████████",
                "  0 % +------------------------------",
                "       0 %        100 % of the volume",
            ]
            .map(String::from)
        );
        assert!((reaches(&points, 0.4).unwrap() - 0.05).abs() < 1e-9);
        assert!((value_at(&points, 0.3) - 0.9).abs() < 1e-9);
    }

    #[test]
    fn nothing_measured_draws_an_empty_frame() {
        let lines = draw(&[], 10, 2);
        assert_eq!(lines[0], "100 % |");
        assert_eq!(reaches(&[], 0.5), None);
        assert_eq!(value_at(&[], 0.5), 0.0);
    }
}
