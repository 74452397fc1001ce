"""`tcp_mss: clamp`: what segments TCP announces on its way through interfaces with different MTUs."""

import socket
import struct
import time

from lab.policy import *
from lab.programs import families
from lab.wire import checksum
from runner import test

BOTH = (1, 2)
ETH_P_ALL, PACKET_OUTGOING = 3, 4
SYN, ACK = 2, 16
# Of the network outside, beside 1500 inside.
MTU = 1400
PORT = 7100


def start(lab, clamp='clamp'):
    """The gateway, and a server that announces more than its link carries, as if that were elsewhere."""
    policy = base(lab.workers)
    policy['tcp_mss'] = clamp
    lab.gateway.start(policy)
    lab.server.batch(['route replace default via %s advmss 1440' % WAN6,
                      'route replace 198.51.100.0/24 dev eth0 src %s advmss 1460' % SERVER])


def listen_in(ns):
    """A socket that gets each frame on eth0."""
    with ns:
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    s.bind(('eth0', 0))
    return s


def pseudo(source, destination, length):
    """The pseudo header of addresses in bytes."""
    if len(source) == 4:
        return source + destination + struct.pack('!HH', socket.IPPROTO_TCP, length)
    return source + destination + struct.pack('!IHH', length, 0, socket.IPPROTO_TCP)


def received(s, port, flags):
    """The first TCP segment that came in to or from a port with just these flags, its checksums verified."""
    end = time.monotonic() + 5
    while (left := end - time.monotonic()) > 0:
        s.settimeout(left)
        frame, where = s.recvfrom(65536)
        kind, ip = frame[12:14], frame[14:]
        if where[2] == PACKET_OUTGOING or kind not in (b'\x08\x00', b'\x86\xdd'):
            continue
        if kind == b'\x08\x00':
            header, proto, ends = (ip[0] & 15) * 4, ip[9], (ip[12:16], ip[16:20])
            tcp = ip[header:struct.unpack_from('!H', ip, 2)[0]]
            assert checksum(ip[:header]) == 0, 'checksum of the IP header: ' + ip.hex()
        else:
            proto, ends = ip[6], (ip[8:24], ip[24:40])
            tcp = ip[40:40 + struct.unpack_from('!H', ip, 4)[0]]
        if proto == socket.IPPROTO_TCP and port in struct.unpack_from('!HH', tcp) and tcp[13] == flags:
            assert checksum(pseudo(*ends, len(tcp)) + tcp) == 0, 'checksum of TCP: ' + tcp.hex()
            return tcp
    raise AssertionError('no segment with flags %#x' % flags)


def options(tcp):
    """The options' bytes."""
    return tcp[20:(tcp[12] >> 4) * 4]


def mss(tcp):
    """The MSS that a segment announces, which a host of the kernel's puts first."""
    kind, length, value = struct.unpack_from('!BBH', options(tcp))
    assert (kind, length) == (2, 4), options(tcp).hex()
    return value


# Name, tcp_mss, who opens, who listens, the address and port that is asked, what both ends limit themselves to, and
# what arrives of it in the SYN and in the SYN-ACK. Without a limit the hosts announce 1460 or, over IPv6, 1440.
OUT, OUT6, IN = ('client', 'server', SERVER, PORT), ('client', 'server', SERVER6, PORT), \
    ('server', 'client2', WAN, FORWARD_ECHO)


@test(workers=BOTH, wan_mtu=MTU, start=False, kernel=False, rows=(
    ('v4', 'clamp', OUT, (0, 0), (1360, 1360)), ('v6', 'clamp', OUT6, (0, 0), (1340, 1340)),
    ('forward', 'clamp', IN, (0, 0), (1360, 1360)),
    ('small_v4', 'clamp', OUT, (1000, 900), (1000, 900)), ('small_v6', 'clamp', OUT6, (1000, 900), (1000, 900)),
    ('edge_v4', 'clamp', OUT, (1360, 1361), (1360, 1360)), ('edge_v6', 'clamp', OUT6, (1341, 1340), (1340, 1340)),
    ('keep_v4', 'keep', OUT, (0, 0), (1460, 1460)), ('keep_v6', 'keep', OUT6, (0, 0), (1440, 1440))))
