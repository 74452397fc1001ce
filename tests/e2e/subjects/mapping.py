"""How sources are mapped, who may answer, and hairpinning, as RFC 4787 and 5382 put it."""

import contextlib
import socket

from lab.policy import *
from lab.programs import Conversation, ping, silent, tcp_ask, udp_ask, udp_socket, wait_for
from runner import test

BOTH = (1, 2)
KINDS = (('udp', socket.SOCK_DGRAM), ('tcp', socket.SOCK_STREAM))


def independent(workers, filtering='endpoint-independent', **more):
    """The usual policy, its masquerade with endpoint-independent mapping."""
    policy = base(workers)
    translate = {'masquerade': True, 'mapping': 'endpoint-independent', 'filtering': filtering}
    policy['nat']['source'][0]['translate'] = dict(translate, **more)
    # The rule for hairpins would hide what the mapping does.
    del policy['nat']['source'][1]
    return policy


def bound(ns, kind, address, port):
    """A socket; of TCP, several may have one address and port."""
    with ns:
        s = socket.socket(socket.AF_INET, kind)
    s.settimeout(5)
    if kind == socket.SOCK_STREAM:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind((address, port))
    return s


def ask(s, address, port=ECHO):
    """What the echo server sees of a socket; connects a TCP socket first."""
    if s.type == socket.SOCK_STREAM:
        s.connect((address, port))
        s.sendall(b'hello\n')
        seen = s.recv(100).split()
    else:
        s.sendto(b'hello', (address, port))
        seen = s.recv(100).split()
    return seen[0].decode(), int(seen[1])


@test(workers=BOTH, rows=KINDS, start=False, kernel=False)
def endpoint_independent(lab, row):
    """A source's port has one port outside towards every remote, and nobody else has that."""
    lab.gateway.start(independent(lab.workers))
    for ns in (lab.server, lab.outside):
        lab.serve(ns)
    with contextlib.ExitStack() as stack:
        def seen(ns, inside, *remotes):
            sockets = [stack.enter_context(bound(ns, row[1], inside, 5000))
                       for _ in (remotes if row[0] == 'tcp' else [0])]
            return [ask(sockets[n % len(sockets)], remote) for n, remote in enumerate(remotes)]
        other = seen(lab.client2, CLIENT2, SERVER, OUTSIDE)
        ours = seen(lab.client, CLIENT, SERVER, OUTSIDE, REMOTE)
    assert set(other) == {(WAN, 5000)}, other
    assert len(set(ours)) == 1 and ours[0][0] == WAN and 1024 <= ours[0][1] != 5000, ours


@test(rows=(('strangers', 'endpoint-independent', True, True), ('known_address', 'address-dependent', False, True),
            ('known_endpoint', 'endpoint-dependent', False, False)), start=False, kernel=False)
def filtering_tcp(lab, row):
    """Who may open a TCP connection to the port outside of one that is open."""
    _, filtering, stranger, other_port = row
    lab.gateway.start(independent(1, filtering))
    # What is not let in reaches the gateway itself, whose own firewall says nothing.
    lab.gw.nft('table inet own { chain in { type filter hook input priority 0; iifname wan0 tcp flags syn drop; }; }')
    lab.serve(lab.server)
    with bound(lab.client, socket.SOCK_STREAM, CLIENT, 5000) as waiting, \
            bound(lab.client, socket.SOCK_STREAM, CLIENT, 5000) as opener:
        waiting.listen()
        seen = ask(opener, SERVER)
        for ns, admitted in ((lab.outside, stranger), (lab.server, other_port)):
            s = bound(ns, socket.SOCK_STREAM, '0.0.0.0', 0)
            with s:
                s.settimeout(5 if admitted else 0.5)
                try:
                    s.connect(seen)
                    waiting.accept()[0].close()
                    connected = True
                except TimeoutError:
                    connected = False
                assert connected == admitted, ns.short


@test(start=False, kernel=False)
def protocols_apart(lab):
    """A mapping of TCP is none of UDP: the same port outside admits nobody over the other protocol."""
    lab.gateway.start(independent(1))
    lab.serve(lab.server)
    with bound(lab.client, socket.SOCK_STREAM, CLIENT, 5000) as opener, udp_socket(lab.client, (CLIENT, 5000)) as s, \
            udp_socket(lab.outside) as stranger:
        seen = ask(opener, SERVER)
        s.settimeout(0.5)
        stranger.sendto(b'in', seen)
        try:
            raise AssertionError('the client received %r' % (s.recvfrom(100),))
        except TimeoutError:
            pass
        assert ask(s, SERVER) == seen, 'UDP may have the same port outside'
        stranger.sendto(b'in', seen)
        assert s.recv(100) == b'in', 'now there is a mapping of UDP'


