//! What serving costs, without a network: pread and pwrite beside `FileBlock` beside `LiveVolume`, cached 4 KiB random
//! I/O on one thread; flushes; writes while a backup holds an instant. Run in release, several times: only ratios of one run mean
//! something. `cargo run --release -p rekindle-engine --example live_cost -- FOLDER`

use rekindle_core::volume::ByteRange;
use rekindle_engine::live::{FleeceOptions, LiveOptions, LiveSet, LiveVolume, NoHooks};
use rekindle_io::block::{
    Answer, Block, BlockExt, CompletionSink, FileBlock, FileOptions, Op, Request, WriteOrder, kit,
};
use rekindle_io::logfile::RealDir;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const SIZE: u64 = 1 << 30;
const N: u64 = 50_000;

fn at(n: u64) -> u64 {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % (SIZE / 4096) * 4096
}
/// Nanoseconds per call, and the 99th of a hundred.
fn time(what: &str, n: u64, mut f: impl FnMut(u64)) {
    let mut each: Vec<u64> = Vec::with_capacity(n as usize);
    let begun = Instant::now();
    for i in 0..n {
        let t = Instant::now();
        f(i);
        each.push(t.elapsed().as_nanos() as u64);
    }
    let mean = begun.elapsed().as_nanos() as u64 / n;
    each.sort_unstable();
    println!(
        "{what:32} mean {mean:8} ns   p50 {:8}   p99 {:8}   p99.9 {:8}",
        each[each.len() / 2],
        each[each.len() * 99 / 100],
        each[each.len() * 999 / 1000]
    );
}
/// Batches of 16 writes, as a connection at depth 16 has them.
fn batches(b: &dyn Block, data: &[u8], answers: &mut Vec<Answer>, late: &Arc<kit::TestSink>, i: u64) {
    let sink: Arc<dyn CompletionSink> = late.clone();
    let mut batch: [Request<'_>; 16] = std::array::from_fn(|n| Request {
        token: n as u64,
        offset: at(i * 16 + n as u64),
        op: Op::Write { data, fua: false },
    });
    answers.clear();
    b.submit(&mut batch, answers, &sink);
    for (n, a) in answers.drain(..).enumerate() {
        if let Answer::Later = a {
            late.wait(n as u64).expect("write");
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("name a folder")?;
    let folder = Path::new(&folder);
    let path = folder.join("image.raw");
    let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
    for n in 0..SIZE >> 16 {
        file.write_all_at(&[7; 65536], n << 16)?;
    }
    file.sync_all()?;
    let (data, mut buf) = (vec![9; 4096], vec![0; 4096]);
    let order: WriteOrder<()> = WriteOrder::default();
    time("order: enter and leave", N, |i| {
        if let Some(t) = order.enter(ByteRange::new(at(i), 4096), || ()) {
            drop(order.leave(t));
        }
    });
    let sink = kit::TestSink::new();
    let mut answers = Vec::new();
    for round in 0..2 {
        println!("round {round}");
        time("pread", N, |i| file.read_exact_at(&mut buf, at(i)).expect("read"));
        time("pwrite", N, |i| file.write_all_at(&data, at(i)).expect("write"));
        time("pwrite, fdatasync", 200, |i| {
            file.write_all_at(&data, at(i)).and_then(|()| file.sync_data()).expect("write");
        });
        let b = FileBlock::open(&path, &FileOptions::default())?;
        time("FileBlock read", N, |i| b.read_at(at(i), &mut buf).expect("read"));
        time("FileBlock write", N, |i| b.write_at(at(i), &data).expect("write"));
        time("FileBlock 16 writes", N / 16, |i| batches(&*b, &data, &mut answers, &sink, i));
        time("FileBlock write, flush", 200, |i| {
            b.write_at(at(i), &data).and_then(|()| b.flush()).expect("write");
        });
        drop(b);
        let options = LiveOptions::new("cost", RealDir::open(&folder.join("state"))?);
        let v = LiveVolume::open(&path, &options)?;
        let set = LiveSet::new("cost", vec![v.clone()]);
        time("live read", N, |i| v.read_at(at(i), &mut buf).expect("read"));
        time("live write", N, |i| v.write_at(at(i), &data).expect("write"));
        time("live 16 writes", N / 16, |i| batches(&*v, &data, &mut answers, &sink, i));
        time("live write, flush", 200, |i| {
            v.write_at(at(i), &data).and_then(|()| v.flush()).expect("write");
        });
        let fleece = FleeceOptions::new(RealDir::open(&folder.join("fleece"))?);
        let begun = Instant::now();
        let instant = set.instant(&NoHooks, &fleece)?;
        println!("instant: {:?}", begun.elapsed());
        time("live write, all extents needed", 30_000, |i| v.write_at(at(i), &data).expect("write"));
        time("live write, flush, same", 200, |i| {
            v.write_at(at(i), &data).and_then(|()| v.flush()).expect("write");
        });
        instant.intact()?;
        drop(instant);
        set.close()?;
    }
    Ok(())
}
