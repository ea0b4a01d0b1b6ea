//! What all parts of an open repository share.

use super::pages::PageCache;
use rekindle_core::repo::Config;
use rekindle_io::seal::{Keys, Master};
use rekindle_io::store::Store;
use std::sync::Arc;

/// An open repository's inside: no lock but the page cache's own.
pub(super) struct Core {
    pub store: Arc<dyn Store>,
    pub config: Config,
    pub keys: Keys,
    /// To wrap it for another credential; `None` without encryption.
    pub master: Option<Master>,
    pub pages: PageCache,
}
