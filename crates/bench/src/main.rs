//! Measures rekindle beside its peers, so that anyone can repeat it; also the guest of the demo and of the stories.
//!
//! Rules of measuring, learnt the hard way: servers are compared within a round only, rounds are interleaved and their
//! order rotates; the state of every file is set before its cell; medians of at least five with their range; ratios
//! first. What a client costs is told, because it is often the limit.

mod backup_guest;
mod copies;
mod fill;
mod flush;
mod growth;
mod nbd;
mod null;
mod order;
mod rig;
mod script;
mod served;
mod stats;
mod suite;
mod trace;

use clap::{Args, Parser, Subcommand};
use nbd::oracle::{Oracle, Subject};
use nbd::{guest, wire};
use rig::report::Report;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use suite::Scale;

/// Any error; the harness only reports it.
pub type Error = Box<dyn std::error::Error>;
/// Result of the harness.
pub type Result<T> = std::result::Result<T, Error>;

/// An error from a text.
pub fn fail<T>(text: impl Into<String>) -> Result<T> {
    Err(text.into().into())
}

#[derive(Parser)]
#[command(about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Hash every block of a disk (file or socket) into an oracle file
    Learn(Disk),
    /// Compare every block of a disk with an oracle file
    Prove(Disk),
    /// Read and write an export, checking every read against the oracle
    Guest(GuestArgs),
    /// Load an export with the pipelined generator
    Load(LoadArgs),
    /// Serve a device of SIZE bytes that does nothing on SOCKET: the limit of the wire
    #[command(hide = true)]
    NullServer { size: u64, socket: PathBuf },
    /// Serve FILE on SOCKET, neither counted nor tracked
    #[command(hide = true)]
    BareServer { file: PathBuf, socket: PathBuf },
    /// Served I/O beside the peers
    Served(ServedArgs),
    /// Backup and restore beside restic, borg, qemu-img, nbdcopy and cp
    Copies(CopiesArgs),
    /// FLUSH on a restoring volume under fill beside a plain file
    Flush(Timed),
    /// What a guest notices of a backup; a backup of nothing
    BackupGuest(Timed),
    /// First byte, listing, planning, incremental and memory from small disks to 16 TiB
    Growth(GrowthArgs),
    /// Serve a repository folder over TCP, every answer DELAY_MS late
    #[command(hide = true)]
    StoreServer { repo: PathBuf, address: String, delay_ms: f64 },
    /// Print the extents of shop@latest in the order in which an idle fill copies them
    Order {
        repo: PathBuf,
        key: PathBuf,
        /// Or `set`: what the last cold start touched, from the first extent to the last
        #[arg(default_value = "auto")]
        order: String,
        /// What the newest drill read comes first
        #[arg(long)]
        drill: bool,
    },
    /// Follow the restore of shop, beside what a linear copy would have brought by then
    Beside { repo: PathBuf, key: PathBuf },
    /// Send to whoever connects, as fast as it is taken
    #[command(hide = true)]
    Blast { address: String },
    /// Filling over a link, and demand reads beside it (needs root)
    Fill(FillArgs),
    /// How the usage map of a real disk's first hours predicts the next (trace named by REKINDLE_BLOCK_TRACE)
    Trace(Common),
    /// Instant restore of a PostgreSQL disk beside QEMU's way (needs root)
    Instant {
        /// 25m, 100m, 1g or 10g
        link: String,
        #[command(flatten)]
        args: ScriptArgs,
    },
    /// Does the usage map predict a cold restart of PostgreSQL (needs root)
    Predict(ScriptArgs),
    /// Tiny versions of every benchmark (or those whose name contains ONLY), judging nothing by time
    Smoke {
        #[arg(default_value = "")]
        only: String,
    },
    /// Every benchmark in turn (or those whose name contains ONLY)
    All {
        #[command(flatten)]
        common: Common,
        #[arg(default_value = "")]
        only: String,
    },
}

#[derive(Args)]
struct Disk {
    /// An image file, or the Unix socket of an NBD server
    disk: PathBuf,
    /// The oracle file
    oracle: PathBuf,
    /// Export name, for a socket
    #[arg(long, default_value = "")]
    export: String,
}

#[derive(Args)]
struct GuestArgs {
    #[command(flatten)]
    disk: Disk,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Requests a second, 0 for as many as it gets
    #[arg(long, default_value_t = 0)]
    rate: u64,
    #[arg(long, default_value_t = 70)]
    read_percent: u64,
    /// OFFSET:LENGTH in bytes that may be written; may be given again
    #[arg(long, value_parser = range)]
    write_in: Vec<(u64, u64)>,
    #[arg(long, default_value_t = 32)]
    flush_every: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds to keep trying to connect
    #[arg(long, default_value_t = 10.0)]
    patience: f64,
    #[arg(long)]
    quiet: bool,
}

/// What every benchmark takes.
#[derive(Args, Clone)]
struct Common {
    /// Write results into this folder's benchmarks.md, not only to the terminal
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Rounds instead of its own number
    #[arg(long)]
    rounds: Option<usize>,
    /// A minute instead of many: fewer rounds, less of everything
    #[arg(long)]
    brief: bool,
}

