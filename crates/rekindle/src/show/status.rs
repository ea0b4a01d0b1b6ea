//! A status as a table of sets, or one set in full.

use super::table::Table;
use super::{bar, words};
use crate::serve::control::{Damage, RestoreStatus, SetStatus, State};
use jiff::Timestamp;
use std::time::{Duration, SystemTime};

/// One line a set.
pub fn table(sets: &[SetStatus], now: SystemTime) -> Vec<String> {
    let mut t =
        Table::new(&["NAME", "STATE", ">SIZE", ">I/O LOCAL", ">LEFT", ">CLIENTS", "LAST BACKUP", "NEXT"]);
    for s in sets {
        let (restore, served) = (s.restore.as_ref(), s.interrupted.is_none());
        let backup = s.backup.as_ref();
        t.row([
            s.name.clone(),
            format!("{}{}", s.state.word(), if damage(s).is_some() { ", damaged" } else { "" }),
            words::bytes(s.volumes.iter().map(|v| v.size_bytes).sum()),
            restore.map_or(if served { "all" } else { "-" }.into(), |r| words::percent(r.local_io_share)),
            restore.and_then(|r| r.remaining_s).map_or("-".into(), seconds),
            s.volumes.iter().map(|v| v.connections).sum::<u64>().to_string(),
            last_backup(s, now),
            backup.and_then(|b| b.next.as_deref()).map_or("-".into(), |t| relative(t, now)),
        ]);
    }
    let mut lines = t.lines();
    // The sets of a process have one repository.
    let mut told = sets.iter().flat_map(trouble).collect::<Vec<_>>();
    told.dedup();
    lines.extend(told.into_iter().flatten());
    lines.extend(sets.iter().flat_map(interrupted));
    lines
}

/// Everything about one set.
pub fn full(s: &SetStatus, now: SystemTime) -> Vec<String> {
    let damaged = if damage(s).is_some() { ", damaged" } else { "" };
    let mut lines = vec![format!("{}  {}{damaged}", s.name, s.state.word())];
    if let Some(f) = &s.failure {
        lines.push(format!("failed    {}", f.cause));
        lines.push(format!("cure      {}", f.cure));
    }
    if let (Some(pid), Some(since)) = (s.pid, &s.since) {
        lines.push(format!("served    by process {pid}, begun {}", relative(since, now)));
    }
    let mut t = Table::new(&["VOLUME", ">SIZE", ">EXTENT", ">CLIENTS", "DISK", "URI"]);
    for v in &s.volumes {
        t.row([
            v.name.clone(),
            words::bytes(v.size_bytes),
            words::bytes(v.extent_bytes),
            v.connections.to_string(),
            format!("{}{}", v.path, if v.read_only { " (read-only)" } else { "" }),
            v.uri.clone().unwrap_or_else(|| "-".into()),
        ]);
    }
    lines.extend(t.lines());
    lines.extend(restore(s));
    if let Some(i) = &s.interrupted {
        lines.push(format!("moment    {}", i.moment));
        lines.push(format!("state     {} (part of the volume until settled)", i.state_place));
        lines.extend(Some(format!("asked     {}", i.asked)).filter(|_| !i.asked.is_empty()));
    }
    lines.extend(interrupted(s));
    if s.backup.is_some() {
        lines.push(format!("backup    {}", last_backup(s, now)));
        lines.extend(trouble(s).into_iter().flatten());
        if let Some(next) = s.backup.as_ref().and_then(|b| b.next.as_deref()) {
            lines.push(format!("next      {}", relative(next, now)));
        }
    }
    lines
}

fn restore(s: &SetStatus) -> Vec<String> {
    let Some(r) = &s.restore else { return Vec::new() };
    let share = if r.total_bytes == 0 { 1.0 } else { r.local_bytes as f64 / r.total_bytes as f64 };
    let mut filling = format!(
        "filling   {} {}, {} of I/O local",
        bar::progress(share, 20),
        words::percent(share),
        words::percent(r.local_io_share)
    );
    if let Some(left) = r.remaining_s {
        filling.push_str(&format!(", {} left", seconds(left)));
    }
    let mut lines = vec![
        format!("moment    {}", r.moment),
        filling,
        format!("log       {} of {}{}", words::bytes(r.log_bytes), words::bytes(r.log_limit_bytes), held(r)),
        format!("state     {} (part of the volume until settled)", r.state_place),
    ];
    if !r.asked.is_empty() {
        lines.push(format!("asked     {}", r.asked));
    }
    if !r.waiting.is_empty() {
        lines.push(format!("waiting   {}", r.waiting));
    }
    lines.extend(r.trouble.iter().map(|t| format!("          {}", t.cure)));
    lines.extend(damage(s).into_iter().flat_map(|d| d.status(&s.name)));
    lines.extend(r.uncompared.iter().flat_map(|d| d.status_uncompared(&s.name)));
    lines
}

/// Why nothing can be backed up.
fn trouble(s: &SetStatus) -> Option<[String; 2]> {
    let t = s.backup.as_ref()?.trouble.as_ref()?;
    Some([format!("trouble   {}", t.cause), format!("          {}", t.cure)])
}

