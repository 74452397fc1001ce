"""Forwarding as a router: TTL, MTU, ICMP errors, IPv6 without translation."""

import contextlib
import os
import socket
import struct

from lab.policy import *
from lab.programs import (curl, iperf3, ping, random_file, sha256, tcp_ask, traceroute, transfer, udp_ask, udp_socket,
                          url)
from runner import test

BOTH = (1, 2)


@test(workers=BOTH)
def ipv6_without_nat(lab):
    """The server sees the client's own address, and the client that of the server."""
    lab.serve(lab.server)
    lab.serve(lab.outside)
    assert udp_ask(lab.client, SERVER6, source_port=40001) == (CLIENT6, 40001)
    assert tcp_ask(lab.client, SERVER6, source_port=40002) == (CLIENT6, 40002)
    assert tcp_ask(lab.client2, REMOTE6)[0] == CLIENT2_6
    assert ping(lab.client, SERVER6, count=10).received == 10
    assert curl(lab.client, url(SERVER6)).split()[0] == CLIENT6


HOPS = [('udp', SERVER, LAN, []), ('icmp', SERVER, LAN, ['-I']), ('tcp', SERVER, LAN, ['-T', '-p', HTTP]),
        ('udp6', SERVER6, LAN6, []), ('icmp6', SERVER6, LAN6, ['-I'])]


@test(workers=BOTH, rows=HOPS)
def gateway_is_a_hop(lab, row):
    """traceroute shows the gateway's inside address, then the destination."""
    _, address, gateway, options = row
    lab.serve(lab.server)
    hops = traceroute(lab.client, address, *options)
    assert hops == [gateway, address], 'hops: %s' % hops


@test()
def ttl_expires_towards_the_inside(lab):
    """A packet whose TTL runs out on a forward from outside: the error comes from the outside address."""
    lab.serve(lab.client2)
    hops = traceroute(lab.server, WAN, '-T', '-p', FORWARD_ECHO, '-q', 1)
    assert hops == [WAN, WAN], 'hops: %s' % hops


@test(workers=BOTH, rows=[('transit', SERVER, LAN), ('to_the_gateway', WAN, WAN)])
def malformed_options(lab, row):
    """An IP option whose length does not add up: the sender is told where it stands."""
    _, address, gateway = row
    options = bytes([1, 68, 40, 5])
    header = struct.pack('!BBHHHBBH4s4s', 0x46, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0, socket.inet_aton(CLIENT),
                         socket.inet_aton(address)) + options
    with lab.client:
        out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        errors = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with out, errors:
        errors.settimeout(3)
        out.sendto(header + struct.pack('!HHHH', 4000, ECHO, 8, 0), (address, 0))
        answer, source = errors.recvfrom(1000)
    kind, code, _, pointer = struct.unpack_from('!BBHB', answer, 20)
    assert (source[0], kind, code, pointer) == (gateway, 12, 0, 21), (source, answer[20:].hex())
    assert answer[48:].startswith(options), 'the quote: ' + answer[28:].hex()


@test(workers=BOTH, rows=[('v4', SERVER, 1372), ('v6', SERVER6, 1352)], wan_mtu=1400)
def smaller_mtu_at_the_gateway(lab, row):
    """What does not fit the next link is refused with the link's MTU; what fits passes."""
    _, address, fits = row
    p = ping(lab.client, address, count=1, size=fits, df=True)
    assert p.received == 1, p.output
    ping(lab.client, address, count=1, size=fits + 1, df=True)
    p = ping(lab.client, address, count=1, size=fits + 1, df=True)
    assert p.received == 0 and 'mtu' in p.output.lower() and '1400' in p.output, p.output
    route = lab.client.ip('route', 'get', address)
    assert 'mtu 1400' in route, 'the client has not learnt the MTU: ' + route