impl Common {
    fn plan(&self) -> suite::Plan {
        let scale = if self.brief { Scale::Brief } else { Scale::Full };
        suite::Plan { scale, rounds: self.rounds }
    }

    fn report(&self) -> Report {
        Report::new(self.report.clone())
    }
}

#[derive(Args)]
struct ServedArgs {
    #[command(flatten)]
    common: Common,
    /// Of one cell
    #[arg(long)]
    seconds: Option<f64>,
    /// Size of each server's file
    #[arg(long)]
    mib: Option<u64>,
    /// Only cells whose name contains this, as "write 4k"
    #[arg(long, default_value = "")]
    only: String,
}

#[derive(Args)]
struct CopiesArgs {
    #[command(flatten)]
    common: Common,
    /// Size of the image
    #[arg(long)]
    mib: Option<u64>,
    /// Percent of the image rewritten before each incremental
    #[arg(long, default_value_t = 2.0)]
    changed: f64,
    /// Leave a program out; may be given again
    #[arg(long, value_name = "PROGRAM")]
    without: Vec<String>,
}

#[derive(Args)]
struct Timed {
    #[command(flatten)]
    common: Common,
    /// Of one cell
    #[arg(long)]
    seconds: Option<f64>,
    /// Size of the disk
    #[arg(long)]
    mib: Option<u64>,
}

#[derive(Args)]
struct GrowthArgs {
    #[command(flatten)]
    common: Common,
    /// Sizes of the disks
    #[arg(long, value_delimiter = ',')]
    gib: Vec<u64>,
}

#[derive(Args)]
struct FillArgs {
    #[command(flatten)]
    common: Common,
    /// Size of the disk
    #[arg(long)]
    mib: Option<u64>,
    /// RATE:RTT in bytes a second and milliseconds
    #[arg(long, value_parser = range)]
    link: Vec<(u64, u64)>,
    #[arg(long)]
    reads: Option<usize>,
}

#[derive(Args)]
struct ScriptArgs {
    #[command(flatten)]
    common: Common,
    /// What else the script takes: `-- --help` tells
    #[arg(last = true)]
    more: Vec<String>,
}

