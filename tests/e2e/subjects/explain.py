"""`sluice explain`: what a packet would meet, and that asking changes nothing; then the packet itself meets it."""

import contextlib
import json
import re

from lab.gateway import binary
from lab.policy import *
from lab.programs import Conversation, ping, tcp_ask, udp_ask, udp_socket, wait_for
from runner import test

BOTH = (1, 2)
# The source and port of what comes from outside, and a port that nobody has forwarded.
STRANGER = SERVER + ':40001'


def policy(workers):
    """The usual policy, with something of everything that can decide about a packet."""
    p = base(workers)
    p['conntrack'] = {'helpers': ['ftp']}
    p['sets'] = {'bad': ['203.0.113.66']}
    p['nat']['source'].insert(0, {
        'name': 'pool', 'from': 'inside', 'to': 'outside', 'match': {'protocol': 'udp', 'port': 6000},
        'translate': {'pool': ['198.51.100.9'], 'ports': '5000-5003'}})
    p['nat']['destination'].append({
        'name': 'own-dns', 'from': 'inside', 'match': {'protocol': 'udp', 'destination': REMOTE, 'port': 5353},
        'translate': 'redirect'})
    p['tracking'] = [{'name': 'no-track', 'match': {'protocol': 'udp', 'port': 4789}, 'action': 'untracked'}]
    rules = p['policy']['rules']
    rules[2:2] = [
        {'name': 'bad', 'match': {'destination': 'bad'}, 'action': 'drop'},
        {'name': 'no-telnet', 'match': {'protocol': 'tcp', 'port': 23}, 'action': 'reject'},
        {'name': 'no-snmp', 'match': {'protocol': 'udp', 'port': 161}, 'action': {'reject': 'admin-prohibited'}},
        {'name': 'few', 'match': {'protocol': 'udp', 'port': 7777}, 'limit': {'rate': '1/h', 'burst': 2}, 'action': 'accept'},
        {'name': 'many', 'match': {'protocol': 'udp', 'port': 7777}, 'action': 'drop'},
        {'name': 'marked', 'match': {'from': 'inside'}, 'action': 'mark', 'mark': 7},
    ]
    return p


def explain(lab, packet, *words, check=False):
    """What `sluice explain` prints, and its exit status."""
    r = lab.gateway.cli('explain', packet, *words, check=check)
    return r.stdout, r.stderr, r.returncode


def way(lab, packet):
    """`sluice explain --json`."""
    out, error, _ = explain(lab, packet, '--json')
    assert out, error
    return json.loads(out)


def step(w, name):
    """The first step of that name, or None."""
    return next((s for s in w['steps'] if s['step'] == name), None)


def the(w, name):
    """The first step of that name, which must be there."""
    assert step(w, name), 'no step `%s`: %s' % (name, json.dumps(w, indent=1))
    return step(w, name)


def rule_of(w):
    """The name of the rule that decided."""
    rules = [s['rule']['name'] for s in w['steps'] if s['step'] == 'rule']
    return rules[-1] if rules else None


def figures(lab):
    """Everything that a packet would change: counters of drops, rules, connections, translations, ports."""
    metrics = re.findall(r'^(sluice_(?:dropped|rule|nat|connections|helper|expectations|icmp|punted|checksums|setup)\S*) (\S+)$',
                         lab.gateway.http('/metrics'), re.M)
    listed = re.sub(r' \d+ (?=[A-Z_]* ?src=)', ' ', '\n'.join(sorted(lab.gateway.conntrack('--counters'))))
    return sorted(metrics), listed


