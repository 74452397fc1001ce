//! A helper reads packets as the input dictates; what it announces is translated as the gateway would.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::conntrack::Direction;
use dataplane::helper::sequence::SequenceOffsets;
use dataplane::helper::{Announcement, Format, HelperKind, HelperState, Inspection, View, mangle};
use dataplane::packet::transport::{self, ChecksumState};
use dataplane::packet::{ETHERNET, Headers, Ip, V4, V6, checksum, protocol, put16};

/// The input's first byte: bit 0 for IPv6. Then packets: a byte with direction (bit 0), state (bit 1 not
/// established) and bytes lost before it (bits 2 to 7), a length byte and the payload.
pub fn read_stream(kind: HelperKind, data: &[u8]) {
    let Some((family, mut rest)) = data.split_first() else { return };
    let v6 = family & 1 != 0;
    let mut state = HelperState::new(kind);
    let mut offsets = SequenceOffsets::default();
    let mut next = [u32::MAX - 100, 1000];
    while let [control, len, tail @ ..] = rest {
        let (payload, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = tail;
        let direction = if control & 1 == 0 { Direction::Original } else { Direction::Reply };
        let speaker = address(v6, 1 + direction as u8);
        let view = View {
            payload,
            seq: next[direction as usize].wrapping_add(u32::from(control >> 2)),
            direction,
            established: control & 2 == 0,
            speaker,
            speaker_port: 40_000,
            speaker_outside: address(v6, 11 + direction as u8),
        };
        match state.inspect(&view) {
            Inspection::Drop => continue,
            Inspection::Nothing => {}
            Inspection::Announce(a) => {
                assert!(a.port != 0 && a.address == speaker);
                let text = a.format.render(view.speaker_outside, 50_000).expect("the format takes the family");
                let change = if v6 { translate::<V6>(&view, &a, &text) } else { translate::<V4>(&view, &a, &text) };
                let (back, before) = (direction.other(), offsets.sequence(direction, view.seq));
                offsets.record(direction, view.seq, change);
                assert_eq!(offsets.sequence(direction, view.seq), before);
                assert_eq!(offsets.acknowledgement(back, before), view.seq);
            }
        }
        next[direction as usize] = view.seq.wrapping_add(payload.len() as u32);
    }
}

fn address(v6: bool, host: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(host)).into()
    } else {
        Ipv4Addr::new(10, 0, 0, host).into()
    }
}

/// Replaces the announcement inside a frame, and reads the frame again. Returns the change of length.
fn translate<A: Ip>(view: &View, a: &Announcement, text: &str) -> i32 {
    if a.format == Format::Unwritten {
        assert!(a.range.is_empty() && text.is_empty());
        return 0;
    }
    let (mut frame, mut h) = frame_of::<A>(view.payload);
    let change = mangle::replace(&mut frame, &mut h, a.range.clone(), text.as_bytes()).expect("there is room");
    let frame = &frame[..usize::from(h.end)];
    let h = A::parse(frame, ETHERNET).expect("lengths and header checksum are right");
    assert_eq!(transport::verify(frame, h), ChecksumState::Good);
    let payload = &frame[mangle::payload_range(frame, &h).expect("a TCP segment")];
    assert_eq!(payload.len() as i32 - view.payload.len() as i32, change);
    let (head, tail) = (&view.payload[..a.range.start], &view.payload[a.range.end..]);
    assert_eq!(payload, [head, text.as_bytes(), tail].concat());
    change
}

/// A TCP segment with this payload, and 64 bytes of room.
fn frame_of<A: Ip>(payload: &[u8]) -> (Vec<u8>, Headers<A>) {
    let l4 = ETHERNET + if A::V6 { 40 } else { 20 };
    let end = l4 + 20 + payload.len();
    let mut f = vec![0; end + 64];
    put16(&mut f, 12, A::ETHERTYPE);
    if A::V6 {
        f[ETHERNET] = 0x60;
        put16(&mut f, ETHERNET + 4, (end - l4) as u16);
        (f[ETHERNET + 6], f[ETHERNET + 7]) = (protocol::TCP, 64);
    } else {
        f[ETHERNET] = 0x45;
        put16(&mut f, ETHERNET + 2, (end - ETHERNET) as u16);
        (f[ETHERNET + 8], f[ETHERNET + 9]) = (64, protocol::TCP);
        let c = checksum::checksum(&f[ETHERNET..l4]);
        put16(&mut f, ETHERNET + 10, c);
    }
    f[l4 + 12] = 5 << 4;
    f[l4 + 20..end].copy_from_slice(payload);
    let h = A::parse(&f, ETHERNET).expect("a packet made here");
    (f, h)
}
