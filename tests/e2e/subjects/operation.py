"""What the operator sees: status, metrics, the connection table."""

import contextlib
import json
import os
import re

from lab.gateway import metrics
from lab.policy import *
from lab.programs import Conversation, iperf3, ping, silent, tcp_ask, udp_ask, wait_for
from runner import test

BOTH = (1, 2)

# conntrack(8)'s format: protocol, number, seconds left, TCP state, both tuples with flags, mark.
LINE = re.compile(r'(tcp|udp|icmp|icmpv6) +(\d+) (\d+) (?:([A-Z_0-9]+) )?src=(\S+) dst=(\S+) '
                  r'(?:sport=\d+ dport=\d+|type=\d+ code=\d+ id=\d+) (?:packets=\d+ bytes=\d+ )?(?:\[UNREPLIED\] )?'
                  r'src=(\S+) dst=(\S+) (?:sport=\d+ dport=\d+|type=\d+ code=\d+ id=\d+) '
                  r'(?:packets=\d+ bytes=\d+ )?(?:\[ASSURED\] )?mark=\d+.*')


@test(workers=BOTH)
def conntrack_list(lab):
    """The listing has conntrack-tools' format, both tuples, the TCP state and the flags."""
    lab.serve(lab.server)
    with Conversation(lab.client, SERVER, source_port=41000) as c:
        c.ask()
        udp_ask(lab.client, SERVER, source_port=41001)
        udp_ask(lab.client, SERVER6, source_port=41002)
        ping(lab.client, SERVER)
        lines = lab.gateway.conntrack()
        for line in lines:
            assert LINE.fullmatch(line.strip()), 'not the format of conntrack: ' + line
        tcp = [line for line in lines if 'sport=41000' in line]
        assert len(tcp) == 1 and ' ESTABLISHED ' in tcp[0] and '[ASSURED]' in tcp[0] and \
            'dst=%s' % WAN in tcp[0], 'TCP: %s' % tcp
        assert any('sport=41001' in line and line.startswith('udp') for line in lines)
        assert any('src=%s ' % CLIENT6 in line for line in lines), 'no IPv6 entry'
        assert any(line.startswith('icmp ') for line in lines)


@test(workers=BOTH, kernel=False)
def conntrack_count_and_flush(lab):
    """`count` agrees with `list`; `flush` empties the table, and a TCP connection is picked up again (loose)."""
    lab.serve(lab.server)
    with Conversation(lab.client, SERVER) as c:
        c.ask()
        for n in range(20):
            udp_ask(lab.client, SERVER, source_port=42000 + n)
        assert len(lab.gateway.conntrack()) == 21, 'list: %d entries of 21' % len(lab.gateway.conntrack())
        # Workers publish their gauges every now and then, not with each connection.
        wait_for(lambda: int(lab.gateway.cli('conntrack', 'count').stdout) == 21, 'count is 21', 1)
        lab.gateway.cli('conntrack', 'flush')
        assert lab.gateway.conntrack() == []
        assert c.ask()[0] == WAN
        assert udp_ask(lab.client, SERVER)[0] == WAN


@test(kernel=False, start=False)
def expiry(lab):
    """An idle connection leaves the table when its timeout has passed."""
    policy = base(lab.workers)
    policy['conntrack'] = {'timeouts': {'base': 'linux', 'udp': '1s'}}
    lab.gateway.start(policy)
    lab.serve(lab.server)
    udp_ask(lab.client, SERVER)
    assert len(lab.gateway.conntrack()) == 1
    wait_for(lambda: not lab.gateway.conntrack(), 'the entry expires', 4)


@test(workers=BOTH, kernel=False)
def status(lab):
    """`sluice status`, plain and as JSON."""
    lab.serve(lab.server)
    tcp_ask(lab.client, SERVER)
    text = lab.gateway.cli('status').stdout
    assert 'lan' in text and 'wan' in text, text
    report = lab.gateway.status()
    assert len(report['workers']) == lab.workers, report
    assert lab.gateway.unaccounted() == 0


@test(workers=BOTH, kernel=False)
def metrics_page(lab):
    """/metrics is Prometheus' text format, counts what passed, and names start with sluice_; /healthz says ok."""
    lab.serve(lab.server)
    for _ in range(20):
        udp_ask(lab.client, SERVER)
    page = lab.gateway.http('/metrics')
    series = metrics(page)
    assert series and all(n.startswith('sluice_') or n.startswith('process_') for n, _, _ in series), page
    lint = lab.gw.run('promtool', 'check', 'metrics', stdin=page, check=False)
    assert lint.returncode == 0 and not lint.stdout + lint.stderr, lint.stdout + lint.stderr
    documented = set(re.findall(r'# HELP (\S+)', page))
    assert {n for n, _, _ in series} <= documented | {d + s for d in documented for s in ('_sum', '_count', '_bucket')}
    assert lab.gateway.metric('sluice_interface_receive_packets_total', interface='lan') >= 20, page
    assert lab.gateway.metric('sluice_interface_transmit_packets_total', interface='wan') >= 20, page
    assert lab.gateway.http('/healthz')


