//! The usage map: which extents the guest uses, how, and what a cold start demands (DESIGN 5).