@test(workers=BOTH, rows=[('v4', REMOTE), ('v6', REMOTE6)])
def smaller_mtu_beyond_the_gateway(lab, row):
    """A router outside refuses with an ICMP error about a translated packet: path MTU discovery works."""
    far = lab.host('far')
    lab.outside.ip('link', 'add', 'far0', 'mtu', '1300', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', far.name)
    lab.outside.batch(['addr del %s/32 dev lo' % REMOTE, 'addr del %s/128 dev lo' % REMOTE6, 'link set far0 up',
                       'addr add 203.0.113.1/24 dev far0', 'addr add 2001:db8:beef::1/64 dev far0',
                       'route add %s via %s' % (LAN_NET, WAN)])
    # The far host's own MTU stays 1500, so that it announces an MSS that does not fit the link.
    far.batch(['link set eth0 up', 'addr add %s/24 dev eth0' % REMOTE, 'addr add %s/64 dev eth0' % REMOTE6,
               'route add default via 203.0.113.1', 'route add default via 2001:db8:beef::1'])
    lab.outside.sysctl({'net.ipv4.ip_forward': 1, 'net.ipv6.conf.all.forwarding': 1})
    stored = lab.serve(far)
    digest = random_file(lab.path('upload'), 4)
    transfer(lab.client, url(row[1], path='/upload'), '-T', lab.path('upload'))
    assert sha256(os.path.join(stored, 'upload')) == digest
    route = lab.client.ip('route', 'get', row[1])
    assert 'mtu 1300' in route, 'the client has not learnt the MTU: ' + route


@test(workers=BOTH, wan_mtu=1400)
def tcp_over_a_smaller_mtu(lab):
    """TCP moves files both ways although the server announces segments that its link cannot carry."""
    lab.server.batch(['route replace default via %s advmss 1440' % WAN6,
                      'route replace 198.51.100.0/24 dev eth0 src %s advmss 1460' % SERVER])
    files = lab.serve(lab.server)
    digest = random_file(os.path.join(files, 'file'), 8)
    for address in (SERVER, SERVER6):
        transfer(lab.client, url(address, path='/file'), '-o', lab.path('down'))
        assert sha256(lab.path('down')) == digest
        transfer(lab.client, url(address, path='/up'), '-T', lab.path('down'))
        assert sha256(os.path.join(files, 'up')) == digest
        assert 'mtu 1400' in lab.client.ip('route', 'get', address), 'no segment was too big: the test is void'


@test(workers=BOTH, rows=[('v4', SERVER), ('v6', SERVER6)])
def port_unreachable_comes_back(lab, row):
    """The server's ICMP error about a translated datagram reaches the client's socket."""
    with contextlib.closing(udp_socket(lab.client, family=10 if ':' in row[1] else 2)) as s:
        s.connect((row[1], 9))
        s.settimeout(2)
        s.send(b'x')
        try:
            s.recv(100)
            raise AssertionError('an answer from a closed port')
        except ConnectionRefusedError:
            pass
        except TimeoutError:
            raise AssertionError('the ICMP error did not arrive') from None


@test(workers=BOTH, rows=[('v4', SERVER), ('v6', SERVER6)])
def bulk_tcp(lab, row):
    """iperf3 in both directions, eight streams."""
    for options in ([], ['-R']):
        report = iperf3(lab.client, lab.server, row[1], '-P', 8, *options, seconds=1)
        rate = report['sum_received']['bits_per_second'] / 1e6
        assert rate > 50, '%.0f Mbit/s %s' % (rate, options)


@test(workers=BOTH, rows=[('v4', SERVER), ('v6', SERVER6)])
def paced_udp(lab, row):
    """A stream of 20 Mbit/s loses less than one datagram in a hundred."""
    report = iperf3(lab.client, lab.server, row[1], '-u', '-b', '20M', '-l', 1200)
    lost = report['sum']['lost_percent']
    assert lost < 1, '%.2f %% lost' % lost


@test(workers=BOTH, rows=[('v4', SERVER), ('v6', SERVER6)])
def fragments(lab, row):
    """A datagram in fragments passes, and so does its answer."""
    p = ping(lab.client, row[1], count=2, size=3000, wait=2)
    assert p.received == 2, p.output
