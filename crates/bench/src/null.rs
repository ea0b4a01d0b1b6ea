//! Devices behind our NBD server and nothing between: one that does nothing, for what the wire, the kernel and the client
//! allow, and a plain file, for what a live volume adds.

use crate::Result;
use rekindle_core::volume::ByteRange;
use rekindle_export::nbd::{ExportSpec, Listen, Server, ServerOptions};
use rekindle_io::block::{Allocation, Answer, Block, CompletionSink, FileBlock, FileOptions, Info, Request};
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

/// Serves a device of so many bytes that does nothing, until killed.
pub fn serve(size: u64, socket: &Path) -> Result<()> {
    serve_device(Arc::new(Null { size }), socket)
}

/// Serves a raw file as the product does, less what a live volume adds: usage counting, change tracking, instants. Not
/// locked: it is compared with the product over the same file.
pub fn serve_bare(file: &Path, socket: &Path) -> Result<()> {
    serve_device(FileBlock::open(file, &FileOptions { lock: false, ..FileOptions::default() })?, socket)
}

fn serve_device(device: Arc<dyn Block>, socket: &Path) -> Result<()> {
    let mut options = ServerOptions::default();
    options.listen.push(Listen::Unix(socket.to_owned()));
    let server = Server::start(options)?;
    let spec = ExportSpec { name: String::new(), description: "bare".into(), device, is_default: true };
    server.add(spec)?;
    loop {
        std::thread::park();
    }
}
