"""`sluice trace`: what real packets meet, as lines, JSON and a capture that Wireshark reads."""

import contextlib
import json
import os
import re
import subprocess

from lab.gateway import binary
from lab.policy import *
from lab.programs import ping, tcp_ask, udp_ask, udp_socket, wait_for
from runner import test
from subjects.explain import policy, way

BOTH = (1, 2)


def attempt(ask, *arguments, **keywords):
    """Asks where no answer is expected."""
    with contextlib.suppress(OSError):
        ask(*arguments, **keywords)


class Trace:
    """A running `sluice trace`, whose output goes into a file; it runs until it is left or has shown `-c N` packets."""

    number = 0

    def __init__(self, lab, match, *words):
        Trace.number += 1
        self.lab, self.path = lab, lab.path('trace-%d' % Trace.number)
        self.argv = [binary(), 'trace', *(['--match', match] if match else []), *words, '--socket', lab.gateway.socket]

    def __enter__(self):
        with open(self.path, 'w') as out:
            self.process = subprocess.Popen(self.lab.gw.argv(*self.argv), stdout=out, stderr=subprocess.STDOUT)
        # It says so once all workers know.
        wait_for(lambda: self.text().startswith('tracing\n') or self.process.poll() is not None, 'the trace has begun')
        return self

    def text(self):
        """What it has printed."""
        with open(self.path) as f:
            return f.read()

    def lines(self):
        """Its lines, but for the first that says it has begun."""
        return [line for line in self.text().splitlines() if line != 'tracing']

    def packets(self):
        """Of `--json`: the packets."""
        return [json.loads(line) for line in self.lines()]

    def wait(self, n):
        """Until it has shown so many packets; returns its lines."""
        wait_for(lambda: len(self.lines()) >= n, '%d packets' % n, 10)
        return self.lines()

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)


@test(workers=BOTH, start=False, kernel=False)
def lines(lab):
    """Dropped and forwarded packets of real programs, with their rules and reasons; nothing else."""
    lab.gateway.start(policy(lab.workers))
    lab.serve(lab.server)
    lab.serve(lab.client2)
    for ns, address in ((lab.client, SERVER), (lab.client2, SERVER)):
        ping(ns, address, count=1)
    # Match, who does what, and what the first line must say.
    rows = (
        ('udp dport %d' % ECHO, lambda: udp_ask(lab.client, SERVER),
         r'lan udp %s:\d+ > %s:%d: sent by wan as udp %s:\d+ > %s:%d \(new; mark by marked \(.*\); accept by lan-out \(.*:\d+\); '
         r'source by internet \(.*\)\)' % (CLIENT, SERVER, ECHO, WAN, SERVER, ECHO)),
        ('src host %s sport %d tcp' % (SERVER, ECHO), lambda: tcp_ask(lab.client, SERVER),
         r'wan tcp %s:%d > %s:\d+ flags syn,ack: sent by lan as tcp %s:%d > %s:\d+ \(reply direction of a connection '
         r'accepted by lan-out' % (SERVER, ECHO, WAN, SERVER, ECHO, CLIENT)),
        # As it leaves, and as it came.
        ('dst host %s dport %d' % (CLIENT2, ECHO), lambda: tcp_ask(lab.server, WAN, FORWARD_ECHO),
         r'wan tcp %s:\d+ > %s:%d flags syn: sent by lan as tcp %s:\d+ > %s:%d \(new; by echo-tcp' % (
             SERVER, WAN, FORWARD_ECHO, SERVER, CLIENT2, ECHO)),
        ('udp dropped', lambda: attempt(udp_ask, lab.client, '203.0.113.66', 9, tries=1, wait=0.1),
         r'lan udp %s:\d+ > 203.0.113.66:9: dropped, policy \(new; drop by bad' % CLIENT),
        ('reason policy_reject', lambda: attempt(tcp_ask, lab.client, SERVER, 23),
         r'lan tcp .*:23 flags syn: dropped, policy_reject \(new; reject by no-telnet \(.*\); TCP RST to the sender\)'),
        ('in wan not out lan icmp', lambda: ping(lab.server, WAN, count=1),
         r'wan icmp %s > %s type 8 code 0 id \d+: to the host' % (SERVER, WAN)),
        ('ipv6 in wan dropped', lambda: attempt(tcp_ask, lab.server, CLIENT6, 22, timeout=0.2),
         r'wan tcp \[%s\]:\d+ > \[%s\]:22 flags syn: dropped, policy \(new; drop by the policy.s default\)' % (SERVER6, CLIENT6)),
        ('proto icmp out wan', lambda: ping(lab.client, SERVER, count=1, size=3000),
         r'lan icmp %s > %s.* \(a fragment\)' % (CLIENT, SERVER)),
        ('net 203.0.113.0/24 not dropped', lambda: ping(lab.client, REMOTE, count=1),
         r'lan icmp %s > %s type 8 code 0 id \d+: (sent by wan|waits for)' % (CLIENT, REMOTE)),
    )
    for match, act, expected in rows:
        with Trace(lab, match) as t:
            act()
            first = t.wait(1)[0]
            assert re.match(r'\[\d+\.\d{6}\] ' + expected, first), '%s: %s' % (match, first)
    # A packet that another trace asks for is not shown.
    with Trace(lab, 'udp port 9999') as t, Trace(lab, '') as everything:
        udp_ask(lab.client, SERVER)
        everything.wait(2)
        assert t.lines() == [], t.lines()


