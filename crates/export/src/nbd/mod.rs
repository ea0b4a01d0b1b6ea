//! The NBD server: listen, connection, batch.
