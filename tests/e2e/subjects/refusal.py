"""Wrong inputs: one clear message, an exit status that is not 0, nothing left attached."""

import contextlib
import json
import os
import re
import socket

from lab.gateway import binary
from lab.policy import *
from lab.programs import ping
from runner import test

UNPRIVILEGED = ('setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--inh-caps=-all')


WRONG = """version: 1
interfaces: { lan: { devic: eth1, zone: inside } }
nat:
  source:
    - { name: a, from: inside, translate: { pool: [] } }
workers: { count: 0 }
policy:
  rules:
    - { name: b, match: { source: office, state: new }, action: pass }
"""


def edit(**changes):
    """The usual policy with values replaced: edit(nat__source=[...]) sets policy['nat']['source']."""
    policy = base()
    for path, value in changes.items():
        *way, last = path.split('__')
        place = policy
        for key in way:
            place = place.setdefault(key, {})
        place[last] = value
    return policy


def text(old, new):
    """The usual policy as YAML with a piece of its text replaced."""
    yaml = to_yaml(base())
    assert old in yaml, old
    return yaml.replace(old, new, 1)


def rule(**rule_):
    """The usual policy with one more rule."""
    policy = base()
    policy['policy']['rules'].append(rule_)
    return policy


# Name, configuration, what the message must name. These are refused by `sluice check` too, with line and column.
POSITION = r':\d+:\d+'
FILES = [
    ('not_yaml', 'version: 1\ninterfaces: { lan: [\n', [POSITION]),
    ('empty', '', ['version|interfaces|empty']),
    ('tab', 'version: 1\n\tinterfaces: {}\n', [POSITION, 'tab|character|indent']),
    ('unknown_key', text('zone: inside', 'zoen: inside'), [POSITION, 'zoen', 'zone']),
    ('unknown_section', text('policy:', 'polcy:'), [POSITION, 'polcy', 'policy']),
    ('unknown_value', text('default: drop', 'default: dorp'), [POSITION, 'dorp', 'drop']),
    ('wrong_type', text('count: 1', 'count: many'), [POSITION, 'many', 'count|number|auto']),
    ('wrong_version', text('version: 1', 'version: 7'), [POSITION, '7']),
    ('duplicate_key', text('version: 1', 'version: 1\nversion: 1'), [POSITION, 'version']),
    ('unknown_zone', rule(name='x', match={'from': 'insde'}, action='accept'), [POSITION, 'insde', 'inside']),
    ('unknown_zone_in_nat', edit(nat__source=[{'name': 'x', 'from': 'inside', 'to': 'internet',
                                               'translate': 'masquerade'}]), [POSITION, 'internet']),
    ('unknown_set', rule(name='x', match={'source': 'offices'}, action='accept'), [POSITION, 'offices']),
    ('bad_address', rule(name='x', match={'source': '10.10.0.256'}, action='accept'), [POSITION, '10.10.0.256']),
    ('bad_prefix', rule(name='x', match={'source': '10.10.0.0/33'}, action='accept'), [POSITION, '10.10.0.0/33']),
    ('bad_port', rule(name='x', match={'protocol': 'tcp', 'port': 70000}, action='accept'), [POSITION, '70000']),
    ('port_of_icmp', rule(name='x', match={'protocol': 'icmp', 'port': 80}, action='accept'), [POSITION, 'icmp']),
    ('two_devices', edit(interfaces__wan={'device': 'lan0', 'zone': 'outside'}), [POSITION, 'lan0']),
    ('device_name_too_long', edit(interfaces__wan={'device': 'a-device-name-too-long', 'zone': 'outside'}),
     [POSITION, 'a-device-name-too-long', '15']),
    ('no_workers', edit(workers__count=0), [POSITION, 'workers|count']),
    ('pool_of_two_families', edit(nat__source=[{'name': 'x', 'from': 'inside', 'to': 'outside', 'translate':
                                                {'pool': ['198.51.100.8', '2001:db8::1']}}]), [POSITION, 'famil|IPv']),
]


@test(kernel=False, start=False, rows=FILES)
def file(lab, row):
    """A wrong file is refused by `check` and by `run`, with position, and with the name that was meant."""
    _, policy, words = row
    lab.gateway.write(policy)
    r = lab.gw.run(binary(), 'check', lab.gateway.config, check=False)
    refused(lab, r.returncode, r.stdout + r.stderr, words)
    refused(lab, *lab.gateway.run_to_end(policy), words)


