//! A worker that lags behind: connections that there are go on, few others begin.

mod support;

use dataplane::worker::DropReason;
use etherparse::PacketBuilder;
use support::*;

/// Frames that a port gives in a turn at most.
const BURST: usize = 64;
/// Of them, packets of connections that last.
const LASTING: usize = 4;
/// Their source ports begin here, those of others there.
const PORTS: [u16; 2] = [1100, 2000];

struct Flood {
    gateway: Gateway,
    /// Connections that were to begin.
    others: u16,
}

impl Flood {
    /// One turn with packets of lasting connections and of some that have yet to begin. Returns how many of each leave.
    fn turn(&mut self, lasting: usize, others: usize) -> (usize, usize) {
        let w = &mut self.gateway.workers[0];
        let lasting = (0..lasting as u16).map(|n| PORTS[0] + n);
        for port in lasting.chain((self.others..).take(others).map(|n| PORTS[1] + n)) {
            let [client, server] = [CLIENT, SERVER].map(|a| v4(a).0.to_be_bytes());
            let mut p = Vec::new();
            PacketBuilder::ipv4(client, server, 64).udp(port, 53).write(&mut p, b"hello").unwrap();
            inject(w, LAN, &p);
        }
        self.others += others as u16;
        w.turn();
        let mut left = [0; 2];
        for f in w.ports()[WAN].sent() {
            let port = w.pool().bytes(f)[34..36].try_into().map(u16::from_be_bytes).unwrap();
            left[usize::from(port >= PORTS[1])] += 1;
            w.pool().give(f);
        }
        (left[0], left[1])
    }
}

#[test]
fn under_a_flood_of_first_packets_what_is_known_goes_on() {
    let policy = dataplane::policy::Policy { max_connections: 1 << 14, ..policy() };
    let mut f = Flood { gateway: Gateway::new(1, policy, fib()), others: 0 };
    assert_eq!(f.turn(LASTING, 0), (LASTING, 0));

    // Nothing is refused where it keeps up, nor where nothing comes in whose share would be taken.
    for _ in 0..6 {
        assert_eq!(f.turn(LASTING, BURST - LASTING), (LASTING, BURST - LASTING));
    }
    f.gateway.workers[0].ports()[LAN].set_lags(true);
    for _ in 0..20 {
        assert_eq!(f.turn(0, BURST), (0, BURST));
    }
    assert_eq!(f.gateway.drops(DropReason::Overload), 0);

    let begun: Vec<usize> = (0..20)
        .map(|_| {
            let (lasting, others) = f.turn(LASTING, BURST - LASTING);
            assert_eq!(lasting, LASTING);
            others
        })
        .collect();
    assert!(begun.is_sorted_by(|a, b| a >= b) && begun[19] == 4, "{begun:?}");
    let refused = 20 * (BURST - LASTING) - begun.iter().sum::<usize>();
    assert_eq!(f.gateway.drops(DropReason::Overload), refused as u64);

    // It has caught up: ever more of them begin, and soon all.
    f.gateway.workers[0].ports()[LAN].set_lags(false);
    let begun: Vec<usize> = (0..60).map(|_| f.turn(LASTING, BURST - LASTING).1).collect();
    assert!(begun.is_sorted() && begun.ends_with(&[BURST - LASTING]), "{begun:?}");
    assert_eq!(f.gateway.workers[0].pool().available(), f.gateway.workers[0].pool().frames() as usize);
}
