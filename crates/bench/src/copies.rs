//! Backup and restore of a disk image beside the programs people use for it: full, incremental after a day's changes,
//! restore to a new file. Everything until it is on the disk: `sync` is inside the time. Rounds interleaved.

use crate::rig::cost::{self, Cost};
use crate::rig::report::{Report, Table};
use crate::rig::svg::{Bar, Group};
use crate::rig::{files, image, servers, svg, workspace};
use crate::stats::Rounds;
use crate::{Result, fail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How large.
pub struct Size {
    /// Rounds.
    pub rounds: usize,
    /// Bytes of the image.
    pub image: u64,
    /// Share of the image that changes before the incremental.
    pub changed: f64,
    /// Leave these programs out.
    pub without: Vec<String>,
}

/// Programs compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tool {
    Rekindle,
    Restic,
    Borg,
    QemuImg,
    Nbdcopy,
    Cp,
}

const TOOLS: [Tool; 6] = [Tool::Rekindle, Tool::Restic, Tool::Borg, Tool::QemuImg, Tool::Nbdcopy, Tool::Cp];

impl Tool {
    const fn name(self) -> &'static str {
        match self {
            Tool::Rekindle => "rekindle",
            Tool::Restic => "restic",
            Tool::Borg => "borg, zstd 1",
            Tool::QemuImg => "qemu-img convert -c, zstd",
            Tool::Nbdcopy => "nbdcopy",
            Tool::Cp => "cp",
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Tool::Rekindle => "rekindle",
            Tool::Restic => "restic",
            Tool::Borg => "borg",
            Tool::QemuImg => "qemu-img",
            Tool::Nbdcopy => "nbdcopy",
            Tool::Cp => "cp",
        }
    }

    /// Keeps history: a second backup stores what changed.
    const fn incremental(self) -> bool {
        matches!(self, Tool::Rekindle | Tool::Restic | Tool::Borg)
    }

    fn present(self) -> bool {
        self == Tool::Rekindle || Command::new(self.program()).arg("--version").output().is_ok()
    }
}

/// A tool at work in a folder of its own.
struct Bench<'a> {
    tool: Tool,
    home: PathBuf,
    image: &'a Path,
}

