//! Exports: how guests reach a block device. Knows the block port and the protocol; nothing of repositories or volumes.

pub mod nbd;
