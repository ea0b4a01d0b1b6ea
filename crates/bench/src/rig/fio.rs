//! Drives fio's nbd engine. fio is often the limit: it costs 5 to 8 us of its own core per request, and libnbd below it
//! always asks for structured replies.

use crate::nbd::load::{Load, Pattern};
use crate::nbd::wire::Target;
use crate::{Result, fail};
use serde_json::Value;
use std::process::{Command, Stdio};

/// What fio measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Requests per second.
    pub rate: f64,
    /// 99th percentile, microseconds; the slower of reads and writes.
    pub p99: f64,
    /// Requests.
    pub operations: f64,
}

/// Applies `load` with fio.
pub fn run(target: &Target, load: &Load) -> Result<Measured> {
    let rw = match (load.pattern, load.read_percent) {
        (Pattern::Random, 100) => "randread",
        (Pattern::Random, 0) => "randwrite",
        (Pattern::Random, _) => "randrw",
        (Pattern::Sequential, 100) => "read",
        (Pattern::Sequential, 0) => "write",
        (Pattern::Sequential, _) => "rw",
    };
    let mut command = Command::new("fio");
    command.args([
        "--name=cell",
        "--ioengine=nbd",
        "--thread",
        "--time_based",
        "--norandommap",
        "--randrepeat=0",
    ]);
    command.args([
        "--group_reporting",
        "--output-format=json",
        "--refill_buffers=0",
        "--allow_file_create=0",
    ]);
    command.arg(format!("--uri={}", target.uri()));
    command.arg(format!("--rw={rw}")).arg(format!("--bs={}", load.block));
    command.arg(format!("--iodepth={}", load.depth)).arg(format!("--numjobs={}", load.connections));
    command.arg(format!("--runtime={}ms", load.time.as_millis()));
    if !matches!(load.read_percent, 0 | 100) {
        command.arg(format!("--rwmixread={}", load.read_percent));
    }
    if load.flush_every > 0 {
        command.arg(format!("--fsync={}", load.flush_every));
    }
    if load.span > 0 {
        command.arg(format!("--size={}", load.span));
    }
    if load.pattern == Pattern::Sequential && load.connections > 1 {
        command.arg("--offset_increment=25%");
    }
    let out = command.stdin(Stdio::null()).output().map_err(|e| format!("fio: {e}"))?;
    let text = String::from_utf8_lossy(&out.stdout);
    if !out.status.success() {
        return fail(format!("fio: {}{text}", String::from_utf8_lossy(&out.stderr)));
    }
    parse(&text)
}

/// fio may print remarks before its document.
fn parse(text: &str) -> Result<Measured> {
    let document: Value = serde_json::from_str(&text[text.find('{').ok_or("fio printed no document")?..])?;
    let job = &document["jobs"][0];
    let number = |v: &Value| v.as_f64().unwrap_or(0.0);
    let (mut rate, mut p99, mut operations) = (0.0, 0.0f64, 0.0);
    for side in ["read", "write"] {
        rate += number(&job[side]["iops"]);
        operations += number(&job[side]["total_ios"]);
        p99 = p99.max(number(&job[side]["clat_ns"]["percentile"]["99.000000"]) / 1000.0);
    }
    if operations == 0.0 {
        return fail("fio did nothing");
    }
    Ok(Measured { rate, p99, operations })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_document_behind_remarks_is_read() {
        let text = r#"fio: remark
            {"jobs":[{"read":{"iops":10.5,"total_ios":21,"clat_ns":{"percentile":{"99.000000":5000}}},"write":{"iops":0,"total_ios":0}}]}"#;
        let measured = super::parse(text).unwrap();
        assert_eq!((measured.rate, measured.p99, measured.operations), (10.5, 5.0, 21.0));
        assert!(super::parse("{}").is_err());
    }
}
