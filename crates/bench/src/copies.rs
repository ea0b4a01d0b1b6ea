//! Backup and restore of a disk image beside the programs people use for it: full, incremental after a day's changes,
//! restore to a new file. Everything until it is on the disk: `sync` is inside the time. Rounds interleaved.
//!
//! Our restore is measured twice: until it is durable (`--no-verify`), which is what the others do, and as it comes, read
//! back from the medium and compared.

use crate::rig::cost::{self, Cost};
use crate::rig::report::{Goal, Report, Table, goals};
use crate::rig::slow_sync::{SLOW, profiles, slowed};
use crate::rig::svg::{Bar, Group};
use crate::rig::{files, image, servers, svg, workspace};
use crate::stats::Rounds;
use crate::suite::Plan;
use crate::{Result, fail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

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

impl Size {
    /// Of a scale.
    pub fn of(plan: Plan) -> Self {
        let image = plan.pick(1 << 30, 512 << 20, 48 << 20);
        Size { rounds: plan.rounds(), image, changed: 0.02, without: Vec::new() }
    }
}

/// Programs compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tool {
    Rekindle,
    /// The same repository, restored as rekindle does unasked.
    ReadBack,
    Restic,
    Borg,
    QemuImg,
    Nbdcopy,
    Cp,
}

const TOOLS: [Tool; 7] =
    [Tool::Rekindle, Tool::ReadBack, Tool::Restic, Tool::Borg, Tool::QemuImg, Tool::Nbdcopy, Tool::Cp];

impl Tool {
    const fn name(self) -> &'static str {
        match self {
            Tool::Rekindle => "rekindle",
            Tool::ReadBack => "rekindle, read back and compared",
            Tool::Restic => "restic",
            Tool::Borg => "borg, zstd 1",
            Tool::QemuImg => "qemu-img convert -c, zstd",
            Tool::Nbdcopy => "nbdcopy",
            Tool::Cp => "cp",
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Tool::Rekindle | Tool::ReadBack => "rekindle",
            Tool::Restic => "restic",
            Tool::Borg => "borg",
            Tool::QemuImg => "qemu-img",
            Tool::Nbdcopy => "nbdcopy",
            Tool::Cp => "cp",
        }
    }

    /// Keeps history: a second backup stores what changed.
    const fn incremental(self) -> bool {
        matches!(self, Tool::Rekindle | Tool::ReadBack | Tool::Restic | Tool::Borg)
    }

    /// Makes backups; the other one restores what `Rekindle` made.
    fn backs_up(self) -> bool {
        self != Tool::ReadBack
    }

    fn present(self) -> bool {
        self.program() == "rekindle" || Command::new(self.program()).arg("--version").output().is_ok()
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
            Tool::Rekindle | Tool::ReadBack => servers::ours(&self.home)?,
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
            Tool::Rekindle | Tool::ReadBack => command.arg("init"),
            Tool::Restic => command.args(["init", "-q"]),
            Tool::Borg => command.args(["init", "-e", "repokey-blake2"]),
            _ => return std::fs::create_dir_all(self.repo()).map_err(Into::into),
        };
        cost::run(&mut command).map(|_| ())
    }

    fn backup(&self, name: &str) -> Result<Took> {
        let (image, copy) = (self.image, self.repo().join("copy"));
        let mut command = self.command()?;
        match self.tool {
            Tool::Rekindle | Tool::ReadBack => command.arg("backup").arg(image).args(["--as", "bench", "-q"]),
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

    fn restore(&self, name: &str, to: &Path) -> Result<Took> {
        let _ = std::fs::remove_dir_all(to);
        std::fs::create_dir_all(to)?;
        let (copy, disk) = (self.repo().join("copy"), to.join("disk"));
        let mut command = self.command()?;
        match self.tool {
            Tool::Rekindle => {
                command.args(["restore", "bench@latest", "-q", "--no-verify", "--to"]).arg(&disk)
            }
            Tool::ReadBack => command.args(["restore", "bench@latest", "-q", "--to"]).arg(&disk),
            Tool::Restic => command.args(["restore", "-q", "latest", "--target"]).arg(to),
            Tool::Borg => command.current_dir(to).arg("extract").arg(format!("::{name}")),
            Tool::QemuImg => command.args(["convert", "-f", "qcow2", "-O", "raw"]).arg(&copy).arg(&disk),
            Tool::Nbdcopy => command.arg(&copy).arg(fresh(&disk, &copy)?),
            Tool::Cp => command.args(["--sparse=auto"]).arg(&copy).arg(&disk),
        };
        self.timed(&mut command)
    }

    /// Runs, then waits for the disk: the bytes are there when the time is.
    fn timed(&self, command: &mut Command) -> Result<Took> {
        cost::sync(&self.home)?;
        let began = std::time::Instant::now();
        let cost = cost::run(command)?;
        cost::sync(&self.home)?;
        Ok(Took { cost, flushed: began.elapsed() })
    }
}

/// What a run cost, and when it was on the disk.
struct Took {
    cost: Cost,
    flushed: Duration,
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
    unflushed: Rounds,
    cpu: Rounds,
    memory: Rounds,
    stored: Rounds,
}

impl Found {
    fn add(&mut self, took: &Took, stored: u64) {
        self.wall.0.push(took.flushed.as_secs_f64());
        self.unflushed.0.push(took.cost.wall.as_secs_f64());
        self.cpu.0.push(took.cost.cpu);
        self.memory.0.push(took.cost.memory as f64 / 1_048_576.0);
        self.stored.0.push(stored as f64 / 1_048_576.0);
    }
}

const FULL: usize = 0;
const INCREMENTAL: usize = 1;
const RESTORE: usize = 2;
const STAGES: [&str; 5] = [
    "full backup",
    "incremental backup",
    "restore to a new file",
    "incremental backup, flushes 2 ms later",
    "restore to a new file, flushes 2 ms later",
];

/// By stage and tool.
type Results = BTreeMap<(usize, usize), Found>;

/// All tools in one round, in turn.
struct Round<'a> {
    tools: &'a [Tool],
    turns: Vec<usize>,
    home: &'a Path,
    image: &'a Path,
}