/// What an interrupted restore needs somebody for.
fn interrupted(s: &SetStatus) -> Vec<String> {
    let Some(i) = &s.interrupted else { return Vec::new() };
    let came = i.local_bytes.map_or("with -n the command says how far it came".into(), |local| {
        format!("{} of {} are there", words::bytes(local), words::bytes(i.total_bytes))
    });
    let mut lines = vec![format!("{:<9} was interrupted, nobody serves it: {came}", s.name)];
    match &i.trouble {
        Some(t) => lines.extend([format!("          {}", t.cause), format!("          {}", t.cure)]),
        None => lines.extend([
            format!("go on     {}", i.go_on),
            format!("or        {} (loses what was written to it)", i.throw_away),
        ]),
    }
    lines
}

fn held(r: &RestoreStatus) -> String {
    match r.log_held_bytes {
        0 => String::new(),
        n => format!(
            ", {} held by small writes into damaged bytes: when it is full, writes wait",
            words::bytes(n)
        ),
    }
}

fn damage(s: &SetStatus) -> Option<&Damage> {
    s.restore.as_ref()?.damage.as_ref()
}

fn last_backup(s: &SetStatus, now: SystemTime) -> String {
    let Some(b) = &s.backup else { return "-".into() };
    if let Some(p) = &b.running {
        let share = p.total_bytes.filter(|t| *t > 0).map(|t| p.done_bytes as f64 / t as f64);
        return format!("running{}", share.map_or(String::new(), |x| format!(", {}", words::percent(x))));
    }
    match (&b.last_error, &b.last, &b.last_time) {
        (Some(e), ..) => format!("failed: {e}"),
        (None, None, _) if b.trouble.is_some() => "cannot be made".into(),
        (_, Some(last), Some(time)) => {
            format!("{} {}", last.snapshot.chars().take(8).collect::<String>(), relative(time, now))
        }
        _ if s.state == State::Live => "none yet".into(),
        _ => "-".into(),
    }
}

fn seconds(s: f64) -> String {
    words::duration(Duration::from_secs_f64(s.clamp(0.0, 1e9)))
}

/// An RFC 3339 time of a message, as people say it.
fn relative(time: &str, now: SystemTime) -> String {
    let now_ns = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    match time.parse::<Timestamp>() {
        Ok(t) => words::relative(u64::try_from(t.as_nanosecond()).unwrap_or(0), now_ns),
        Err(_) => time.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::control::{BackupStatus, BackupSummary, RestoreStatus, VolumeStatus};

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_763_733_787)
    }

    fn shop() -> SetStatus {
        SetStatus {
            name: "shop".into(),
            state: State::Online,
            failure: None,
            pid: Some(77),
            since: Some("2025-11-21T14:02:37Z".into()),
            volumes: vec![VolumeStatus {
                name: "data".into(),
                path: "/dev/vg1/data".into(),
                size_bytes: 412 << 30,
                extent_bytes: 1 << 16,
                read_only: false,
                uri: Some("nbd+unix:///shop/data?socket=/run/rekindle/nbd.sock".into()),
                connections: 2,
            }],
            restore: Some(RestoreStatus {
                moment: "shop@3f9c2a1e".into(),
                total_bytes: 100,
                local_bytes: 31,
                local_io_share: 0.93,
                remaining_s: Some(1260.0),
                log_bytes: 5 << 20,
                log_limit_bytes: 1 << 30,
                state_place: "/var/lib/rekindle/shop".into(),
                ..RestoreStatus::default()
            }),
            interrupted: None,
            backup: Some(BackupStatus {
                repository: "/srv/backup".into(),
                last: Some(BackupSummary { snapshot: "3f9c2a1e99".into(), ..BackupSummary::default() }),
                last_time: Some("2025-11-21T12:03:07Z".into()),
                next: Some("2025-11-21T14:04:07Z".into()),
                ..BackupStatus::default()
            }),
        }
    }

    #[test]
    fn one_line_a_set() {
        let mut live = shop();
        live.name = "db".into();
        live.state = State::Live;
        live.restore = None;
        live.backup = None;
        assert_eq!(
            table(&[shop(), live], now()),
            [
                "NAME  STATE      SIZE  I/O LOCAL    LEFT  CLIENTS  LAST BACKUP       NEXT",
                "shop  online  412 GiB       93 %  21 min        2  3f9c2a1e 2 h ago  in 60 s",
                "db    live    412 GiB        all       -        2  -                 -",
            ]
        );
    }

    #[test]
    fn a_failed_set_says_why_and_what_to_do() {
        let failure =
            crate::errors::Failure::new(crate::errors::Exit::Failed, "failed", "its disk", "restore it");
        let failed = SetStatus { state: State::Failed, failure: Some(failure.to_json()), ..shop() };
        assert!(table(std::slice::from_ref(&failed), now())[1].starts_with("shop  failed "));
        let lines = full(&failed, now());
        assert_eq!(lines[..3], ["shop  failed", "failed    its disk", "cure      restore it"]);
    }

    #[test]
    fn one_set_in_full() {
        assert_eq!(
            full(&shop(), now()),
            [
                "shop  online",
                "served    by process 77, begun 30 s ago",
                "VOLUME     SIZE  EXTENT  CLIENTS  DISK           URI",
                "data    412 GiB  64 KiB        2  /dev/vg1/data  nbd+unix:///shop/data?socket=/run/rekindle/nbd.sock",
                "moment    shop@3f9c2a1e",
                "filling   [######..............] 31 %, 93 % of I/O local, 21 min left",
                "log       5 MiB of 1 GiB",
                "state     /var/lib/rekindle/shop (part of the volume until settled)",
                "backup    3f9c2a1e 2 h ago",
                "next      in 60 s",
            ]
        );
    }
}
