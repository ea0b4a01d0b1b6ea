//! The NBD protocol, sans I/O, both sides of the wire.
