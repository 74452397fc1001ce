//! The TFTP helper, with what follows from an announcement.
#![no_main]

mod helper;

use dataplane::helper::HelperKind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| helper::read_stream(HelperKind::Tftp, data));
