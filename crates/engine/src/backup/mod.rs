//! Backup: the instant (the cut), the fleece (what was there), collecting, the commit.
