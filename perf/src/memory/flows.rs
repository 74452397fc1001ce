//! The frames of many flows, made from a template and a flow's number.

use dataplane::conntrack::tcp::flags;
use dataplane::packet::checksum::{checksum, fold, pseudo_header, sum};
use dataplane::packet::{Address, V4, V6, protocol};

/// The gateway's Ethernet addresses on lan and wan, and its peers' there.
pub(super) const GATEWAY: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
pub(super) const PEER: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 3], [2, 0, 0, 0, 0, 4]];
/// The address clients are translated to.
pub(super) const OUTSIDE: V4 = V4(0xc633_6401);
/// Source ports of one client; each client talks to a server of its own, so that every port is kept.
const PORTS: u32 = 60_000;
/// Bytes of data in a TCP segment.
const DATA: u32 = 6;
/// Sequence numbers of the two SYNs, client's and server's.
const ISN: [u32; 2] = [1000, 5000];

/// What the flows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// IPv4 UDP in frames of 64 bytes with their FCS, source translated.
    Udp,
    /// The same, to servers in half a million networks, in no order.
    UdpAnywhere,
    /// IPv4 TCP in frames of 64 bytes, source translated.
    Tcp,
    /// IPv6 UDP in frames of 78 bytes, not translated.
    Udp6,
}

/// Which side of a flow sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The client.
    Request = 0,
    /// The server.
    Reply = 1,
}

/// What a side sends; UDP has only data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Segment {
    Syn,
    Data,
}

/// Writes the frames of one side.
#[derive(Debug)]
pub(super) struct Flows {
    kind: Kind,
    side: Side,
    template: [u8; 96],
    length: usize,
    /// The server's port.
    port: u16,
}

impl Flows {
    pub(super) fn new(kind: Kind, side: Side, port: u16) -> Self {
        let mut t = [0u8; 96];
        t[..6].copy_from_slice(&GATEWAY[side as usize]);
        t[6..12].copy_from_slice(&PEER[side as usize]);
        let length = match kind {
            Kind::Udp6 => {
                t[12..14].copy_from_slice(&[0x86, 0xdd]);
                t[14] = 0x60;
                (t[19], t[20], t[21]) = (20, protocol::UDP, 64);
                74
            }
            Kind::Udp | Kind::UdpAnywhere | Kind::Tcp => {
                t[12..14].copy_from_slice(&[8, 0]);
                (t[14], t[17], t[22]) = (0x45, 46, 64);
                t[23] = if kind == Kind::Tcp { protocol::TCP } else { protocol::UDP };
                60
            }
        };
        let mut flows = Flows { kind, side, template: t, length, port };
        if kind != Kind::Tcp {
            let l4 = flows.l4();
            flows.template[l4 + 5] = (length - l4) as u8;
        }
        flows
    }

    /// Length of a frame.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    fn l4(&self) -> usize {
        if self.kind == Kind::Udp6 { 54 } else { 34 }
    }

    /// What tells the two sides' orders apart.
    pub(super) fn key(&self) -> u32 {
        0x1234_5678 << self.side as u32
    }

    /// Writes the frame that flow `i` sends in its turn number `round`. All sides have had the turns before.
    pub(super) fn write(&self, i: u32, segment: Segment, round: u32, b: &mut [u8]) {
        b.copy_from_slice(&self.template[..self.length]);
        let (client, port) = (i / PORTS, 1024 + (i % PORTS) as u16);
        let l4 = self.l4();
        let (sport, dport) = if self.side == Side::Request { (port, self.port) } else { (self.port, port) };
        b[l4..l4 + 2].copy_from_slice(&sport.to_be_bytes());
        b[l4 + 2..l4 + 4].copy_from_slice(&dport.to_be_bytes());
        if self.kind == Kind::Tcp {
            self.write_tcp(segment, round, b);
        }
        if self.kind == Kind::Udp6 {
            let a = [V6(0xfd00_0010 << 32, 0x1_0000 + u64::from(client)), V6(0x2001_0db8 << 32, 5 + u64::from(client))];
            let (src, dst) = if self.side == Side::Request { (a[0], a[1]) } else { (a[1], a[0]) };
            src.write(&mut b[22..]);
            dst.write(&mut b[38..]);
            finish(b, l4, 6, pseudo_header(src, dst, protocol::UDP, self.length - l4));
            return;
        }
        // Two clients with one port have different servers.
        let network = if self.kind == Kind::UdpAnywhere { (i % PORTS).wrapping_mul(0x9e37_79b9) >> 13 } else { 0 };
        let (client, server) = (V4(0x0a00_0002 + client), V4(0xcb00_0001 + client + network * 32));
        let (src, dst) = if self.side == Side::Request { (client, server) } else { (server, OUTSIDE) };
        src.write(&mut b[26..]);
        dst.write(&mut b[30..]);
        let c = checksum(&b[14..34]);
        b[24..26].copy_from_slice(&c.to_be_bytes());
        let at = if self.kind == Kind::Tcp { 16 } else { 6 };
        finish(b, l4, at, pseudo_header(src, dst, b[23], self.length - l4));
    }

    fn write_tcp(&self, segment: Segment, round: u32, b: &mut [u8]) {
        let (own, other) = (self.side as usize, 1 - self.side as usize);
        let (seq, ack, flags) = match (segment, self.side) {
            (Segment::Syn, Side::Request) => (ISN[0], 0, flags::SYN),
            (Segment::Syn, Side::Reply) => (ISN[1], ISN[0] + 1, flags::SYN | flags::ACK),
            (Segment::Data, _) => {
                // The first turn is the SYN's. What the other side sent a turn ago may be on its way yet.
                let after = |turns: u32| turns.wrapping_mul(DATA).wrapping_add(1);
                let seq = ISN[own].wrapping_add(after(round.wrapping_sub(1)));
                let ack = ISN[other].wrapping_add(after(round.saturating_sub(2)));
                (seq, ack, flags::ACK | flags::PSH)
            }
        };
        b[38..42].copy_from_slice(&seq.to_be_bytes());
        b[42..46].copy_from_slice(&ack.to_be_bytes());
        (b[46], b[47]) = (5 << 4, flags);
        b[48..50].copy_from_slice(&60_000u16.to_be_bytes());
    }
}

/// Writes the transport checksum at offset `at` of the transport header.
fn finish(b: &mut [u8], l4: usize, at: usize, pseudo: u64) {
    let c = !fold(sum(&b[l4..]) + pseudo);
    b[l4 + at..l4 + at + 2].copy_from_slice(&c.to_be_bytes());
}
