//! What every benchmark needs: servers to compare, clients that measure, files in a known state, links, reports.

pub mod cost;
pub mod files;
pub mod fio;
pub mod image;
pub mod link;
pub mod machine;
pub mod report;
pub mod scene;
pub mod servers;
pub mod slow_sync;
pub mod svg;
pub mod synthetic;

/// A folder that goes when the benchmark ends; where the files of a measurement lie.
pub fn workspace(prefix: &str) -> crate::Result<tempfile::TempDir> {
    // Not /tmp: it is often memory, and memory is not what is measured.
    let base = std::env::var_os("BENCH_TMP").unwrap_or_else(|| "/var/tmp".into());
    Ok(tempfile::Builder::new().prefix(&format!("rekindle-{prefix}-")).tempdir_in(base)?)
}
