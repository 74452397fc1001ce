"""ICMP errors about translated packets, as RFC 5508 puts it, and fragments that the gateway makes or sees."""

import contextlib
import socket

from lab import wire
from lab.policy import *
from lab.programs import Conversation, ping, udp_ask, udp_socket
from runner import test

BOTH = (1, 2)
IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_DO = 10, 0, 2


@test(workers=BOTH, rows=(('udp', socket.IPPROTO_UDP), ('tcp', socket.IPPROTO_TCP)))
def errors_end_nothing(lab, row):
    """Errors about a connection, by any router, are told the client, and the connection goes on."""
    lab.serve(lab.server)
    with contextlib.ExitStack() as stack:
        if row[0] == 'udp':
            s = stack.enter_context(udp_socket(lab.client, ('', 5000)))
            ask = lambda: udp_ask(lab.client, SERVER, sock=s)
        else:
            ask = stack.enter_context(Conversation(lab.client, SERVER, source_port=5000)).ask
        assert ask() == (WAN, 5000)
        heard = stack.enter_context(wire.listen(lab.client))
        for code in (0, 1, 3, 13):
            quote = wire.ipv4(WAN, SERVER, row[1], (5000).to_bytes(2, 'big') + ECHO.to_bytes(2, 'big') + bytes(4))
            error = wire.icmp(3, code, 0, quote)
            wire.send(lab.outside, wire.ipv4(OUTSIDE, WAN, socket.IPPROTO_ICMP, error))
            packet, (router, _) = heard.recvfrom(2000)
            assert (router, packet[20], packet[21]) == (OUTSIDE, 3, code)
            assert packet[28 + 12:28 + 16] == socket.inet_aton(CLIENT), 'the quote is not translated'
        if row[0] == 'udp':
            # The socket tells once what it heard.
            s.settimeout(0.1)
            with contextlib.suppress(OSError):
                s.recv(100)
        assert ask() == (WAN, 5000)


@test(workers=BOTH)
def error_from_inside(lab):
    """A forward to a closed port: the client outside is told by the address that it asked, about what it asked."""
    with wire.listen(lab.server) as heard, udp_socket(lab.server, ('', 6000)) as s:
        s.sendto(b'x' * 8, (WAN, FORWARD_ECHO))
        packet, (router, _) = heard.recvfrom(2000)
    assert router == WAN and packet[20:22] == b'\3\3', packet.hex()
    quote = packet[28:]
    assert quote[12:20] == socket.inet_aton(SERVER) + socket.inet_aton(WAN), 'addresses quoted: ' + quote.hex()
    assert quote[20:24] == (6000).to_bytes(2, 'big') + FORWARD_ECHO.to_bytes(2, 'big'), 'ports quoted: ' + quote.hex()
    assert wire.checksum(quote[:20]) == 0 and wire.checksum(packet[20:]) == 0


@test(workers=BOTH)
def hairpinned_error(lab):
    """A client inside that asks a closed port of an inside server by its address outside is told so."""
    with udp_socket(lab.client) as s:
        s.settimeout(3)
        s.connect((WAN, FORWARD_ECHO))
        s.send(b'x')
        try:
            raise AssertionError('the client received %r' % s.recv(100))
        except ConnectionRefusedError:
            pass


@test(workers=BOTH, start=False, kernel=False)
def hairpinned_query(lab):
    """A client inside pings another by the address that it has outside."""
    lab.gw.batch(['addr add 198.51.100.9/32 dev wan0'])
    policy = base(lab.workers)
    policy['nat']['static'] = [{'name': 'host', 'inside': CLIENT2, 'outside': '198.51.100.9', 'to': 'outside'}]
    lab.gateway.start(policy)
    p = ping(lab.client, '198.51.100.9')
    assert p.received == 3, p.output


@test(workers=BOTH, rows=(('allowed', IP_PMTUDISC_DONT), ('forbidden', IP_PMTUDISC_DO)), wan_mtu=1400)
def too_big(lab, row):
    """A datagram beyond the next link's MTU is sent in fragments, in order; with DF its sender is told the MTU."""
    lab.serve(lab.server)
    with udp_socket(lab.client, ('', 5000)) as s, wire.listen(lab.client) as heard:
        s.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, row[1])
        s.settimeout(3)
        s.sendto(b'a' * 1440, (SERVER, ECHO))
        if row[0] == 'allowed':
            assert s.recv(2000) == b'%s 5000 ' % WAN.encode() + b'a' * 1440
            return
        packet, (router, _) = heard.recvfrom(2000)
        assert (router, packet[20:22], packet[26:28]) == (LAN, b'\3\4', (1400).to_bytes(2, 'big')), packet.hex()


@test(workers=BOTH, rows=(('in_order', (0, 1, 2)), ('reversed', (2, 1, 0)), ('last_first', (2, 0, 1))))
def fragments(lab, row):
    """A datagram arrives in fragments in any order, and is answered."""
    payload = bytes(range(256)) * 8
    whole = wire.udp(CLIENT, SERVER, 5000, ECHO, payload)
    pieces = [wire.ipv4(CLIENT, SERVER, socket.IPPROTO_UDP, whole[at:at + 800], 77, at, at + 800 < len(whole))
              for at in (0, 800, 1600)]
    lab.serve(lab.server)
    with udp_socket(lab.client, ('', 5000)) as s:
        s.settimeout(3)
        wire.send(lab.client, *(pieces[n] for n in row[1]))
        assert s.recv(4000) == b'%s 5000 ' % WAN.encode() + payload
