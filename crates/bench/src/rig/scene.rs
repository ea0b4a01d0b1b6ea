//! The product at work: a repository, a set named `shop`, and the verbs a user would type, each a process of its own.

use super::{cost, servers};
use crate::nbd::load::Random;
use crate::nbd::wire::{Connection, Target};
use crate::{Result, fail};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A world of its own: runtime and state folders, key file, repository.
pub struct Scene {
    /// Where everything lies.
    pub home: PathBuf,
    /// The repository: a folder here, or what a link leads to.
    pub repo: String,
}

/// A verb that stays; killed when dropped.
pub struct Running {
    /// The process.
    pub child: Child,
    /// Its export.
    pub target: Target,
    /// What it says.
    pub log: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Asks it to stop, waits for it.
    pub fn stop(mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        if self.child.wait()?.success() { Ok(()) } else { fail(self.said()) }
    }

    /// Its output so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Scene {
    /// In `home`, with a repository that is made here.
    pub fn new(home: &Path) -> Result<Self> {
        let scene = Self::with_repo(home, home.join("repo").display().to_string())?;
        scene.verb(&["init"])?;
        Ok(scene)
    }

    /// In `home`, with a repository that is there already.
    pub fn with_repo(home: &Path, repo: String) -> Result<Self> {
        std::fs::create_dir_all(home)?;
        std::fs::write(home.join("key"), KEY)?;
        Ok(Scene { home: home.to_owned(), repo })
    }

    /// `rekindle ...` in this world.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = servers::ours(&self.home)?;
        command.env("REKINDLE_REPO", &self.repo).env("REKINDLE_KEY_FILE", self.home.join("key"));
        command.args(arguments);
        Ok(command)
    }

    /// Runs a verb to its end.
    pub fn verb(&self, arguments: &[&str]) -> Result<cost::Cost> {
        cost::run(&mut self.command(arguments)?)
    }

    /// Runs a verb and returns what it printed.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let out = self.command(arguments)?.stdin(Stdio::null()).output()?;
        if !out.status.success() {
            return fail(format!("{arguments:?}: {}", String::from_utf8_lossy(&out.stderr)));
        }
        Ok(String::from_utf8(out.stdout)?)
    }

    /// The socket of what is served here.
    pub fn socket(&self) -> PathBuf {
        self.home.join("nbd.sock")
    }

    /// Starts a verb that stays, without waiting for anything.
    pub fn start(&self, arguments: &[&str]) -> Result<Running> {
        let log = self.home.join(format!("{}.log", arguments[0]));
        let out = std::fs::File::create(&log)?;
        let listen = format!("unix:{}", self.socket().display());
        let mut command = self.command(arguments)?;
        command.arg("--listen").arg(listen).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        Ok(Running { child: command.spawn()?, target: Target::new(self.socket()), log })
    }

    /// Serves `image` as `shop`; ready when it accepts a client.
    pub fn serve(&self, image: &Path) -> Result<Running> {
        self.accepting(self.start(&["serve", "shop", path(image)?])?)
    }

    /// Restores `shop@latest` online to `to`.
    pub fn restore(&self, to: &Path, more: &[&str]) -> Result<Running> {
        let mut arguments = vec!["restore", "shop@latest", "--to", path(to)?];
        arguments.extend(more);
        self.accepting(self.start(&arguments)?)
    }

    fn accepting(&self, running: Running) -> Result<Running> {
        match Connection::open_within(&running.target, Duration::from_secs(30)) {
            Ok(connection) => connection.disconnect().map(|()| running),
            Err(error) => fail(format!("nothing served: {error}\n{}", running.said())),
        }
    }

    /// Backs up a disk at rest as `shop`.
    pub fn backup_at_rest(&self, image: &Path) -> Result<cost::Cost> {
        self.verb(&["backup", path(image)?, "--as", "shop", "-q"])
    }

    /// Waits until `shop` is in a state.
    pub fn wait(&self, state: &str) -> Result<()> {
        self.verb(&["wait", "shop", &format!("--for={state}"), "--timeout", "10m"]).map(|_| ())
    }
}

/// The same key in every world, so that one repository can be opened from several.
const KEY: [u8; 32] = *b"a key for measuring and no more!";

/// A path as an argument.
pub fn path(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| "a path that is not text".into())
}

/// Random places of 4 KiB below `bytes`, `count` of them.
pub fn places(bytes: u64, count: usize, seed: u64) -> Vec<u64> {
    let mut random = Random::new(seed);
    (0..count).map(|_| random.below(bytes / 4096) * 4096).collect()
}
