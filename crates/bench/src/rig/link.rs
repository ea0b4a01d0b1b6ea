//! A link of a given speed: a network namespace behind a veth pair whose both ends pass a token bucket with a real FIFO. The
//! store runs inside; its latency is added by the store server itself (this kernel has no netem). Needs root.

use super::cost;
use crate::{Result, fail};
use std::process::Command;

/// A link; gone when dropped.
pub struct Link {
    name: String,
    third: u8,
}

/// What a link is like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes a second, each way.
    pub rate: u64,
    /// Round trip, milliseconds.
    pub rtt_ms: u64,
}

impl Shape {
    /// As a table names it.
    pub fn name(self) -> String {
        format!("{:.1} MB/s, {} ms", self.rate as f64 / 1e6, self.rtt_ms)
    }

    /// Bytes the queue at the narrow place holds: twice what fills the pipe, at least 256 KiB.
    fn queue(self) -> u64 {
        (self.rate * self.rtt_ms / 1000 * 2).max(256 << 10)
    }
}

fn ip(arguments: &str) -> Result<()> {
    cost::run(Command::new("ip").args(arguments.split_whitespace())).map(|_| ())
}

impl Link {
    /// Makes it. The far side is reached at `address()`, processes there are started by `inside`.
    pub fn up(shape: Shape) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return fail("links need root (ip netns, tc)");
        }
        let number = std::process::id() % 200;
        let name = format!("rkb{}", std::process::id());
        let link = Link { name: name.clone(), third: u8::try_from(number)? };
        let (near, far) = (format!("{name}a"), format!("{name}b"));
        let third = link.third;
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add {near} type veth peer name {far} netns {name}"))?;
        ip(&format!("addr add 10.213.{third}.1/24 dev {near}"))?;
        ip(&format!("link set {near} up"))?;
        ip(&format!("-n {name} addr add 10.213.{third}.2/24 dev {far}"))?;
        ip(&format!("-n {name} link set {far} up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        // A burst of 4 ms: smaller ones cost speed at the timer's resolution, larger ones hide the queue.
        let burst = (shape.rate / 250).max(32 << 10);
        let filter =
            format!("root tbf rate {}bit burst {burst} limit {}", shape.rate * 8, shape.queue() + burst);
        for (space, device) in [(None, &near), (Some(&name), &far)] {
            let prefix = space.map_or(String::new(), |n| format!("-n {n} "));
            let arguments = format!("{prefix}qdisc add dev {device} {filter}");
            cost::run(Command::new("tc").args(arguments.split_whitespace()))?;
        }
        Ok(link)
    }

    /// The far side's address.
    pub fn address(&self) -> String {
        format!("10.213.{}.2", self.third)
    }

    /// Bytes that came from the far side so far, headers included.
    pub fn received(&self) -> Result<u64> {
        let path = format!("/sys/class/net/{}a/statistics/rx_bytes", self.name);
        Ok(std::fs::read_to_string(path)?.trim().parse()?)
    }

    /// A command that runs on the far side.
    pub fn inside(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The veth pair goes with its namespace; nothing to do about a failure here.
        let _ = ip(&format!("netns del {}", self.name));
        let _ = ip(&format!("link del {}a", self.name));
    }
}
