"""What rules can match and do beyond zones, addresses and ports."""

import errno
import json
import os
import re

from lab.gateway import binary
from lab.policy import *
from lab.programs import Conversation, families, ping, silent, tcp_ask, udp_ask, udp_socket, wait_for
from runner import test

BOTH = (1, 2)


def with_rules(lab, *rules, at=2, **sections):
    """The usual policy with rules before the one that lets the LAN out, and other sections replaced."""
    policy = base(lab.workers)
    policy['policy']['rules'][at:at] = rules
    policy.update(sections)
    return policy


def connect(ns, address, port=HTTP, timeout=0.7):
    """How a connection attempt ends: the name of its error, or None when it succeeds."""
    try:
        Conversation(ns, address, port, timeout=timeout).close()
    except TimeoutError:
        return 'timeout'
    except OSError as e:
        return errno.errorcode[e.errno]
    return None


def port_unreachable(ns, address):
    """Whether a datagram to a closed port is refused."""
    with udp_socket(ns, family=families(address)) as s:
        s.connect((address, 9))
        s.settimeout(0.7)
        s.send(b'x')
        try:
            s.recv(10)
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            return False


@test(start=False, kernel=False)
def icmp_type(lab):
    """A name stands for the type of both families, a code can be named too; other messages are not affected."""
    lab.gateway.start(with_rules(
        lab, {'name': 'no-pings', 'match': {'from': 'inside', 'icmp_type': 'echo-request'}, 'action': 'drop'}))
    lab.serve(lab.server)
    for address in (SERVER, SERVER6):
        assert ping(lab.client, address, count=2, wait=0.3).received == 0, address
        assert udp_ask(lab.client, address)
        assert port_unreachable(lab.client, address), address
    lab.gateway.stop()
    lab.gateway.start(with_rules(
        lab, {'name': 'no-port-unreachable', 'action': 'drop',
              'match': {'icmp_type': 'destination-unreachable/port-unreachable'}}, at=0))
    for address in (SERVER, SERVER6):
        assert not port_unreachable(lab.client, address), address
        assert ping(lab.client, address).received == 3


@test(start=False, kernel=False)
def tcp_flags(lab):
    """Connections may be picked up from the middle unless a rule wants to see their SYN."""
    lab.serve(lab.server)
    for rules, survives in (([], True), ([{'name': 'no-syn', 'action': 'drop', 'match': {
            'state': 'new', 'tcp_flags': {'clear': 'syn'}}}], False)):
        lab.gateway.start(with_rules(lab, *rules))
        with Conversation(lab.client, SERVER6, timeout=1) as c:
            c.ask()
            lab.gateway.cli('conntrack', 'flush')
            assert silent(c.ask) != survives
        assert tcp_ask(lab.client, SERVER6)
        lab.gateway.stop()
    lab.gateway.start(with_rules(lab, {'name': 'no-syn', 'action': 'drop', 'match': {
        'from': 'inside', 'port': HTTP, 'tcp_flags': {'set': 'syn', 'clear': ['ack', 'rst']}}}))
    assert connect(lab.client, SERVER) == 'timeout' and tcp_ask(lab.client, SERVER)


@test(start=False, kernel=False)
def family(lab):
    """A rule about one family."""
    lab.gateway.start(with_rules(lab, {'name': 'no-v6', 'match': {'family': 'ipv6'}, 'action': 'drop'}))
    lab.serve(lab.server)
    assert tcp_ask(lab.client, SERVER) and connect(lab.client, SERVER6) == 'timeout'


@test(start=False, kernel=False, rows=[
    ('tcp-reset', 'ECONNREFUSED', 'ECONNREFUSED'), ('port-unreachable', 'ECONNREFUSED', 'ECONNREFUSED'),
    ('host-unreachable', 'EHOSTUNREACH', 'EHOSTUNREACH'), ('no-route', 'ENETUNREACH', 'ENETUNREACH'),
    ('admin-prohibited', 'EHOSTUNREACH', 'EACCES')])
def reject(lab, row):
    """The sender learns what the rule says."""
    how, four, six = row
    lab.gateway.start(with_rules(lab, {'name': 'no-web', 'match': {'from': 'inside', 'protocol': 'tcp', 'port': HTTP},
                                       'action': {'reject': how}}))
    lab.serve(lab.server)
    assert (connect(lab.client, SERVER), connect(lab.client, SERVER6)) == (four, six)
    assert tcp_ask(lab.client, SERVER)