@test(kernel=False)
def health(lab):
    """`sluice health` says what /healthz says, and without a listener what the daemon itself does."""
    def ask():
        r = lab.gateway.cli('health', check=False)
        return r.returncode, r.stdout.strip()
    assert ask() == (0, 'ok')
    assert json.loads(lab.gateway.cli('health', '--json').stdout) == {'healthy': True, 'reason': None}
    lab.gw.ip('link', 'set', 'lan0', 'down')
    wait_for(lambda: ask()[0] == 1, 'health fails', 5)
    assert 'lan' in ask()[1], ask()
    lab.gw.ip('link', 'set', 'lan0', 'up')
    wait_for(lambda: ask() == (0, 'ok'), 'healthy again', 5)
    lab.gateway.stop()
    policy = base()
    policy['control'] = {'socket': lab.gateway.socket}
    lab.gateway.start(policy)
    assert ask() == (0, 'ok')
    lab.gateway.stop()
    r = lab.gateway.cli('health', check=False)
    assert r.returncode == 1 and 'not running' in r.stderr, r


@test(kernel=False, start=False)
def waits_for_devices(lab):
    """`run --wait` starts once its devices are there; a signal ends the wait, and so does its end."""
    lab.gw.batch(['link set wan0 down', 'link set wan0 name later0'])
    for options, ends in ((['--wait', '1s'], 1), (['--wait', '1h'], 0)):
        lab.gateway.launch(base(), options=options)
        wait_for(lambda: 'waiting for device wan0' in lab.gateway.log_text(), 'the log says so')
        status = lab.gateway.process.wait(20) if ends else lab.gateway.stop()
        assert status == ends, 'exit status %d' % status
        assert ('there is no device wan0' in lab.gateway.log_text()) == bool(ends), lab.gateway.log_text()
        os.remove(lab.gateway.log)
    lab.gateway.launch(base(), options=['--wait', '1h'])
    wait_for(lambda: 'waiting for device wan0' in lab.gateway.log_text(), 'the log says so')
    lab.gw.batch(['link set later0 name wan0', 'link set wan0 up'])
    wait_for(lambda: lab.gateway.cli('status', check=False).returncode == 0, 'it starts', 20)
    lab.serve(lab.server)
    assert udp_ask(lab.client, SERVER)[0] == WAN


@test(workers=BOTH, kernel=False)
def frames_after_load(lab):
    """After bulk traffic in both families every frame of every UMEM is accounted for."""
    for address in (SERVER, SERVER6):
        iperf3(lab.client, lab.server, address, '-P', 4, seconds=1)
        iperf3(lab.client, lab.server, address, '-u', '-b', '0', '-l', 64, seconds=1)
    wait_for(lambda: lab.gateway.unaccounted() == 0, 'every frame is accounted for', 3)


@test(kernel=False)
def no_daemon(lab):
    """A client verb without a daemon says so in one line and fails."""
    lab.gateway.stop()
    for verb in (['status'], ['conntrack', 'list'], ['conntrack', 'count'], ['conntrack', 'flush']):
        r = lab.gateway.cli(*verb, check=False)
        assert r.returncode != 0, verb
        assert len(r.stderr.strip().splitlines()) == 1 and lab.gateway.socket in r.stderr, r.stderr


@test(workers=(2,), kernel=False)
def two_workers_share(lab):
    """Both workers own connections; replies that land on the other one are handed over."""
    lab.serve(lab.server)
    with contextlib.ExitStack() as stack:
        talks = [stack.enter_context(Conversation(ns, SERVER)) for ns in (lab.client, lab.client2) for _ in range(40)]
        for t in talks:
            assert t.ask()[0] == WAN
        wait_for(lambda: sum(w['connections'] for w in lab.gateway.status()['workers']) == 80, '80 connections', 1)
        workers = lab.gateway.status()['workers']
        assert all(w['connections'] >= 8 for w in workers), [w['connections'] for w in workers]
        assert sum(w['handed_off'] for w in workers) == sum(w['taken_over'] for w in workers) > 0, workers


@test(workers=BOTH, start=False, kernel=False, rows=[('auto',), ('copy',), ('generic',)])
def io_modes(lab, row):
    """Every mode that veth can do carries traffic, and status names what each queue got."""
    policy = base(lab.workers)
    policy['io'] = {'mode': row[0]}
    lab.gateway.start(policy)
    lab.serve(lab.server)
    for address in (SERVER, SERVER6):
        udp_ask(lab.client, address)
        tcp_ask(lab.client, address)
    assert ping(lab.server, WAN).received == 3
    queues = [q for i in lab.gateway.status()['interfaces'] for q in i['queues']]
    assert len(queues) == 2 * lab.workers, queues
    assert all(('generic' in (q['mode'] + q['xdp']).lower()) == (row[0] == 'generic') for q in queues), queues


@test(workers=BOTH, start=False, kernel=False)
def busy_polling(lab):
    """`poll: busy` carries traffic too."""
    policy = base(lab.workers)
    policy['workers']['poll'] = 'busy'
    lab.gateway.start(policy)
    lab.serve(lab.server)
    for address in (SERVER, SERVER6):
        udp_ask(lab.client, address)
        tcp_ask(lab.client, address)


@test(kernel=False)
def log_is_discreet(lab):
    """What clients do is not in the log: no address, no port."""
    lab.serve(lab.server)
    udp_ask(lab.client, SERVER, source_port=5000)
    tcp_ask(lab.client, SERVER, source_port=5001)
    assert silent(udp_ask, lab.outside, WAN, tries=1, wait=0.2)
    told = [word for word in (CLIENT, SERVER, WAN, OUTSIDE, ':5000', ':5001') if word in lab.gateway.log_text()]
    assert not told, told
