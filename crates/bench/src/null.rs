//! A device that does nothing behind our NBD server: what the wire, the kernel and the client allow.

use crate::Result;
use rekindle_core::volume::ByteRange;
use rekindle_export::nbd::{ExportSpec, Listen, Server, ServerOptions};
use rekindle_io::block::{Allocation, Answer, Block, CompletionSink, Info, Request};
use std::path::Path;
use std::sync::Arc;

struct Null {
    size: u64,
}

impl Block for Null {
    fn info(&self) -> Info {
        Info {
            size: self.size,
            logical_block: 512,
            physical_block: 4096,
            read_only: false,
            rotational: false,
            trim: true,
            fast_zero: true,
        }
    }

    /// Buffers stay as they are: even filling them would be work.
    fn submit(&self, batch: &mut [Request<'_>], answers: &mut Vec<Answer>, _: &Arc<dyn CompletionSink>) {
        answers.extend(batch.iter().map(|_| Answer::Done(Ok(()))));
    }

    fn allocation(&self, range: ByteRange, out: &mut Vec<Allocation>) -> rekindle_io::Result<()> {
        out.push(Allocation { range, hole: false, zero: false });
        Ok(())
    }
}

/// Serves until killed.
pub fn serve(size: u64, socket: &Path) -> Result<()> {
    let mut options = ServerOptions::default();
    options.listen.push(Listen::Unix(socket.to_owned()));
    let server = Server::start(options)?;
    let device = Arc::new(Null { size });
    server.add(ExportSpec {
        name: String::new(),
        description: "nothing".into(),
        device,
        is_default: true,
    })?;
    loop {
        std::thread::park();
    }
}
