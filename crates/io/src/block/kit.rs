//! What every device must do, whatever it is made of.

use super::{Allocation, Answer, Block, BlockExt, Completion, CompletionSink, Op, Request};
use crate::fault::mix;
use crate::{Kind, Result};
use rekindle_core::volume::ByteRange;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Size of the devices the kit asks for, in bytes; they are writable and read as zeros.
pub const SIZE: u64 = 1 << 20;

/// A connection for tests: collects late answers, can be abandoned.
#[derive(Default)]
pub struct TestSink {
    came: Mutex<BTreeMap<u64, Result<Vec<u8>>>>,
    changed: Condvar,
    gone: AtomicBool,
}

impl TestSink {
    /// A new connection.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
    /// The client goes away.
    pub fn abandon(&self) {
        self.gone.store(true, SeqCst);
    }
    /// Whether an answer for `token` has come.
    pub fn has(&self, token: u64) -> bool {
        self.came.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&token)
    }
    /// Waits for the late answer to `token`.
    pub fn wait(&self, token: u64) -> Result<Vec<u8>> {
        let mut came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(r) = came.remove(&token) {
                return r;
            }
            came = self.changed.wait(came).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl CompletionSink for TestSink {
    fn complete(&self, c: Completion) {
        let mut came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(came.insert(c.token, c.result).is_none(), "token {} was completed twice", c.token);
        self.changed.notify_all();
    }
    fn abandoned(&self) -> bool {
        self.gone.load(SeqCst)
    }
}

/// Runs the whole kit; `make` gives a fresh device of `SIZE` zero bytes each time. Panics at the first broken promise.
pub fn check<B: Block + ?Sized + 'static>(make: impl Fn() -> Arc<B>) {
    shape(&*make());
    wrong_requests(&*make());
    batches(&*make());
    zero_and_trim(&*make());
    overlapping_writes_keep_their_order(&make());
    for seed in 1..=3 {
        against_a_vector(&*make(), seed);
    }
}

fn shape<B: Block + ?Sized>(b: &B) {
    let i = b.info();
    assert!(i.size == SIZE && !i.read_only && i.logical_block.is_power_of_two());
    assert!(i.physical_block >= i.logical_block);
    let mut buf = vec![1; SIZE as usize];
    b.read_at(0, &mut buf).expect("read");
    assert!(buf.iter().all(|x| *x == 0), "a fresh device of the kit reads as zeros");
}

fn wrong_requests<B: Block + ?Sized>(b: &B) {
    let block = b.info().logical_block as usize;
    let data = vec![1; block];
    for at in [SIZE, u64::MAX - block as u64 + 1, 1] {
        assert_eq!(b.write_at(at, &data).expect_err("outside or crooked").kind, Kind::Invalid, "at {at}");
        assert_eq!(b.zero_at(at, block as u64).expect_err("outside or crooked").kind, Kind::Invalid);
    }
    assert_eq!(b.read_at(0, &mut vec![0; block - 1]).expect_err("crooked").kind, Kind::Invalid);
}

/// One batch with everything in it: an answer each, in order, and a flush in the middle.
fn batches<B: Block + ?Sized>(b: &B) {
    let test_sink = TestSink::new();
    let sink: Arc<dyn CompletionSink> = test_sink.clone();
    let (one, two) = (vec![1; 8192], vec![2; 4096]);
    let (mut x, mut y) = (vec![9; 4096], vec![9; 4096]);
    b.write_at(0, &one).expect("write");
    b.write_at(4096, &two).expect("write");
    let mut batch = [
        Request { token: 10, offset: 0, op: Op::Read(&mut x) },
        Request { token: 11, offset: 65536, op: Op::Write { data: &two, fua: true } },
        Request { token: 12, offset: 0, op: Op::Flush },
        Request { token: 13, offset: SIZE, op: Op::Write { data: &two, fua: false } },
        Request { token: 14, offset: 4096, op: Op::Read(&mut y) },
        Request { token: 15, offset: 0, op: Op::Cache { len: 8192 } },
    ];
    let mut answers = Vec::new();
    b.submit(&mut batch, &mut answers, &sink);
    assert_eq!(answers.len(), 6, "one answer each");
    let mut results = Vec::new();
    for (n, a) in answers.into_iter().enumerate() {
        results.push(match a {
            Answer::Done(r) => r.map(|()| None),
            Answer::Later => test_sink.wait(10 + n as u64).map(Some),
        });
    }
    let text: Vec<_> = results.iter().map(|r| r.as_ref().map_err(|e| e.kind).map(drop)).collect();
    assert_eq!(text, [Ok(()), Ok(()), Ok(()), Err(Kind::Invalid), Ok(()), Ok(())]);
    let bytes = |buf: Vec<u8>, n: usize| results[n].clone().expect("read").unwrap_or(buf);
    assert!(bytes(x, 0) == one[..4096] && bytes(y, 4) == two);
}

