"""How long connections are kept when they are idle, and what keeps them."""

import contextlib
import re
import socket
import struct
import time

from lab import wire
from lab.policy import *
from lab.programs import Conversation, ping, udp_ask, udp_socket, wait_for
from runner import test


def idle(lab, *words):
    """The seconds that the listing gives the connection whose line has all these words; None without one."""
    lines = [line for line in lab.gateway.conntrack() if all(w in line for w in words)]
    return int(re.match(r'\w+ +\d+ +(\d+)', lines[0])[1]) if lines else None


def reset(conversation):
    """Ends a connection by a reset."""
    conversation.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    conversation.close()


@test(start=False, kernel=False, rows=(
    ('linux', 30, 30, 432000, 10, None, 120), ('rfc', 300, 60, 7440, 240, 240, 240)))
def profiles(lab, row):
    """The timeouts of UDP, of pings and of TCP: established, reset, refused, closed."""
    name, udp, icmp, established, reset_, refused, closed = row
    policy = base(1)
    policy['conntrack'] = {'timeouts': name}
    lab.gateway.start(policy)
    lab.serve(lab.server)
    udp_ask(lab.client, SERVER, source_port=5000)
    ping(lab.client, SERVER, count=1)
    found = {'udp': (idle(lab, 'sport=5000'), udp), 'icmp': (idle(lab, 'icmp '), icmp)}
    with Conversation(lab.client, SERVER, source_port=5001) as c:
        c.ask()
        found['established'] = (wait_for(lambda: idle(lab, 'sport=5001', 'ESTABLISHED'), 'established'), established)
        reset(c)
        found['reset'] = (wait_for(lambda: idle(lab, 'sport=5001', 'CLOSE '), 'reset'), reset_)
    with contextlib.suppress(ConnectionRefusedError):
        Conversation(lab.client, SERVER, 9, source_port=5002)
        raise AssertionError('nobody listens there')
    found['refused'] = (idle(lab, 'sport=5002'), refused)
    with Conversation(lab.client, SERVER, source_port=5003) as c:
        c.ask()
    found['closed'] = (wait_for(lambda: idle(lab, 'sport=5003', 'TIME_WAIT'), 'closed'), closed)
    wrong = {k: v for k, v in found.items() if (v[0] != v[1] if None in v else not 0.7 * v[1] <= v[0] <= v[1])}
    assert not wrong, wrong


@test(start=False, kernel=False, rows=(('outbound', True), ('inbound', True), ('error', False), ('strangers', False)))
def what_refreshes(lab, row):
    """Datagrams either way keep a connection alive; errors about it, and what the filtering refuses, do not."""
    policy = base(1)
    policy['conntrack'] = {'timeouts': {'udp': '100s', 'udp_stream': '100s'}}
    policy['nat']['source'][0]['translate'] = {'masquerade': True, 'mapping': 'endpoint-independent'}
    lab.gateway.start(policy)
    with udp_socket(lab.client, ('', 5000)) as s, udp_socket(lab.server, (SERVER, 6000)) as remote, \
            udp_socket(lab.server, (SERVER, 6001)) as stranger:
        remote.settimeout(3)
        s.sendto(b'x', (SERVER, 6000))
        assert remote.recvfrom(10)[1] == (WAN, 5000)
        wait_for(lambda: idle(lab, 'sport=5000') <= 98, 'time passes', 10, 0.1)
        before = idle(lab, 'sport=5000')
        if row[0] == 'outbound':
            s.sendto(b'x', (SERVER, 6000))
        elif row[0] == 'inbound':
            remote.sendto(b'x', (WAN, 5000))
        elif row[0] == 'strangers':
            stranger.sendto(b'x', (WAN, 5000))
        else:
            ports = (5000).to_bytes(2, 'big') + (6000).to_bytes(2, 'big')
            quote = wire.ipv4(WAN, SERVER, socket.IPPROTO_UDP, ports + bytes(4))
            wire.send(lab.server, wire.ipv4(SERVER, WAN, socket.IPPROTO_ICMP, wire.icmp(3, 3, 0, quote)))
        if row[1]:
            wait_for(lambda: idle(lab, 'sport=5000') > before, 'it is refreshed', 5)
        else:
            time.sleep(0.5)
            assert idle(lab, 'sport=5000') <= before, 'it is refreshed'
