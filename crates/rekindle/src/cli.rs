//! The grammar: `rekindle VERB NAME [flags]`, flags that mean the same everywhere.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Keeps block volumes recoverable and brings them back at once.
///
/// Every disk has a history. rekindle keeps it, opens any moment of it at once, hottest data first, and settles what was
/// opened; then history goes on.
#[derive(Parser, Debug)]
#[command(name = "rekindle", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(
    after_help = "A moment is written NAME@WHEN: shop@latest, shop@-5m, shop@14:03:07, shop@3f9c2a1e.\n\
    Exit codes: 0 done, 1 failed, 2 usage, 3 done with named damage, 10 no repository, 11 busy elsewhere,\n\
    12 wrong password, 13 unreachable, 14 refused for safety, 124 wait timed out, 130 interrupted."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// JSON: one document for lists, lines with `message_type` for long work, an `exit_error` for a failure; on stdout, but
    /// on stderr where stdout carries a disk (`--to -`)
    #[arg(long, global = true)]
    pub json: bool,
    /// No remarks and no progress
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Tell what is being done (REKINDLE_LOG=debug tells more)
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// The verbs, in the order of a volume's life.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Make a repository; tests the store first and says what it may be used for
    Init(InitArgs),
    /// Be the process that serves a set: all sets of the configuration, or one ad hoc
    Serve(ServeArgs),
    /// Snapshot a set at one instant, incremental for ever, with its usage map
    Backup(BackupArgs),
    /// Everything alive, and restores that were interrupted, in one table
    Status(StatusArgs),
    /// The moments that can be restored
    #[command(visible_alias = "snapshots")]
    Timeline(TimelineArgs),
    /// One snapshot in full: volumes, sizes, parent, root hashes
    Show(ShowArgs),
    /// What a volume's I/O touches: histogram and coverage curve
    Usage(UsageArgs),
    /// The ranges that differ between two moments
    Diff(DiffArgs),
    /// Open a moment: a plain copy with `--to` alone; with `--listen`, online at once, then filling, hottest first
    ///
    /// Interrupted, an online restore is taken up by the same command, or by `serve` of the same disks. What was asked at
    /// first (--online-at, --order, --limit, --no-verify) still holds then, unless it is asked for anew.
    Restore(Box<RestoreArgs>),
    /// Stop filling; what the guest needs still comes
    Pause(NameArgs),
    /// Go on filling
    Resume(NameArgs),
    /// Change a running restore
    Tune(TuneArgs),
    /// Wait until a set has reached a state
    Wait(WaitArgs),
    /// Settle a restore: the set is live on its new disks and goes on being served
    Cutover(CutoverArgs),
    /// Throw a restore away
    Discard(DiscardArgs),
    /// Completions for a shell, to stdout
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write man pages into a directory
    #[command(hide = true)]
    Man {
        /// Where
        dir: PathBuf,
    },
    /// Write the JSON schemas of `--json` and of the control protocol into a directory
    #[command(hide = true)]
    Schema {
        /// Where
        dir: PathBuf,
    },
}

impl Verb {
    /// What it writes to stdout is no text: a disk, a script.
    pub fn stdout_is_data(&self) -> bool {
        match self {
            Verb::Restore(args) => !args.dry_run && args.to.iter().any(|to| to == "-"),
            Verb::Completion { .. } => true,
            _ => false,
        }
    }
}

/// Which repository, and how it is opened. Passwords never stand on a command line.
#[derive(Args, Clone, Debug, Default)]
pub struct RepoArgs {
    /// The repository: a directory
    #[arg(short, long, env = "REKINDLE_REPO", value_name = "REPO")]
    pub repo: Option<String>,
    /// First line of this file is the password (else REKINDLE_PASSWORD_COMMAND, REKINDLE_PASSWORD, or a prompt)
    #[arg(long, env = "REKINDLE_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// The whole file is the key: opens at once, no key derivation
    #[arg(long, env = "REKINDLE_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

/// `init`.
#[derive(Args, Debug)]
pub struct InitArgs {
    #[command(flatten)]
    pub repo: RepoArgs,
    /// Store everything readable by whoever can read the repository
    #[arg(long)]
    pub no_encryption: bool,
    /// Test the store and say what would be made
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// `serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Serve this one set ad hoc
    pub name: Option<String>,
    /// Its disks: a raw image or block device; several need volume names
    #[arg(value_name = "[VOL=]PATH", requires = "name")]
    pub disks: Vec<String>,
    /// The configuration [default: /etc/rekindle/rekindle.toml, when no set is named]
    #[arg(short, long, value_name = "FILE", conflicts_with = "name")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub repo: RepoArgs,
    /// Where to serve: unix:/PATH or tcp:HOST:PORT (repeat for several)
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Vec<String>,
    /// Refuse writes
    #[arg(long)]
    pub read_only: bool,
    /// Run a command while serving, with the NBD URI in $uri, and end with its exit code
    #[arg(long, value_name = "COMMAND")]
    pub run: Option<String>,
    /// Check the configuration and end
    #[arg(long)]
    pub check: bool,
}

/// `backup`.
#[derive(Args, Debug)]
pub struct BackupArgs {
    /// A set that is served, or the path of a disk at rest
    #[arg(value_name = "NAME|PATH")]
    pub what: String,
    #[command(flatten)]
    pub repo: RepoArgs,
    /// The set's name, for a disk at rest
    #[arg(long = "as", value_name = "NAME")]
    pub named: Option<String>,
    /// Kept with the snapshot (repeat for several)
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Run just before the instant (`/bin/sh -c`, in the process that serves the set); if it fails there is no backup
    #[arg(long, value_name = "COMMAND")]
    pub pre_hook: Option<String>,
    /// Run just after the instant, whatever became of it
    #[arg(long, value_name = "COMMAND")]
    pub post_hook: Option<String>,
    /// Say what would be read, change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// One set, in full
    pub name: Option<String>,
    /// Redraw until interrupted
    #[arg(long)]
    pub watch: bool,
}

/// `timeline`.
#[derive(Args, Debug)]
pub struct TimelineArgs {
    /// Only this set
    pub name: Option<String>,
    #[command(flatten)]
    pub repo: RepoArgs,
    /// Only moments since then: -7d, 2026-11-20, 14:03
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    pub since: Option<String>,
}

/// `show`.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// A set (its newest snapshot) or a moment
    #[arg(value_name = "NAME[@WHEN]")]
    pub moment: String,
    #[command(flatten)]
    pub repo: RepoArgs,
}

