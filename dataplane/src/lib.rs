//! Sluice's data plane: everything a packet touches.
//!
//! A [`worker::Worker`] owns one queue of every interface, its frames, its connection tables and its
//! counters, and runs each frame from receive to send on one core. What it needs from outside arrives
//! as immutable [`snapshot::Snapshot`]s; what it reports leaves through bounded queues and plain
//! counters in [`worker::shared`]. Nothing here knows YAML, HTTP or an async runtime.

pub mod conntrack;
pub mod helper;
pub mod io;
pub mod nat;
pub mod packet;
pub mod policy;
pub mod route;
pub mod snapshot;
pub mod worker;
