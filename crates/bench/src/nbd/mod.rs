//! A small NBD client of the harness's own: neutral between the servers it measures, and as cheap as a client can be.
//!
//! - `wire`: negotiation and the two layouts a client needs; simple replies unless structured ones are asked for.
//! - `load`: the pipelined generator (one thread, large receive buffer, refills in one write).
//! - `guest`: one request at a time, every byte checked against an oracle; the client of the demo.

pub mod guest;
pub mod load;
pub mod oracle;
pub mod wire;