@test(workers=BOTH, start=False, kernel=False)
def address_of_an_interface(lab):
    """A forward of whatever address the uplink has, and a rule about it: both follow it without a reload."""
    policy = with_rules(lab)
    for rule in policy['nat']['destination']:
        rule['match']['destination'] = {'address': 'wan'}
    policy['policy']['rules'].insert(0, {'name': 'own', 'match': {'source': [{'address': ['lan', 'wan']}, '192.0.2.0/24'],
                                                                  'protocol': 'icmp'}, 'action': 'drop'})
    lab.gateway.start(policy)
    lab.serve(lab.client2)
    assert tcp_ask(lab.server, WAN, FORWARD_ECHO)[0] == SERVER
    assert tcp_ask(lab.client, WAN, FORWARD_ECHO), 'hairpin'
    other = '198.51.100.77'
    assert silent(udp_ask, lab.server, other, FORWARD_ECHO, tries=1, wait=0.3)
    lab.gw.ip('addr', 'add', other + '/24', 'dev', 'wan0')
    wait_for(lambda: not silent(udp_ask, lab.server, other, FORWARD_ECHO, tries=1, wait=0.3), 'the new address forwarded')
    lab.gw.ip('addr', 'del', other + '/24', 'dev', 'wan0')
    wait_for(lambda: connect(lab.server, other, FORWARD_ECHO, 0.3) is not None, 'the lost address forgotten')
    assert tcp_ask(lab.server, WAN, FORWARD_ECHO)


@test(start=False, kernel=False, rows=[('inside', 'outside'), ('outside', 'inside')])
def reverse_path_by_zone(lab, row):
    """Packets with a source that is not routed to where they come from are dropped in the zones that say so."""
    strict, lax = row
    forgeries = {'inside': (lab.client, '198.51.100.99', (SERVER, 9)), 'outside': (lab.server, '10.10.0.99', (WAN, 80))}
    lab.gateway.start(with_rules(lab, reverse_path={strict: 'strict'}))
    for zone in (lax, strict):
        ns, source, to = forgeries[zone]
        ns.ip('addr', 'add', source + '/32', 'dev', 'lo')
        before = lab.gateway.metric('sluice_interface_receive_packets_total')
        with udp_socket(ns, (source, 0)) as s:
            s.sendto(b'x', to)
        wait_for(lambda: lab.gateway.metric('sluice_interface_receive_packets_total') > before, 'the packet')
        if zone == strict:
            wait_for(lambda: lab.gateway.dropped('reverse_path') == 1, 'the drop counted')
        else:
            assert lab.gateway.dropped('reverse_path') == 0, zone


@test(start=False, kernel=False)
def set_from_a_file(lab):
    """A hundred thousand entries from a file, with comments; a wrong one is named with its file and line."""
    lines = ['45.%d.%d.%d' % (n >> 16, n >> 8 & 255, n & 255) for n in range(100000)]
    lines[50000:50000] = ['# the second client', CLIENT2 + ' ; that one', '', CLIENT2_6]
    write(lab, 'bad.txt', lines)
    policy = with_rules(lab, {'name': 'bad', 'match': {'from': 'inside', 'source': 'bad'}, 'action': 'drop'},
                        sets={'bad': {'file': 'bad.txt'}})
    lab.gateway.start(policy, options=['--watch'])
    lab.serve(lab.server)
    for address in (SERVER, SERVER6):
        assert tcp_ask(lab.client, address) and connect(lab.client2, address, ECHO, 0.4) == 'timeout'
    # Neighbours are one range: 45.0.0.0 to 45.1.134.159, and the client's two addresses.
    assert lab.gateway.metric('sluice_set_entries', set='bad') == 3
    lines.remove(CLIENT2_6)
    write(lab, 'bad.txt', lines)
    wait_for(lambda: lab.gateway.metric('sluice_policy_generation') == 2, 'the changed file in force')
    assert tcp_ask(lab.client2, SERVER6) and connect(lab.client2, SERVER, ECHO, 0.4) == 'timeout'
    # The set goes, and its file.
    lab.gateway.write(base())
    os.remove(lab.path('bad.txt'))
    wait_for(lambda: lab.gateway.metric('sluice_policy_generation') == 3, 'the policy without the set in force')
    assert tcp_ask(lab.client2, SERVER)
    lab.gateway.stop()
    lines[70000] += '0'
    write(lab, 'bad.txt', lines)
    status, message = lab.gateway.run_to_end(policy)
    assert status and re.search(r'bad.txt:70001:1\n', message) and '^' * len(lines[70000]) in message, message
    r = lab.gw.run(binary(), 'check', '--json', lab.gateway.config, check=False)
    found, = json.loads(r.stdout)['diagnostics']
    assert (found['line'], found['column'], found['length']) == (70001, 1, len(lines[70000])), found
    assert found['file'] == lab.path('bad.txt') and found['severity'] == 'error' and r.returncode, found