impl Bench<'_> {
    fn command(&self) -> Result<Command> {
        let mut command = match self.tool {
            Tool::Rekindle => servers::ours(&self.home)?,
            tool => Command::new(tool.program()),
        };
        let password = self.home.join("password");
        std::fs::write(&password, "measure\n")?;
        std::fs::write(self.home.join("key"), [7; 32])?;
        command.env("REKINDLE_REPO", self.repo()).env("REKINDLE_KEY_FILE", self.home.join("key"));
        command.env("RESTIC_REPOSITORY", self.repo()).env("RESTIC_PASSWORD_FILE", &password);
        command.env("RESTIC_CACHE_DIR", self.home.join("cache"));
        command.env("BORG_REPO", self.repo()).env("BORG_PASSPHRASE", "measure");
        command.env("BORG_BASE_DIR", &self.home).env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
        command.current_dir(&self.home);
        Ok(command)
    }

    fn repo(&self) -> PathBuf {
        self.home.join("repo")
    }

    fn init(&self) -> Result<()> {
        let _ = std::fs::remove_dir_all(&self.home);
        std::fs::create_dir_all(&self.home)?;
        let mut command = self.command()?;
        match self.tool {
            Tool::Rekindle => command.arg("init"),
            Tool::Restic => command.args(["init", "-q"]),
            Tool::Borg => command.args(["init", "-e", "repokey-blake2"]),
            _ => return std::fs::create_dir_all(self.repo()).map_err(Into::into),
        };
        cost::run(&mut command).map(|_| ())
    }

    fn backup(&self, name: &str) -> Result<Cost> {
        let (image, copy) = (self.image, self.repo().join("copy"));
        let mut command = self.command()?;
        match self.tool {
            Tool::Rekindle => command.arg("backup").arg(image).args(["--as", "bench", "-q"]),
            Tool::Restic => command.args(["backup", "-q"]).arg(image),
            Tool::Borg => command.args(["create", "-C", "zstd,1"]).arg(format!("::{name}")).arg(image),
            Tool::QemuImg => command
                .args(["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd"])
                .arg(image)
                .arg(&copy),
            Tool::Nbdcopy => command.arg(image).arg(fresh(&copy, image)?),
            Tool::Cp => command.args(["--sparse=auto"]).arg(image).arg(&copy),
        };
        self.timed(&mut command)
    }

    fn restore(&self, name: &str, to: &Path) -> Result<Cost> {
        let _ = std::fs::remove_dir_all(to);
        std::fs::create_dir_all(to)?;
        let (copy, disk) = (self.repo().join("copy"), to.join("disk"));
        let mut command = self.command()?;
        match self.tool {
            Tool::Rekindle => command.args(["restore", "bench@latest", "-q", "--to"]).arg(&disk),
            Tool::Restic => command.args(["restore", "-q", "latest", "--target"]).arg(to),
            Tool::Borg => command.current_dir(to).arg("extract").arg(format!("::{name}")),
            Tool::QemuImg => command.args(["convert", "-f", "qcow2", "-O", "raw"]).arg(&copy).arg(&disk),
            Tool::Nbdcopy => command.arg(&copy).arg(fresh(&disk, &copy)?),
            Tool::Cp => command.args(["--sparse=auto"]).arg(&copy).arg(&disk),
        };
        self.timed(&mut command)
    }

    /// Runs, then waits for the disk: the bytes are there when the time is.
    fn timed(&self, command: &mut Command) -> Result<Cost> {
        cost::sync(&self.home)?;
        let began = std::time::Instant::now();
        let mut cost = cost::run(command)?;
        cost::sync(&self.home)?;
        cost.wall = began.elapsed();
        Ok(cost)
    }
}

/// nbdcopy writes into a file that is there, of the right size.
fn fresh(path: &Path, like: &Path) -> Result<PathBuf> {
    let _ = std::fs::remove_file(path);
    std::fs::File::create(path)?.set_len(std::fs::metadata(like)?.len())?;
    Ok(path.to_owned())
}

#[derive(Default)]
struct Found {
    wall: Rounds,
    cpu: Rounds,
    memory: Rounds,
    stored: Rounds,
}

impl Found {
    fn add(&mut self, cost: Cost, stored: u64) {
        self.wall.0.push(cost.wall.as_secs_f64());
        self.cpu.0.push(cost.cpu);
        self.memory.0.push(cost.memory as f64 / 1_048_576.0);
        self.stored.0.push(stored as f64 / 1_048_576.0);
    }
}

const STAGES: [&str; 3] = ["full backup", "incremental backup", "restore to a new file"];

