"""`sluice conntrack`: what it lists, changes and tells, in conntrack-tools' words."""

import contextlib
import json
import re
import subprocess
import time

from lab.gateway import binary
from lab.policy import *
from lab.programs import Conversation, tcp_ask, udp_ask, udp_socket, wait_for
from runner import test

BOTH = (1, 2)
ADDRESS = r'[0-9a-f.:]+'
TUPLE = r'src=%s dst=%s (?:sport=\d+ dport=\d+|type=\d+ code=\d+ id=\d+) (?:packets=\d+ bytes=\d+ )?' % (ADDRESS, ADDRESS)
# What conntrack-tools prints for the protocols used here; the kernel's own list is held against it too.
LINE = re.compile(
    r'(?P<proto>\w+) +(?P<number>\d+) (?P<timeout>\d+) (?P<state>[A-Z_0-9]+ )?(?P<original>%s)(?P<unreplied>\[UNREPLIED\] )?'
    r'(?P<reply>%s)(?P<assured>\[ASSURED\] )?mark=(?P<mark>\d+) use=\d+' % (TUPLE, TUPLE))
EVENT = re.compile(r'(?:\[\d+\.\d{6}\]\t)? {0,4}\[(NEW|UPDATE|DESTROY)\] (\w+) +\d+ (?:(\d+) )?(?:([A-Z_0-9]+) )?src=.*')


def words(lab, *verb, check=True):
    """A conntrack verb's standard output and standard error."""
    r = lab.gateway.cli('conntrack', *verb, check=check)
    return r.stdout, r.stderr


@test(workers=BOTH)
def lines(lab):
    """The list parses by the regular expression that the kernel's list parses by."""
    lab.serve(lab.server)
    with udp_socket(lab.client) as s, Conversation(lab.client, SERVER) as c:
        udp_ask(lab.client, SERVER, sock=s)
        c.ask()
        with udp_socket(lab.client) as lonely:
            lonely.sendto(b'x', (SERVER, 9999))
            listed = lab.gateway.conntrack()
            for line in listed:
                assert LINE.fullmatch(line), line
            states = {(m['proto'], m['state'], bool(m['unreplied'])) for m in map(LINE.fullmatch, listed)}
            assert ('tcp', 'ESTABLISHED ', False) in states and ('udp', None, False) in states, listed


@test(workers=BOTH, kernel=False)
def filters(lab):
    """Each condition selects what it says, in list, count and delete alike."""
    lab.serve(lab.server)
    lab.serve(lab.client2)
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(Conversation(lab.client, SERVER, source_port=40001))
        six = stack.enter_context(Conversation(lab.client, SERVER6, source_port=40001))
        inward = stack.enter_context(Conversation(lab.server, WAN, FORWARD_ECHO, source_port=40002))
        for c in (one, six, inward):
            c.ask()
        udp = stack.enter_context(udp_socket(lab.client, ('', 40003)))
        udp.sendto(b'x', (OUTSIDE, 9999))
        rows = (
            (['-p', 'tcp'], 3), (['-p', 'udp'], 1), (['-p', '17'], 1), (['-f', 'ipv6'], 1), (['-f', 'ipv4'], 3),
            (['-s', LAN_NET], 2), (['-s', CLIENT], 2), (['-s', '10.10.0.2-10.10.0.9', '-p', 'tcp'], 1),
            (['-d', SERVER], 1), (['--orig-src', SERVER], 1), (['--sport', '40001'], 2), (['--dport', '9999'], 1),
            (['-r', CLIENT2], 1), (['-q', WAN], 2), (['--reply-port-src', str(ECHO)], 3),
            (['--reply-port-dst', '40002'], 1), (['--state', 'ESTABLISHED'], 3), (['--state', 'syn_sent'], 0),
            (['-u', 'ASSURED'], 3), (['-u', 'UNREPLIED'], 1), (['-u', 'seen_reply,src_nat'], 1),
            (['--src-nat'], 2), (['--src-nat', WAN], 2), (['--src-nat', LAN], 0), (['--dst-nat'], 1),
            (['--dst-nat', CLIENT2], 1), (['--any-nat'], 3), (['-j', '198.51.100.0/24'], 2), (['-m', '0'], 4),
            (['-m', '0x1/0x1'], 0), (['-p', 'tcp', '--src-nat', '-s', CLIENT], 1),
        )
        for conditions, expected in rows:
            listed = lab.gateway.conntrack(*conditions)
            assert len(listed) == expected, (conditions, listed)
            counted = int(words(lab, 'count', *conditions)[0])
            assert counted == expected, (conditions, counted)
        told = [json.loads(x) for x in lab.gateway.conntrack('--json', '-p', 'tcp', '-f', 'ipv6')]
        assert [(t['original']['source'], t['original']['source_port'], t['state']) for t in told] == [
            (CLIENT6, 40001, 'ESTABLISHED')], told
        assert words(lab, 'delete', '--dst-nat', CLIENT2)[1] == '1 connections have been deleted.\n'
        assert json.loads(words(lab, 'delete', '-p', 'udp', '--json')[0]) == {'deleted': 1}
        assert int(words(lab, 'count')[0]) == 2
        counters = lab.gateway.conntrack('--counters', '-f', 'ipv4')
        assert len(counters) == 1 and re.search(r' packets=[1-9]\d* bytes=[1-9]', counters[0]), counters


@test(kernel=False, rows=(
    ('status', ['list', '-u', 'STRANGE'], 'there is no status `STRANGE`; known are expected, seen_reply'),
    ('state', ['list', '--state', 'OPEN'], 'there is no state `OPEN`; known are SYN_SENT'),
    ('address', ['list', '-s', '10.10.0.1/24'], 'write 10.10.0.0/24 for the network'),
    ('protocol', ['count', '-p', 'quic'], 'expected a number or one of tcp'),
    ('mark', ['list', '-m', '0x3/0x1'], 'bits outside its mask'),
    ('update', ['update', '-p', 'tcp'], '--mark'),
    ('event', ['events', '-e', 'BIRTH'], 'possible values: NEW, UPDATE, DESTROY')))
