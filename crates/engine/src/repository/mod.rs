//! The repository: opening, reading extents by place, writing packs and trees, sessions and holds.
