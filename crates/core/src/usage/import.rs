//! Traces of other tools, read into usage: `blktrace` text (blkparse's default output) and fio's iolog (versions 2 and 3).
//!
//! Line by line and without memory of its own, so that a trace of any length can be piped through. Lines that are no
//! guest reads or writes are skipped; a line that should be one and cannot be read is an error that names its number.

use crate::volume::ByteRange;

/// One operation of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Traced {
    /// Milliseconds since the beginning of the trace; 0 where the format has no time.
    pub at_ms: u64,
    /// Bytes of the device.
    pub range: ByteRange,
    /// A read; else a write or trim.
    pub is_read: bool,
}

/// A line that should be an operation and cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ImportError {
    /// Where and why.
    #[error("line {line} of the trace cannot be read: {why}")]
    Line {
        /// Counting from 1.
        line: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// The first line fits no format we know.
    #[error("this is neither blkparse's text output nor a fio iolog (version 2 or 3)")]
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Blkparse,
    Fio { timed: bool },
}

/// Reads a trace line by line.
#[derive(Clone, Debug, Default)]
pub struct Import {
    format: Option<Format>,
    line: u64,
}

impl Import {
    /// Before the first line.
    pub fn new() -> Self {
        Import::default()
    }
    /// Takes the next line; `None`: nothing the guest did.
    pub fn line(&mut self, text: &str) -> Result<Option<Traced>, ImportError> {
        self.line += 1;
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let format = match self.format {
            Some(format) => format,
            None => {
                let format = detect(text).ok_or(ImportError::Unknown)?;
                self.format = Some(format);
                if matches!(format, Format::Fio { .. }) {
                    return Ok(None);
                }
                format
            }
        };
        let fields: Vec<&str> = text.split_ascii_whitespace().take(16).collect();
        let parsed = match format {
            Format::Blkparse => blkparse(&fields),
            Format::Fio { timed } => fio(&fields, timed),
        };
        parsed.map_err(|why| ImportError::Line { line: self.line, why })
    }
}

fn detect(text: &str) -> Option<Format> {
    match text {
        "fio version 2 iolog" => Some(Format::Fio { timed: false }),
        "fio version 3 iolog" => Some(Format::Fio { timed: true }),
        _ => {
            let mut fields = text.split_ascii_whitespace();
            let (major, minor) = fields.next()?.split_once(',')?;
            let number = |s: &str| s.parse::<u32>().is_ok();
            let cpu_seq_time = fields.take(3).filter(|f| f.parse::<f64>().is_ok()).count() == 3;
            (number(major) && number(minor) && cpu_seq_time).then_some(Format::Blkparse)
        }
    }
}

/// `8,0 3 11 0.009507758 697 C W 223490 + 8 [0]`: device, cpu, sequence, seconds, pid, action, kind, sector, count.
/// Queued requests (Q) are what the guest asked; later stages repeat them.
fn blkparse(f: &[&str]) -> Result<Option<Traced>, &'static str> {
    // Summaries at the end ("CPU0 (8,0):", "Total ...") are no events.
    if f.len() < 7 || !f[0].contains(',') || f[0].starts_with(|c: char| !c.is_ascii_digit()) || f[5] != "Q" {
        return Ok(None);
    }
    let is_read = match f[6] {
        k if k.contains('R') => true,
        k if k.contains('W') || k.contains('D') => false,
        _ => return Ok(None),
    };
    let (Some(sector), Some(&"+"), Some(count)) = (f.get(7), f.get(8), f.get(9)) else { return Ok(None) };
    let seconds: f64 = f[3].parse().map_err(|_| "the time is no number")?;
    let sector: u64 = sector.parse().map_err(|_| "the sector is no number")?;
    let count: u64 = count.parse().map_err(|_| "the sector count is no number")?;
    let (start, len) = (sector.checked_mul(512), count.checked_mul(512));
    let range = range(start.ok_or("the sector is too large")?, len.ok_or("the sector count is too large")?)?;
    Ok(range.map(|range| Traced { at_ms: (seconds.max(0.0) * 1e3) as u64, range, is_read }))
}

/// Version 2: `FILE ACTION OFFSET LENGTH`, version 3 with milliseconds in front. `add`, `open`, `close`, `wait`, `sync`
/// and the like move no data.
fn fio(f: &[&str], timed: bool) -> Result<Option<Traced>, &'static str> {
    let (at_ms, f) = match (timed, f) {
        (true, [at, rest @ ..]) => (at.parse().map_err(|_| "the time is no number")?, rest),
        (_, f) => (0, f),
    };
    let (is_read, offset, len) = match f {
        [_, "read", offset, len] => (true, offset, len),
        [_, "write" | "trim", offset, len] => (false, offset, len),
        [_, "read" | "write" | "trim", ..] => return Err("offset and length are missing"),
        _ => return Ok(None),
    };
    let offset = offset.parse().map_err(|_| "the offset is no number")?;
    let len = len.parse().map_err(|_| "the length is no number")?;
    Ok(range(offset, len)?.map(|range| Traced { at_ms, range, is_read }))
}