impl Round<'_> {
    fn bench(&self, t: usize) -> Bench<'_> {
        let tool = self.tools[t];
        Bench { tool, home: self.home.join(tool.program()), image: self.image }
    }

    fn historians(&self) -> impl Iterator<Item = usize> {
        self.turns.iter().copied().filter(|t| self.tools[*t].incremental())
    }

    fn full(&self, found: &mut Results) -> Result<()> {
        for &t in self.turns.iter().filter(|t| self.tools[**t].backs_up()) {
            let bench = self.bench(t);
            bench.init()?;
            files::warm(self.image)?;
            let took = bench.backup("full")?;
            found.entry((FULL, t)).or_default().add(&took, cost::stored(&bench.repo())?);
        }
        Ok(())
    }

    fn incremental(&self, stage: usize, delay: Duration, found: &mut Results) -> Result<()> {
        for t in self.historians().filter(|t| self.tools[*t].backs_up()) {
            let bench = self.bench(t);
            let before = cost::stored(&bench.repo())?;
            files::warm(self.image)?;
            let took = slowed(delay, || bench.backup(&format!("stage{stage}")))?;
            found.entry((stage, t)).or_default().add(&took, cost::stored(&bench.repo())? - before);
        }
        Ok(())
    }

    fn restore(&self, t: usize, stage: usize, delay: Duration, found: &mut Results) -> Result<()> {
        let bench = self.bench(t);
        let to = bench.home.join("restored");
        let took = slowed(delay, || bench.restore(&format!("stage{}", stage - 1), &to))?;
        let restored = largest(&to)?.ok_or("nothing was restored")?;
        if bench.tool.incremental() && !same(self.image, &restored)? {
            return fail(format!("{} restored another image", bench.tool.name()));
        }
        found.entry((stage, t)).or_default().add(&took, 0);
        Ok(std::fs::remove_dir_all(&to)?)
    }
}

