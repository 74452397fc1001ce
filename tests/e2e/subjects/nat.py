"""Address translation: masquerade, pools, forwards, hairpin."""

import concurrent.futures
import contextlib
import socket

from lab.policy import *
from lab.programs import Conversation, curl, dig, ping, serve_dns, tcp_ask, udp_ask, udp_socket, url
from runner import test

BOTH = (1, 2)


@test(workers=BOTH)
def masquerade_udp(lab):
    """The server sees the gateway's address; a port that is free is kept."""
    lab.serve(lab.server)
    seen = udp_ask(lab.client, SERVER, source_port=40001)
    assert seen == (WAN, 40001), 'the server sees %s' % (seen,)
    for _ in range(20):
        assert udp_ask(lab.client, SERVER)[0] == WAN


@test(workers=BOTH)
def masquerade_tcp(lab):
    """The same over TCP, near and behind the default route."""
    lab.serve(lab.server)
    lab.serve(lab.outside)
    for address in (SERVER, REMOTE):
        seen = tcp_ask(lab.client, address, source_port=40002)
        assert seen == (WAN, 40002), 'the server sees %s' % (seen,)
        for _ in range(10):
            assert tcp_ask(lab.client, address)[0] == WAN


@test(workers=BOTH)
def masquerade_icmp(lab):
    """Echo requests leave with the gateway's address and the answers come back."""
    with lab.server:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    raw.settimeout(2)
    with contextlib.closing(raw):
        p = ping(lab.client, SERVER, count=10)
        assert p.received == 10, p.output
        source = raw.recvfrom(2000)[1][0]
        assert source == WAN, 'the server is pinged by ' + source


@test(workers=BOTH, rows=[('default',), ('off',)])
def checksum_offload(lab, row):
    """Checksums that hosts leave to their network card are completed; the runner looks at the counters of bad ones."""
    if row[0] == 'off':
        for ns in (lab.client, lab.server):
            ns.run('ethtool', '-K', 'eth0', 'tx', 'off')
    lab.serve(lab.server)
    for address in (SERVER, SERVER6):
        udp_ask(lab.client, address)
        tcp_ask(lab.client, address)
        curl(lab.client, url(address))


@test(workers=BOTH)
def same_source_port_twice(lab):
    """Two clients use one source port towards one server: both are answered, from different ports."""
    lab.serve(lab.server)
    seen = [udp_ask(ns, SERVER, source_port=5000) for ns in (lab.client, lab.client2)]
    assert seen[0] == (WAN, 5000) and seen[1][0] == WAN and seen[1][1] != 5000, 'seen: %s' % seen
    with Conversation(lab.client, SERVER, source_port=5001) as a, \
            Conversation(lab.client2, SERVER, source_port=5001) as b:
        for _ in range(5):
            assert a.ask() == (WAN, 5001)
            assert b.ask()[1] != 5001


@test(workers=BOTH)
def parallel_connections(lab):
    """200 connections at once, each with its own conversation."""
    lab.serve(lab.server)
    with contextlib.ExitStack() as stack:
        open_ = [stack.enter_context(Conversation(lab.client, SERVER)) for _ in range(200)]
        for round_ in range(3):
            seen = [c.ask(b'round %d' % round_) for c in open_]
            assert len(set(seen)) == 200, '%d different ports for 200 connections' % len(set(seen))


@test(workers=BOTH)
def concurrent_requests(lab):
    """HTTP from eight threads at once, a connection for each request."""
    lab.serve(lab.server)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        bodies = list(pool.map(lambda _: curl(lab.client, url(SERVER)), range(64)))
    assert all(b.split()[0] == WAN for b in bodies)


@test(workers=BOTH)
def dns(lab):
    """dig asks dnsmasq, over UDP and over TCP."""
    serve_dns(lab.server, lab.path('dnsmasq.log'), listen=[SERVER, SERVER6])
    for options in ([], ['+tcp']):
        for address in (SERVER, SERVER6):
            answers, _ = dig(lab.client, address, 'www.example.test', *options)
            assert answers == ['192.0.2.80'], '%s from %s %s' % (answers, address, options)


@test(workers=BOTH)
def forward_tcp(lab):
    """A forwarded port reaches the inside server, which sees the outside client's own address."""
    lab.serve(lab.client2)
    for _ in range(10):
        seen = tcp_ask(lab.server, WAN, FORWARD_ECHO)
        assert seen[0] == SERVER, 'the inside server sees %s' % (seen,)
    assert curl(lab.outside, url(WAN, FORWARD_HTTP)).split()[0] == OUTSIDE


@test(workers=BOTH)
def forward_udp(lab):
    """The same over UDP."""
    lab.serve(lab.client2)
    for _ in range(10):
        seen = udp_ask(lab.server, WAN, FORWARD_ECHO, source_port=6000)
        assert seen == (SERVER, 6000), 'the inside server sees %s' % (seen,)


@test(workers=BOTH)
def hairpin(lab):
    """An inside client reaches an inside server by its outside address."""
    lab.serve(lab.client2)
    for _ in range(10):
        seen = tcp_ask(lab.client, WAN, FORWARD_ECHO)
        assert seen[0] == LAN, 'the inside server sees %s' % (seen,)
        assert udp_ask(lab.client, WAN, FORWARD_ECHO)[0] == LAN
    assert tcp_ask(lab.client2, WAN, FORWARD_ECHO)[0] == LAN, 'the server cannot reach itself by the outside address'


