//! Connection tracking with the semantics of Linux netfilter.

mod connection;
pub mod expectation;
pub mod fragment;
mod hash;
pub(crate) mod region;
pub mod sctp;
mod slab;
mod table;
pub mod tcp;
mod timeouts;
mod tuple;

pub use connection::{Changes, Connection, CtState, Private, Status};
pub use expectation::{Expectation, Expectations, ExpectedTarget, Master, MasterFlow};
pub use hash::HashKeys;
pub use sctp::{SctpPacket, SctpTrack};
pub use slab::{Live, Slab, SlabView};
pub use table::{Entry, Table};
pub use tcp::{HostTcp, TcpSettings, TcpState, TcpTrack};
pub use timeouts::{Ticks, Timeouts, UdpTimeout, UdpTimeouts};
pub use tuple::{Direction, Key, Tuple};
