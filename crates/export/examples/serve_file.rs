//! Serves a raw file until its standard input ends: for measurements and for trying clients.
//!
//! `serve_file FILE SOCKET [structured=auto|always|never] [spin=N]`; SOCKET may be HOST:PORT.

use rekindle_export::nbd::{ExportSpec, Listen, Server, ServerOptions, Structured};
use rekindle_io::block::{Block, FileBlock, FileOptions};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let (file, socket) = match &args[..] {
        [_, file, socket, ..] => (Path::new(file), socket),
        _ => return Err("usage: serve_file FILE SOCKET [structured=auto|always|never] [spin=N]".into()),
    };
    let mut options = ServerOptions::default();
    options.listen.push(socket.parse().map_or_else(|_| Listen::Unix(socket.into()), Listen::Tcp));
    for arg in &args[3..] {
        match arg.split_once('=') {
            Some(("structured", "auto")) => options.structured = Structured::Auto,
            Some(("structured", "always")) => options.structured = Structured::Always,
            Some(("structured", "never")) => options.structured = Structured::Never,
            Some(("spin", n)) => options.spin = n.parse()?,
            _ => return Err(format!("unknown option {arg}").into()),
        }
    }
    let device: Arc<dyn Block> = FileBlock::open(file, &FileOptions::default())?;
    let server = Server::start(options)?;
    let name = String::new();
    server.add(ExportSpec { name, description: String::new(), device, is_default: true })?;
    for at in server.addresses() {
        println!("{}", at.uri(""));
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