def write(lab, name, lines):
    """Writes a file beside the policy."""
    with open(lab.path(name), 'w') as f:
        f.write('\n'.join(lines) + '\n')


def logged(lab, rule):
    """The fields of each line that a rule has logged."""
    lines = [line for line in lab.gateway.log_text().splitlines() if 'rule="%s"' % rule in line]
    return [dict(re.findall(r'(\w+)=(\S+)', line), line=line) for line in lines]


@test(workers=BOTH, start=False, kernel=False)
def log(lab):
    """Logged beside any action, or by a rule of its own that goes on to the next."""
    lab.gateway.start(with_rules(
        lab, {'name': 'seen', 'match': {'from': 'inside', 'port': [HTTP, ECHO]}, 'action': 'log'},
        {'name': 'no-web', 'match': {'from': 'inside', 'port': HTTP}, 'action': 'drop',
         'log': {'prefix': 'no surfing'}},
        {'name': 'quiet', 'match': {'from': 'inside', 'port': 9}, 'action': 'drop'}))
    lab.serve(lab.server)
    assert connect(lab.client, SERVER, timeout=0.4) == 'timeout' and connect(lab.client, SERVER, 9, 0.4) == 'timeout'
    tcp_ask(lab.client, SERVER6)
    wait_for(lambda: len(logged(lab, 'seen')) >= 2 and logged(lab, 'no-web'), 'lines in the log')
    first = logged(lab, 'no-web')[0]
    expected = {'verdict': 'drop', 'state': 'new', 'from': 'inside', 'to': 'outside', 'in': 'lan', 'out': 'wan',
                'src': CLIENT, 'dst': SERVER, 'proto': 'tcp', 'dport': str(HTTP), 'len': '60'}
    assert expected.items() <= first.items(), first
    assert 'no surfing' in first['line'] and 'syn' in first['flags'].split(','), first
    assert any(s['src'] == CLIENT6 and s['verdict'] == 'continue' and s['dport'] == str(ECHO)
               for s in logged(lab, 'seen'))
    assert not logged(lab, 'quiet')


@test(start=False, kernel=False)
def log_rate(lab):
    """A flood is logged as often as the rule allows, and what is left out is counted."""
    lab.gateway.start(with_rules(lab, {'name': 'flood', 'match': {'from': 'inside', 'protocol': 'udp'},
                                       'action': 'drop', 'log': {'rate': '1/h', 'burst': 3}}))
    with udp_socket(lab.client) as s:
        for port in range(2000, 2050):
            s.sendto(b'x', (SERVER, port))
    wait_for(lambda: lab.gateway.metric('sluice_log_limited_packets_total') == 47, '47 packets left out')
    wait_for(lambda: len(logged(lab, 'flood')) == 3, 'three lines')
    assert lab.gateway.metric('sluice_log_lost_packets_total') == 0