def mistakes(lab, row):
    """A condition that cannot be read is refused with what would do."""
    _, verb, expected = row
    out, err = words(lab, *verb, check=False)
    assert not out and expected in err, err


@test(workers=BOTH, kernel=False)
def update(lab):
    """Marks and timeouts change, of the connections that meet the conditions only."""
    lab.serve(lab.server)
    with Conversation(lab.client, SERVER, source_port=40001) as a, Conversation(lab.client, SERVER, source_port=40002) as b:
        a.ask()
        b.ask()
        assert words(lab, 'update', '--sport', '40001', '--mark', '0xf5')[1] == '1 connections have been updated.\n'
        words(lab, 'update', '--sport', '40001', '--mark', '0x2/0xf', '--timeout', '77')
        one, other = (LINE.fullmatch(lab.gateway.conntrack('--sport', p)[0]) for p in ('40001', '40002'))
        assert (one['mark'], other['mark']) == (str(0xf2), '0')
        assert 70 <= int(one['timeout']) <= 77 and int(other['timeout']) > 1000
        assert len(lab.gateway.conntrack('-m', '0xf0/0xf0')) == 1
        # One whose time runs out is gone, and its client notices nothing: it is picked up again.
        words(lab, 'update', '--sport', '40002', '--timeout', '1')
        wait_for(lambda: not lab.gateway.conntrack('--sport', '40002'), 'the end of the connection')
        b.ask()


@contextlib.contextmanager
def following(lab, *options):
    """`conntrack events` while the block runs: a list that grows."""
    path = lab.path('events-%d' % time.monotonic_ns())
    with open(path, 'w') as f:
        p = subprocess.Popen(lab.gw.argv(binary(), 'conntrack', 'events', *options, '--socket', lab.gateway.socket),
                             stdout=f, stderr=subprocess.STDOUT)
        try:
            time.sleep(0.5)

            def read():
                with open(path) as f:
                    return f.read().splitlines()
            yield read
        finally:
            p.terminate()
            p.wait(10)


@test(workers=BOTH, kernel=False)
def events(lab):
    """Beginning, changes and end of connections are told, with reason and counters."""
    lab.serve(lab.server)
    with following(lab, '-p', 'tcp', '--timestamps') as read, following(lab, '-e', 'destroy', '--json') as gone:
        tcp_ask(lab.client, SERVER, source_port=40001)
        udp_ask(lab.client, SERVER, source_port=40002)
        lab.gateway.cli('conntrack', 'flush')
        wait_for(lambda: any('[DESTROY]' in x for x in read()), 'the end of the TCP connection')
        told = read()
        for line in told:
            assert EVENT.fullmatch(line) and line.startswith('['), line
        kinds = [EVENT.fullmatch(x)[1] for x in told]
        states = [EVENT.fullmatch(x)[4] for x in told]
        assert kinds[0] == 'NEW' and kinds[-1] == 'DESTROY' and set(kinds[1:-1]) == {'UPDATE'}, told
        assert states[:3] == ['SYN_SENT', 'SYN_RECV', 'ESTABLISHED'], told
        assert told[-1].endswith(' reason=deleted') and re.search(r'packets=[1-9]\d* bytes=\d{3}', told[-1]), told
        times = [float(re.match(r'\[([\d.]+)\]', x)[1]) for x in told]
        assert times == sorted(times) and abs(times[0] - time.time()) < 60, times
        wait_for(lambda: len(gone()) == 2, 'both ends')
        ends = sorted((json.loads(x) for x in gone()), key=lambda e: e['protocol'])
        assert [(e['protocol'], e['event'], e['reason']) for e in ends] == [
            ('tcp', 'destroy', 'deleted'), ('udp', 'destroy', 'deleted')], ends


@test(kernel=False)
def slow_reader(lab):
    """One who stops reading loses events and is told how many; traffic does not notice."""
    lab.serve(lab.server)
    p = subprocess.Popen(lab.gw.argv(binary(), 'conntrack', 'events', '--json', '--socket', lab.gateway.socket),
                         stdout=subprocess.PIPE, text=True)
    try:
        time.sleep(0.5)
        with udp_socket(lab.client) as s:
            for i in range(24_000):
                s.sendto(b'x', (SERVER, 10_000 + i % 50_000))
                if i % 64 == 0:
                    time.sleep(0.0005)
        assert udp_ask(lab.client, SERVER)[0] == WAN
        lost = told = 0
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and lost == 0:
            line = json.loads(p.stdout.readline())
            lost += line.get('lost', 0)
            told += 'event' in line
        assert lost > 0 and told > 1000, (lost, told)
    finally:
        p.terminate()
        p.wait(10)
        p.stdout.close()


@test(workers=BOTH, kernel=False)
def stats(lab):
    """What each worker has counted."""
    lab.serve(lab.server)
    for _ in range(5):
        tcp_ask(lab.client, SERVER)

    def rows():
        return [dict(x.split('=') for x in line.split()) for line in words(lab, 'stats')[0].splitlines()]

    assert [r['worker'] for r in rows()] == [str(w) for w in range(lab.workers)]
    for key in ('insert', 'entries'):
        wait_for(lambda key=key: sum(int(r[key]) for r in rows()) >= 5, key)
    told = [json.loads(x) for x in words(lab, 'stats', '--json')[0].splitlines()]
    assert sum(t['insert'] for t in told) >= 5