# Name, packet, verdict, and what else is said of it: the drop's reason, the rule that decides, the next steps.
ROWS = (
    ('out', 'tcp %s:4000 > %s:443 in lan' % (CLIENT, SERVER), 'sent',
     {'rule': 'lan-out', 'source': WAN, 'via': SERVER, 'leaves': 'tcp %s:4000 > %s:443' % (WAN, SERVER)}),
    ('by-device', 'tcp %s:4000 > %s:443 in lan0' % (CLIENT, SERVER), 'sent', {'rule': 'lan-out'}),
    ('by-zone', 'tcp %s:4000 > %s:443 in inside' % (CLIENT, SERVER), 'sent', {'rule': 'lan-out'}),
    ('without-interface', 'tcp %s to %s:443' % (CLIENT, SERVER), 'sent', {'rule': 'lan-out'}),
    ('router', 'udp %s:53 > 192.0.2.9:53 in lan' % CLIENT, 'sent', {'rule': 'lan-out', 'via': OUTSIDE}),
    ('ipv6', 'udp [%s]:5000 > [%s]:53 in lan' % (CLIENT6, SERVER6), 'sent',
     {'rule': 'lan-out', 'leaves': 'udp [%s]:5000 > [%s]:53' % (CLIENT6, SERVER6)}),
    ('ping', 'icmp %s > %s in lan' % (CLIENT, SERVER), 'sent', {'rule': 'lan-out', 'source': WAN}),
    ('ping6', 'icmpv6 %s > %s in lan' % (CLIENT6, SERVER6), 'sent', {'rule': 'lan-out'}),
    ('gre', 'gre %s > %s in lan' % (CLIENT, SERVER), 'sent', {'rule': 'lan-out', 'source': WAN}),
    ('default', 'tcp %s > %s:22 in wan' % (STRANGER, CLIENT), 'dropped', {'reason': 'policy', 'rule': '(default)'}),
    ('dropped', 'udp %s:1 > 203.0.113.66:9 in lan' % CLIENT, 'dropped', {'reason': 'policy', 'rule': 'bad'}),
    ('reset', 'tcp %s:1 > %s:23 in lan' % (CLIENT, SERVER), 'dropped',
     {'reason': 'policy_reject', 'rule': 'no-telnet', 'answer': 'TCP RST'}),
    ('rejected', 'udp %s:1 > %s:161 in lan' % (CLIENT, SERVER), 'dropped',
     {'reason': 'policy_reject', 'rule': 'no-snmp', 'answer': 'ICMP administratively prohibited'}),
    ('forward', 'tcp %s > %s:%d in wan' % (STRANGER, WAN, FORWARD_HTTP), 'sent',
     {'rule': 'forwards', 'destination': '%s:%d' % (CLIENT2, HTTP), 'via': CLIENT2}),
    ('hairpin', 'tcp %s:4000 > %s:%d in lan' % (CLIENT, WAN, FORWARD_HTTP), 'sent',
     {'rule': 'forwards', 'destination': '%s:%d' % (CLIENT2, HTTP), 'source': LAN}),
    ('pool', 'udp %s:4000 > %s:6000 in lan' % (CLIENT, SERVER), 'sent', {'source': '198.51.100.9'}),
    ('redirect', 'udp %s:4000 > %s:5353 in lan' % (CLIENT, REMOTE), 'redirected',
     {'destination': '%s:5353' % LAN, 'leaves': 'udp %s:4000 > %s:5353' % (CLIENT, LAN)}),
    ('untracked', 'udp %s:4000 > %s:4789 in lan' % (CLIENT, SERVER), 'sent', {'state': 'untracked', 'rule': 'lan-out'}),
    ('helper', 'tcp %s:4000 > %s:21 in lan' % (CLIENT, SERVER), 'sent', {'helper': 'ftp'}),
    ('host', 'tcp %s > %s:22 in wan' % (STRANGER, WAN), 'to_host', {}),
    ('host-untranslated', 'tcp [%s]:1 > [%s]:22 in lan' % (CLIENT6, LAN6), 'to_host', {'kernel': 'no translation uses it'}),
    ('multicast', 'udp %s:5353 > 224.0.0.251:5353 in lan' % CLIENT, 'to_host', {'kernel': 'multicast'}),
    ('link-local', 'udp [fe80::1]:546 > [%s]:547 in lan' % LAN6, 'to_host', {'kernel': 'link-local'}),
    ('no-route', 'tcp [%s]:1 > [2001:db8:ffff::1]:2 in lan' % CLIENT6, 'dropped',
     {'reason': 'no_route', 'answer': 'ICMP network unreachable'}),
    ('unreachable', 'tcp %s:1 > 192.0.2.200:2 in lan' % CLIENT, 'dropped',
     {'reason': 'route_refused', 'answer': 'ICMP administratively prohibited'}),
    ('blackhole', 'tcp %s:1 > 192.0.2.201:2 in lan' % CLIENT, 'dropped', {'reason': 'route_refused'}),
    ('spoofed', 'udp 127.0.0.1:1 > %s:2 in lan' % SERVER, 'dropped', {'reason': 'martian_source'}),
    ('own-source', 'udp %s:1 > %s:2 in lan' % (WAN, SERVER), 'dropped', {'reason': 'martian_source'}),
    ('ttl', 'udp %s:1 > %s:2 in lan ttl 1' % (CLIENT, SERVER), 'dropped',
     {'reason': 'ttl_exceeded', 'answer': 'ICMP time exceeded'}),
    ('too-big', 'udp %s:1 > %s:2 in lan length 1700 df' % (CLIENT, SERVER), 'dropped',
     {'reason': 'too_big', 'answer': 'ICMP packet too big (fragmentation needed), MTU 1500'}),
    ('bad-checksum', 'udp %s:1 > %s:2 in lan bad-checksum' % (CLIENT, SERVER), 'dropped',
     {'reason': 'invalid', 'state': 'invalid', 'rule': 'invalid'}),
    ('xmas', 'tcp %s:1 > %s:2 in lan flags fin,psh,urg' % (CLIENT, SERVER), 'dropped', {'reason': 'invalid'}),
    ('stray-error', 'icmp %s > %s in wan about udp %s:1 > %s:2' % (SERVER, WAN, WAN, SERVER), 'to_host', {}),
)


