"""What happens when the table or a client's share is used up."""

import contextlib
import errno
import socket

from lab.policy import *
from lab.programs import tcp_ask, udp_ask, udp_socket
from runner import test

IP_RECVERR = 11


def outcomes(lab, count):
    """What becomes of so many new conversations of one client: the address that the server sees, or an error."""
    out = []
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            s = stack.enter_context(udp_socket(lab.client))
            # Also errors that may pass.
            s.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            s.settimeout(2)
            s.connect((SERVER, ECHO))
            s.send(b'hello')
            try:
                out.append(s.recv(100).split()[0].decode())
            except OSError as e:
                out.append(errno.errorcode[e.errno])
    assert set(out) <= {WAN, 'EHOSTUNREACH'}, out
    return out


@test(start=False, kernel=False, rows=(
    ('connections', 'connections_per_source', 5, 'connections'), ('udp', 'udp_per_source', 5, 'connections'),
    ('rate', 'new_per_second_per_source', 2, 'rate')))
def of_a_source(lab, row):
    """A client beyond its limit is refused, told and counted; others are not concerned."""
    policy = base(1)
    policy['conntrack'] = {'limits': {row[1]: row[2]}}
    lab.gateway.start(policy)
    lab.serve(lab.server)
    seen = outcomes(lab, 15)
    assert udp_ask(lab.client2, SERVER)[0] == WAN
    if row[0] == 'udp':
        assert tcp_ask(lab.client, SERVER)[0] == WAN, 'the limit of UDP holds for TCP'
    refused = seen.count('EHOSTUNREACH')
    # Time passes: the rate may admit some more.
    assert seen[:row[2]] == [WAN] * row[2] and (refused == 10 or row[3] == 'rate' and refused >= 5), seen
    assert lab.gateway.dropped('source_' + row[3]) == refused


@test(workers=(2,), rows=[(str(n), n) for n in (1, 2, 3, 10)], start=False, kernel=False)
def tiny_table(lab, row):
    """A limit that is hardly more than there are workers: all of it is of use to each of them, and again afterwards."""
    policy = base(2)
    policy['conntrack'] = {'max_connections': row[1], 'early_drop': False}
    lab.gateway.start(policy)
    lab.serve(lab.server)
    for turn in (1, 2, 3):
        seen = outcomes(lab, 12)
        assert seen == [WAN] * row[1] + ['EHOSTUNREACH'] * (12 - row[1]), seen
        assert lab.gateway.dropped('table_full') == turn * (12 - row[1])
        listed = lab.gateway.conntrack()
        assert len(listed) == row[1], listed
        lab.gateway.cli('conntrack', 'flush')


@test(workers=(2,), start=False, kernel=False)
def lowered_limit(lab):
    """A policy with a lower limit holds at once, whatever workers had put by for connections to come."""
    policy = base(2)
    policy['conntrack'] = {'max_connections': 100_000, 'early_drop': False}
    lab.gateway.start(policy)
    lab.serve(lab.server)
    assert outcomes(lab, 12) == [WAN] * 12
    lab.gateway.cli('conntrack', 'flush')
    policy['conntrack']['max_connections'] = 5
    lab.gateway.reload(policy)
    assert outcomes(lab, 12) == [WAN] * 5 + ['EHOSTUNREACH'] * 7


@test(rows=(('makes_room', True), ('refuses', False)), start=False, kernel=False)
def full_table(lab, row):
    """A full table drops what is not assured to make room, or refuses new connections and tells the client."""
    policy = base(1)
    policy['conntrack'] = {'max_connections': 10, 'early_drop': row[1]}
    lab.gateway.start(policy)
    lab.serve(lab.server)
    seen = outcomes(lab, 20)
    refused = seen.count('EHOSTUNREACH')
    assert refused == (0 if row[1] else 10) and (row[1] or seen[:10] == [WAN] * 10), seen
    assert lab.gateway.dropped('table_full') == refused
    assert bool(lab.gateway.metric('sluice_connections_early_dropped_total')) == row[1]
