//! `backup NAME|PATH`: by the owner where there is one, else of the disks at rest.

use super::{status, steer};
use crate::cli::BackupArgs;
use crate::errors::{Exit, Failure, Outcome};
use crate::names;
use crate::out::Out;
use crate::progress::Shown;
use crate::repositories::{Access, failure};
use crate::serve::backup;
use crate::serve::backups::Backups;
use crate::serve::control::{BackupRequest, Message, Request};
use crate::serve::live::{Live, LivePlan};
use crate::serve::owner::{self, OwnerLock};
use crate::serve::record;
use crate::serve::restoring::holding;
use crate::serve::set::OwnedSet;
use crate::show::words;
use crate::signals::Asked;
use rekindle_engine::repository::VolumeRecord;
use std::cmp::Ordering;
use std::path::{Path, PathBuf};

/// What is backed up.
struct Chosen {
    set: String,
    /// A process serves it.
    owned: bool,
    /// Its disks, if nobody serves it.
    disks: Vec<(String, PathBuf)>,
}

/// Finds out who has the disks, then backs them up.
pub fn run(args: &BackupArgs, out: Out) -> Outcome<u8> {
    let chosen = choose(args)?;
    let access = Access::given(&args.repo)?;
    if args.dry_run {
        return plan(&chosen, access.as_ref(), out);
    }
    let request = BackupRequest {
        repository: None,
        tags: args.tags.clone(),
        pre_hook: args.pre_hook.clone(),
        post_hook: args.post_hook.clone(),
    };
    if chosen.owned {
        let repository = access.map(|a| a.to_request()).transpose()?;
        let request = Request::Backup(BackupRequest { repository, ..request });
        return steer::perform(&chosen.set, &request, out);
    }
    at_rest(&chosen, Access::needed(&args.repo)?, &request, out)
}

fn choose(args: &BackupArgs) -> Outcome<Chosen> {
    if names::is_path(&args.what) {
        return choose_path(args);
    }
    if args.named.is_some() {
        return Err(Failure::usage(
            "--as cannot be used here",
            format!("`{}` is a set and has a name", args.what),
            "leave out --as, or name a path that begins with / or ./",
        ));
    }
    let set = args.what.clone();
    names::set(&set)?;
    if owner::alive()?.iter().any(|h| h.name == set) {
        return Ok(Chosen { set, owned: true, disks: Vec::new() });
    }
    match record::recall(&set)? {
        Some(r) => {
            let disks = r.volumes.into_iter().map(|v| (v.name, v.path)).collect();
            Ok(Chosen { set, owned: false, disks })
        }
        None => Err(Failure::new(
            Exit::Failed,
            format!("{set} is not known here"),
            "nobody serves it and it was never served or backed up by this user",
            match Path::new(&set).exists() {
                true => format!("if the file is meant: rekindle backup ./{set} --as NAME"),
                false => format!("name its disk: rekindle backup ./disk.raw --as {set}"),
            },
        )),
    }
}

fn choose_path(args: &BackupArgs) -> Outcome<Chosen> {
    let path = Path::new(&args.what);
    let holder = owner::owner_of(path);
    if let Some(h) = &holder {
        let set = args.named.clone().unwrap_or_else(|| h.name.clone());
        if set != h.name {
            return Err(owner::disk_busy(path, ""));
        }
        return Ok(Chosen { set, owned: true, disks: Vec::new() });
    }
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let set = args.named.clone().unwrap_or(stem);
    names::check(&set).map_err(|why| {
        Failure::usage(format!("`{set}` cannot be the name of a set"), why, "give a name with --as NAME")
    })?;
    Ok(Chosen { disks: vec![(set.clone(), path.to_path_buf())], set, owned: false })
}

