"""Metrics in a real Prometheus: every query of every dashboard returns data, every alert evaluates."""

import copy
import ftplib
import os
import re

from lab.gateway import ROOT
from lab.policy import *
from lab.programs import curl, iperf3, ping, tcp_ask, traceroute, udp_ask, udp_socket, url, wait_for
from lab.prometheus import DOCKER, Prometheus, RULES, dashboards, queries, substitute
from runner import test
from subjects.helpers import fetch, serve_ftp

# As long as everything the test does, so that rates see all of it.
VARIABLES = {'__rate_interval': '1m', 'instance': '127.0.0.1:9464', 'worker': '.*', 'interface': '.*'}


def read(*path):
    """A file of the project."""
    with open(os.path.join(ROOT, *path)) as f:
        return f.read()


@test(start=False, kernel=False)
def alert_rules(lab):
    """promtool finds no fault; each alert has a unit test, and the section that its runbook names."""
    tests = os.path.join(DOCKER, 'prometheus', 'tests', 'sluice.yaml')
    for verb, file in (('check', os.path.join(RULES, 'sluice.yaml')), ('test', tests)):
        lab.gw.run('promtool', verb, 'rules', file)
    text, manual = read('docker', 'prometheus', 'rules', 'sluice.yaml'), read('docs', 'operations.md')
    alerts = re.findall(r'- alert: (\w+)', text)
    assert alerts and len(set(alerts)) == len(alerts), alerts
    assert re.findall(r'runbook: (\S+)', text) == ['docs/operations.md#' + a.lower() for a in alerts]
    sections = re.findall(r'^### (Sluice\w+)$', manual, re.M)
    assert sections == alerts, 'alerts and sections differ: %s' % (set(sections) ^ set(alerts))
    fired = re.findall(r'- alertname: (\w+)\n', read('docker', 'prometheus', 'tests', 'sluice.yaml'))
    assert fired == alerts, 'without a test: %s' % (set(alerts) - set(fired))


@test(start=False, kernel=False)
def dashboard_files(lab):
    """What Grafana refuses or shows wrongly: ids given twice, panels that overlap, unknown variables or metrics."""
    known = set(re.findall(r'^\| `(\w+)`', read('docs', 'metrics.md'), re.M)) | {'ALERTS'}
    boards = dashboards()
    assert len({b['uid'] for b in boards.values()}) == len(boards) == 2
    for name, board in boards.items():
        panels = [p for p in board['panels'] if p['type'] != 'row']
        assert len({p['id'] for p in board['panels']}) == len(board['panels']), name
        taken = set()
        for p in board['panels']:
            g = p['gridPos']
            cells = {(x, y) for x in range(g['x'], g['x'] + g['w']) for y in range(g['y'], g['y'] + g['h'])}
            assert g['x'] + g['w'] <= 24 and not cells & taken, '%s: %s overlaps' % (name, p['title'])
            taken |= cells
        for p in panels:
            assert p['datasource']['uid'] == '${datasource}' and p['targets'], p['title']
        for title, expression in queries(board):
            used = set(re.findall(r'\b(?:sluice|process)_\w+|ALERTS', substitute(expression, VARIABLES)))
            used = {re.sub(r'_seconds_(bucket|sum|count)$', '_seconds', m) for m in used}
            assert used and used <= known, '%s, %s: %s' % (name, title, used - known)


def everything(workers):
    """A policy that uses all that is counted apart."""
    policy = base(workers)
    policy['conntrack'] = {'helpers': ['ftp']}
    policy['sets'] = {'known': [SERVER, OUTSIDE]}
    policy['nat']['source'].insert(0, {
        'name': 'few', 'from': 'inside', 'to': 'outside', 'match': {'protocol': 'udp', 'port': 6000},
        'translate': {'masquerade': True, 'ports': '5000-5003', 'mapping': 'endpoint-independent'}})
    return policy


def traffic(lab):
    """Something of everything: bulk, short connections, helpers, what is dropped and why, the host's own."""
    # Nobody has that address, which takes a while to be found out.
    ping(lab.client, '198.51.100.77', count=1)
    for address, options in ((SERVER, ['-P', '4']), (SERVER6, ['-u', '-b', '20M', '-P', '4'])):
        iperf3(lab.client, lab.server, address, *options, seconds=2)
    for address in (SERVER, SERVER6):
        curl(lab.client, url(address))
        tcp_ask(lab.client2, address)
        udp_ask(lab.client, address)
        ping(lab.client, address)
        # In pieces, which meet at either worker.
        ping(lab.client, address, count=20, interval=0.01, size=3000)
    # To ports where nobody listens: ICMP errors come back, to either worker. One in 64 is timed.
    with udp_socket(lab.client) as s:
        for port in range(20_000, 22_000):
            s.sendto(b'?', (SERVER, port))
    # Four ports are there.
    for _ in range(8):
        with udp_socket(lab.client2) as s:
            s.sendto(b'?', (SERVER, 6000))
    traceroute(lab.client, REMOTE)
    # The gateway host itself, and the policy's answer to a stranger.
    ping(lab.server, WAN)
    lab.server.run('curl', '--silent', '--max-time', 1, url(CLIENT6, 22), check=False)
    for options in (['--ftp-port', '-'], ['--disable-epsv']):
        fetch(lab, lab.client, SERVER, *options)


