//! The forwarding table and neighbours, as the control thread mirrors them from the kernel.

mod fib;
mod lpm;

pub use fib::{Fib, FibFamily, Interface, Mac, NextHop, Target};
pub use lpm::Lpm;
