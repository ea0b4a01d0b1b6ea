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
mod served;
mod stats;

use clap::{Args, Parser, Subcommand};
use nbd::oracle::{Oracle, Subject};
use nbd::{guest, wire};
use rig::report::Report;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

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
    StoreServer { repo: PathBuf, address: String, delay_ms: u64 },
    /// Print the extents of shop@latest in the order in which an idle fill copies them
    Order {
        repo: PathBuf,
        key: PathBuf,
        #[arg(default_value = "auto")]
        order: String,
    },
    /// Follow the restore of shop, beside what a linear copy would have brought by then
    Beside { repo: PathBuf, key: PathBuf },
    /// Send to whoever connects, as fast as it is taken
    #[command(hide = true)]
    Blast { address: String },
    /// Filling over a link, and demand reads beside it (needs root)
    Fill(FillArgs),
    /// Tiny versions of every benchmark (or those whose name contains ONLY), judging nothing by time
    Smoke {
        #[arg(default_value = "")]
        only: String,
    },
    /// Every benchmark in turn (or those whose name contains ONLY)
    All {
        #[command(flatten)]
        output: Output,
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

/// Where results go.
#[derive(Args, Clone)]
struct Output {
    /// Write results into this folder's benchmarks.md, not only to the terminal
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

#[derive(Args)]
struct ServedArgs {
    #[command(flatten)]
    output: Output,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Of one cell
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Size of each server's file
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Only cells whose name contains this, as "write 4k"
    #[arg(long, default_value = "")]
    only: String,
    /// Depth 32 on one connection and the large requests only
    #[arg(long)]
    brief: bool,
}

#[derive(Args)]
struct CopiesArgs {
    #[command(flatten)]
    output: Output,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Size of the image
    #[arg(long, default_value_t = 2048)]
    mib: u64,
    /// Percent of the image rewritten before the incremental
    #[arg(long, default_value_t = 2.0)]
    changed: f64,
    /// Leave a program out; may be given again
    #[arg(long, value_name = "PROGRAM")]
    without: Vec<String>,
}

#[derive(Args)]
struct Timed {
    #[command(flatten)]
    output: Output,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Of one cell
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Size of the disk
    #[arg(long, default_value_t = 2048)]
    mib: u64,
}

impl Timed {
    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn report(&self) -> Report {
        Report::new(self.output.report.clone())
    }
}

#[derive(Args)]
struct GrowthArgs {
    #[command(flatten)]
    output: Output,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Sizes of the disks
    #[arg(long, value_delimiter = ',', default_value = "1,64,1024,16384")]
    gib: Vec<u64>,
}

#[derive(Args)]
struct FillArgs {
    #[command(flatten)]
    output: Output,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Size of the disk
    #[arg(long, default_value_t = 2048)]
    mib: u64,
    /// RATE:RTT in bytes a second and milliseconds
    #[arg(long, value_parser = range, default_value = "100000000:20")]
    link: Vec<(u64, u64)>,
    #[arg(long, default_value_t = 300)]
    reads: usize,
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
        Verb::Copies(args) => {
            let CopiesArgs { output, rounds, mib, changed, without } = args;
            let size = copies::Size { rounds, image: mib << 20, changed: changed / 100.0, without };
            copies::run(&size, &Report::new(output.report))
        }
        Verb::Flush(args) => flush_cost(&args),
        Verb::BackupGuest(args) => backup_guest(&args),
        Verb::Growth(args) => {
            let size =
                growth::Size { rounds: args.rounds, disks: args.gib.iter().map(|g| g << 30).collect() };
            growth::run(&size, &Report::new(args.output.report))
        }
        Verb::StoreServer { repo, address, delay_ms } => {
            fill::store_server(&repo, &address, Duration::from_millis(delay_ms))
        }
        Verb::Order { repo, key, order } => order::print(&repo, &key, &order),
        Verb::Beside { repo, key } => order::beside(&repo, &key),
        Verb::Blast { address } => fill::blast(&address),
        Verb::Fill(args) => fill_link(&args),
        Verb::Smoke { only } => each(true, &only, &Report::new(None)),
        Verb::All { output, only } => each(false, &only, &Report::new(output.report)),
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
    let size = served::Size {
        rounds: args.rounds,
        time: Duration::from_secs_f64(args.seconds),
        file: args.mib << 20,
        only: args.only.clone(),
        brief: args.brief,
    };
    served::run(&size, &Report::new(args.output.report.clone()))
}

fn flush_cost(args: &Timed) -> Result<()> {
    let size = flush::Size { rounds: args.rounds, time: args.time(), disk: args.mib << 20, fill: 50_000_000 };
    flush::run(&size, &args.report())
}

fn backup_guest(args: &Timed) -> Result<()> {
    let (rounds, disk, time) = (args.rounds, args.mib << 20, args.time());
    backup_guest::run(&backup_guest::Size { rounds, disk, time, pace: 2000, sparse: 1 << 40 }, &args.report())
}

fn fill_link(args: &FillArgs) -> Result<()> {
    let links =
        args.link.iter().map(|(rate, rtt_ms)| rig::link::Shape { rate: *rate, rtt_ms: *rtt_ms }).collect();
    let size = fill::Size { rounds: args.rounds, disk: args.mib << 20, links, reads: args.reads };
    fill::run(&size, &Report::new(args.output.report.clone()))
}

/// A benchmark by name, at its real size or tiny.
type Benchmark = (&'static str, fn(bool, &Report) -> Result<()>);

const BENCHMARKS: [Benchmark; 6] = [
    ("served", |tiny, report| {
        let (time, file) =
            if tiny { (Duration::from_millis(40), 8 << 20) } else { (Duration::from_secs(1), 1 << 30) };
        let rounds = if tiny { 1 } else { 5 };
        served::run(&served::Size { rounds, time, file, only: String::new(), brief: tiny }, report)
    }),
    ("copies", |tiny, report| {
        let (rounds, image) = if tiny { (1, 48 << 20) } else { (5, 2 << 30) };
        copies::run(&copies::Size { rounds, image, changed: 0.02, without: Vec::new() }, report)
    }),
    ("flush", |tiny, report| {
        let (rounds, time, disk, fill) = if tiny {
            (1, Duration::from_millis(300), 64 << 20, 10_000_000)
        } else {
            (5, Duration::from_secs(5), 2 << 30, 50_000_000)
        };
        flush::run(&flush::Size { rounds, time, disk, fill }, report)
    }),
    ("backup-guest", |tiny, report| {
        let (rounds, disk, time) = if tiny {
            (1, 32 << 20, Duration::from_millis(500))
        } else {
            (5, 2 << 30, Duration::from_secs(5))
        };
        backup_guest::run(&backup_guest::Size { rounds, disk, time, pace: 2000, sparse: disk << 9 }, report)
    }),
    ("growth", |tiny, report| {
        let (rounds, disks) = if tiny { (1, vec![1, 4]) } else { (5, vec![1, 64, 1024, 16384]) };
        growth::run(&growth::Size { rounds, disks: disks.iter().map(|g| g << 30).collect() }, report)
    }),
    ("fill", |tiny, report| {
        let (rounds, disk, reads) = if tiny { (1, 64 << 20, 20) } else { (5, 2 << 30, 300) };
        let links = vec![rig::link::Shape { rate: 100_000_000, rtt_ms: 20 }];
        if !rustix::process::geteuid().is_root() {
            println!("skipped: fill needs root for its link");
            return Ok(());
        }
        fill::run(&fill::Size { rounds, disk, links, reads }, report)
    }),
];

/// Runs every benchmark whose name contains `only`; tiny ones judge nothing by time. One that fails does not stop the others.
fn each(tiny: bool, only: &str, report: &Report) -> Result<()> {
    let mut failed = Vec::new();
    for (name, run) in BENCHMARKS.iter().filter(|(name, _)| name.contains(only)) {
        let began = std::time::Instant::now();
        println!("== {name}");
        if let Err(error) = run(tiny, report) {
            println!("FAILED {name}: {error}");
            failed.push(*name);
        }
        println!("-- {name}: {:.0} s", began.elapsed().as_secs_f64());
    }
    if failed.is_empty() { Ok(()) } else { fail(format!("failed: {}", failed.join(", "))) }
}
