//! `restore NAME@WHEN`: with `--to` alone a plain copy; with `--listen` online at once, then filling.

mod again;
mod online;
mod partial;
mod plain;
mod plan;

use crate::cli::RestoreArgs;
use crate::errors::{Failure, Outcome};
use crate::out::Out;
use crate::{moments, names, places};
pub use online::going_on;
pub use plan::Plan;
use plan::{Target, Targets};

/// Decides which it is.
pub fn run(args: &RestoreArgs, out: Out) -> Outcome<u8> {
    let named = moments::named(&args.moment)?;
    let set = args.named.as_deref().unwrap_or(&named.name);
    names::set(set)?;
    if !args.dry_run && !args.listen.is_empty() {
        return online::run(args, set, out);
    }
    if args.dry_run
        && !args.listen.is_empty()
        && let Some((place, found)) = online::interrupted(args, set)?
    {
        return again::tell(args, set, &place, &found, out);
    }
    let opened = plan::open(args)?;
    if args.dry_run {
        return plan::tell(args, set, &opened, out);
    }
    plain::run(args, set, opened, out)
}

/// Which volume goes where: a lone volume needs no name.
fn targets(args: &RestoreArgs, volumes: &[String]) -> Outcome<Targets> {
    if let [to] = &args.to[..]
        && to == "-"
    {
        return match volumes {
            [lone] if args.listen.is_empty() => Ok(Targets::Stdout(lone.clone())),
            [_] => Err(Failure::usage(
                "stdout cannot be served",
                "it can only be written from the beginning to the end",
                "leave out --listen, or name a file or device",
            )),
            _ => Err(Failure::usage(
                "stdout holds one volume",
                format!("the moment has {}: {}", volumes.len(), volumes.join(", ")),
                format!("name one of them: NAME/{}@WHEN", volumes[0]),
            )),
        };
    }
    let mut left: Vec<&String> = volumes.iter().collect();
    let mut chosen = Vec::new();
    for word in &args.to {
        let (volume, path) = names::disk(word)?;
        let volume = match (volume, volumes) {
            (Some(v), _) => v,
            (None, [lone]) => lone.clone(),
            (None, _) => {
                return Err(Failure::usage(
                    format!("{} does not say which volume", path.display()),
                    format!("the moment has several: {}", volumes.join(", ")),
                    "write --to VOL=DEST for each",
                ));
            }
        };
        let Some(at) = left.iter().position(|v| **v == volume) else {
            return Err(Failure::usage(
                format!("--to {word} cannot be"),
                if volumes.contains(&volume) {
                    format!("{volume} has a destination already")
                } else {
                    format!("the moment has no volume {volume}, only {}", volumes.join(", "))
                },
                "give each volume one destination",
            ));
        };
        left.remove(at);
        chosen.push(Target { volume, path });
    }
    if let [missing, ..] = left[..] {
        return Err(Failure::usage(
            format!("{missing} has no destination"),
            "a set is restored whole",
            format!("add --to {missing}=DEST, or restore one volume alone: NAME/VOLUME@WHEN"),
        ));
    }
    distinct(&chosen)?;
    chosen.sort_by_key(|t| volumes.iter().position(|v| *v == t.volume));
    Ok(Targets::Disks(chosen))
}

fn distinct(chosen: &[Target]) -> Outcome {
    for (i, a) in chosen.iter().enumerate() {
        if let Some(b) = chosen[..i].iter().find(|b| places::same(&b.path, &a.path)) {
            return Err(Failure::usage(
                format!("{} is the destination of two volumes", a.path.display()),
                format!("{} and {} would overwrite each other", b.volume, a.volume),
                "give each volume its own",
            ));
        }
    }
    Ok(())
}
