//! Restore volumes: a writable volume backed by a moment, which turns into a live one.
