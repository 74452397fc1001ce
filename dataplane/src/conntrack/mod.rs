//! Connection tracking with the semantics of Linux netfilter.

mod connection;
pub mod expectation;
pub mod fragment;
pub(crate) mod region;
pub mod sctp;
mod slab;
mod table;
pub mod tcp;
mod timeouts;
mod tuple;

pub use connection::{Connection, CtState, Private, Status};
pub use expectation::{Expectation, Expectations, ExpectedTarget, Master, MasterFlow};
pub use sctp::{SctpPacket, SctpTrack};
pub use slab::{Live, Slab, SlabView};
pub use table::{Entry, Table};
pub use tcp::{HostTcp, TcpSettings, TcpState, TcpTrack};
pub use timeouts::{Ticks, Timeouts};
pub use tuple::{Direction, Key, Tuple};
