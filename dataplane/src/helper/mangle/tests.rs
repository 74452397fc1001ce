use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::conntrack::Direction;
use crate::helper::{Format, HelperKind, HelperState, Inspection, View};
use crate::packet::checksum::{fold, sum};
use crate::packet::{ETHERNET, FragmentInfo, V4, V6};

const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
const CLIENT: [u8; 4] = [10, 10, 0, 2];
const SERVER: [u8; 4] = [203, 0, 113, 9];
const OPTIONS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

fn v6(last: u8) -> [u8; 16] {
    let mut a = [0; 16];
    (a[0], a[1], a[15]) = (0xfd, 1, last);
    a
}

/// A frame with this payload, IPv4 with an IP option.
fn frame(ipv6: bool, tcp: bool, payload: &[u8]) -> Vec<u8> {
    let b = PacketBuilder::ethernet2(MACS.0, MACS.1);
    let b = if ipv6 {
        b.ipv6(v6(1), v6(2), 64)
    } else {
        // Router alert, RFC 2113.
        b.ip(etherparse::IpHeaders::Ipv4(
            etherparse::Ipv4Header {
                options: [148, 4, 0, 0].into(),
                time_to_live: 64,
                source: CLIENT,
                destination: SERVER,
                ..Default::default()
            },
            Default::default(),
        ))
    };
    let mut out = Vec::new();
    if tcp {
        let b = b.tcp(40_000, 21, 1000, 64_000).ack(5).psh().options_raw(&OPTIONS).unwrap();
        b.write(&mut out, payload).unwrap();
    } else {
        b.udp(40_000, 69).write(&mut out, payload).unwrap();
    }
    out
}

/// The payload of a frame whose every length and checksum etherparse finds right.
fn checked_payload(frame: &[u8]) -> Vec<u8> {
    let p = SlicedPacket::from_ethernet(frame).unwrap();
    let net = p.net.unwrap();
    let (src, dst) = match &net {
        NetSlice::Ipv4(ip) => {
            let h = ip.header().to_header();
            assert_eq!(h.header_checksum, h.calc_header_checksum());
            assert_eq!(usize::from(h.total_len), frame.len() - ETHERNET);
            (h.source.to_vec(), h.destination.to_vec())
        }
        NetSlice::Ipv6(ip) => {
            assert_eq!(usize::from(ip.header().payload_length()), frame.len() - ETHERNET - 40);
            (ip.header().source().to_vec(), ip.header().destination().to_vec())
        }
        NetSlice::Arp(_) => panic!("an IP packet became ARP"),
    };
    let v4 = |a: &[u8]| <[u8; 4]>::try_from(a).unwrap();
    let v6 = |a: &[u8]| <[u8; 16]>::try_from(a).unwrap();
    match p.transport.unwrap() {
        TransportSlice::Tcp(t) => {
            let right = if src.len() == 4 {
                t.calc_checksum_ipv4(v4(&src), v4(&dst)).unwrap()
            } else {
                t.calc_checksum_ipv6(v6(&src), v6(&dst)).unwrap()
            };
            assert_eq!(t.checksum(), right);
            assert_eq!(t.options(), OPTIONS);
            t.payload().to_vec()
        }
        TransportSlice::Udp(u) => {
            assert_eq!(usize::from(u.length()), u.payload().len() + 8);
            let h = u.to_header();
            let right = if src.len() == 4 {
                h.calc_checksum_ipv4_raw(v4(&src), v4(&dst), u.payload()).unwrap()
            } else {
                h.calc_checksum_ipv6_raw(v6(&src), v6(&dst), u.payload()).unwrap()
            };
            assert!(u.checksum() == right || u.checksum() == 0);
            u.payload().to_vec()
        }
        other => panic!("{other:?}"),
    }
}

/// Replaces in a buffer with `room` more bytes; the frame afterwards.
fn replaced<A: Ip>(f: &[u8], room: usize, part: Range<usize>, text: &[u8]) -> Result<(Vec<u8>, i32), MangleError> {
    let mut h = A::parse(f, ETHERNET).unwrap();
    let mut buffer = f.to_vec();
    buffer.resize(f.len() + room, 0xaa);
    let before = buffer.clone();
    let change = replace(&mut buffer, &mut h, part, text).inspect_err(|_| {
        assert_eq!(buffer, before);
    })?;
    assert!(buffer[usize::from(h.end).max(f.len())..].iter().all(|b| *b == 0xaa), "wrote behind the packet");
    buffer.truncate(usize::from(h.end));
    assert_eq!(buffer.len() as i32 - f.len() as i32, change);
    Ok((buffer, change))
}

#[test]
fn refusals() {
    let f = frame(false, true, b"PORT 10,10,0,2,4,1\r\n");
    for (name, part, room, text, error) in [
        ("no room", 5..18, 3, &b"198,51,100,1,18,52"[..], MangleError::NoRoom),
        ("longer than IP can be", 5..18, 70_000, &[b'x'; 66_000], MangleError::NoRoom),
        ("ends after the payload", 5..21, 100, b"x", MangleError::OutsidePayload),
        ("begins after the payload", 21..21, 100, b"x", MangleError::OutsidePayload),
        #[expect(clippy::reversed_empty_ranges, reason = "it is refused")]
        ("backwards", 8..5, 100, b"x", MangleError::OutsidePayload),
    ] {
        assert_eq!(replaced::<V4>(&f, room, part, text), Err(error), "{name}");
    }
    let mut h = V4::parse(&f, ETHERNET).unwrap();
    h.fragment = Some(FragmentInfo { id: 1, offset: 0, more: true });
    assert_eq!(replace(&mut f.clone(), &mut h, 0..1, b"x"), Err(MangleError::NotWhole));
    let mut h = V4::parse(&f, ETHERNET).unwrap();
    h.proto = protocol::SCTP;
    assert_eq!(replace(&mut f.clone(), &mut h, 0..1, b"x"), Err(MangleError::NotWhole));
}