@test(workers=BOTH, start=False, kernel=False)
def packets(lab):
    """Verdict, reason, rule with its place, translation and next hop of every kind of packet; nothing changes."""
    lab.gw.batch(['route add prohibit 192.0.2.200', 'route add blackhole 192.0.2.201',
                  'route del default via ' + OUTSIDE6])
    lab.gateway.start(policy(lab.workers))
    # So that all neighbours are known.
    for ns, address in ((lab.client, SERVER), (lab.client, OUTSIDE), (lab.client, SERVER6), (lab.client2, SERVER)):
        ping(ns, address, count=1)
    lab.gateway.cli('conntrack', 'flush')
    before = figures(lab)
    text = open(lab.path('sluice.yaml')).read().splitlines()
    for name, packet, verdict, expected in ROWS:
        w = way(lab, packet)
        context = '%s: %s' % (name, json.dumps(w, indent=1))
        assert w['verdict'] == verdict and w.get('reason') == expected.get('reason'), context
        out, _, code = explain(lab, packet)
        assert code == (verdict == 'dropped'), context
        assert out.splitlines()[-1].split()[0] and w['packet'] == out.splitlines()[0], out
        if 'rule' in expected:
            assert rule_of(w) == expected['rule'], context
            if expected['rule'] != '(default)':
                rule = [s['rule'] for s in w['steps'] if s['step'] == 'rule'][-1]
                assert 'name: %s,' % expected['rule'] in text[rule['line'] - 1], context
                assert '%s (%s:%d)' % (rule['name'], rule['file'], rule['line']) in out, out
        if 'source' in expected:
            assert the(w, 'source')['to']['address'] == expected['source'], context
        if 'destination' in expected:
            to = the(w, 'destination')['to']
            assert '%s:%d' % (to['address'], to['port']) == expected['destination'], context
        if 'via' in expected:
            assert the(w, 'route')['next'] == w['next'] == expected['via'] and w['mac'], context
        if 'leaves' in expected:
            assert w['leaves'] == expected['leaves'], context
        if 'state' in expected:
            assert the(w, 'state')['state'] == expected['state'], context
        if 'answer' in expected:
            assert the(w, 'answer')['with'] == expected['answer'], context
        if 'helper' in expected:
            assert the(w, 'helper')['helper'] == expected['helper'], context
        if 'kernel' in expected:
            assert expected['kernel'] in the(w, 'kernel')['why'], context
    assert figures(lab) == before, 'asking has changed something'