@test(workers=BOTH, start=False, kernel=False,
      rows=(('masquerade', 'masquerade', LAN), ('pool', {'pool': '10.10.0.200', 'ports': '20000-20999'}, '10.10.0.200'),
            ('none', 'none', SERVER)))
def both_ends(lab, row):
    """One rule translates destination and source; without it the source would stay as it is."""
    _, source, expected = row
    lab.gw.batch(['addr add 10.10.0.200/32 dev lan0'])
    policy = base(lab.workers)
    for rule in policy['nat']['destination']:
        rule['translate']['source'] = source
    lab.gateway.start(policy)
    lab.serve(lab.client2)
    for ask in (udp_ask, tcp_ask):
        address, port = ask(lab.server, WAN, FORWARD_ECHO)
        assert address == expected, 'the inside server sees %s' % address
        assert expected != '10.10.0.200' or 20000 <= port <= 20999, port


def with_source(workers, *rules):
    """The usual policy with other source translations."""
    policy = base(workers)
    policy['nat']['source'] = [dict({'from': 'inside', 'to': 'outside'}, **r) for r in rules]
    return policy


@test(workers=BOTH, start=False)
def pool_of_own_addresses(lab):
    """Source addresses from a pool that the gateway itself holds; other clients are masqueraded."""
    lab.gw.batch(['addr add 198.51.100.%d/32 dev wan0' % n for n in (8, 9)])
    lab.gateway.start(with_source(
        lab.workers,
        {'name': 'pool', 'match': {'source': CLIENT2}, 'translate': {'pool': ['198.51.100.8-198.51.100.9']}},
        {'name': 'rest', 'match': {'source': LAN_NET}, 'translate': 'masquerade'}))
    lab.serve(lab.server)
    for ask in (udp_ask, tcp_ask):
        assert ask(lab.client2, SERVER)[0] in ('198.51.100.8', '198.51.100.9')
        assert ask(lab.client, SERVER)[0] == WAN
    assert ping(lab.client2, SERVER).received == 3


@test(workers=BOTH, start=False)
def pool_routed_to_the_gateway(lab):
    """A pool that no interface holds: the outside routes it to the gateway."""
    lab.server.batch(['route add 192.0.2.0/28 via ' + WAN])
    lab.gateway.start(with_source(
        lab.workers, {'name': 'pool', 'match': {'source': LAN_NET}, 'translate': {'pool': ['192.0.2.4-192.0.2.7']}}))
    lab.serve(lab.server)
    for ask in (udp_ask, tcp_ask):
        for _ in range(5):
            seen = ask(lab.client, SERVER)
            assert '192.0.2.4' <= seen[0] <= '192.0.2.7', 'the server sees %s' % (seen,)
    assert ping(lab.client, SERVER).received == 3


@test(workers=BOTH, start=False, kernel=False)
def ports_used_up(lab):
    """Four ports serve four connections to one server; a fifth is dropped and counted, elsewhere it passes."""
    lab.gw.batch(['addr add 198.51.100.8/32 dev wan0'])
    lab.gateway.start(with_source(
        lab.workers, {'name': 'few', 'match': {'source': LAN_NET},
                      'translate': {'pool': ['198.51.100.8'], 'ports': '40000-40003'}}))
    lab.serve(lab.server)
    lab.serve(lab.outside)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(contextlib.closing(udp_socket(lab.client))) for _ in range(12)]
        seen = set()
        for s in sockets:
            with contextlib.suppress(TimeoutError):
                seen.add(udp_ask(lab.client, SERVER, sock=s, tries=1, wait=0.3))
        assert {a for a, _ in seen} == {'198.51.100.8'} and all(40000 <= p <= 40003 for _, p in seen), 'seen: %s' % seen
        assert len(seen) == 4, 'of four ports %d were used: %s' % (len(seen), seen)
        assert lab.gateway.dropped('nat_exhausted') == 8, 'nat_exhausted: %d' % lab.gateway.dropped('nat_exhausted')
        assert udp_ask(lab.client, OUTSIDE)[0] == '198.51.100.8'  # the ports serve again towards another server


@test(start=False)
def exempt(lab):
    """`translate: none` before the masquerade: the packet leaves as it is and can be answered."""
    lab.leaks_wanted = True
    lab.server.batch(['route add %s via %s' % (LAN_NET, WAN)])
    lab.gateway.start(with_source(
        lab.workers, {'name': 'vpn', 'match': {'source': LAN_NET, 'destination': SERVER}, 'translate': 'none'},
        {'name': 'rest', 'match': {'source': LAN_NET}, 'translate': 'masquerade'}))
    lab.serve(lab.server)
    lab.serve(lab.outside)
    assert udp_ask(lab.client, SERVER)[0] == CLIENT
    assert udp_ask(lab.client, OUTSIDE)[0] == WAN


@test(workers=BOTH, start=False, kernel=False)
def table_full(lab):
    """When the table is full of assured connections, new ones are dropped and counted; nothing leaves untranslated."""
    policy = base(lab.workers)
    policy['conntrack'] = {'max_connections': 10}
    lab.gateway.start(policy)
    lab.serve(lab.server)
    with contextlib.ExitStack() as stack:
        open_ = []
        for _ in range(30):
            with contextlib.suppress(OSError):
                c = Conversation(lab.client, SERVER, timeout=0.3)
                stack.enter_context(c)
                c.ask()
                open_.append(c)
        assert 5 <= len(open_) <= 10, '%d of 30 connections with room for 10' % len(open_)
        assert lab.gateway.dropped('table_full'), 'table_full is not counted'
        for c in open_:
            assert c.ask()[0] == WAN