/// `usage`.
#[derive(Args, Debug)]
pub struct UsageArgs {
    /// A set that is served, or a moment
    #[arg(value_name = "NAME[@WHEN]")]
    pub moment: String,
    #[command(flatten)]
    pub repo: RepoArgs,
    /// What makes an extent hot
    #[arg(long, value_enum, default_value_t = By::Count)]
    pub by: By,
    /// Every extent's facts as CSV, to stdout
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// Draw histogram and curve into this file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// What makes an extent hot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum By {
    /// First touched after the last cold start
    Trace,
    /// Operations ever
    Count,
    /// Operations of late
    Rate,
    /// Writes and decayed reads, scans left out
    Score,
}

/// `diff`.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// The older moment
    #[arg(value_name = "A")]
    pub from: String,
    /// The newer moment
    #[arg(value_name = "B")]
    pub to: String,
    #[command(flatten)]
    pub repo: RepoArgs,
    /// Only how much differs
    #[arg(long)]
    pub summary: bool,
}

/// `restore`.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The moment to open
    #[arg(value_name = "NAME@WHEN")]
    pub moment: String,
    #[command(flatten)]
    pub repo: RepoArgs,
    /// Where the bytes go: a new file, a block device, or - (stdout, a lone disk only)
    #[arg(long, value_name = "[VOL=]DEST", required = true)]
    pub to: Vec<String>,
    /// Serve it at once: unix:/PATH or tcp:HOST:PORT (repeat for several)
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Vec<String>,
    /// The name of the restored set, if not that of the moment
    #[arg(long = "as", value_name = "NAME", requires = "listen")]
    pub named: Option<String>,
    /// The export appears at usage=90%, extents=N, bytes=N or time=30s (repeat: the first wins) [default: at once]
    #[arg(long, value_name = "RULE", requires = "listen")]
    pub online_at: Vec<String>,
    /// What to fill first [default: auto]
    #[arg(long, value_enum, requires = "listen")]
    pub order: Option<OrderArg>,
    /// Background work takes at most this much: 200MiB/s; `none` lifts a limit that was asked for before
    #[arg(long, value_name = "RATE")]
    pub limit: Option<String>,
    /// Do not read back and compare what was written
    #[arg(long)]
    pub no_verify: bool,
    /// Do so after all, going on with a restore that was begun with --no-verify
    #[arg(long, conflicts_with = "no_verify")]
    pub verify: bool,
    /// Forecast with this bandwidth instead of a measured one
    #[arg(long, value_name = "RATE", requires = "dry_run")]
    pub bandwidth: Option<String>,
    /// Overwrite destinations that hold data: the set's name, typed
    #[arg(long, value_name = "NAME")]
    pub yes: Option<String>,
    /// Print plan and forecast, change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Orders of filling.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum OrderArg {
    /// What the newest drill read, trace, score, written, the rest
    Auto,
    /// As first touched after the last cold start
    Trace,
    /// Writes and decayed reads
    Score,
    /// Operations of late
    Rate,
    /// Operations ever
    Count,
    /// From the first byte to the last
    Linear,
}

/// A verb that needs a name only.
#[derive(Args, Debug)]
pub struct NameArgs {
    /// The set
    pub name: String,
    /// Say what would change
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// `tune`.
#[derive(Args, Debug)]
pub struct TuneArgs {
    /// The set
    pub name: String,
    /// Background work takes at most this much: 200MiB/s; `none` lifts the limit
    #[arg(long, value_name = "RATE")]
    pub limit: Option<String>,
    /// Share among restores of one process
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub weight: Option<u32>,
    /// Fill this next: [VOL:]START+LEN in bytes or sizes, as 0+64MiB, or a file with a range a line
    #[arg(long, value_name = "RANGE|FILE")]
    pub first: Vec<String>,
    /// The export appears now
    #[arg(long)]
    pub online_now: bool,
    /// Read back and compare what was written, though --no-verify was asked for before
    #[arg(long)]
    pub verify: bool,
    /// Say what would change
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// `wait`.
#[derive(Args, Debug)]
pub struct WaitArgs {
    /// The set
    pub name: String,
    /// online, usage=90%, complete, verified or live
    #[arg(long = "for", value_name = "STATE")]
    pub state: String,
    /// Give up after this long: 30s, 5m (exit code 124)
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<String>,
}

/// `cutover`.
#[derive(Args, Debug)]
pub struct CutoverArgs {
    /// The set
    pub name: String,
    /// Let the source go without comparing
    #[arg(long)]
    pub no_verify: bool,
    /// Say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// `discard`.
#[derive(Args, Debug)]
pub struct DiscardArgs {
    /// The restore
    pub name: String,
    #[command(flatten)]
    pub repo: RepoArgs,
    /// The name again: what the guest wrote is lost
    #[arg(long, value_name = "NAME")]
    pub yes: Option<String>,
    /// Say what would be lost
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}