def refused(lab, status, message, words, lines=12):
    """Judges a refusal: status, the words of the message, its length, nothing attached."""
    assert status not in (0, 101) and status < 128, 'status %d: %s' % (status, message)
    assert 'panicked' not in message and 'RUST_BACKTRACE' not in message, message
    for w in words:
        assert re.search(w, message), 'the message does not name %s:\n%s' % (w, message)
    assert len(message.strip().splitlines()) <= lines, 'not one clear message:\n' + message
    assert not lab.gateway.attached(), 'left attached: %s' % lab.gateway.attached()


@test(kernel=False, start=False)
def good_file(lab):
    """`sluice check` says nothing against a good file."""
    lab.gateway.write(base())
    assert lab.gw.run(binary(), 'check', lab.gateway.config).returncode == 0


@test(kernel=False, start=False)
def warnings(lab):
    """`sluice check` warns of what is hardly meant, and accepts it; `run` writes the same to its log."""
    policy = edit(
        nat__source=[{'name': 'internet', 'from': 'inside', 'to': 'outside',
                      'translate': {'masquerade': True, 'ports': '30000-40000'}}],
        nat__destination=[{'name': 'web', 'from': 'outside', 'match': {'protocol': 'tcp', 'port': 8080},
                           'translate': {'to': CLIENT, 'port': 80}}],
        policy__rules=[{'name': 'lan-out', 'match': {'from': 'inside', 'to': 'outside'}, 'action': 'accept'},
                       {'name': 'late', 'match': {'from': 'inside', 'to': 'outside', 'source': CLIENT}, 'action': 'drop'}])
    expected = ['no rule accepts what `web` translates', '`late` never matches',
                '`ports` 30000-40000 overlap those of the gateway\'s own connections, 32768-60999']
    lab.gateway.write(policy)
    r = lab.gw.run(binary(), 'check', lab.gateway.config)
    assert r.stderr.count('warning: ') == 3 and all(w in r.stderr for w in expected), r.stderr
    found = json.loads(lab.gw.run(binary(), 'check', '--json', lab.gateway.config).stdout)
    assert [d['severity'] for d in found['diagnostics']] == ['warning'] * 3 and found['omitted'] == 0, found
    assert all(any(w in d['message'] for d in found['diagnostics']) for w in expected), found
    # A pool has ports of its own, unless its address is the gateway's.
    for address, own in ((REMOTE, False), (WAN, True)):
        policy['nat']['source'][0]['translate'] = {'pool': [address], 'ports': '30000-40000'}
        lab.gateway.write(policy)
        r = lab.gw.run(binary(), 'check', lab.gateway.config)
        assert (expected[2] in r.stderr) == own, (address, r.stderr)
    # Other ports of the kernel's, and none of it overlaps.
    lab.gw.run('sysctl', '-qw', 'net.ipv4.ip_local_port_range=50000 60999')
    r = lab.gw.run(binary(), 'check', lab.gateway.config)
    assert 'overlap' not in r.stderr, r.stderr
    lab.gateway.start(policy)
    log = lab.gateway.log_text()
    assert expected[0] in log and expected[1] in log, log


@test(kernel=False, start=False)
def every_fault_at_once(lab):
    """All faults of a file are told in one go, with their places, as text and as JSON."""
    path = lab.path('wrong.yaml')
    with open(path, 'w') as f:
        f.write(WRONG)
    places = [(2, 22), (5, 51), (6, 19), (9, 35), (9, 65)]
    r = lab.gw.run(binary(), 'check', path, check=False)
    told = re.findall(r'--> .*wrong.yaml:(\d+):(\d+)$', r.stderr, re.M)
    assert r.returncode == 1 and [(int(a), int(b)) for a, b in told] == places, r.stderr
    r = lab.gw.run(binary(), 'check', '--json', path, check=False)
    found = json.loads(r.stdout)['diagnostics']
    assert r.returncode == 1 and [(d['line'], d['column']) for d in found] == places, r.stdout
    assert all(d['severity'] == 'error' and d['message'] and d['source_line'] for d in found), r.stdout
    assert found[0]['help'] == 'did you mean `device`?', r.stdout


@test(kernel=False, start=False)
def yaml_bombs(lab):
    """A file that would be more than memory holds is refused, and soon."""
    lines = ['version: 1', 'a0: &a0 [x, x, x, x, x, x, x, x, x, x]']
    lines += ['a%d: &a%d [%s]' % (i, i, ', '.join(['*a%d' % (i - 1)] * 10)) for i in range(1, 20)]
    for name, text in (('aliases', '\n'.join(lines)), ('depth', 'version: ' + '[' * 100000), ('nulls', '\0' * 100000)):
        path = lab.path(name + '.yaml')
        with open(path, 'w') as f:
            f.write(text)
        r = lab.gw.run('sh', '-c', 'ulimit -v 2000000; exec %s check %s' % (binary(), path), check=False)
        assert r.returncode == 1 and 'not valid YAML' in r.stderr, (name, r.returncode, r.stderr[:500])
        assert len(r.stderr) < 2000, (name, r.stderr)