#[derive(Args)]
struct LoadArgs {
    /// The Unix socket of an NBD server
    socket: PathBuf,
    /// Export name
    #[arg(long, default_value = "")]
    export: String,
    /// Ask for structured replies, as libnbd and fio do
    #[arg(long)]
    structured: bool,
    /// Bytes of a request
    #[arg(long, default_value_t = 4096)]
    block: u32,
    /// Requests in flight per connection
    #[arg(long, default_value_t = 32)]
    depth: usize,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    #[arg(long, default_value_t = 100)]
    read_percent: u32,
    /// A FLUSH after so many writes, 0: never
    #[arg(long, default_value_t = 0)]
    flush_every: u32,
    /// One block after another instead of at random
    #[arg(long)]
    sequential: bool,
    /// Use only the first so many bytes, 0: all
    #[arg(long, default_value_t = 0)]
    span: u64,
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn range(text: &str) -> std::result::Result<(u64, u64), String> {
    let (offset, length) = text.split_once(':').ok_or("expected OFFSET:LENGTH")?;
    let number = |t: &str| t.parse::<u64>().map_err(|e| format!("{t}: {e}"));
    Ok((number(offset)?, number(length)?))
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Learn(disk) => learn(&disk),
        Verb::Prove(disk) => prove(&disk),
        Verb::Guest(args) => visit(&args),
        Verb::Load(args) => load(&args),
        Verb::NullServer { size, socket } => null::serve(size, &socket),
        Verb::BareServer { file, socket } => null::serve_bare(&file, &socket),
        Verb::Served(args) => serve_io(&args),
        Verb::Copies(args) => copy(&args),
        Verb::Flush(args) => flush_cost(&args),
        Verb::BackupGuest(args) => backup_guest(&args),
        Verb::Growth(args) => {
            let mut size = growth::Size::of(args.common.plan());
            if !args.gib.is_empty() {
                size.disks = args.gib.iter().map(|g| g << 30).collect();
            }
            growth::run(&size, &args.common.report())
        }
        Verb::StoreServer { repo, address, delay_ms } => {
            fill::store_server(&repo, &address, Duration::from_secs_f64(delay_ms / 1000.0))
        }
        Verb::Order { repo, key, order, drill } => order::print(&repo, &key, &order, drill),
        Verb::Beside { repo, key } => order::beside(&repo, &key),
        Verb::Blast { address } => fill::blast(&address),
        Verb::Fill(args) => fill_link(&args),
        Verb::Trace(common) => trace::run(&common.report()),
        Verb::Instant { link, args } => {
            script::instant(&link, args.common.plan(), &args.more, &args.common.report())
        }
        Verb::Predict(args) => script::predict(args.common.plan(), &args.more, &args.common.report()),
        Verb::Smoke { only } => suite::each(suite::Plan { scale: Scale::Tiny, rounds: None }, &only, None),
        Verb::All { common, only } => suite::each(common.plan(), &only, common.report.as_ref()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rekindle-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn learn(disk: &Disk) -> Result<()> {
    let mut subject = Subject::open(&disk.disk, &disk.export, Duration::from_secs(10))?;
    let oracle = Oracle::learn(&disk.oracle, &mut subject)?;
    println!("learnt    {} blocks of {} bytes", oracle.blocks(), nbd::oracle::BLOCK);
    Ok(())
}

fn prove(disk: &Disk) -> Result<()> {
    let mut subject = Subject::open(&disk.disk, &disk.export, Duration::from_secs(10))?;
    let oracle = Oracle::load(&disk.oracle)?;
    let wrong = oracle.compare(&mut subject)?;
    if wrong.is_empty() {
        println!("proved    {} of {} blocks hold what they should", oracle.blocks(), oracle.blocks());
        return Ok(());
    }
    fail(format!("{} blocks differ, the first: {:?}", wrong.len(), &wrong[..wrong.len().min(10)]))
}

fn visit(args: &GuestArgs) -> Result<()> {
    let target = wire::Target { export: args.disk.export.clone(), ..wire::Target::new(&args.disk.disk) };
    let mut oracle = Oracle::load(&args.disk.oracle)?;
    let habits = guest::Habits {
        time: Duration::from_secs_f64(args.seconds),
        rate: args.rate,
        read_percent: args.read_percent,
        write_in: args.write_in.clone(),
        flush_every: args.flush_every,
        seed: args.seed,
        patience: Duration::from_secs_f64(args.patience),
        chatty: !args.quiet,
    };
    let seen = guest::live(&target, &habits, &mut oracle)?;
    println!("guest     {} reads, {} writes, every byte as it should be", seen.reads, seen.writes);
    Ok(())
}

fn load(args: &LoadArgs) -> Result<()> {
    use nbd::load::{Load, Pattern};
    let target = wire::Target {
        export: args.export.clone(),
        structured: args.structured,
        ..wire::Target::new(&args.socket)
    };
    let load = Load {
        block: args.block,
        depth: args.depth,
        connections: args.connections,
        read_percent: args.read_percent,
        flush_every: args.flush_every,
        pattern: if args.sequential { Pattern::Sequential } else { Pattern::Random },
        span: args.span,
        time: Duration::from_secs_f64(args.seconds),
        seed: args.seed,
    };
    let outcome = nbd::load::run(&target, &load)?;
    let mib = outcome.rate() * f64::from(args.block) / 1_048_576.0;
    println!("{:.0} requests/s, {mib:.0} MiB/s", outcome.rate());
    println!("latency   p50 {} us, p99 {} us", outcome.latency.at(50.0), outcome.latency.at(99.0));
    if outcome.flush.count() > 0 {
        println!("flush     p50 {} us, p99 {} us", outcome.flush.at(50.0), outcome.flush.at(99.0));
    }
    Ok(())
}

fn serve_io(args: &ServedArgs) -> Result<()> {
    let mut size = served::Size::of(args.common.plan());
    size.only.clone_from(&args.only);
    set(&mut size.time, args.seconds.map(Duration::from_secs_f64));
    set(&mut size.file, args.mib.map(|m| m << 20));
    served::run(&size, &args.common.report())
}

fn copy(args: &CopiesArgs) -> Result<()> {
    let mut size = copies::Size::of(args.common.plan());
    set(&mut size.image, args.mib.map(|m| m << 20));
    size.changed = args.changed / 100.0;
    size.without.clone_from(&args.without);
    copies::run(&size, &args.common.report())
}

fn flush_cost(args: &Timed) -> Result<()> {
    let mut size = flush::Size::of(args.common.plan());
    set(&mut size.time, args.seconds.map(Duration::from_secs_f64));
    set(&mut size.disk, args.mib.map(|m| m << 20));
    flush::run(&size, &args.common.report())
}

fn backup_guest(args: &Timed) -> Result<()> {
    let mut size = backup_guest::Size::of(args.common.plan());
    set(&mut size.time, args.seconds.map(Duration::from_secs_f64));
    set(&mut size.disk, args.mib.map(|m| m << 20));
    backup_guest::run(&size, &args.common.report())
}

fn fill_link(args: &FillArgs) -> Result<()> {
    let mut size = fill::Size::of(args.common.plan());
    set(&mut size.disk, args.mib.map(|m| m << 20));
    set(&mut size.reads, args.reads);
    if !args.link.is_empty() {
        let shape = |(rate, rtt_ms): &(u64, u64)| rig::link::Shape { rate: *rate, rtt_ms: *rtt_ms };
        size.links = args.link.iter().map(shape).collect();
    }
    fill::run(&size, &args.common.report())
}

/// What was asked for takes the place of what a scale says.
fn set<T>(place: &mut T, asked: Option<T>) {
    if let Some(asked) = asked {
        *place = asked;
    }
}