@test(workers=BOTH, start=False, kernel=False)
def connections(lab):
    """Packets of connections, both ways, whichever worker is asked; a new one gets the ports that are free."""
    lab.gateway.start(policy(lab.workers))
    lab.serve(lab.server)
    lab.serve(lab.client2)
    with contextlib.ExitStack() as stack:
        for port in (40001, 40002, 40003, 40004):
            stack.enter_context(Conversation(lab.client, SERVER, source_port=port)).ask()
        for port in (40001, 40002, 40003, 40004):
            for packet, direction, leaves in (
                    ('tcp %s:%d > %s:%d in lan', 'original', 'tcp %s:%d > %s:%d' % (WAN, port, SERVER, ECHO)),
                    ('tcp %s:%d > %s:%d in wan flags fin,ack', 'reply', 'tcp %s:%d > %s:%d' % (SERVER, ECHO, CLIENT, port))):
                ends = (CLIENT, port, SERVER, ECHO) if direction == 'original' else (SERVER, ECHO, WAN, port)
                w = way(lab, packet % ends)
                c = step(w, 'connection')
                assert w['verdict'] == 'sent' and w['leaves'] == leaves, w
                assert c['direction'] == direction and c['rule']['name'] == 'lan-out', w
                assert c['connection']['state'] == 'ESTABLISHED' and c['connection']['worker'] == w['worker'], w
                assert 'src=%s' % CLIENT in c['line'], w
        # No end of a connection that was not asked for, and no word of the other side out of the blue.
        w = way(lab, 'tcp %s:%d > %s:40001 in wan flags syn' % (SERVER, ECHO, WAN))
        assert w['verdict'] == 'dropped' and w['reason'] == 'invalid' and the(w, 'state')['state'] == 'invalid', w
        udp = stack.enter_context(udp_socket(lab.client, ('', 40009)))
        udp_ask(lab.client, SERVER, sock=udp)
        w = way(lab, 'udp %s:40009 > %s:%d in lan' % (CLIENT, SERVER, ECHO))
        assert w['verdict'] == 'sent' and step(w, 'connection') and w['leaves'] == 'udp %s:40009 > %s:%d' % (WAN, SERVER, ECHO), w
        w = way(lab, 'udp %s:%d > %s:40009 in wan' % (SERVER, ECHO, WAN))
        assert w['verdict'] == 'sent' and w['leaves'] == 'udp %s:%d > %s:40009' % (SERVER, ECHO, CLIENT), w
        # An ICMP error about it.
        w = way(lab, 'icmp %s > %s in wan about udp %s:40009 > %s:%d' % (SERVER, WAN, WAN, SERVER, ECHO))
        assert w['verdict'] == 'sent' and the(w, 'connection')['direction'] == 'reply', w
        assert w['leaves'] == 'icmp %s > %s' % (SERVER, CLIENT), w
        # The same port of another client must change; which one it gets is not held by asking.
        for _ in range(3):
            w = way(lab, 'udp %s:40009 > %s:%d in lan' % (CLIENT2, SERVER, ECHO))
            assert the(w, 'source')['to']['address'] == WAN and the(w, 'source')['to']['port'] != 40009, w
        assert len(lab.gateway.conntrack()) == 5, lab.gateway.conntrack()


@test(workers=BOTH, start=False, kernel=False)
def limits(lab):
    """A rule's tokens, a pool's ports and room in the table are looked at and not used; exhausted, it says so."""
    p = policy(lab.workers)
    p['conntrack']['max_connections'] = 1000
    lab.gateway.start(p)
    lab.serve(lab.server)
    limited = 'udp %s:4000 > %s:7777 in lan' % (CLIENT, SERVER)
    for _ in range(5):
        w = way(lab, limited)
        assert rule_of(w) == 'lan-out' or rule_of(w) == 'few', w
        assert the(w, 'limit')['within'] and w['verdict'] == 'sent', w
    with udp_socket(lab.client) as one, udp_socket(lab.client) as two:
        for s in (one, two):
            s.sendto(b'x', (SERVER, 7777))
        wait_for(lambda: int(lab.gateway.cli('conntrack', 'count').stdout) == 2, 'two connections')
    w = way(lab, limited)
    assert not the(w, 'limit')['within'] and rule_of(w) == 'many' and w['reason'] == 'policy', w
    with contextlib.ExitStack() as stack:
        for port in range(4001, 4005):
            s = stack.enter_context(udp_socket(lab.client, ('', port)))
            s.sendto(b'x', (SERVER, 6000))
        wait_for(lambda: int(lab.gateway.cli('conntrack', 'count').stdout) == 6, 'six connections')
        w = way(lab, 'udp %s:4009 > %s:6000 in lan' % (CLIENT, SERVER))
        assert w['verdict'] == 'dropped' and w['reason'] == 'nat_exhausted' and step(w, 'answer'), w
        out, _, code = explain(lab, 'udp %s:4009 > %s:6000 in lan' % (CLIENT, SERVER))
        assert code == 1 and 'Give the pool more addresses' in out, out