@test(workers=BOTH, rows=KINDS, start=False, kernel=False)
def hairpin_by_mapping(lab, row):
    """Two clients inside meet by their mapped ports; each sees the other's address and port outside."""
    lab.gateway.start(independent(lab.workers))
    lab.serve(lab.server)
    with bound(lab.client, row[1], CLIENT, 5000) as a, bound(lab.client2, row[1], CLIENT2, 5000) as b:
        at_a, at_b = ask(a, SERVER), ask(b, SERVER)
        assert at_a == (WAN, 5000) and at_b[0] == WAN and at_b[1] != 5000, (at_a, at_b)
        if row[0] == 'tcp':
            with bound(lab.client2, row[1], CLIENT2, 5000) as waiting, bound(lab.client, row[1], CLIENT, 5000) as s:
                waiting.listen()
                s.connect(at_b)
                with waiting.accept()[0] as accepted:
                    assert accepted.getpeername() == at_a
                    accepted.sendall(b'across')
                    assert s.recv(100) == b'across'
        else:
            a.sendto(b'across', at_b)
            assert b.recvfrom(100) == (b'across', at_a)
            b.sendto(b'back', at_a)
            assert a.recvfrom(100) == (b'back', at_b)


@test(workers=BOTH, start=False, kernel=False, rows=tuple(
    ('%s_%s' % (name, filtering), kind, '%s-dependent' % filtering)
    for name, kind in KINDS for filtering in ('address', 'endpoint')))
def hairpin_when_both_have_sent(lab, row):
    """With dependent filtering two clients inside meet by their mapped ports once each has sent to the other's."""
    _, kind, filtering = row
    lab.gateway.start(independent(lab.workers, filtering))
    lab.serve(lab.server)
    with bound(lab.client, kind, CLIENT, 5000) as a, bound(lab.client2, kind, CLIENT2, 5000) as b:
        at_a, at_b = ask(a, SERVER), ask(b, SERVER)
        assert at_a == (WAN, 5000) and at_b[0] == WAN and at_b[1] != 5000, (at_a, at_b)
        if kind == socket.SOCK_STREAM:
            with bound(lab.client, kind, CLIENT, 5000) as waiting_a, bound(lab.client2, kind, CLIENT2, 5000) as waiting, \
                    bound(lab.client2, kind, CLIENT2, 5000) as s:
                waiting_a.listen()
                waiting.listen()
                # Nobody has asked for that: it ends at the gateway itself.
                try:
                    s.connect(at_a)
                    raise AssertionError('the first is let in')
                except ConnectionRefusedError:
                    pass
                with bound(lab.client, kind, CLIENT, 5000) as s:
                    s.connect(at_b)
                    with waiting.accept()[0] as accepted:
                        assert accepted.getpeername() == at_a
                        accepted.sendall(b'across')
                        assert s.recv(100) == b'across'
            return

        def let_in(sender, to, receiver):
            sender.sendto(b'across', to)
            receiver.settimeout(0.5)
            try:
                return receiver.recvfrom(100)
            except TimeoutError:
                return None
        assert let_in(b, at_a, a) is None, 'the first is let in'
        # To the client that was called, its other ports are open or not.
        with bound(lab.client, kind, CLIENT, 6000) as other:
            assert bool(let_in(other, at_b, b)) == (filtering == 'address-dependent')
        assert let_in(a, at_b, b) == (b'across', at_a)
        assert let_in(b, at_a, a) == (b'across', at_b)


@test(start=False, kernel=False)
def ports_on_hold(lab):
    """A port outside that its client has left is kept from others for a while, but not from that client."""
    policy = independent(1, ports='40000-40000', hold='4s')
    policy['conntrack'] = {'timeouts': {'udp': '1s', 'udp_stream': '1s'}}
    lab.gateway.start(policy)
    lab.serve(lab.server)
    with udp_socket(lab.client, (CLIENT, 5000)) as a, udp_socket(lab.client2, (CLIENT2, 5000)) as b:
        def gone():
            return not lab.gateway.conntrack('--proto', 'udp')
        assert ask(a, SERVER) == (WAN, 40000)
        wait_for(gone, 'the connection expires', 5)
        assert silent(udp_ask, lab.client2, SERVER, sock=b, tries=1, wait=0.3)
        assert lab.gateway.dropped('nat_exhausted') == 1
        assert ask(a, SERVER) == (WAN, 40000), 'its own client has it again'
        wait_for(gone, 'the connection expires', 5)
        wait_for(lambda: not silent(udp_ask, lab.client2, SERVER, sock=b, tries=1, wait=0.3), 'the port is free', 10)


@test(start=False, kernel=False)
def published_ports_stay(lab):
    """A client whose source port is a published one does not take that over."""
    lab.gateway.start(independent(1))
    lab.serve(lab.server)
    lab.serve(lab.client2)
    with udp_socket(lab.client, (CLIENT, FORWARD_ECHO)) as s:
        assert ask(s, SERVER) == (WAN, FORWARD_ECHO)
        assert udp_ask(lab.outside, WAN, FORWARD_ECHO)[0] == OUTSIDE


