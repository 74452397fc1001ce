"""What may pass: unsolicited traffic, rules, sets."""

import socket

from lab.policy import *
from lab.programs import Conversation, ping, silent, tcp_ask, udp_ask, udp_socket
from runner import test

BOTH = (1, 2)


def refused(ns, address, port, timeout=1.0):
    """How a connection attempt ends: 'refused', 'timeout', 'unreachable', or None when it succeeds."""
    try:
        Conversation(ns, address, port, timeout=timeout).close()
    except ConnectionRefusedError:
        return 'refused'
    except TimeoutError:
        return 'timeout'
    except OSError:
        return 'unreachable'
    return None


@test(workers=BOTH, kernel=False)
def unsolicited_inbound(lab):
    """Connections from outside to the inside are dropped and counted, in the metrics and in `sluice status`."""
    lab.serve(lab.client)
    lab.server.batch(['route add %s via %s' % (LAN_NET, WAN)])
    before = lab.gateway.dropped('policy')
    attempts = 0
    for address in (CLIENT, CLIENT6):
        for port in (22, HTTP, ECHO):
            assert refused(lab.server, address, port, 0.3) == 'timeout', 'TCP to %s:%d' % (address, port)
        attempts += 3
        assert silent(udp_ask, lab.server, address, tries=2, wait=0.2), 'UDP to ' + address
        attempts += 2
        assert ping(lab.server, address, count=2, wait=0.3).received == 0, 'ping to ' + address
        attempts += 2
    counted = lab.gateway.dropped('policy') - before
    assert attempts <= counted <= attempts + 6, '%d packets dropped, %d counted' % (attempts, counted)
    status = lab.gateway.cli('status').stdout
    assert 'policy' in status, 'status does not name the reason:\n' + status
    assert not [c for c in lab.gateway.conntrack() if 'src=%s' % SERVER in c], 'a dropped connection is in the table'


@test(workers=BOTH)
def answers_need_a_question(lab):
    """A datagram to the port of a connection passes only from the address that was asked."""
    lab.serve(lab.server)
    with udp_socket(lab.client) as s, udp_socket(lab.server, ('', 9000)) as stranger, \
            udp_socket(lab.outside, ('', ECHO)) as other:
        seen = udp_ask(lab.client, SERVER, sock=s)
        assert seen[0] == WAN
        for intruder in (stranger, other):
            intruder.sendto(b'0 0 intruder', seen)
        s.settimeout(0.5)
        try:
            raise AssertionError('the client received %r' % (s.recvfrom(100),))
        except TimeoutError:
            pass
        assert udp_ask(lab.client, SERVER, sock=s) == seen


@test(start=False, rows=[('reject', 'refused'), ('drop', 'timeout')])
def actions(lab, row):
    """`reject` tells the client at once, `drop` tells it nothing."""
    action, expected = row
    policy = base(lab.workers)
    policy['policy']['rules'].insert(2, {'name': 'no-web', 'action': action,
                                         'match': {'from': 'inside', 'to': 'outside', 'protocol': 'tcp', 'port': HTTP}})
    policy['policy']['rules'].insert(2, {'name': 'no-udp', 'action': action,
                                         'match': {'from': 'inside', 'to': 'outside', 'protocol': 'udp', 'port': 9000}})
    lab.gateway.start(policy)
    lab.serve(lab.server)
    for address in (SERVER, SERVER6):
        assert refused(lab.client, address, HTTP) == expected, address
        assert tcp_ask(lab.client, address), 'another port is affected'
        with udp_socket(lab.client, family=socket.AF_INET6 if ':' in address else socket.AF_INET) as s:
            s.connect((address, 9000))
            s.settimeout(1)
            s.send(b'x')
            try:
                s.recv(10)
                outcome = 'answered'
            except ConnectionRefusedError:
                outcome = 'refused'
            except TimeoutError:
                outcome = 'timeout'
            assert outcome == expected, 'UDP to %s: %s' % (address, outcome)


@test(start=False, kernel=False)
def sets(lab):
    """A rule about a set of networks of both families."""
    policy = base(lab.workers)
    policy['sets'] = {'guests': [CLIENT2 + '/32', CLIENT2_6 + '/128']}
    policy['policy']['rules'].insert(2, {'name': 'guests', 'match': {'from': 'inside', 'source': 'guests'},
                                         'action': 'drop'})
    lab.gateway.start(policy)
    lab.serve(lab.server)
    for address in (SERVER, SERVER6):
        assert tcp_ask(lab.client, address)
        assert refused(lab.client2, address, ECHO, 0.5) == 'timeout'


@test(start=False, kernel=False)
def default_accept(lab):
    """With `default: accept` and no rules everything is forwarded."""
    policy = base(lab.workers)
    policy['policy'] = {'default': 'accept'}
    lab.gateway.start(policy)
    lab.serve(lab.client)
    assert tcp_ask(lab.server, CLIENT6)[0] == SERVER6
    assert ping(lab.server, CLIENT6).received == 3
