//! Network address translation: what a connection's first packet chooses. Later packets only apply it.

mod destination;
mod mapping;
mod outside;
pub mod prefix;
mod random;
mod source;

pub use destination::{destination, may_lead_to};
pub use mapping::{Endpoint, Mappings, endpoint};
pub use random::Random;
pub use source::{Range, permits, source, source_among};