@test(start=False, kernel=False)
def ports_of_the_host(lab):
    """A client with a low source port gets a high one: the host's own service on that port stays reachable."""
    lab.gateway.start(independent(1))
    lab.serve(lab.server)
    lab.serve(lab.gw, http=8081, echo=700)
    with udp_socket(lab.client, (CLIENT, 700)) as s:
        seen = ask(s, SERVER)
        assert seen[0] == WAN and seen[1] >= 1024, seen
        assert udp_ask(lab.outside, WAN, 700)[0] == OUTSIDE


POOL = ['198.51.100.%d' % n for n in range(8, 12)]


def with_pool(workers, **more):
    """A pool of four addresses."""
    policy = base(workers)
    policy['nat']['source'][0]['translate'] = dict({'pool': ['%s-%s' % (POOL[0], POOL[-1])]}, **more)
    return policy


@test(workers=BOTH, start=False, kernel=False)
def paired_pooling(lab):
    """All connections of a client have one address of the pool, whatever their protocol."""
    lab.gw.batch(['addr add %s/32 dev wan0' % a for a in POOL])
    lab.gateway.start(with_pool(lab.workers))
    for ns in (lab.server, lab.outside):
        lab.serve(ns)
    for ns in (lab.client, lab.client2):
        seen = {asked(ns, remote)[0] for remote in (SERVER, OUTSIDE, REMOTE) for asked in (udp_ask, tcp_ask)
                for _ in range(4)}
        assert len(seen) == 1 and seen < set(POOL), seen
        assert ping(ns, SERVER).received
        listed = [c for c in lab.gateway.conntrack('--proto', 'icmp') if 'dst=%s ' % next(iter(seen)) in c]
        assert listed, 'ping has another address'


@test(start=False, kernel=False, rows=(('persistent', True, 3, 1), ('otherwise', False, 12, 4)))
def address_without_ports(lab, row):
    """When a client's address of the pool has no port left: others serve, or with `persistent` none."""
    _, persistent, served, addresses = row
    lab.gw.batch(['addr add %s/32 dev wan0' % a for a in POOL])
    lab.gateway.start(with_pool(1, ports='40000-40002', persistent=persistent))
    lab.serve(lab.server)
    with contextlib.ExitStack() as stack:
        seen = []
        for _ in range(13):
            s = stack.enter_context(udp_socket(lab.client))
            with contextlib.suppress(TimeoutError):
                seen.append(udp_ask(lab.client, SERVER, sock=s, tries=1, wait=0.2))
    assert len(set(seen)) == len(seen) == served and len({a for a, _ in seen}) == addresses, seen
    assert lab.gateway.dropped('nat_exhausted') == 13 - served


@test(start=False, kernel=False)
def random_ports(lab):
    """With `random` nobody can guess a client's next port from those before, nor from its own."""
    policy = base(1)
    policy['nat']['source'][0]['translate'] = {'masquerade': True, 'random': True}
    lab.gateway.start(policy)
    lab.serve(lab.server)
    seen = [udp_ask(lab.client, SERVER, source_port=50000 + n)[1] for n in range(30)]
    kept = [p for n, p in enumerate(seen) if p == 50000 + n]
    steps = {b - a for a, b in zip(seen, seen[1:])}
    assert len(kept) <= 1 and len(steps) > 25 and min(seen) < 30000 < max(seen), seen


@test(start=False, kernel=False)
def unsolicited_syn(lab):
    """With a host firewall that is silent, a SYN that nobody asked for is not answered, and opens nothing."""
    lab.gateway.start(base(1))
    lab.gw.nft('table inet own { chain in { type filter hook input priority 0; iifname wan0 tcp flags syn drop; }; }')
    lab.serve(lab.server)
    with bound(lab.client, socket.SOCK_STREAM, CLIENT, 5000) as opener:
        seen = ask(opener, SERVER)
        assert silent(Conversation, lab.outside, *seen, timeout=2.5)
    assert not [c for c in lab.gateway.conntrack() if 'src=' + OUTSIDE in c]


@test(workers=BOTH, kernel=False)
def simultaneous_open(lab):
    """Both ends send a SYN: the one from outside is too early and dropped in silence, then the two meet."""
    lab.gw.nft('table inet own { chain in { type filter hook input priority 0; iifname wan0 tcp flags syn drop; }; }')
    with bound(lab.client, socket.SOCK_STREAM, CLIENT, 5000) as a, \
            bound(lab.server, socket.SOCK_STREAM, SERVER, 6000) as b:
        b.setblocking(False)
        assert b.connect_ex((WAN, 5000))
        a.settimeout(5)
        a.connect((SERVER, 6000))
        b.settimeout(5)
        for sender, receiver in ((a, b), (b, a)):
            sender.sendall(b'met')
            assert receiver.recv(100) == b'met'
        assert b.getpeername() == (WAN, 5000)
    states = [c.split()[3] for c in lab.gateway.conntrack('--proto', 'tcp')]
    assert len(states) == 1, states
