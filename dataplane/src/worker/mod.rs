//! The worker: one thread, one queue of every interface, frames from receive to send on one core.

mod announce;
mod choose;
mod core;
pub mod counters;
mod directory;
mod emit;
mod error;
pub mod events;
mod exit;
mod family;
mod first;
mod judge;
mod limits;
pub mod listing;
pub mod logged;
mod neighbour;
mod options;
mod path;
mod pieces;
mod reason;
mod related;
mod rules;
mod run;
pub mod shared;
mod stateless;
pub mod steering;
mod succession;
mod tasks;
mod track;
mod translations;
mod unreachable;

pub use directory::Directory;
pub use first::SETUP_SAMPLE;
pub use reason::{DropReason, HandoffReason};
pub use run::{Options, Worker};
pub use succession::Judged;
