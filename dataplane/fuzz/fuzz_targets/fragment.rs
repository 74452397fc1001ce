//! The fragment collector: whatever arrives in whatever order, each frame comes back exactly once, and
//! what is complete has neither gaps nor overlaps.
#![no_main]

use std::collections::HashSet;

use dataplane::conntrack::Ticks;
use dataplane::conntrack::fragment::{Collected, Fragments, Piece};
use dataplane::io::Frame;
use dataplane::packet::{FragmentInfo, Headers, V4};
use libfuzzer_sys::fuzz_target;

/// Frames that may wait.
const ROOM: u32 = 40;

// Each four bytes: which datagram (bits 0 and 1), more fragments (bit 2), time passes (bits 3 to 7, in
// seconds); the offset in units of 8; the length in bytes.
fuzz_target!(|data: &[u8]| {
    let mut fragments = Fragments::default();
    let mut held = HashSet::new();
    let mut now = 1;
    for (index, step) in data.chunks_exact(4).enumerate() {
        now += u32::from(step[0] >> 3) * 1000;
        release(&mut held, &fragments.expire(Ticks(now)));
        let offset = u16::from_be_bytes([step[1] & 0x1f, step[2]]) * 8;
        let info = FragmentInfo { id: u32::from(step[0] & 1), offset, more: step[0] & 4 != 0 };
        let src = V4(u32::from(step[0] >> 1 & 1));
        // Bit 5 of the offset's first byte stretches the piece to a length that fragments have.
        let len = u16::from(step[3]) * if step[1] & 0x20 == 0 { 1 } else { 8 };
        let headers =
            Headers { l3: 0, l4: 20, end: 20 + len, proto: 17, ttl: 64, src, dst: V4(9), fragment: Some(info) };
        let frame = Frame { at: index as u32, len };
        assert!(held.insert(frame.at));
        match fragments.add(Piece { frame, interface: 0, headers, info }, Ticks(now), ROOM) {
            Collected::Waits => {}
            Collected::Duplicate(f) => release(&mut held, &[f]),
            Collected::Refused(frames) | Collected::Full(frames) => release(&mut held, &frames),
            Collected::Complete(pieces) => {
                let mut end = 0;
                for (i, p) in pieces.iter().enumerate() {
                    assert_eq!(usize::from(p.info.offset), end);
                    assert_eq!(p.info.more, i + 1 < pieces.len());
                    end += p.headers.transport_length();
                }
                assert!(end <= 65_535 - 20);
                release(&mut held, &pieces.iter().map(|p| p.frame).collect::<Vec<_>>());
            }
        }
        assert_eq!(fragments.waiting() as usize, held.len());
        assert!(fragments.waiting() <= ROOM);
    }
    release(&mut held, &fragments.expire(Ticks(now + 61_000)));
    assert!(held.is_empty() && fragments.waiting() == 0);
});

fn release(held: &mut HashSet<u32>, frames: &[Frame]) {
    for f in frames {
        assert!(held.remove(&f.at), "frame {} came back twice", f.at);
    }
}