/// Measures and reports.
pub fn run(size: &Size, report: &Report) -> Result<()> {
    let home = workspace("copies")?;
    let image = home.path().join("disk.raw");
    image::real(&image, size.image)?;
    let tools: Vec<Tool> =
        TOOLS.into_iter().filter(|t| t.present() && !size.without.iter().any(|w| w == t.program())).collect();
    let slow = profiles().len() > 1;
    let mut found = Results::new();
    for r in 0..size.rounds {
        // All full backups see one image, then all incrementals its successor.
        let turns: Vec<usize> = (0..tools.len()).map(|i| (i + r) % tools.len()).collect();
        let round = Round { tools: &tools, turns, home: home.path(), image: &image };
        round.full(&mut found)?;
        image::change_file(&image, size.changed, r as u64 * 2)?;
        round.incremental(INCREMENTAL, Duration::ZERO, &mut found)?;
        for &t in &round.turns {
            round.restore(t, RESTORE, Duration::ZERO, &mut found)?;
        }
        if slow {
            image::change_file(&image, size.changed, r as u64 * 2 + 1)?;
            round.incremental(INCREMENTAL + 2, SLOW, &mut found)?;
            for t in round.historians() {
                round.restore(t, RESTORE + 2, SLOW, &mut found)?;
            }
        }
        for tool in tools.iter().filter(|t| t.backs_up()) {
            std::fs::remove_dir_all(home.path().join(tool.program()))?;
        }
        eprintln!("round {} of {} done", r + 1, size.rounds);
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

/// How much sooner ours was done than the faster of restic and borg, and than nbdcopy.
fn targets(tools: &[Tool], found: &Results) -> String {
    let at = |stage: usize, tool: Tool| found.get(&(stage, tools.iter().position(|t| *t == tool)?));
    let wall = |stage, tool| at(stage, tool).map_or_else(Rounds::default, |f| f.wall.clone());
    let unflushed = |tool| at(RESTORE, tool).map_or_else(Rounds::default, |f| f.unflushed.clone());
    let mut all = Vec::new();
    for stage in [FULL, RESTORE, RESTORE + 2] {
        let peers = wall(stage, Tool::Restic).least(&wall(stage, Tool::Borg));
        let what = format!("{}: faster of restic and borg / rekindle", STAGES[stage]);
        all.push(Goal::at_least(2.0, what, peers.ratio(&wall(stage, Tool::Rekindle))));
    }
    for stage in [RESTORE, RESTORE + 2] {
        let peers = wall(stage, Tool::Restic).least(&wall(stage, Tool::Borg));
        let what = format!("{}: the same, read back and compared", STAGES[stage]);
        all.push(Goal::at_least(2.0, what, peers.ratio(&wall(stage, Tool::ReadBack))));
    }
    let nbdcopy = wall(RESTORE, Tool::Nbdcopy).ratio(&wall(RESTORE, Tool::Rekindle));
    all.push(Goal::at_least(0.7, "restore: nbdcopy to a new file / rekindle, flushed", nbdcopy));
    let nbdcopy = unflushed(Tool::Nbdcopy).ratio(&unflushed(Tool::Rekindle));
    all.push(Goal::at_least(0.7, "restore: nbdcopy to a new file / rekindle, each as it ends", nbdcopy));
    goals(&all)
}

fn text(size: &Size, tools: &[Tool], found: &Results) -> String {
    let mut out = format!(
        "A {} MiB ext4 image of this machine's installed files, in the page cache; {:.1} % of it rewritten in runs of 16 KiB \
         before the incremental. {} rounds; wall time until everything is flushed. rekindle reads the image at rest (key \
         file, so no key derivation; restic and borg derive theirs). A restore ends when it is durable, as the others' do; \
         unasked, rekindle also reads back from the medium what it wrote and compares it.\n\n{}\n",
        size.image >> 20,
        size.changed * 100.0,
        size.rounds,
        targets(tools, found)
    );
    for (stage, title) in STAGES.iter().enumerate() {
        out += &format!("**{title}**\n\n");
        let mut table = Table::new(&[
            "program",
            "wall s",
            "/ rekindle",
            "its end s",
            "CPU s",
            "memory MiB",
            "stored MiB",
        ]);
        let ours = tools.iter().position(|t| *t == Tool::Rekindle).and_then(|t| found.get(&(stage, t)));
        for (t, tool) in tools.iter().enumerate() {
            let Some(f) = found.get(&(stage, t)) else { continue };
            let ratio = ours.map_or("-".into(), |o| f.wall.ratio(&o.wall).show(2));
            let stored = if f.stored.median() == 0.0 { "-".into() } else { f.stored.show(0) };
            table.row(vec![
                tool.name().into(),
                f.wall.show(2),
                ratio,
                f.unflushed.show(2),
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

fn plot(tools: &[Tool], found: &Results) -> String {
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
