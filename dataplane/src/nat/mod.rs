//! Network address translation: what a connection's first packet chooses. Later packets only apply it.

mod destination;
mod mapping;
pub mod prefix;
mod random;
mod source;

pub use destination::destination;
pub use mapping::{Endpoint, Mappings};
pub use random::Random;
pub use source::{Range, source};