@test(kernel=False, start=False)
def missing_file(lab):
    """A configuration file that is not there."""
    for verb in (['run', '--config'], ['check']):
        r = lab.gw.run(binary(), *verb, lab.path('none.yaml'), check=False)
        refused(lab, r.returncode, r.stdout + r.stderr, ['none.yaml', 'No such file'], 3)


@test(kernel=False, start=False)
def missing_device(lab):
    """A device that does not exist."""
    policy = edit(interfaces__wan={'device': 'nosuch0', 'zone': 'outside'})
    refused(lab, *lab.gateway.run_to_end(policy), ['nosuch0'], 3)


@test(kernel=False, start=False, queues=1)
def too_few_queues(lab):
    """Two workers on devices with one queue."""
    refused(lab, *lab.gateway.run_to_end(base(2)), ['lan0|wan0', 'queue', '1', '2'], 3)


@test(kernel=False, start=False, wan_mtu=9000)
def mtu_beyond_the_frame(lab):
    """An MTU that no frame of the UMEM can hold."""
    refused(lab, *lab.gateway.run_to_end(base()), ['wan0', 'MTU|mtu', '9000'], 3)


@test(kernel=False, start=False)
def no_privileges(lab):
    """Started by an ordinary user."""
    os.chmod(lab.folder, 0o755)
    status, message = lab.gateway.run_to_end(base(), prefix=UNPRIVILEGED)
    refused(lab, status, message, ['root|CAP_NET_ADMIN|CAP_BPF|CAP_'], 3)


@test(kernel=False, start=False, rows=[('native', 'xdpdrv'), ('generic', 'xdpgeneric')])
def program_of_somebody_else(lab, row):
    """Another XDP program on the device: it is named and stays."""
    source, program = lab.path('pass.c'), lab.path('pass.o')
    with open(source, 'w') as f:
        f.write('__attribute__((section("xdp"), used)) int pass(void *ctx) { return 2; }\n')
    lab.gw.run('clang', '-O2', '-g', '-target', 'bpf', '-c', source, '-o', program)
    lab.gw.ip('link', 'set', 'wan0', row[1], 'obj', program, 'sec', 'xdp')
    before = lab.gateway.attached()
    assert before
    status, message = lab.gateway.run_to_end(base())
    assert lab.gateway.attached() == before, 'before: %s, after: %s' % (before, lab.gateway.attached())
    lab.gw.ip('link', 'set', 'wan0', row[1], 'off')
    refused(lab, status, message, ['wan0', 'XDP|xdp'], 3)


@test(kernel=False, start=False)
def metrics_address_in_no_interface(lab):
    """The metrics listener's address belongs to no interface."""
    policy = edit(control={'socket': lab.gateway.socket, 'metrics': '192.0.2.1:9464'})
    refused(lab, *lab.gateway.run_to_end(policy), ['192.0.2.1:9464'], 3)


@test(kernel=False, start=False)
def metrics_port_taken(lab):
    """Another process listens on the metrics port."""
    with lab.gw:
        taken = socket.create_server(('127.0.0.1', 9464))
    with contextlib.closing(taken):
        refused(lab, *lab.gateway.run_to_end(base()), ['127.0.0.1:9464', 'in use'], 3)


@test(kernel=False, start=False)
def control_socket_in_no_folder(lab):
    """The control socket cannot be made."""
    policy = edit(control={'socket': '/dev/null/control.sock', 'metrics': '127.0.0.1:9464'})
    refused(lab, *lab.gateway.run_to_end(policy), ['/dev/null/control.sock'], 3)


@test(kernel=False, start=False)
def refusal_leaves_a_working_host(lab):
    """After a refusal that comes late, the host is reachable on all its ports."""
    policy = base()
    policy['control'] = {'socket': lab.gateway.socket, 'metrics': '192.0.2.1:9464'}
    lab.gateway.run_to_end(policy)
    assert ping(lab.client, LAN).received == 3 and ping(lab.server, WAN).received == 3


@test(kernel=False, start=False)
def zero_copy_on_veth(lab):
    """Zero copy asked of a device that cannot."""
    refused(lab, *lab.gateway.run_to_end(edit(io={'mode': 'zero-copy'})), ['lan0|wan0', 'zero-copy|zero copy'], 3)
