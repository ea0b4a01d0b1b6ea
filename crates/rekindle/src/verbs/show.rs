//! `show NAME[@WHEN]`: one snapshot in full.

use super::moment;
use crate::cli::ShowArgs;
use crate::errors::Outcome;
use crate::moments;
use crate::out::Out;
use crate::show::snapshot::Snapshot;
use crate::show::table::Table;
use crate::show::words;

/// Prints it.
pub fn run(args: &ShowArgs, out: Out) -> Outcome<u8> {
    let (repository, snapshot) = moment::open(&args.repo, &args.moment)?;
    // A volume that is not there is said to be missing, not passed over.
    moment::volumes(&snapshot, &moments::named(&args.moment)?)?;
    let info = snapshot.info();
    let shown = Snapshot::from(info);
    out.document(&shown);
    out.line(format!("moment    {}@{}", shown.set, info.commit.snapshot.short()));
    out.line(format!("id        {}", shown.id));
    out.line(format!("time      {}", words::time(info.commit.time_ns)));
    out.line(format!("made by   {} on {}", shown.tool, shown.host));
    out.line(format!("parent    {}", info.commit.parent.map_or("none".into(), |p| p.short())));
    if !shown.tags.is_empty() {
        out.line(format!("tags      {}", shown.tags.join(", ")));
    }
    out.line(format!("in        {}", repository.place()));
    let mut t = Table::new(&[
        "VOLUME", ">SIZE", ">USED", ">STORED", ">CHANGED", ">ADDED", ">EXTENT", "USAGE", "ROOT",
    ]);
    for v in &shown.volumes {
        t.row([
            v.name.clone(),
            words::bytes(v.size_bytes),
            words::bytes(v.used_bytes),
            words::bytes(v.stored_bytes),
            words::bytes(v.changed_bytes),
            words::bytes(v.new_bytes),
            words::bytes(v.extent_bytes),
            if v.has_usage { "yes" } else { "no" }.into(),
            v.root.clone(),
        ]);
    }
    t.lines().iter().for_each(|l| out.line(l));
    Ok(0)
}
