//! Parsing, classifying, tracking and rewriting of whatever may stand behind an Ethernet header.
#![no_main]

use dataplane::conntrack::{Direction, SctpTrack, Status, TcpSettings, TcpTrack, Timeouts};
use dataplane::helper::sequence::SequenceOffsets;
use dataplane::packet::icmp::{self, Problem};
use dataplane::packet::transport::{self, ChecksumState, Transport};
use dataplane::packet::{ETHERNET, Headers, Ip, V4, V6, checksum, protocol, put16};
use libfuzzer_sys::fuzz_target;

// The first byte: bit 0 leaves the IPv4 header checksum as it is. The rest is the IP packet.
fuzz_target!(|data: &[u8]| {
    let Some((flags, packet)) = data.split_first() else { return };
    let mut frame = vec![0; ETHERNET];
    frame.extend_from_slice(packet);
    if flags & 1 == 0 {
        mend_header_checksum(&mut frame);
    }
    check::<V4>(&frame);
    check::<V6>(&frame);
});

/// Random bytes have no right checksum, and would get no further.
fn mend_header_checksum(frame: &mut [u8]) {
    let Some(len) = frame.get(ETHERNET).map(|b| usize::from(b & 15) * 4) else { return };
    if let Some(header) = frame.get_mut(ETHERNET..ETHERNET + len).filter(|h| h.len() >= 20) {
        put16(header, 10, 0);
        let c = checksum::checksum(header);
        put16(header, 10, c);
    }
}

fn check<A: Ip>(frame: &[u8]) {
    let parsed = A::parse(frame, ETHERNET);
    if let Some(plain) = A::parse_plain(frame, ETHERNET) {
        assert_eq!(Ok(plain.headers(frame, ETHERNET)), parsed);
    }
    let Ok(h) = parsed else { return };
    check_bounds(&h, ETHERNET, frame.len());
    assert_eq!(A::addresses_of(frame, ETHERNET), (h.src, h.dst));
    if h.ttl > 0 {
        let mut f = frame.to_vec();
        A::decrement_ttl(&mut f, ETHERNET);
        assert_eq!(A::parse(&f, ETHERNET).expect("only the TTL changed").ttl, h.ttl - 1);
    }
    match transport::classify(frame, &h) {
        _ if h.fragment.is_some() => {}
        Transport::Invalid => {}
        Transport::IcmpError => check_quote(frame, &h),
        Transport::Flow(ports) => {
            let key = h.key(ports);
            assert_eq!((key.tuple.src, key.tuple.dst, key.proto), (h.src, h.dst, h.proto));
            let whole = (transport::classify(frame, &h), transport::verify(frame, h));
            assert_eq!(transport::read(frame, h), whole);
            let mut right = frame.to_vec();
            fill(&mut right, &h);
            assert_eq!(transport::verify(&right, h), ChecksumState::Good);
            check_tracking(&mut right.clone(), &h);
            check_rewrite(&mut right, &h);
            check_answers(frame, &h);
        }
    }
}

fn fill<A: Ip>(frame: &mut [u8], h: &Headers<A>) {
    if h.proto == protocol::SCTP {
        transport::complete(frame, h, 0);
    } else {
        transport::fill(frame, h);
    }
}

fn check_bounds<A>(h: &Headers<A>, l3: usize, len: usize) {
    assert!(usize::from(h.l3) == l3 && h.l3 < h.l4 && h.l4 <= h.end && usize::from(h.end) <= len);
}

/// What is tracked by its content: it may say anything.
fn check_tracking<A: Ip>(frame: &mut [u8], h: &Headers<A>) {
    let timeouts = Timeouts::default();
    match h.proto {
        protocol::TCP => {
            let segment = transport::tcp_segment(frame, h);
            let settings = TcpSettings::default();
            if let Some(mut t) = TcpTrack::new(&segment, &settings) {
                for direction in [Direction::Original, Direction::Reply, Direction::Original] {
                    t.track(direction, &segment, &settings, &timeouts, Status::SEEN_REPLY);
                }
            }
            let mut offsets = SequenceOffsets::default();
            offsets.record(Direction::Reply, segment.ack.wrapping_sub(100), 9);
            offsets.record(Direction::Original, segment.seq.wrapping_sub(100), -9);
            let segment = &mut frame[usize::from(h.l4)..usize::from(h.end)];
            if offsets.restore(Direction::Original, segment) {
                offsets.shift(Direction::Original, segment);
                assert_eq!(transport::verify(frame, *h), ChecksumState::Good);
            }
        }
        protocol::SCTP => {
            let packet = transport::sctp_packet(frame, h);
            if let Some(mut t) = SctpTrack::new(&packet) {
                for direction in [Direction::Original, Direction::Reply, Direction::Original] {
                    t.track(direction, &packet, &timeouts);
                }
            }
        }
        _ => {}
    }
}

/// A packet in order stays so when addresses and ports change.
fn check_rewrite<A: Ip>(f: &mut [u8], h: &Headers<A>) {
    let (src, dst) = (h.dst.offset(77), h.src.offset(1));
    let delta = A::rewrite(f, h, src, dst);
    transport::rewrite(f, h, 40_000, 53, delta);
    let after = A::parse(f, ETHERNET).expect("it was in order");
    assert_eq!((after.src, after.dst, after.l4, after.end), (src, dst, h.l4, h.end));
    assert_eq!(transport::verify(f, after), ChecksumState::Good);
}

/// What is quoted is found within the error, and translating it leaves the error in order.
fn check_quote<A: Ip>(frame: &[u8], h: &Headers<A>) {
    let Some(quote) = icmp::quoted(frame, h) else { return };
    check_bounds(&quote, usize::from(h.l4) + 8, usize::from(h.end));
    transport::verify(frame, *h);
    let Some(key) = transport::quoted_key(frame, &quote).and_then(|k| k.inverse()?.inverse()) else { return };
    assert_eq!((key.tuple.src, key.tuple.dst), (quote.src, quote.dst));
    let mut f = frame.to_vec();
    let delta = A::rewrite(&mut f, &quote, quote.dst, quote.src.offset(9));
    transport::rewrite(&mut f, &quote, 1024, 40_000, delta);
    icmp::refresh_checksum(&mut f, h);
    assert_eq!(transport::verify(&f, *h), ChecksumState::Good);
    assert_eq!(f.len(), frame.len());
}

/// What the gateway answers can be parsed and is in order.
fn check_answers<A: Ip>(frame: &[u8], h: &Headers<A>) {
    let mut out = [0; 1500];
    let built = |out: &[u8]| {
        let h = A::parse(out, ETHERNET).expect("a packet made here");
        assert_eq!(usize::from(h.end), out.len());
        assert_eq!(transport::verify(out, h), ChecksumState::Good);
        transport::classify(out, &h)
    };
    if icmp::may_answer(frame, h) {
        let n = icmp::build_error(&mut out, frame, h, A::default().offset(5), Problem::TooBig(1400));
        assert_eq!(built(&out[..n]), Transport::IcmpError);
    }
    if h.proto == protocol::TCP
        && let Some(n) = icmp::build_reset(&mut out, frame, h)
    {
        assert!(matches!(built(&out[..n]), Transport::Flow(_)));
    }
}
