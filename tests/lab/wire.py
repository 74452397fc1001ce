"""IPv4 packets as bytes, for what no socket sends by itself."""

import socket
import struct


def checksum(data):
    """The Internet checksum."""
    data += b'\0' * (len(data) % 2)
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def ipv4(source, destination, protocol, payload, ident=1, offset=0, more=False):
    """A packet, or a fragment of one whose payload begins `offset` bytes into the whole's."""
    def header(check):
        return struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(payload), ident, more << 13 | offset // 8, 64, protocol,
                           check, socket.inet_aton(source), socket.inet_aton(destination))
    return header(checksum(header(0))) + payload


def udp(source, destination, sport, dport, payload):
    """A UDP datagram with its checksum."""
    pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack('!HH', 17, 8 + len(payload))
    header = struct.pack('!HHH', sport, dport, 8 + len(payload))
    return header + struct.pack('!H', checksum(pseudo + header + b'\0\0' + payload) or 0xffff) + payload


def icmp(kind, code, rest, payload):
    """An ICMP message; `rest` is its second word."""
    message = struct.pack('!BBHI', kind, code, 0, rest) + payload
    return message[:2] + struct.pack('!H', checksum(message)) + message[4:]


def send(ns, *packets):
    """Sends packets from a host, whatever their source address says."""
    with ns, socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
        for p in packets:
            s.sendto(p, (socket.inet_ntoa(p[16:20]), 0))


def listen(ns, protocol=socket.IPPROTO_ICMP, seconds=3):
    """A socket that hears every packet of a protocol that a host receives."""
    with ns:
        s = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
    s.settimeout(seconds)
    return s
