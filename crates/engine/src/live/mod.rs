//! Live volumes: the user's own disk, served unchanged, with usage and change tracking.
