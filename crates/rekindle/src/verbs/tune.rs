//! `tune NAME`: changes a running restore.

use super::steer;
use crate::cli::TuneArgs;
use crate::errors::{Failure, Outcome};
use crate::out::Out;
use crate::serve::control::{First, Request, Tune};
use crate::show::words;
use crate::units;

/// Ranges in one request: more would not fit a line, and nobody writes them by hand.
const RANGES_MAX: usize = 4096;

/// Checks everything first, then asks the owner.
pub fn run(args: &TuneArgs, out: Out) -> Outcome<u8> {
    let limit = args.limit.as_deref().map(units::limit).transpose()?.map(|l| l.unwrap_or(0));
    let mut first = Vec::new();
    for word in &args.first {
        first.extend(ranges(word)?);
    }
    if first.len() > RANGES_MAX {
        return Err(Failure::usage(
            format!("{} ranges are too many", first.len()),
            format!("one request holds {RANGES_MAX}"),
            "join neighbouring ranges",
        ));
    }
    let tune = Tune { limit, weight: args.weight, first, online_now: args.online_now, verify: args.verify };
    if tune == Tune::default() {
        return Err(Failure::usage(
            "there is nothing to change",
            "no flag was given",
            "use --limit, --weight, --first, --online-now or --verify",
        ));
    }
    if args.dry_run {
        steer::restoring(&args.name)?;
        return Ok(steer::would("tune", &args.name, plan(&tune), out));
    }
    steer::perform(&args.name, &Request::Tune(tune), out)
}

fn plan(tune: &Tune) -> Vec<String> {
    let limit = tune.limit.map(|l| match l {
        0 => "would lift the limit of background work".to_string(),
        n => format!("would limit background work to {}", words::rate(n as f64)),
    });
    let bytes: u64 = tune.first.iter().map(|f| f.len).sum();
    limit
        .into_iter()
        .chain(tune.weight.map(|w| format!("would weigh it {w}")))
        .chain((bytes > 0).then(|| format!("would fill {} next", words::bytes(bytes))))
        .chain(tune.online_now.then(|| "would bring it online now".to_string()))
        .chain(tune.verify.then(|| "would read back and compare what was written".to_string()))
        .collect()
}

/// `[VOL:]START+LEN`, or a file with one of those a line (`#` begins a remark).
fn ranges(word: &str) -> Outcome<Vec<First>> {
    if let Ok(range) = range(word) {
        return Ok(vec![range]);
    }
    if !std::path::Path::new(word).exists() {
        return range(word).map(|r| vec![r]);
    }
    let text =
        std::fs::read_to_string(word).map_err(|e| Failure::system(format!("cannot read {word}"), &e))?;
    let lines = text.lines().enumerate().map(|(i, l)| (i + 1, l.split('#').next().unwrap_or("").trim()));
    lines
        .filter(|(_, l)| !l.is_empty())
        .map(|(number, line)| {
            range(line).map_err(|f| Failure { error: format!("{word}:{number}: {}", f.error), ..f })
        })
        .collect()
}

fn range(text: &str) -> Outcome<First> {
    let bad = |why: &str| {
        Failure::usage(
            format!("`{text}` is neither a range nor a file"),
            why,
            "write [VOL:]START+LEN, as 0+64MiB or data:1GiB+16MiB, or name a file with such lines",
        )
    };
    let (volume, rest) = match text.split_once(':') {
        Some((v, rest)) => {
            crate::names::check(v).map_err(|why| bad(&why))?;
            (Some(v.to_string()), rest)
        }
        None => (None, text),
    };
    let (start, len) = rest.split_once('+').ok_or_else(|| bad("it has no + between start and length"))?;
    let (start, len) = (units::bytes(start)?, units::bytes(len)?);
    if len == 0 || start.checked_add(len).is_none() {
        return Err(bad("it is empty or runs past all volumes"));
    }
    Ok(First { volume, start, len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_files_of_ranges() {
        assert_eq!(range("0+64KiB").unwrap(), First { volume: None, start: 0, len: 65536 });
        assert_eq!(
            range("data:1MiB+512").unwrap(),
            First { volume: Some("data".into()), start: 1 << 20, len: 512 }
        );
        for bad in ["", "5", "0+0", "a b:0+1", "x+1", "18446744073709551615+2"] {
            assert!(range(bad).is_err(), "{bad}");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hot");
        std::fs::write(&file, "# boot\n0+1MiB\n\nwal:0+8KiB # log\n").unwrap();
        assert_eq!(ranges(file.to_str().unwrap()).unwrap().len(), 2);
        std::fs::write(&file, "0+1MiB\nnonsense\n").unwrap();
        assert!(ranges(file.to_str().unwrap()).unwrap_err().error.contains("hot:2:"));
    }
}