fn range(start: u64, len: u64) -> Result<Option<ByteRange>, &'static str> {
    start.checked_add(len).ok_or("the range ends beyond every disk")?;
    Ok((len > 0).then(|| ByteRange::new(start, len)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(text: &str) -> Result<Vec<(u64, u64, u64, bool)>, ImportError> {
        let mut import = Import::new();
        let mut out = Vec::new();
        for line in text.lines() {
            out.extend(import.line(line)?.map(|t| (t.at_ms, t.range.start, t.range.len, t.is_read)));
        }
        Ok(out)
    }

    #[test]
    fn blkparse_text() {
        let text = "\
  8,0    3        1     0.000000000   697  Q   W 223490 + 8 [kjournald]
  8,0    3        2     0.000001829   697  G   W 223490 + 8 [kjournald]
  8,0    1        3     1.250000000   700  Q  RA 8 + 16 [cat]
  8,0    3       11     1.009507758   697  C   W 223490 + 8 [0]
  8,0    3       12     2.000000000     0  Q  DS 0 + 2048 [fstrim]
  8,0    3       13     2.100000000     0  Q  FN [fsync]
  8,0    3       14     2.200000000     0  m   N cfq697 dispatch
CPU3 (8,0):
 Reads Queued:           1,        8KiB  Writes Queued:          2
";
        let want = vec![(0, 223_490 * 512, 4096, false), (1250, 4096, 8192, true), (2000, 0, 1 << 20, false)];
        assert_eq!(all(text), Ok(want));
    }

    #[test]
    fn fio_iologs() {
        let v2 = "fio version 2 iolog\n/dev/sdb add\n/dev/sdb open\n/dev/sdb read 4096 8192\n/dev/sdb write 0 512\n/dev/sdb sync\n/dev/sdb wait 10\n/dev/sdb close\n";
        assert_eq!(all(v2), Ok(vec![(0, 4096, 8192, true), (0, 0, 512, false)]));
        let v3 = "fio version 3 iolog\n0 f add\n12 f read 4096 8192\n15 f trim 0 65536\n";
        assert_eq!(all(v3), Ok(vec![(12, 4096, 8192, true), (15, 0, 65_536, false)]));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        assert_eq!(all("hello\n"), Err(ImportError::Unknown));
        let bad = |line: u64, why| Err(ImportError::Line { line, why });
        assert_eq!(all("fio version 2 iolog\nf read 1\n"), bad(2, "offset and length are missing"));
        assert_eq!(all("fio version 2 iolog\n\nf read x 1\n"), bad(3, "the offset is no number"));
        let far = format!("fio version 2 iolog\nf read {} 512\n", u64::MAX);
        assert_eq!(all(&far), bad(2, "the range ends beyond every disk"));
        let far = format!("8,0 0 1 0.0 1 Q R {} + 8 [x]", u64::MAX / 2);
        assert_eq!(all(&far), bad(1, "the sector is too large"));
    }

    proptest! {
        #[test]
        fn no_text_panics(lines in prop::collection::vec("[0-9a-zQRW,.+ -]{0,60}|\\PC{0,30}", 0..20), head in 0usize..4) {
            let heads = ["", "fio version 2 iolog", "fio version 3 iolog", "8,0 0 1 0.0 1 Q R 0 + 8 [x]"];
            let mut import = Import::new();
            let _ = import.line(heads[head]);
            for line in lines {
                if let Ok(Some(t)) = import.line(&line) {
                    prop_assert!(t.range.len > 0 && t.range.start.checked_add(t.range.len).is_some());
                }
            }
        }
        #[test]
        fn written_operations_come_back(ops in prop::collection::vec((any::<u32>(), 1u32..1 << 20, any::<bool>()), 1..30)) {
            let mut text = String::from("fio version 3 iolog\n0 d add\n0 d open\n");
            let mut want = Vec::new();
            for (i, &(at, len, is_read)) in ops.iter().enumerate() {
                let (at, len, ms) = (u64::from(at) * 512, u64::from(len) * 512, i as u64);
                text += &format!("{ms} d {} {at} {len}\n", if is_read { "read" } else { "write" });
                want.push((ms, at, len, is_read));
            }
            prop_assert_eq!(all(&text), Ok(want));
        }
    }
}
