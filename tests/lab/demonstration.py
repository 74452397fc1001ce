"""What `make demo` and the testbed show: the traffic of real programs through the gateway, a line with figures for each check."""

import contextlib
import re
import sys
import time

from .policy import *                                                                               # noqa: F403
from .programs import (Conversation, curl, dig, iperf3, ping, random_file, sha256, silent, tcp_ask,
                       traceroute, transfer, udp_ask, url, wait_for)

NAME, MEGABYTES = 'www.example.test', 100
GREEN, RED, PLAIN = ('\033[32m', '\033[31m', '\033[0m') if sys.stdout.isatty() else ('', '', '')


class Checks:
    """Runs the checks and prints a line for each."""

    def __init__(self, lab):
        self.lab, self.passed, self.failed = lab, 0, 0

    def run(self, what, function, *arguments):
        """`function` returns the figures of its line, and raises when the check fails."""
        try:
            figures, ok = function(self.lab, *arguments), True
        except Exception as e:
            figures, ok = str(e) or type(e).__name__, False
        self.passed, self.failed = self.passed + ok, self.failed + (not ok)
        mark = GREEN + 'ok  ' + PLAIN if ok else RED + 'FAIL' + PLAIN
        print('  %s  %-36s %s' % (mark, what, figures.strip().replace('\n', '\n' + ' ' * 44)), flush=True)


def require(condition, otherwise):
    """Fails the check with what was seen instead."""
    if not condition:
        raise AssertionError(otherwise)


def pings(lab, ns, address, count=20):
    for tries in (1, 2, 3):
        p = ping(ns, address, count=count)
        if p.received == count:
            break
        # Answers are also lost where a busy machine lets a host wait; the line says how often it was tried.
        time.sleep(1)
    require(p.received == count, '%d of %d answered' % (p.received, count))
    return '%d of %d answered, %.2f ms on average%s' \
        % (p.received, count, p.average_ms, '' if tries == 1 else ', in try %d' % tries)


def hops(lab, address, gateway):
    seen = traceroute(lab.client, address)
    require(seen == [gateway, address], 'hops: ' + ' '.join(seen))
    return ' → '.join(seen)


def dns(lab, ns, address):
    answers, ms = dig(ns, address, NAME)
    require(answers == ['192.0.2.80'], 'answers: %s' % answers)
    return '%s is %s, asked over UDP, %d ms' % (NAME, answers[0], ms)


def download(lab, address, digest):
    rate = transfer(lab.client, url(address, path='/file'), '-o', lab.path('download'), timeout=120)
    got = sha256(lab.path('download'))
    require(got == digest, 'SHA-256 is %s, not %s' % (got, digest))
    return '%d MB at %.0f MB/s, SHA-256 equal (%s…)' % (MEGABYTES, rate / 1e6, got[:12])


def upload(lab, address, digest):
    rate = transfer(lab.client, url(address, path='/upload'), '-T', lab.path('server-files/file'), timeout=120)
    got = sha256(lab.path('server-files/upload'))
    require(got == digest, 'SHA-256 is %s, not %s' % (got, digest))
    return '%d MB at %.0f MB/s, SHA-256 equal (%s…)' % (MEGABYTES, rate / 1e6, got[:12])


def parallel(lab, address, source):
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        talks = [stack.enter_context(Conversation(lab.client, address)) for _ in range(200)]
        seen = [t.ask() for t in talks]
    require({a for a, _ in seen} == {source}, 'the server sees %s' % {a for a, _ in seen})
    require(len(set(seen)) == 200, 'only %d different ports' % len(set(seen)))
    return '200 answered, 200 different ports of %s, %.2f s' % (source, time.monotonic() - started)


def bulk_tcp(lab, address):
    there = iperf3(lab.client, lab.server, address, seconds=3)['sum_received']['bits_per_second'] / 1e6
    back = iperf3(lab.client, lab.server, address, '-R', seconds=3)['sum_received']['bits_per_second'] / 1e6
    require(min(there, back) > 10, 'only %.0f and %.0f Mbit/s' % (there, back))
    return '%.0f Mbit/s out, %.0f Mbit/s in' % (there, back)


def bulk_udp(lab, address):
    for _ in range(3):
        s = iperf3(lab.client, lab.server, address, '-u', '-b', '100M', '-l', 1200, seconds=3)['sum']
        if s['lost_percent'] < 1:
            break
        # A datagram is also lost where a busy machine lets a receiver wait.
        time.sleep(2)
    require(s['lost_percent'] < 1, '%.2f %% of %d datagrams lost' % (s['lost_percent'], s['packets']))
    return '%d datagrams at 100 Mbit/s, %.2f %% lost, jitter %.3f ms' \
        % (s['packets'], s['lost_percent'], s['jitter_ms'])