@test(workers=BOTH, start=False, kernel=False)
def what_explain_says(lab):
    """A traced packet has met what `explain` has said of one like it, step by step."""
    lab.gateway.start(policy(lab.workers))
    lab.serve(lab.server)
    lab.serve(lab.client2)
    for ns, address in ((lab.client, SERVER), (lab.client2, SERVER), (lab.client, SERVER6)):
        ping(ns, address, count=1)
    for packet, act in (
            ('udp %s:4444 > %s:%d in lan' % (CLIENT, SERVER, ECHO), lambda: udp_ask(lab.client, SERVER, source_port=4444)),
            ('udp %s:4444 > %s:%d in lan' % (CLIENT, SERVER, ECHO), lambda: udp_ask(lab.client, SERVER, source_port=4444)),
            ('tcp %s:4445 > %s:%d in wan' % (SERVER, WAN, FORWARD_ECHO),
             lambda: tcp_ask(lab.server, WAN, FORWARD_ECHO, source_port=4445)),
            ('udp %s:4446 > %s:161 in lan' % (CLIENT, SERVER),
             lambda: attempt(udp_ask, lab.client, SERVER, 161, source_port=4446, tries=1, wait=0.1)),
            ('udp [%s]:4447 > [%s]:%d in lan' % (CLIENT6, SERVER6, ECHO),
             lambda: udp_ask(lab.client, SERVER6, source_port=4447)),
    ):
        said = way(lab, packet)
        with Trace(lab, 'sport %s' % re.search(r':(444\d) >', packet)[1], '--json') as t:
            act()
            t.wait(1)
            met = t.packets()[0]
        assert met['packet'].removesuffix(' flags syn') == said['packet'], (met, said)
        for key in ('verdict', 'reason', 'leaves', 'interface', 'next', 'mac', 'egress'):
            assert met.get(key) == said.get(key), (key, met, said)
        steps = [[s for s in w['steps'] if s['step'] != 'owner'] for w in (met, said)]
        for x in steps[0] + steps[1]:
            # Its time goes by.
            x.pop('connection', None), x.pop('line', None)
        assert steps[0] == steps[1], (met, said)
        frame = bytes.fromhex(met['frame'])
        assert frame[12:14] in (b'\x08\x00', b'\x86\xdd') and met['at'] > 1e9, met


def tshark(lab, path, *options):
    """What Wireshark's reader makes of a capture: lists of fields."""
    argv = ['tshark', '-r', path, '-T', 'fields', '-E', 'separator=|', *[x for f in options for x in ('-e', f)]]
    r = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stderr
    return [line.split('|') for line in r.stdout.splitlines()]