/// Measures and reports.
pub fn run(size: &Size, report: &Report) -> Result<()> {
    let home = workspace("copies")?;
    let image = home.path().join("disk.raw");
    image::real(&image, size.image)?;
    let tools: Vec<Tool> =
        TOOLS.into_iter().filter(|t| t.present() && !size.without.iter().any(|w| w == t.program())).collect();
    let mut found: BTreeMap<(usize, usize), Found> = BTreeMap::new();
    for round in 0..size.rounds {
        // All full backups see one image, then all incrementals its successor.
        let turns: Vec<usize> = (0..tools.len()).map(|i| (i + round) % tools.len()).collect();
        let bench =
            |t: usize| Bench { tool: tools[t], home: home.path().join(tools[t].program()), image: &image };
        for &t in &turns {
            bench(t).init()?;
            files::warm(&image)?;
            let cost = bench(t).backup("full")?;
            found.entry((0, t)).or_default().add(cost, cost::stored(&bench(t).repo())?);
        }
        image::change_file(&image, size.changed, round as u64)?;
        for &t in turns.iter().filter(|t| tools[**t].incremental()) {
            let before = cost::stored(&bench(t).repo())?;
            files::warm(&image)?;
            let cost = bench(t).backup("incremental")?;
            found.entry((1, t)).or_default().add(cost, cost::stored(&bench(t).repo())? - before);
        }
        for &t in &turns {
            let to = bench(t).home.join("restored");
            let cost = bench(t).restore("incremental", &to)?;
            let restored = largest(&to)?.ok_or("nothing was restored")?;
            if tools[t].incremental() && !same(&image, &restored)? {
                return fail(format!("{} restored another image", tools[t].name()));
            }
            found.entry((2, t)).or_default().add(cost, 0);
            std::fs::remove_dir_all(&bench(t).home)?;
        }
        eprintln!("round {} of {} done", round + 1, size.rounds);
    }
    report.plot("copies", &plot(&tools, &found))?;
    report.section("copies", &text(size, &tools, &found))
}

/// The restored image: programs keep or drop the path it had.
fn largest(folder: &Path) -> Result<Option<PathBuf>> {
    let mut best: Option<(u64, PathBuf)> = None;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let path = if path.is_dir() { largest(&path)? } else { Some(path) };
        if let Some(path) = path {
            let len = std::fs::metadata(&path)?.len();
            if best.as_ref().is_none_or(|(most, _)| len > *most) {
                best = Some((len, path));
            }
        }
    }
    Ok(best.map(|(_, path)| path))
}

fn same(a: &Path, b: &Path) -> Result<bool> {
    Ok(Command::new("cmp").arg("-s").arg(a).arg(b).status()?.success())
}

fn text(size: &Size, tools: &[Tool], found: &BTreeMap<(usize, usize), Found>) -> String {
    let mut out = format!(
        "A {} MiB ext4 image of this machine's installed files, in the page cache; {:.1} % of it rewritten in runs of 16 KiB \
         before the incremental. {} rounds; wall time until everything is flushed. rekindle reads the image at rest (key \
         file, so no key derivation; restic and borg derive theirs).\n\n",
        size.image >> 20,
        size.changed * 100.0,
        size.rounds
    );
    for (stage, title) in STAGES.iter().enumerate() {
        out += &format!("**{title}**\n\n");
        let mut table = Table::new(&["program", "wall s", "/ rekindle", "CPU s", "memory MiB", "stored MiB"]);
        let ours = tools.iter().position(|t| *t == Tool::Rekindle).and_then(|t| found.get(&(stage, t)));
        for (t, tool) in tools.iter().enumerate() {
            let Some(f) = found.get(&(stage, t)) else { continue };
            let ratio = ours.map_or("-".into(), |o| f.wall.ratio(&o.wall).show(2));
            let stored = if stage == 2 { "-".into() } else { f.stored.show(0) };
            table.row(vec![
                tool.name().into(),
                f.wall.show(2),
                ratio,
                f.cpu.show(2),
                f.memory.show(0),
                stored,
            ]);
        }
        out += &table.markdown();
        out.push('\n');
    }
    out + "![backup and restore](plots/copies.svg)\n"
}

fn plot(tools: &[Tool], found: &BTreeMap<(usize, usize), Found>) -> String {
    let group = |(stage, title): (usize, &&str)| {
        let bar = |(t, tool): (usize, &Tool)| {
            let f = found.get(&(stage, t))?;
            Some(Bar { label: tool.name().into(), value: f.wall.median(), range: f.wall.range() })
        };
        Group { title: (*title).into(), bars: tools.iter().enumerate().filter_map(bar).collect() }
    };
    let groups: Vec<Group> = STAGES.iter().enumerate().map(group).collect();
    svg::bars("Backup and restore, seconds until flushed", "s", &groups)
}