def announced(lab, row):
    """What the other end learns of the MSS, in both directions; then a transfer without a segment that is too big."""
    _, clamp, (opener, listener, address, port), limits, expected = row
    start(lab, clamp)
    opens, listens = getattr(lab, opener), getattr(lab, listener)
    family, own = families(address), ECHO if port == FORWARD_ECHO else port
    with listens:
        waiting = socket.socket(family, socket.SOCK_STREAM)
    with opens:
        s = socket.socket(family, socket.SOCK_STREAM)
    with waiting, s, listen_in(opens) as at_opener, listen_in(listens) as at_listener:
        for sock, limit in ((s, limits[0]), (waiting, limits[1])):
            sock.settimeout(5)
            if limit:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, limit)
        waiting.bind(('', own))
        waiting.listen()
        s.connect((address, port))
        seen = mss(received(at_listener, own, SYN)), mss(received(at_opener, port, SYN | ACK))
        assert seen == expected, seen
        peer = waiting.accept()[0]
        with peer:
            peer.settimeout(5)
            for sender, receiver in ((s, peer), (peer, s)):
                sender.sendall(bytes(20_000))
                got = 0
                while got < 20_000:
                    got += len(receiver.recv(65536))
    too_big = lab.gateway.dropped('too_big')
    assert bool(too_big) == (clamp == 'keep'), '%d segments were too big' % too_big


def segment(source, destination, flags, opts):
    """An IP packet with a TCP segment without data."""
    family = families(source)
    a, b = socket.inet_pton(family, source), socket.inet_pton(family, destination)
    tcp = struct.pack('!HHIIBBHHH', 5000, PORT, 1, 0, (20 + len(opts)) << 2, flags, 64240, 0, 0) + opts
    tcp = tcp[:16] + struct.pack('!H', checksum(pseudo(a, b, len(tcp)) + tcp)) + tcp[18:]
    if family == socket.AF_INET:
        # The kernel completes length and checksum.
        return struct.pack('!BBHHHBBH', 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_TCP, 0) + a + b + tcp
    return struct.pack('!IHBB', 6 << 28, len(tcp), socket.IPPROTO_TCP, 64) + a + b + tcp


# Name, flags, options, and where in these the MSS is that is to be lowered.
@test(wan_mtu=MTU, start=False, kernel=False, rows=(
    ('none', SYN, b'', b''),
    ('others', SYN, b'\x04\x02\x03\x03\x07\x00\x00\x00', None),
    ('behind_others', SYN, b'\x04\x02\x03\x03\x07\x01\x02\x04\x05\xb4\x00\x00', 8),
    ('odd', SYN, b'\x01\x02\x04\x05\xb4\x00\x00\x00', 3),
    ('behind_the_end', SYN, b'\x00\x02\x04\x05\xb4\x00\x00\x00', None),
    ('no_syn', ACK, b'\x02\x04\x05\xb4', None)))
def as_sent(lab, row):
    """Options as no kernel sends them: an MSS is lowered wherever it stands, what has none gets none."""
    _, flags, opts, at = row
    start(lab)
    for source, destination, most in ((CLIENT, SERVER, MTU - 40), (CLIENT6, SERVER6, MTU - 60)):
        expected = bytearray(opts)
        if at:
            struct.pack_into('!H', expected, at, most)
        with lab.client:
            raw = socket.socket(families(source), socket.SOCK_RAW, socket.IPPROTO_RAW)
        with raw, listen_in(lab.server) as at_server:
            raw.sendto(segment(source, destination, flags, opts), (destination, 0))
            assert options(received(at_server, PORT, flags)) == expected
