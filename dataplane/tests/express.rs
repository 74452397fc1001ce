//! The short way for nearly all packets against the whole path: the same packets through two gateways, of which one
//! tells somebody of every event and so knows no short way.

mod support;

use dataplane::worker::DropReason;
use dataplane::worker::events::{Kinds, Subscription};
use dataplane::worker::listing::Filter;
use dataplane::worker::shared::Command;
use etherparse::PacketBuilder;
use proptest::prelude::*;
use support::*;

/// One packet of a few conversations.
#[derive(Debug, Clone)]
struct Step {
    v6: bool,
    tcp: bool,
    /// Which conversation.
    flow: u16,
    reply: bool,
    ttl: u8,
    payload: usize,
    /// TCP: FIN, SYN, RST, PSH, ACK.
    flags: u8,
    /// TCP: how far its numbers are off.
    off: i32,
    /// A byte that is changed at the end, and its place from there: mostly none.
    broken: Option<usize>,
}

const ACK: u8 = 0x10;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let flags = prop_oneof![8 => Just(ACK), 4 => Just(ACK | 8), 1 => Just(2), 1 => Just(ACK | 1), 1 => Just(4), 1 => any::<u8>()];
    let ttl = prop_oneof![9 => 2u8..=255, 1 => 0u8..2];
    let payload = prop_oneof![8 => 0usize..80, 1 => 1300usize..1473];
    let off = prop_oneof![12 => Just(0), 1 => -3..3i32, 1 => any::<i32>()];
    let broken = prop_oneof![15 => Just(None), 1 => (0usize..40).prop_map(Some)];
    let step = (any::<bool>(), any::<bool>(), 0u16..3, any::<bool>(), ttl, payload, flags, off, broken).prop_map(
        |(v6, tcp, flow, reply, ttl, payload, flags, off, broken)| Step {
            v6,
            tcp,
            flow,
            reply,
            ttl,
            payload,
            flags,
            off,
            broken,
        },
    );
    proptest::collection::vec(step, 1..120)
}

/// What a client and a server of TCP have sent so far.
#[derive(Debug, Clone, Copy, Default)]
struct Numbers {
    sent: [u32; 2],
}

impl Step {
    fn packet(&self, n: &mut Numbers) -> Vec<u8> {
        let (client, server) = (4000 + self.flow, 53);
        let (sport, dport) = if self.reply { (server, client) } else { (client, server) };
        let data = vec![self.flow as u8; self.payload];
        let mut out = Vec::new();
        let ip = if self.v6 {
            let ends = [v6(CLIENT6), v6(SERVER6)].map(|a| a.bits().to_be_bytes());
            PacketBuilder::ipv6(ends[usize::from(self.reply)], ends[usize::from(!self.reply)], self.ttl)
        } else {
            let outside = if self.reply { OUTSIDE } else { CLIENT };
            let ends = [v4(outside), v4(SERVER)].map(|a| a.0.to_be_bytes());
            PacketBuilder::ipv4(ends[usize::from(self.reply)], ends[usize::from(!self.reply)], self.ttl)
        };
        if self.tcp {
            let side = usize::from(self.reply);
            let mut t = ip.tcp(sport, dport, n.sent[side].wrapping_add_signed(self.off), 8000);
            if self.flags & ACK != 0 {
                t = t.ack(n.sent[side ^ 1]);
            }
            for (bit, set) in [(1, 0), (2, 1), (4, 2), (8, 3)] {
                if self.flags & bit != 0 {
                    t = match set {
                        0 => t.fin(),
                        1 => t.syn(),
                        2 => t.rst(),
                        _ => t.psh(),
                    };
                }
            }
            t.write(&mut out, &data).unwrap();
            if self.off == 0 && self.flags & 4 == 0 {
                n.sent[side] = n.sent[side].wrapping_add(self.payload as u32 + u32::from(self.flags & 3 != 0));
            }
        } else {
            ip.udp(sport, dport).write(&mut out, &data).unwrap();
        }
        if let Some(b) = self.broken.and_then(|at| out.iter_mut().rev().nth(at)) {
            *b = b.wrapping_add(1);
        }
        out
    }
}

/// The handshake of each conversation of TCP, or there would be few that are established.
fn handshakes() -> Vec<Step> {
    let step =
        |v6, flow, reply, flags| Step { v6, tcp: true, flow, reply, ttl: 64, payload: 0, flags, off: 0, broken: None };
    let flows = [false, true].into_iter().flat_map(|v6| (0..3).map(move |flow| (v6, flow)));
    flows
        .flat_map(|(v6, flow)| [(false, 2), (true, 2 | ACK), (false, ACK)].map(|(r, f)| step(v6, flow, r, f)))
        .collect()
}

/// All that is known of the connections but the time, which goes on.
fn known(g: &mut Gateway) -> Vec<String> {
    let mut list = g.list();
    list.iter_mut().for_each(|c| c.remaining_ms = 0);
    let mut list: Vec<String> = list.iter().map(|c| format!("{c:?}")).collect();
    list.sort_unstable();
    list
}

proptest! {
    #[test]
    fn both_ways_do_the_same(steps in steps()) {
        let (mut short, mut whole) = (Gateway::plain(), Gateway::plain());
        let all = Kinds { new: true, update: true, destroy: true };
        let listener = Subscription::new(1, all, Filter::default());
        whole.shared.command(0, Command::Subscribe(listener.clone())).unwrap();
        whole.run();
        let mut numbers = [Numbers::default(); 6];
        for s in handshakes().into_iter().chain(steps) {
            let n = &mut numbers[usize::from(s.flow) + 3 * usize::from(s.v6)];
            let packet = s.packet(n);
            let interface = if s.reply { WAN } else { LAN };
            prop_assert_eq!(short.packet(interface, &packet), whole.packet(interface, &packet), "{:?}", s);
        }
        prop_assert_eq!(known(&mut short), known(&mut whole));
        for why in DropReason::ALL {
            prop_assert_eq!(short.drops(*why), whole.drops(*why), "{:?}", why);
        }
        prop_assert!(!listener.take().0.is_empty());
    }
}