@test(kernel=False, rows=(
    ('nothing', '', 'the protocol is missing', 'write it like `tcp 10.10.0.5:4000 > 1.1.1.1:443 in lan`'),
    ('protocol', 'tpc 1.1.1.1:1 > 2.2.2.2:2', '`tpc` is not a protocol', '\n  ^^^\n'),
    ('address', 'tcp 10.10.0.500:1 > 2.2.2.2:2', '`10.10.0.500:1` is not an address', '\n      ^^^^^^^^^^^^^\n'),
    ('arrow', 'tcp 10.10.0.5:1 2.2.2.2:2', 'expected `>`, found `2.2.2.2:2`', '= help: write it like'),
    ('half', 'tcp 10.10.0.5:1 >', 'the destination is missing', '^'),
    ('port', 'tcp 10.10.0.5:1 > 2.2.2.2', 'the destination port is missing', 'ADDRESS:PORT'),
    ('no-ports', 'icmp 10.10.0.5:1 > 2.2.2.2', 'icmp has no ports', '^'),
    ('families', 'udp 10.10.0.5:1 > [2001:db8::1]:2', 'two address families', '^'),
    ('fragment', 'udp 10.10.0.5:1 > 2.2.2.2:2 in lan fragment', '`fragment` is not understood', 'describe the whole datagram'),
    ('payload', 'udp 10.10.0.5:1 > 2.2.2.2:2 payload x', '`payload` is not understood', '`length N` says how much'),
    ('options', 'tcp 10.10.0.5:1 > 2.2.2.2:2 mss 1460', '`mss` is not understood', 'without options'),
    ('syn', 'tcp 10.10.0.5:1 > 2.2.2.2:2 syn', '`syn` is not understood', 'write `flags syn,ack`'),
    ('too-short', 'tcp 10.10.0.5:1 > 2.2.2.2:2 length 39', '39 bytes are too few', 'it has 40 bytes at least'),
    ('word', 'udp 10.10.0.5:1 > 2.2.2.2:2 at lan', '`at` is not understood', 'after the addresses may follow: in INTERFACE'),
    ('flag', 'tcp 10.10.0.5:1 > 2.2.2.2:2 flags sin', '`sin` is not a TCP flag', 'flags are: fin, syn'),
    ('type', 'icmp 10.10.0.5 > 2.2.2.2 type pong', '`pong` is not a type of ICMP messages', 'echo-request'),
    ('length', 'udp 10.10.0.5:1 > 2.2.2.2:2 length 9000', '9000 bytes are too many', '^^^^'),
    ('interface', 'udp 10.10.0.5:1 > 2.2.2.2:2 in dmz', '`dmz` is not an interface of the policy; it has lan (lan0), wan (wan0)', ''),
    ('unrouted', 'udp 10.10.0.1:1 > 2.2.2.2:2', '10.10.0.1 is routed to no interface of the policy', '`in lan`'),
))
def refused(lab, row):
    """What is not understood is marked, and it is said what could stand there; exit status 2."""
    _, packet, message, more = row
    out, error, code = explain(lab, packet)
    assert code == 2 and out == '' and message in error and more in error, error


@test(start=False, kernel=False)
def not_running(lab):
    """Without a daemon there is nobody to ask."""
    r = lab.gw.run(binary(), 'explain', 'tcp 1.1.1.1:1 > 2.2.2.2:2', '--socket', lab.path('none'), check=False)
    assert r.returncode == 2 and 'sluice is not running' in r.stderr, r


@test(workers=BOTH, start=False, kernel=False)
def what_is_said_happens(lab):
    """Real packets then do what was said, and are counted."""
    lab.gateway.start(policy(lab.workers))
    lab.serve(lab.server)
    lab.serve(lab.client2)
    # The rows: a packet, whether somebody answers who asks so, and asking.
    for packet, passes, ask in (
            ('tcp %s > %s:%d in lan' % (CLIENT, SERVER, ECHO), True, lambda: tcp_ask(lab.client, SERVER)),
            ('udp [%s]:9 > [%s]:%d in lan' % (CLIENT6, SERVER6, ECHO), True, lambda: udp_ask(lab.client, SERVER6)),
            ('tcp %s > %s:23 in lan' % (CLIENT, SERVER), False, lambda: tcp_ask(lab.client, SERVER, 23)),
            ('tcp %s > %s:%d in wan' % (SERVER, WAN, FORWARD_ECHO), True, lambda: tcp_ask(lab.server, WAN, FORWARD_ECHO)),
            ('tcp %s > %s:%d in lan' % (CLIENT, WAN, FORWARD_ECHO), True, lambda: tcp_ask(lab.client, WAN, FORWARD_ECHO)),
            ('tcp [%s]:9 > [%s]:22 in wan' % (SERVER6, CLIENT6), False, lambda: tcp_ask(lab.server, CLIENT6, 22, timeout=0.5)),
    ):
        w = way(lab, packet)
        assert (w['verdict'] == 'sent') == passes, w
        try:
            ask()
            answered = True
        except OSError:
            answered = False
        assert answered == passes, packet
        if not passes:
            assert lab.gateway.dropped(w['reason']) > 0, w['reason']