fn at_rest(chosen: &Chosen, access: Access, request: &BackupRequest, out: Out) -> Outcome<u8> {
    // Before any thread: they inherit the signal mask.
    let asked = Asked::listen()?;
    // The password before the lock: nobody is kept waiting by a prompt.
    let repository = access.to_request()?;
    let paths: Vec<PathBuf> = chosen.disks.iter().map(|d| d.1.clone()).collect();
    let lock = OwnerLock::take(&chosen.set, "backup", &paths)?;
    let live = open(chosen)?;
    record::remember(&chosen.set, &chosen.disks)?;
    let set = OwnedSet::live(&chosen.set, &chosen.disks, live, lock, Backups::new(None, None));
    let mut shown = Shown::new(out, &chosen.set);
    let request = BackupRequest { repository: Some(repository), ..request.clone() };
    let end = backup::run(&set, &request, &mut |p| {
        shown.show(p);
        !asked.stopping()
    });
    drop(shown);
    set.close().iter().for_each(|w| out.warn(w));
    if let Message::Summary(summary) = end? {
        steer::tell(&summary, out);
    }
    Ok(0)
}

/// A disk that may only be read is backed up too; nothing is tracked, so the next backup compares it.
fn open(chosen: &Chosen) -> Outcome<Live> {
    let writable = |p: &PathBuf| rustix::fs::access(p, rustix::fs::Access::WRITE_OK).is_ok();
    let read_only = !chosen.disks.iter().all(|(_, p)| writable(p) || !p.exists());
    Live::open(&LivePlan { name: &chosen.set, disks: &chosen.disks, read_only })
}

fn plan(chosen: &Chosen, access: Option<&Access>, out: Out) -> Outcome<u8> {
    let (mut text, mut sizes) = (Vec::new(), Vec::new());
    if chosen.owned {
        let status = status::one(&chosen.set)?.ok_or_else(|| status::nobody(&chosen.set))?;
        let size: u64 = status.volumes.iter().map(|v| v.size_bytes).sum();
        text.push(format!(
            "would     snapshot {} ({}), which process {} serves",
            chosen.set,
            words::bytes(size),
            status.pid.unwrap_or_default()
        ));
        sizes.extend(status.volumes.into_iter().map(|v| (v.name, v.size_bytes)));
    } else {
        for (volume, path) in &chosen.disks {
            if let Some((_, found)) = holding(path)?.filter(|(_, f)| !f.is_live()) {
                return Err(found.refuse(path));
            }
            let size =
                size(path).map_err(|e| Failure::system(format!("cannot back {} up", path.display()), &e))?;
            text.push(format!("would     snapshot {volume} from {}, at rest", path.display()));
            sizes.push((volume.clone(), size));
        }
    }
    if let Some(access) = access {
        let near = crate::beneath::check("repository", &access.place)?;
        text.extend(near.map(|w| format!("warning   {w}")));
        let repository = access.open()?;
        let listing = repository
            .snapshots(Some(&chosen.set))
            .map_err(|e| failure(format!("cannot list the snapshots of {}", chosen.set), &e))?;
        match listing.snapshots.last() {
            Some(s) => {
                let short = s.commit.snapshot.short();
                text.push(format!("into      {}, after {}@{short}", repository.place(), chosen.set));
                text.extend(
                    sizes.iter().filter_map(|(volume, size)| resized(&s.commit.volumes, volume, *size)),
                );
            }
            None => text.push(format!("into      {}, the first of {}", repository.place(), chosen.set)),
        }
    }
    Ok(steer::would("backup", &chosen.set, text, out))
}

/// Of a file or device.
fn size(path: &Path) -> std::io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    std::fs::File::open(path)?.seek(SeekFrom::End(0))
}

/// What becomes of a disk that has another size than in its newest snapshot.
fn resized(before: &[VolumeRecord], volume: &str, size: u64) -> Option<String> {
    let was = before.iter().find(|v| v.name == volume)?.geometry.size;
    match size.cmp(&was) {
        Ordering::Equal => None,
        Ordering::Greater => {
            Some(format!("whole     {volume}: its size went from {was} to {size} bytes, all of it is read"))
        }
        Ordering::Less => Some(format!("refused   {volume}: it was cut short, from {was} to {size} bytes")),
    }
}