@test(workers=BOTH, start=False, kernel=False)
def limit(lab):
    """Connections beyond the rate of their source meet the next rule; all workers count together."""
    web = {'from': 'inside', 'protocol': 'tcp', 'port': HTTP}
    rate = {'rate': '1/h', 'burst': 3, 'per': 'source'}
    lab.serve(lab.server)
    for rules in ([{'name': 'some', 'match': web, 'limit': rate, 'action': 'accept'},
                   {'name': 'more', 'match': web, 'action': {'reject': 'tcp-reset'}}],
                  [{'name': 'more', 'match': web, 'limit': dict(rate, over=True), 'action': {'reject': 'tcp-reset'}}]):
        lab.gateway.start(with_rules(lab, *rules))
        for ns in (lab.client, lab.client2):
            outcomes = [connect(ns, SERVER) for _ in range(8)]
            assert outcomes == [None] * 3 + ['ECONNREFUSED'] * 5, outcomes
        lab.gateway.stop()
    lab.gateway.start(with_rules(
        lab, {'name': 'some', 'match': dict(web), 'limit': {'rate': '20/m', 'burst': 2}, 'action': 'accept'},
        {'name': 'more', 'match': web, 'action': 'reject'}))
    assert [connect(ns, SERVER) for ns in (lab.client, lab.client2, lab.client)] == [None, None, 'ECONNREFUSED']
    # A new one every three seconds.
    wait_for(lambda: connect(lab.client2, SERVER) is None, 'one more connection', 20, 0.5)


@test(start=False, kernel=False)
def mark(lab):
    """A mark that a rule gives is seen by later rules, by source translations and in listings."""
    policy = with_rules(
        lab, {'name': 'mark', 'match': {'from': 'inside', 'source': [CLIENT, CLIENT6]}, 'action': 'mark', 'mark': 7},
        {'name': 'marked', 'match': {'mark': 7, 'port': ECHO}, 'action': 'accept'},
        {'name': 'unmarked', 'match': {'port': ECHO}, 'action': 'drop'})
    policy['nat']['source'].insert(0, {'name': 'marked', 'to': 'outside', 'match': {'source': LAN_NET, 'mark': 7},
                                       'translate': {'masquerade': True, 'ports': '20000-20009'}})
    lab.gateway.start(policy)
    lab.serve(lab.server)
    for address in (SERVER, SERVER6):
        seen = tcp_ask(lab.client, address)
        assert (20000 <= seen[1] <= 20009) == (address == SERVER), seen
        assert connect(lab.client2, address, ECHO) == 'timeout'
        assert any('mark=7' in line and 'dst=%s ' % address in line for line in lab.gateway.conntrack('-m', '7'))


@test(workers=BOTH, start=False, kernel=False)
def counters(lab):
    """Each rule counts the packets it decides, in `sluice rules` and in the metrics; a connection counts once."""
    policy = with_rules(
        lab, {'name': 'seen', 'match': {'from': 'inside', 'protocol': 'tcp', 'port': HTTP}, 'action': 'log'},
        {'name': 'no-web', 'match': {'protocol': 'tcp', 'port': HTTP, 'destination': [SERVER, SERVER6]},
         'action': 'reject'})
    policy['tracking'] = [{'name': 'plain', 'match': {'protocol': 'udp', 'port': 9}, 'action': 'untracked'}]
    lab.gateway.start(policy)
    lab.serve(lab.server)
    lab.serve(lab.client2)
    for n in range(3):
        assert connect(lab.client, SERVER) == connect(lab.client, SERVER6) == 'ECONNREFUSED'
    with Conversation(lab.client, SERVER) as c:
        for n in range(5):
            c.ask()
    tcp_ask(lab.server, WAN, FORWARD_ECHO)
    udp_ask(lab.client, SERVER6)
    six = families(SERVER6)
    with udp_socket(lab.server, ('', 9), six) as sink, udp_socket(lab.client, family=six) as s:
        sink.settimeout(2)
        for _ in range(2):
            s.sendto(b'x' * 100, (SERVER6, 9))
            sink.recv(1000)
    rules = wait_for(lambda: by_name(lab, 2), 'the untracked packets counted')
    expected = {('policy', 'seen'): 6, ('policy', 'no-web'): 6, ('policy', 'forwards'): 1,
                ('nat.destination', 'echo-tcp'): 1, ('nat.destination', 'web'): 0, ('nat.source', 'hairpin'): 0,
                ('nat.source', 'internet'): 1, ('tracking', 'plain'): 2, ('policy', 'invalid'): 0}
    found = {k: rules[k]['packets'] for k in expected}
    assert found == expected, found
    assert rules['tracking', 'plain']['bytes'] == 296 and rules['policy', 'no-web']['bytes'] == 3 * (60 + 80)
    # The echo servers' two and the untracked ones.
    assert rules['policy', 'lan-out']['packets'] == 4
    for (chain, name), r in rules.items():
        assert lab.gateway.metric('sluice_rule_packets_total', chain=chain, rule=name) == r['packets'], name
        assert lab.gateway.metric('sluice_rule_bytes_total', chain=chain, rule=name) == r['bytes'], name
    with open(lab.gateway.config) as f:
        line = next(i for i, text in enumerate(f, 1) if 'no-web' in text)
    text = lab.gateway.cli('rules').stdout
    assert re.search(r'\b6 packets +420 bytes +reject +no-web +\S*sluice.yaml:%d\n' % line, text), text
    unused = lab.gateway.cli('rules', '--unused').stdout
    assert 'hairpin' in unused and 'no-web' not in unused, unused