def forward(lab):
    tcp, udp = tcp_ask(lab.server, WAN, FORWARD_ECHO), udp_ask(lab.server, WAN, FORWARD_ECHO)
    web = curl(lab.outside, url(WAN, FORWARD_HTTP)).split()
    require((tcp[0], udp[0], web[0]) == (SERVER, SERVER, OUTSIDE), 'the inside server sees %s %s %s' % (tcp, udp, web))
    return '%s:%d reaches %s:%d, which sees %s; HTTP too' % (WAN, FORWARD_ECHO, CLIENT2, ECHO, SERVER)


def hairpin(lab):
    tcp, udp = tcp_ask(lab.client, WAN, FORWARD_ECHO), udp_ask(lab.client, WAN, FORWARD_ECHO)
    require(tcp[0] == udp[0] == LAN, 'the inside server sees %s and %s' % (tcp, udp))
    return 'client → %s:%d → client2, which sees %s' % (WAN, FORWARD_ECHO, LAN)


def unsolicited(lab):
    counts = lab.gateway.name == 'sluice'
    before = lab.gateway.dropped('policy') if counts else 0
    lab.server.ip('route', 'replace', LAN_NET, 'via', WAN)
    for address in (CLIENT, CLIENT6):
        require(silent(tcp_ask, lab.server, address, 22, timeout=0.5), 'TCP to %s is answered' % address)
        require(silent(udp_ask, lab.server, address, tries=2, wait=0.3), 'UDP to %s is answered' % address)
        require(not ping(lab.server, address, count=2, wait=0.3).received, address + ' answers pings')
    dropped = (lab.gateway.dropped('policy') - before) if counts else 0
    require(dropped >= 10 or not counts, 'only %d drops counted' % dropped)
    return 'TCP, UDP and ping from outside: silence; %d packets counted as dropped by policy' % dropped


def ipv6_source(lab):
    seen = tcp_ask(lab.client, SERVER6)
    require(seen[0] == CLIENT6, 'the server sees %s' % seen[0])
    return 'the server sees the client\'s own address, %s' % CLIENT6


def frames(lab):
    wait_for(lambda: lab.gateway.unaccounted() == 0, 'unaccounted: %d' % lab.gateway.unaccounted(), 3)
    total = sum(w['frames']['total'] for w in lab.gateway.status()['workers'])
    return '%d frames in the UMEMs of 2 workers, none lost' % total


def demonstrate(lab, checks):
    """All checks; the servers run already: web and echo on `server` and `client2`, DNS on `server`."""
    digest = random_file(lab.path('server-files/file'), MEGABYTES)
    for title, server, gateway, source in (('IPv4, masqueraded', SERVER, LAN, WAN),
                                           ('IPv6, routed without NAT', SERVER6, LAN6, CLIENT6)):
        print(title)
        checks.run('ping', pings, lab.client, server)
        checks.run('traceroute, the gateway is a hop', hops, server, gateway)
        checks.run('DNS', dns, lab.client, server)
        checks.run('HTTP download', download, server, digest)
        checks.run('HTTP upload', upload, server, digest)
        checks.run('200 parallel connections', parallel, server, source)
        checks.run('iperf3 TCP', bulk_tcp, server)
        checks.run('iperf3 UDP', bulk_udp, server)
        if server == SERVER:
            checks.run('forward from outside', forward)
            checks.run('hairpin', hairpin)
        else:
            checks.run('no translation', ipv6_source)
    print('The gateway itself')
    checks.run('unsolicited connections refused', unsolicited)
    checks.run('own ping from %s' % WAN, pings, lab.gw, SERVER, 10)
    checks.run('own DNS from %s' % WAN, dns, lab.gw, SERVER)
    checks.run('is pinged at %s' % WAN, pings, lab.server, WAN, 10)
    if lab.gateway.name == 'sluice':
        checks.run('every frame accounted for', frames)


def show(lab):
    """The connection table and the counters."""
    table = lab.gateway.conntrack()
    print('\nConnection table, %d entries; one of each kind:' % len(table))
    kinds = {}
    for line in table:
        # Protocol, both tuples' addresses, the port or ICMP type asked for: all but what differs each time.
        kind = re.sub(r'\b(sport|id|packets|bytes)=\d+|\bdport=\d{5}|^(\w+ +\d+) \d+( [A-Z]\S+)?', r'\2', line)
        kinds.setdefault(kind, line)
    print('\n'.join('  ' + line for line in sorted(kinds.values())[:20]))
    if lab.gateway.name == 'sluice':
        print('\nsluice status:\n  ' + lab.gateway.cli('status').stdout.strip().replace('\n', '\n  '))