#[test]
fn exactly_enough_room() {
    let f = frame(false, true, b"PORT 10,10,0,2,4,1\r\n");
    let (out, change) = replaced::<V4>(&f, 5, 5..18, b"198,51,100,1,18,52").unwrap();
    assert_eq!((checked_payload(&out).as_slice(), change), (&b"PORT 198,51,100,1,18,52\r\n"[..], 5));
}

#[test]
fn udp_without_checksum_stays_without() {
    let mut f = frame(false, false, b"abcdef");
    put16(&mut f, ETHERNET + 24 + 6, 0);
    let (out, _) = replaced::<V4>(&f, 10, 2..3, b"XYZ").unwrap();
    assert_eq!(checked_payload(&out), b"abXYZdef");
    assert_eq!(be16(&out, ETHERNET + 24 + 6), 0);
}

#[test]
fn ethernet_padding_is_left_behind() {
    let mut f = frame(false, false, b"abc");
    let h = V4::parse(&f, ETHERNET).unwrap();
    f.resize(60, 0);
    let mut after = h;
    assert_eq!(replace(&mut f, &mut after, 1..2, b"12345"), Ok(4));
    assert_eq!(after.end, h.end + 4);
    assert_eq!(checked_payload(&f[..usize::from(after.end)]), b"a12345c");
}

proptest! {
    #[test]
    fn lengths_and_checksums_are_those_of_a_packet_built_so(
        payload in prop::collection::vec(any::<u8>(), 0..300),
        text in prop::collection::vec(any::<u8>(), 0..80),
        (a, b) in (0usize..301, 0usize..301),
        ipv6: bool,
        tcp: bool,
    ) {
        let (a, b) = (a.min(payload.len()), b.min(payload.len()));
        let part = a.min(b)..a.max(b);
        let f = frame(ipv6, tcp, &payload);
        let replaced = if ipv6 { replaced::<V6> } else { replaced::<V4> };
        let (out, change) = replaced(&f, 80, part.clone(), &text).unwrap();
        let expected = [&payload[..part.start], &text, &payload[part.end..]].concat();
        prop_assert_eq!(change, text.len() as i32 - part.len() as i32);
        prop_assert_eq!(checked_payload(&out), expected.clone());
        prop_assert_eq!(&out, &frame(ipv6, tcp, &expected));
        prop_assert_eq!(fold(sum(&out[ETHERNET..ETHERNET + if ipv6 { 0 } else { 24 }])), if ipv6 { 0 } else { 0xffff });
    }

    #[test]
    fn a_rewritten_announcement_reads_as_the_new_one(
        (old, new, old_port, new_port) in (any::<u32>(), any::<u32>(), 1u16.., 1u16..),
        which in 0usize..4,
        ipv6: bool,
    ) {
        let ip = |n: u32| -> std::net::IpAddr {
            if ipv6 { std::net::Ipv6Addr::from(u128::from(n) << 80 | u128::from(!n)).into() } else { std::net::Ipv4Addr::from(n).into() }
        };
        let (kind, direction, before, format, after) = [
            (HelperKind::Ftp, Direction::Original, "PORT ", Format::Numbers, "\r\n"),
            (HelperKind::Ftp, Direction::Original, "eprt ", Format::Extended, "\r\n"),
            (HelperKind::Ftp, Direction::Reply, "229 Extended Passive (", Format::ExtendedPort, ")\r\n"),
            (HelperKind::Irc, Direction::Original, "PRIVMSG nick :\x01DCC SEND name ", Format::Decimal, "\x01\n"),
        ][which];
        let Some(told) = format.render(ip(old), old_port) else { return Ok(()) };
        let line = format!("{before}{told}{after}");
        // The shortest DCC arguments that Linux reads are longer than the shortest there can be.
        prop_assume!(kind != HelperKind::Irc || told.len() >= 10);
        let inspect = |payload: &[u8], speaker| {
            let mut state = HelperState::new(kind);
            let view = |payload, seq| View {
                payload, seq, direction, established: true, speaker, speaker_port: 1, speaker_outside: speaker,
            };
            prop_assert_eq!(state.inspect(&view(b"220 ready\r\n", 89)), Inspection::Nothing);
            match state.inspect(&view(payload, 100)) {
                Inspection::Announce(a) => Ok(a),
                other => Err(TestCaseError::fail(format!("{other:?}"))),
            }
        };
        let a = inspect(line.as_bytes(), ip(old))?;
        prop_assert_eq!((a.address, a.port, a.format), (ip(old), old_port, format));
        prop_assert_eq!(&line[a.range.clone()], told.as_str());
        let text = format.render(ip(new), new_port).unwrap();
        let replaced = if ipv6 { replaced::<V6> } else { replaced::<V4> };
        let (out, _) = replaced(&frame(ipv6, true, line.as_bytes()), 64, a.range, text.as_bytes()).unwrap();
        let payload = checked_payload(&out);
        prop_assert_eq!(std::str::from_utf8(&payload).unwrap(), format!("{before}{text}{after}"));
        // DCC: see above.
        prop_assume!(kind != HelperKind::Irc || text.len() >= 10);
        let b = inspect(&payload, ip(new))?;
        prop_assert_eq!((b.address, b.port, &payload[b.range]), (ip(new), new_port, text.as_bytes()));
    }
}
