//! The repository format: frames, packs, manifest tree, commits, keys, sessions (DESIGN 7).