def change_policy(lab, policy):
    """A policy that is loaded, and one that is refused."""
    policy = copy.deepcopy(policy)
    policy['policy']['rules'].append({'name': 'more', 'match': {'from': 'outside'}, 'action': 'reject'})
    lab.gateway.write(policy)
    lab.gateway.cli('reload')
    lab.gateway.write('version: 1\ninterfaces: {}\n')
    assert lab.gateway.cli('reload', check=False).returncode == 1


# What the traffic above must have made: the sum over all series is above 0.
PROVOKED = [
    'dropped_packets_total{reason="%s"}' % r
    for r in ('policy', 'nat_exhausted', 'ttl_exceeded', 'neighbour_unresolved')] + [
    'handed_off_packets_total{reason="%s"}' % r for r in ('connection', 'icmp_error', 'fragment')] + [
    'nat_connections{rule="few"}', 'nat_exhausted_total{rule="few"}', 'nat_connections{rule="internet"}', 'nat_mappings',
    'helper_connections_total{helper="ftp"}', 'helper_rewritten_packets_total', 'expectations{helper="ftp"}',
    'expectations_created_total', 'expectations_ended_total{outcome="used"}', 'connection_setup_seconds_count',
    'connection_setup_seconds_sum', 'burst_seconds_count', 'burst_seconds_sum', 'punted_packets_total',
    'icmp_errors_sent_total', 'checksums_completed_total', 'taken_over_packets_total', 'mirror_publishes_total',
    'mirror_publish_seconds_total', 'mirror_neighbour_requests_total', 'steered_packets_total{verdict="to_kernel"}',
    'steered_packets_total{verdict="to_worker"}', 'rule_packets_total{chain="policy",rule="lan-out"}',
    'rule_packets_total{chain="policy",rule="(default)"}', 'reload_total{result="success"}',
    'reload_total{result="failure"}'] + [
    'connections_created_total{family="%s",protocol="%s"}' % (f, p)
    for f in ('ipv4', 'ipv6') for p in ('tcp', 'udp', 'icmp')]


@test(workers=(2,), start=False, kernel=False)
def dashboards_return_data(lab):
    """Under load in a real Prometheus: every panel's query returns data, and every alert's expression evaluates."""
    policy = everything(lab.workers)
    lab.server.sysctl({'net.ipv4.icmp_ratelimit': 0})
    lab.gateway.start(policy)
    prometheus = Prometheus(lab)
    lab.serve(lab.server)
    serve_ftp(lab, lab.server)
    # Announced and not used.
    with lab.client:
        control = ftplib.FTP(SERVER, timeout=10)
    control.login()
    control.makepasv()
    # Two scrapes that know the beginning.
    wait_for(lambda: prometheus.value('count_over_time(sluice_ready[1m])') >= 2, 'scrapes', 10)
    traffic(lab)
    change_policy(lab, policy)
    for last in 'sluice_reload_total{result="failure"} > 0', 'sluice_dropped_packets_total{reason="neighbour_unresolved"} > 0':
        wait_for(lambda: prometheus.values(last), last, 10)

    page = lab.gateway.http('/metrics')
    families = set(re.findall(r'# TYPE (\w+) ', page))
    documented = set(re.findall(r'^\| `((?:sluice|process)_\w+)`', read('docs', 'metrics.md'), re.M))
    assert families == documented, 'on the page or in docs/metrics.md only: %s' % (families ^ documented)
    missing = [p for p in PROVOKED if not prometheus.value('sum(sluice_%s)' % p) > 0]
    assert not missing, 'not provoked: %s' % missing

    empty = ['%s, %s: %s' % (name, title, expression)
             for name, board in dashboards().items()
             for title, expression in queries(board)
             if not prometheus.values(substitute(expression, VARIABLES))]
    assert not empty, 'without data:\n' + '\n'.join(empty)
    for board in dashboards().values():
        for v in board['templating']['list']:
            if v['type'] == 'query':
                series, label = re.fullmatch(r'label_values\((.*), (\w+)\)', v['definition']).groups()
                found = prometheus.api('label/%s/values' % label, **{'match[]': substitute(series, VARIABLES)})
                assert found, 'variable %s has no values' % v['name']

    wait_for(lambda: all(r['health'] == 'ok' for r in alerts(prometheus)), 'every alert is evaluated', 10)
    expected = {'SluiceReloadFailed', 'SluiceNatExhausted'}
    wait_for(lambda: expected <= {r['name'] for r in alerts(prometheus) if r['state'] == 'firing'}, 'alerts fire', 10)
    control.close()


def alerts(prometheus):
    """The state of the alert rules, which must all be there."""
    groups = prometheus.api('rules', type='alert')['groups']
    rules = [r for g in groups for r in g['rules']]
    assert len(rules) == len(re.findall(r'- alert:', read('docker', 'prometheus', 'rules', 'sluice.yaml')))
    bad = [r for r in rules if r['health'] == 'err']
    assert not bad, bad
    return rules
