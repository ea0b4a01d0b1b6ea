//! What usage counting costs a read, without a network: batches of eight random 4 KiB reads from a warm file, as a connection
//! has them, on one thread; the plain file, a live volume that counts nothing, and one that counts. Short slices, each order
//! of the three in turn; ratios of neighbours, the median of all and the middle half. Run in release:
//! `cargo run --release -p rekindle-engine --example usage_cost -- FOLDER [ROUNDS]`. For instructions instead of time, which
//! no neighbour disturbs: `valgrind --tool=callgrind --toggle-collect='*usage_cost*of_plain*' ... FOLDER 1` (`of_live`,
//! `of_counted`).

use rekindle_engine::live::{LiveOptions, LiveVolume, Observer};
use rekindle_engine::usage::UsageMap;
use rekindle_io::block::{Answer, Block, CompletionSink, FileBlock, FileOptions, Op, Request, kit};
use rekindle_io::logfile::RealDir;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIZE: u64 = 256 << 20;
const BATCH: u64 = 8;
/// Batches of a slice: about 10 ms.
const BATCHES: u64 = 1000;

struct Reader {
    buffers: Vec<u8>,
    answers: Vec<Answer>,
    sink: Arc<kit::TestSink>,
    random: u64,
}

impl Reader {
    fn slice(&mut self, block: &dyn Block) {
        for _ in 0..BATCHES {
            let mut random = self.random;
            let mut rest = self.buffers.chunks_mut(4096);
            let mut batch: [Request<'_>; BATCH as usize] = std::array::from_fn(|n| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let offset = random % (SIZE / 4096) * 4096;
                Request { token: n as u64, offset, op: Op::Read(rest.next().expect("as many as requests")) }
            });
            self.random = random;
            self.answers.clear();
            let sink: Arc<dyn CompletionSink> = self.sink.clone();
            block.submit(&mut batch, &mut self.answers, &sink);
            for (n, a) in self.answers.drain(..).enumerate() {
                if let Answer::Later = a {
                    self.sink.wait(n as u64).expect("read");
                }
            }
        }
    }
}

// Three functions, so that callgrind tells them apart.
#[inline(never)]
fn of_plain(r: &mut Reader, b: &dyn Block) -> Duration {
    timed(r, b)
}
#[inline(never)]
fn of_live(r: &mut Reader, b: &dyn Block) -> Duration {
    std::hint::black_box(1);
    timed(r, b)
}
#[inline(never)]
fn of_counted(r: &mut Reader, b: &dyn Block) -> Duration {
    std::hint::black_box(2);
    timed(r, b)
}
fn timed(r: &mut Reader, b: &dyn Block) -> Duration {
    let begun = Instant::now();
    r.slice(b);
    begun.elapsed()
}

fn show(what: &str, ratios: &mut [f64]) {
    ratios.sort_by(f64::total_cmp);
    let at = |percent: usize| ratios[(ratios.len() - 1) * percent / 100];
    println!("{what:28} {:.4} [{:.4}-{:.4}]", at(50), at(25), at(75));
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("name a folder")?;
    let rounds: usize = arguments.next().map_or(Ok(60), |n| n.parse())?;
    let folder = Path::new(&folder);
    let path = folder.join("image.raw");
    std::fs::write(&path, vec![7; SIZE as usize])?;
    let plain = FileBlock::open(&path, &FileOptions { lock: false, ..FileOptions::default() })?;
    let open = |name: &str, observer: Option<Arc<dyn Observer>>| {
        let inner = FileBlock::open(&path, &FileOptions { lock: false, ..FileOptions::default() })?;
        let options = LiveOptions { observer, ..LiveOptions::new(name, RealDir::open(&folder.join(name))?) };
        LiveVolume::over(inner.clone(), inner, &options)
    };
    let live = open("live", None)?;
    let map = UsageMap::open(&*RealDir::open(folder)?, "usage", live.identity().uuid, live.geometry())?;
    let counted = open("counted", Some(map.clone()))?;
    let mut r = Reader {
        buffers: vec![0; 4096 * BATCH as usize],
        answers: Vec::new(),
        sink: kit::TestSink::new(),
        random: 0x9e37_79b9_7f4a_7c15,
    };
    type Slice = fn(&mut Reader, &dyn Block) -> Duration;
    let three: [(Slice, &dyn Block); 3] = [(of_plain, &*plain), (of_live, &*live), (of_counted, &*counted)];
    let orders = [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1], [2, 0, 1], [1, 0, 2]];
    let (mut over_plain, mut over_live, mut began) = (Vec::new(), Vec::new(), Instant::now());
    let start = began;
    let mut sums = [Duration::ZERO; 3];
    for round in 0..rounds {
        let mut took = [0.0; 3];
        for at in orders[round % 6] {
            let (slice, block) = three[at];
            let time = slice(&mut r, block);
            took[at] = time.as_secs_f64();
            sums[at] += time;
        }
        over_plain.push(took[2] / took[0]);
        over_live.push(took[2] / took[1]);
        if began.elapsed() > Duration::from_secs(1) {
            map.served(start.elapsed());
            began = Instant::now();
        }
    }
    for (sum, name) in sums.iter().zip(["plain", "live", "live, counted"]) {
        println!(
            "{name:28} {:.1} ns a read",
            sum.as_nanos() as f64 / (rounds as u64 * BATCHES * BATCH) as f64
        );
    }
    show("time, counted / plain", &mut over_plain);
    show("time, counted / live", &mut over_live);
    Ok(())
}
