//! From plain extent to frame and back: id, compression, AEAD; keys in memory.