def filler(n):
    """A rule of one of several shapes, about nothing that the tests send."""
    port = 1024 + n * 5 % 60000
    match = ({'destination': '172.%d.%d.0/24' % (16 + n // 4096, n // 16 % 256), 'protocol': 'tcp', 'port': port},
             {'source': '10.10.%d.%d' % (1 + n // 256, n % 256), 'from': 'inside'},
             {'destination': '2001:db8:%x::/48' % (0x1000 + n), 'port': '%d-%d' % (port, port + 9)},
             {'source': ['172.31.%d.%d' % (n // 256, n % 256), '172.30.0.0/16'], 'protocol': 'udp', 'source_port': port})
    return {'name': 'r%d' % n, 'match': match[n % 4], 'action': 'drop'}


@test(workers=BOTH, start=False, kernel=False)
def ten_thousand(lab):
    """Rules among ten thousand decide in their order, count and show what they did, as they would alone."""
    policy = base(lab.workers)
    rules = [filler(n) for n in range(10000)]
    # From the last to the first, so that places stay.
    for at, rule in (
            (9500, {'name': 'no-more', 'match': {'protocol': 'udp', 'port': ECHO}, 'action': 'drop'}),
            (9000, {'name': 'no-pings', 'match': {'icmp_type': 'echo-request', 'destination': SERVER}, 'action': 'drop'}),
            (8000, {'name': 'few', 'match': {'protocol': 'udp', 'port': ECHO, 'family': 'ipv4'},
                    'limit': {'rate': '1/h', 'burst': 2}, 'action': 'accept'}),
            (5000, {'name': 'office', 'match': {'mark': 7, 'source': [CLIENT2, CLIENT2_6]}, 'action': 'reject'}),
            (2000, {'name': 'marks', 'match': {'from': 'inside', 'protocol': 'tcp', 'port': ECHO},
                    'action': 'mark', 'mark': 7})):
        rules.insert(at, rule)
    policy['policy']['rules'] = rules + policy['policy']['rules']
    lab.gateway.start(policy)
    lab.serve(lab.server)
    for address in (SERVER, SERVER6):
        assert tcp_ask(lab.client, address)
        assert connect(lab.client2, address, ECHO) == 'ECONNREFUSED'
        assert (ping(lab.client, address, count=2, wait=0.3).received == 0) == (address == SERVER)
    assert udp_ask(lab.client, SERVER) and udp_ask(lab.client, SERVER)
    assert silent(udp_ask, lab.client, SERVER, tries=1, wait=0.5) and silent(udp_ask, lab.client, SERVER6, tries=1, wait=0.5)
    found = {r['name']: r for r in json.loads(lab.gateway.cli('rules', '--json').stdout) if r['list'] == 'policy'}
    counted = {name: r['packets'] for name, r in found.items() if r['packets']}
    assert counted == {'marks': 4, 'office': 2, 'few': 2, 'no-more': 2, 'no-pings': 2, 'lan-out': 3}, counted
    told = lab.gateway.cli('explain', 'tcp %s:4000 > %s:%d in lan' % (CLIENT2, SERVER, ECHO), check=False).stdout
    with open(lab.gateway.config) as f:
        line = next(i for i, text in enumerate(f, 1) if 'office' in text)
    assert re.search(r'office.*sluice.yaml:%d\b' % line, told), told


def by_name(lab, untracked):
    """The rules by list and name, once `untracked` packets were counted as such."""
    rules = {(r['list'], r['name']): r for r in json.loads(lab.gateway.cli('rules', '--json').stdout)}
    return rules if rules['tracking', 'plain']['packets'] == untracked else None