@test(workers=BOTH, start=False, kernel=False)
def capture(lab):
    """The capture has every frame with its verdict as the packet's comment, readable while it is written."""
    lab.gateway.start(policy(lab.workers))
    lab.serve(lab.server)
    ping(lab.client, SERVER, count=1)
    path = lab.path('way.pcapng')
    with Trace(lab, 'host ' + CLIENT, '--pcap', path) as t:
        udp_ask(lab.client, SERVER, source_port=4450)
        attempt(udp_ask, lab.client, '203.0.113.66', 9, source_port=4451, tries=1, wait=0.1)
        fields = ('frame.interface_name', 'ip.src', 'ip.dst', 'udp.srcport', 'udp.dstport', 'frame.comment', 'udp.checksum.status')
        wait_for(lambda: os.path.getsize(path) > 1000, 'frames in the capture')
        wait_for(lambda: any('203.0.113.66' in f[2] for f in tshark(lab, path, *fields)), 'the dropped packet')
        shown = tshark(lab, path, *fields)
        assert t.lines() == [], t.lines()
    first = shown[0]
    assert first[:5] == ['lan', CLIENT, SERVER, '4450', str(ECHO)], first
    assert 'sent by wan as udp %s:4450 > %s:%d' % (WAN, SERVER, ECHO) in first[5] and 'lan-out' in first[5], first
    answer = next(f for f in shown if f[0] == 'wan')
    assert answer[1:3] == [SERVER, WAN] and 'as udp %s:%d > %s:4450' % (SERVER, ECHO, CLIENT) in answer[5], answer
    dropped = next(f for f in shown if f[2] == '203.0.113.66')
    assert 'dropped, policy' in dropped[5] and 'drop by bad' in dropped[5], dropped
    # To standard output, as `| wireshark -k -i -` takes it, and its end after so many packets.
    other = lab.path('piped.pcapng')
    with open(other, 'wb') as out:
        p = subprocess.Popen(lab.gw.argv(binary(), 'trace', '--match', 'udp', '--pcap', '-', '-c', '2', '--socket',
                                         lab.gateway.socket), stdout=out, stderr=subprocess.PIPE, text=True)
        assert p.stderr.readline() == 'tracing\n'
        udp_ask(lab.client, SERVER)
        assert p.wait(10) == 0, p.stderr.read()
        p.stderr.close()
    assert len(tshark(lab, other, 'udp.srcport')) == 2
    assert len({f[0] for f in tshark(lab, other, 'frame.interface_name')}) == 2


@test(workers=BOTH, kernel=False)
def counts(lab):
    """`-c` ends it; `--steps` prints all of a packet's way."""
    lab.serve(lab.server)
    udp_ask(lab.client, SERVER)
    with Trace(lab, 'udp', '-c', '1', '--steps') as t:
        udp_ask(lab.client, SERVER, source_port=4460)
        assert t.process.wait(10) == 0
    for label in ('udp %s:4460 > %s:%d' % (CLIENT, SERVER, ECHO), 'comes in', 'state', 'route', 'rule', 'source', 'neighbour', 'leaves'):
        assert label in t.text(), t.text()


@test(workers=BOTH, kernel=False)
def slow_reader(lab):
    """Who reads too slowly loses packets and is told how many; the gateway goes on."""
    lab.serve(lab.server)
    udp_ask(lab.client, SERVER)
    read, write = os.pipe()
    p = subprocess.Popen(lab.gw.argv(binary(), 'trace', '--json', '--match', 'udp', '--socket', lab.gateway.socket),
                         stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert p.stderr.readline() == 'tracing\n'
    # Far more than can wait anywhere.
    with udp_socket(lab.client) as s:
        def flood():
            for _ in range(2000):
                s.sendto(b'x' * 1000, (SERVER, 9))
            return lab.gateway.metric('sluice_interface_receive_packets_total', interface='lan') > 10_000
        wait_for(flood, 'ten thousand packets', 20)
    # Nobody has read so far. What is lost is told when somebody does.
    udp_ask(lab.client, SERVER)
    shown = lost = 0
    with os.fdopen(read) as out:
        for line in out:
            x = json.loads(line)
            lost += x.get('lost', 0)
            shown += 'frame' in x
            if lost and shown:
                break
    p.terminate()
    p.wait(10)
    assert 'packets were lost' in p.stderr.read()
    p.stderr.close()
    assert lost > 0, (shown, lost)


@test(kernel=False, rows=(
    ('word', ['--match', 'tcp dprot 443'], '`dprot` is not understood', 'conditions are: a protocol, ipv4'),
    ('address', ['--match', 'host 10.0.0.256'], '`10.0.0.256` is not an address', '^^^^^^^^^^'),
    ('port', ['--match', 'port 9-1'], '`9-1` is not a port', 'write 443 or 8000-8080'),
    ('reason', ['--match', 'reason polcy'], '`polcy` is not a reason', 'docs/metrics.md'),
    ('interface', ['--match', 'in dmz'], '`dmz` is not an interface of the policy; it has lan (lan0), wan (wan0)', ''),
    ('file', ['--pcap', '/nowhere/x.pcapng'], 'writing /nowhere/x.pcapng', 'No such file'),
    ('both', ['--pcap', 'x', '--json'], "cannot be used with '--json'", ''),
    ('none', ['-c', '0'], "invalid value '0'", ''),
))
def refused(lab, row):
    """What is not understood is marked, and it is said what could stand there."""
    _, words, message, more = row
    r = lab.gateway.cli('trace', *words, check=False)
    assert r.returncode != 0 and message in r.stderr and more in r.stderr, r.stderr


@test(start=False, kernel=False)
def not_running(lab):
    """Without a daemon there is nothing to trace."""
    r = lab.gw.run(binary(), 'trace', '--socket', lab.path('none'), check=False)
    assert r.returncode == 1 and 'sluice is not running' in r.stderr, r
