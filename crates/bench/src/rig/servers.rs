//! The servers that are compared, each a process of its own on a Unix socket with a file of its own.

use super::{machine, slow_sync};
use crate::nbd::wire::{Connection, Target};
use crate::{Result, fail};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Which server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `rekindle serve`.
    Rekindle,
    /// Our server over the plain file: no usage counting, no change tracking; for what these cost.
    RekindleBare,
    /// Our export over a device that does nothing: what no server on this wire can exceed.
    Null,
    /// nbdkit's file plugin as it comes: structured replies.
    NbdkitFile,
    /// The same without structured replies.
    NbdkitFileNoSr,
    /// nbdkit's memory plugin.
    NbdkitMemory,
    /// QEMU's server.
    QemuNbd,
}

impl Kind {
    /// As a table names it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Rekindle => "rekindle",
            Kind::RekindleBare => "rekindle, bare",
            Kind::Null => "null server",
            Kind::NbdkitFile => "nbdkit file",
            Kind::NbdkitFileNoSr => "nbdkit file --no-sr",
            Kind::NbdkitMemory => "nbdkit memory",
            Kind::QemuNbd => "qemu-nbd",
        }
    }

    /// Serves the file's bytes (not memory, not nothing).
    pub const fn has_file(self) -> bool {
        !matches!(self, Kind::Null | Kind::NbdkitMemory)
    }
}

/// A running server.
pub struct Server {
    /// Which.
    pub kind: Kind,
    /// Its file; for servers without one the size is taken from it.
    pub file: PathBuf,
    /// How to reach it.
    pub target: Target,
    child: Child,
    _starter: slow_sync::Starter,
}

/// The product's binary.
pub fn rekindle() -> PathBuf {
    std::env::var_os("REKINDLE_BIN").map_or_else(|| sibling("rekindle"), PathBuf::from)
}

fn sibling(name: &str) -> PathBuf {
    let me = std::env::current_exe().unwrap_or_default();
    me.parent().unwrap_or(Path::new(".")).join(name)
}

/// A command of ours whose runtime and state files stay inside `home`.
pub fn ours(home: &Path) -> Result<Command> {
    let mut command = Command::new(rekindle());
    for (variable, folder) in [("REKINDLE_RUNTIME_DIR", "run"), ("REKINDLE_STATE_DIR", "state")] {
        std::fs::create_dir_all(home.join(folder))?;
        command.env(variable, home.join(folder));
    }
    Ok(command)
}

impl Server {
    /// Starts it over `file` with its socket in `home`, each of its flushes `delay` later; ready when it accepts a client.
    pub fn start(kind: Kind, home: &Path, file: &Path, delay: Duration) -> Result<Self> {
        std::fs::create_dir_all(home)?;
        let socket = home.join("nbd.sock");
        let size = std::fs::metadata(file)?.len().to_string();
        let mut command = match kind {
            Kind::Rekindle => ours(home)?,
            Kind::Null | Kind::RekindleBare => Command::new(std::env::current_exe()?),
            Kind::QemuNbd => Command::new("qemu-nbd"),
            _ => Command::new("nbdkit"),
        };
        match kind {
            Kind::Rekindle => {
                command.args(["serve", "bench"]).arg(file).arg("--listen");
                command.arg(format!("unix:{}", socket.display()));
            }
            Kind::RekindleBare => {
                command.arg("bare-server").arg(file).arg(&socket);
            }
            Kind::Null => {
                command.args(["null-server", &size]).arg(&socket);
            }
            Kind::NbdkitFile => {
                command.args(["-f", "-U"]).arg(&socket).arg("file").arg(file);
            }
            Kind::NbdkitFileNoSr => {
                command.args(["-f", "--no-sr", "-U"]).arg(&socket).arg("file").arg(file);
            }
            Kind::NbdkitMemory => {
                command.args(["-f", "-U"]).arg(&socket).args(["memory", &size]);
            }
            Kind::QemuNbd => {
                command.args(["-f", "raw", "-t", "-e", "64", "--cache=writeback", "--aio=threads", "-k"]);
                command.arg(&socket).arg(file);
            }
        }
        let log = std::fs::File::create(home.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let (child, starter) =
            slow_sync::spawn(delay, command).map_err(|e| format!("{}: {e}", kind.name()))?;
        let target = Target::new(&socket);
        let server = Server { kind, file: file.to_owned(), target, child, _starter: starter };
        if let Err(error) = Connection::open_within(&server.target, Duration::from_secs(10)) {
            let said = std::fs::read_to_string(home.join("log")).unwrap_or_default();
            return fail(format!("{} does not serve: {error}\n{said}", kind.name()));
        }
        Ok(server)
    }

    /// Processor seconds so far.
    pub fn cpu(&self) -> Result<f64> {
        machine::cpu_seconds(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
