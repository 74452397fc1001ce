//! Network address translation: what a connection's first packet chooses. Later packets only apply it.

mod destination;
mod moved;
mod random;
mod source;

pub use destination::destination;
pub use moved::Moved;
pub use random::Random;
pub use source::{Range, source};
