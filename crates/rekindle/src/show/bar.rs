//! Progress bars and horizontal bars of a histogram.

/// `[######..............]`: twenty cells unless told; full only when done.
pub fn progress(share: f64, cells: usize) -> String {
    let share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
    let full = (share * cells as f64).floor() as usize;
    format!("[{}{}]", "#".repeat(full), ".".repeat(cells - full))
}

/// A horizontal bar with eighths of a cell: `value` of `max` over `cells`. Anything above zero shows.
pub fn block(value: f64, max: f64, cells: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if max.is_nan() || max <= 0.0 || value.is_nan() || value <= 0.0 {
        return String::new();
    }
    let n = ((value / max).min(1.0) * cells as f64 * 8.0).round().max(1.0) as usize;
    format!("{}{}", "█".repeat(n / 8), EIGHTHS[n % 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars() {
        assert_eq!(progress(0.31, 20), "[######..............]");
        assert_eq!(progress(0.9999, 20), "[###################.]");
        assert_eq!(progress(1.0, 20), "[####################]");
        assert_eq!(progress(f64::NAN, 4), "[....]");
        assert_eq!(progress(7.0, 4), "[####]");
        assert_eq!(block(1.0, 1.0, 3), "███");
        assert_eq!(block(0.5, 1.0, 3), "█▌");
        assert_eq!(block(1e-9, 1.0, 3), "▏");
        assert_eq!(block(0.0, 1.0, 3), "");
        assert_eq!(block(1.0, 0.0, 3), "");
    }
}