fn zero_and_trim<B: Block + ?Sized>(b: &B) {
    b.write_at(0, &vec![5; SIZE as usize]).expect("write");
    let zero = |at, no_hole, fast| b.run(at, Op::Zero { len: 65536, fua: at == 0, no_hole, fast }).map(drop);
    zero(0, false, false).expect("zero");
    zero(65536, true, false).expect("zero, no hole");
    match zero(131_072, false, true) {
        Ok(()) => assert!(b.info().fast_zero),
        Err(e) => {
            assert_eq!(e.kind, Kind::Unsupported, "{e}");
            zero(131_072, false, false).expect("zero");
        }
    }
    let mut buf = vec![1; 3 << 16];
    b.read_at(0, &mut buf).expect("read");
    assert!(buf.iter().all(|x| *x == 0), "zeroed ranges read as zeros");
    b.trim_at(1 << 19, 1 << 16).expect("trim");
    b.read_at(0, &mut buf[..4096]).expect("read");
    let mut runs: Vec<Allocation> = Vec::new();
    let mut at = 0;
    while at < SIZE {
        let before = runs.len();
        b.allocation(ByteRange::new(at, SIZE - at), &mut runs).expect("allocation");
        assert!(runs.len() > before, "covers at least one byte");
        for r in &runs[before..] {
            assert!(r.range.start == at && r.range.len > 0, "in order, without gaps");
            at = r.range.end();
        }
    }
    assert_eq!(at, SIZE, "not beyond what was asked");
    let mut all = vec![0; SIZE as usize];
    b.read_at(0, &mut all).expect("read");
    for r in runs.iter().filter(|r| r.zero) {
        let bytes = &all[r.range.start as usize..r.range.end() as usize];
        assert!(bytes.iter().all(|x| *x == 0), "{r:?} is said to be zero");
    }
}

fn overlapping_writes_keep_their_order<B: Block + ?Sized + 'static>(b: &Arc<B>) {
    let sinks = [TestSink::new(), TestSink::new()];
    for n in 0..64u64 {
        let data = vec![n as u8; 8192];
        let sink: Arc<dyn CompletionSink> = sinks[(n % 2) as usize].clone();
        let mut answers = Vec::new();
        let mut batch =
            [Request { token: n, offset: (n % 3) * 512 * 8, op: Op::Write { data: &data, fua: false } }];
        b.submit(&mut batch, &mut answers, &sink);
        if let Some(Answer::Done(r)) = answers.pop() {
            sinks[(n % 2) as usize].complete(Completion { token: n, result: r.map(|()| Vec::new()) });
        }
    }
    for n in 0..64u64 {
        sinks[(n % 2) as usize].wait(n).expect("write");
    }
    let mut buf = vec![0; 4 * 4096];
    b.read_at(0, &mut buf).expect("read");
    let got: Vec<u8> = buf.chunks(4096).map(|c| c[0]).collect();
    assert_eq!(got, [63, 63, 62, 62], "the last writer of each block");
}

fn against_a_vector<B: Block + ?Sized>(b: &B, seed: u64) {
    let mut model = vec![0u8; SIZE as usize];
    let block = u64::from(b.info().logical_block);
    for n in 0..150 {
        let r = |k: u64| mix(seed * 1000 + n, k);
        let at = r(1) % (SIZE / block) * block;
        let len = ((1 + r(2) % 160) * block).min(SIZE - at);
        let (a, e) = (at as usize, (at + len) as usize);
        match r(0) % 10 {
            0..=4 => {
                let data: Vec<u8> = (0..len).map(|i| (i ^ r(3)) as u8).collect();
                b.run(at, Op::Write { data: &data, fua: r(4) % 4 == 0 }).expect("write");
                model[a..e].copy_from_slice(&data);
            }
            5 | 6 => {
                let op = Op::Zero { len, fua: false, no_hole: r(4) % 2 == 0, fast: false };
                b.run(at, op).expect("zero");
                model[a..e].fill(0);
            }
            7 => {
                b.trim_at(at, len).expect("trim");
                // Trimmed bytes read as anything; ours as zeros or as before, and stay so.
                let mut buf = vec![0; len as usize];
                b.read_at(at, &mut buf).expect("read");
                let fine = buf.iter().zip(&model[a..e]).all(|(x, old)| *x == 0 || x == old);
                assert!(fine, "trim invented bytes");
                model[a..e].copy_from_slice(&buf);
            }
            8 => b.flush().expect("flush"),
            _ => {
                let mut buf = vec![0xee; len as usize];
                b.read_at(at, &mut buf).expect("read");
                assert!(buf == model[a..e], "read at step {n}");
            }
        }
    }
    let mut all = vec![0; SIZE as usize];
    b.read_at(0, &mut all).expect("read");
    assert!(all == model, "after all steps of seed {seed}");
}
