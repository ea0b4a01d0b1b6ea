//! One client: a thread that negotiates, then receives, serves and answers until somebody leaves.

use super::batch::{Batch, Next};
use super::input::Input;
use super::large::Large;
use super::late::{Link, Room};
use rekindle_core::nbd::{Agreed, Broken, Catalogue, Limits, Negotiation, Step, Terms};
use rekindle_io::block::{Block, CompletionSink, Info};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why a connection ended; only for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The client closed, or asked to end.
    #[error("closed by the client")]
    Closed,
    /// The client broke the protocol.
    #[error("protocol: {0}")]
    Broken(#[from] Broken),
    /// Negotiation took too long.
    #[error("negotiation took too long")]
    Slow,
    /// The socket failed.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
}

/// What the negotiation showed of the client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) structured: bool,
    pub(super) context: bool,
}

/// Negotiates within `limit`; what the client sent ahead stays in `input`. `settled` hears what the client asked for
/// before the client hears that it is served: its next connection may follow at once.
pub(super) fn negotiate(
    link: &Link,
    input: &mut Input,
    catalogue: &dyn Catalogue,
    grant_structured: bool,
    limit: Duration,
    settled: impl FnOnce(Asked),
) -> Result<Agreed, End> {
    let deadline = Instant::now() + limit;
    let patience = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(End::Slow) } else { Ok(link.socket.set_patience(Some(left))?) }
    };
    let mut talk = Negotiation::new(Limits::DEFAULT, grant_structured);
    let mut out = Vec::new();
    let mut settled = Some(settled);
    patience()?;
    link.socket.send(&mut [IoSlice::new(&Negotiation::greeting())]).map_err(slow)?;
    loop {
        let (took, step) = talk.step(input.bytes(), catalogue, &mut out);
        input.consume(took);
        if matches!(step, Step::Agreed(_))
            && let Some(tell) = settled.take()
        {
            tell(Asked { structured: talk.asked_structured(), context: talk.asked_context() });
        }
        if !out.is_empty() {
            patience()?;
            link.socket.send(&mut [IoSlice::new(&out)]).map_err(slow)?;
            out.clear();
        }
        match step {
            Step::Again => {}
            Step::More => {
                patience()?;
                if !input.fill(input.bytes().len() + 1, &link.socket, 0).map_err(slow)? {
                    return Err(End::Closed);
                }
            }
            Step::Agreed(agreed) => {
                link.socket.set_patience(None)?;
                return Ok(agreed);
            }
            Step::Done => return Err(End::Closed),
            Step::Broken(b) => return Err(b.into()),
        }
    }
}

fn slow(e: io::Error) -> End {
    match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => End::Slow,
        _ => End::Io(e),
    }
}

/// The rules of one connection.
pub(super) fn terms(agreed: &Agreed, info: &Info) -> Terms {
    Terms {
        mode: agreed.mode,
        size: info.size,
        block: info.logical_block,
        read_only: info.read_only,
        trim: info.trim && !info.read_only,
        fast_zero: info.fast_zero && !info.read_only,
        block_status: agreed.block_status,
        limits: Limits::DEFAULT,
    }
}

/// A connection in its transmission phase.
pub(super) struct Session<'a> {
    pub(super) link: &'a Arc<Link>,
    pub(super) sink: Arc<dyn CompletionSink>,
    pub(super) input: Input,
    pub(super) terms: Terms,
    pub(super) device: Arc<dyn Block>,
    pub(super) room: Room,
    /// How often to look for input before sleeping, asked each time.
    pub(super) spin: &'a dyn Fn() -> u32,
}

impl Session<'_> {
    /// Serves until the end, then waits for late answers unless the client is gone.
    pub(super) fn run(mut self) -> End {
        let end = self.transmit().err().unwrap_or(End::Closed);
        if self.link.is_closing() || matches!(end, End::Closed) && !self.link.is_dead() {
            self.link.drain();
        }
        self.link.finish();
        self.link.kill();
        end
    }
    /// `Ok`: the client said goodbye, or we did; what it asked before is still to be answered.
    fn transmit(&mut self) -> Result<(), End> {
        let mut batch = Batch::new();
        loop {
            let (took, next) = batch.collect(self.input.bytes(), &self.terms, self.link.is_closing())?;
            if !batch.is_empty() {
                if !self.link.wait_room(self.room) {
                    return Err(End::Io(io::ErrorKind::ConnectionReset.into()));
                }
                let served =
                    batch.serve(self.input.bytes(), &self.terms, &*self.device, self.link, &self.sink);
                if !served {
                    return Err(End::Io(io::ErrorKind::ConnectionReset.into()));
                }
            }
            self.input.consume(took);
            match next {
                Next::Full => {}
                Next::Need(n) => self.receive(n)?,
                Next::Disconnect => {
                    self.link.farewell();
                    return Ok(());
                }
                Next::Large(raw, what) => {
                    let mut large = Large {
                        input: &mut self.input,
                        batch: &mut batch,
                        terms: &self.terms,
                        device: &*self.device,
                        link: self.link,
                        sink: &self.sink,
                    };
                    if !large.serve(raw, what) {
                        return Err(End::Io(io::ErrorKind::ConnectionAborted.into()));
                    }
                }
            }
        }
    }
    fn receive(&mut self, need: usize) -> Result<(), End> {
        if self.input.fill(need, &self.link.socket, (self.spin)())? {
            return Ok(());
        }
        // The end of the stream without a goodbye: the client is gone, its waiting writes are void. Unless it was us
        // who closed the reading half: then it still gets its answers.
        Err(End::Io(io::ErrorKind::UnexpectedEof.into()))
    }
}
