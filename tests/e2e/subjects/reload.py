"""The policy changes while traffic flows: reload, SIGHUP, --watch, confirm, rollback, diff."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import threading
import time

from lab.gateway import binary
from lab.policy import *
from lab.programs import Conversation, ping, silent, tcp_ask, udp_ask, udp_socket, wait_for
from runner import test

BOTH = (1, 2)

# Two ports that rules in front of the usual ones are about.
FIRST, SECOND = 7101, 7102


def dropping(port, workers=1, name='drop-port', action='drop'):
    """The usual policy with a rule in front that drops one destination port."""
    policy = base(workers)
    rule = {'name': name, 'match': {'protocol': 'udp', 'port': port}, 'action': action}
    policy['policy']['rules'].insert(0, rule)
    return policy


def many_rules(workers, count=10000):
    """The usual policy behind thousands of rules that match nothing of the tests'."""
    policy = base(workers)
    rules = [{'name': 'r%d' % n, 'match': {'source': '172.16.%d.%d' % (n >> 8, n & 255), 'protocol': 'tcp', 'port': n},
              'action': 'drop'} for n in range(1, count + 1)]
    policy['policy']['rules'] = rules + policy['policy']['rules']
    return policy


class Load:
    """UDP there and back at a steady pace, every datagram numbered, new flows all the time; a thread."""

    def __init__(self, ns, address, flows=32, pause=0.002, batch=6):
        self.ns, self.to = ns, (address, ECHO)
        self.pause, self.batch = pause, batch
        self.sent, self.seen = 0, set()
        self.flows = flows
        self.stopping = False
        self.error = None
        self.thread = threading.Thread(target=self._guarded)

    def __enter__(self):
        self.thread.start()
        wait_for(lambda: self.error or len(self.seen) > 100, 'the load flows')
        return self

    def __exit__(self, *_):
        self.stopping = True
        self.thread.join()
        if self.error:
            raise self.error

    def lost(self):
        """Numbers that never came back; to be asked after the end."""
        return self.sent - len(self.seen)

    def _guarded(self):
        try:
            with self.ns:
                self._run()
        except Exception as e:
            self.error = e

    def _run(self):
        poll = select.poll()
        sockets = {}

        def add():
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.setblocking(False)
            sockets[s.fileno()] = s
            poll.register(s, select.POLLIN)
            return s

        steady = [add() for _ in range(self.flows)]
        turn = 0
        try:
            while not self.stopping:
                for n in range(self.batch - 1):
                    self._send(steady[(turn + n) % self.flows])
                # Each of these begins a connection; its first packet is where most is decided.
                if turn % 2 == 0:
                    self._send(add())
                turn += 1
                self._receive(poll, sockets, self.pause)
            end = time.monotonic() + 3
            while len(self.seen) < self.sent and time.monotonic() < end:
                self._receive(poll, sockets, 0.05)
        finally:
            for s in sockets.values():
                s.close()

    def _send(self, s):
        s.sendto(b'%d' % self.sent, self.to)
        self.sent += 1

    def _receive(self, poll, sockets, seconds):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for fd, _ in poll.poll(left * 1000):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        self.seen.add(int(sockets[fd].recv(2048).split(b' ')[2]))


# Name, the other policy, how many reloads at least.
POLICIES = [('small', lambda n: dropping(FIRST, n), 20), ('large', many_rules, 6)]


@test(workers=BOTH, rows=POLICIES, kernel=False)
def no_packet_lost(lab, row):
    """Under load, with flows old and new: the policy changes many times, and every datagram comes back."""
    _, other, least = row
    lab.serve(lab.server)
    texts = [base(lab.workers), other(lab.workers)]
    rounds = 0
    with Conversation(lab.client, SERVER) as talk, Load(lab.client, SERVER) as load:
        while rounds < least or load.sent < 2000:
            lab.gateway.reload(texts[(rounds + 1) % 2])
            assert talk.ask()[0] == WAN
            rounds += 1
    assert load.lost() == 0, '%d of %d datagrams lost in %d reloads' % (load.lost(), load.sent, rounds)
    assert lab.gateway.status()['policy']['generation'] == rounds + 1


@test(workers=BOTH, kernel=False)
def in_force_when_reload_returns(lab):
    """The first packet after `sluice reload` meets the new policy, on every worker."""
    lab.serve(lab.server)
    for port in (FIRST, SECOND):
        lab.serve(lab.server, http=port + 100, echo=port)
    for n in range(6):
        closed, open_ = (FIRST, SECOND) if n % 2 else (SECOND, FIRST)
        out = lab.gateway.reload(dropping(closed, lab.workers)).stdout
        assert out == 'generation %d of %s is in force\n' % (n + 2, lab.gateway.config), out
        # Eight source ports reach both workers; those of other rounds have connections.
        socks = [udp_socket(lab.client, ('', 20000 + 8 * n + i)) for i in range(8)]
        before = lab.gateway.dropped('policy')
        for s in socks:
            s.sendto(b'x', (SERVER, closed))
        wait_for(lambda: lab.gateway.dropped('policy') == before + 8, 'the rule drops', 3)
        for s in socks:
            assert udp_ask(lab.client, SERVER, port=open_, sock=s)[0] == WAN
            s.close()


@test(workers=BOTH, kernel=False)
def established_connections_stay(lab):
    """A connection that the new policy forbids goes on, unless the policy says that it shall not."""
    lab.serve(lab.server)
    lab.serve(lab.client2)
    closed = base(lab.workers)
    closed['policy']['rules'] = [r for r in closed['policy']['rules'] if r['name'] != 'lan-out']
    with Conversation(lab.client, SERVER) as talk, Conversation(lab.client, SERVER6) as six, \
            Conversation(lab.server, WAN, FORWARD_ECHO) as forward:
        for t in (talk, six, forward):
            t.ask()
        lab.gateway.reload(closed)
        assert silent(tcp_ask, lab.client, SERVER, timeout=1), 'a new connection passes'
        for t in (talk, six, forward):
            t.ask()
        assert len(lab.gateway.conntrack('--status', 'ASSURED')) == 3
        # The same policy, but now connections are to follow it.
        closed['reload'] = {'revalidate': True}
        out = lab.gateway.reload(closed).stdout
        assert '2 connections were deleted' in out, out
        forward.ask()
        left = lab.gateway.conntrack('--status', 'ASSURED')
        assert len(left) == 1 and 'dport=%d' % FORWARD_ECHO in left[0], left
        wait_for(lambda: lab.gateway.metric('sluice_connections_revalidated_total') == 2, 'the metric counts two', 2)


@test(workers=BOTH, kernel=False, start=False)
def translation_begins_and_ends(lab):
    """Masquerade comes with a reload, and goes: connections that have it keep it, and their replies arrive."""
    lab.leaks_wanted = True
    lab.serve(lab.server)
    lab.serve(lab.gw, http=8081, echo=22)
    plain = base(lab.workers)
    plain['nat'] = {}
    lab.gateway.start(plain)
    lab.server.ip('route', 'add', LAN_NET, 'via', WAN)
    assert udp_ask(lab.client, SERVER)[0] == CLIENT
    for _ in range(3):
        lab.gateway.reload(base(lab.workers))
        with Conversation(lab.client, SERVER) as talk, contextlib.closing(udp_socket(lab.client, ('', 0))) as s:
            # The first datagram already: its answer must not go to the host.
            assert udp_ask(lab.client, SERVER, sock=s, tries=1)[0] == WAN
            assert talk.ask()[0] == WAN
            lab.gateway.reload(plain)
            assert talk.ask()[0] == WAN and udp_ask(lab.client, SERVER, sock=s, tries=1)[0] == WAN
            assert udp_ask(lab.client, SERVER)[0] == CLIENT
            # The host has the same address.
            assert tcp_ask(lab.server, WAN, 22)[0] == SERVER and ping(lab.server, WAN).received == 3


@test(workers=BOTH, kernel=False)
def redirection_begins_and_ends(lab):
    """A redirection to the gateway host comes with a reload, and goes: its connections stay with the host."""
    lab.serve(lab.server)
    redirect = base(lab.workers)
    redirect['nat']['destination'].insert(0, {'name': 'here', 'from': 'inside',
                                              'match': {'protocol': 'tcp', 'port': ECHO}, 'translate': 'redirect'})
    assert tcp_ask(lab.client, SERVER)[0] == WAN
    lab.serve(lab.gw, http=8081)
    for _ in range(3):
        lab.gateway.reload(redirect)
        with Conversation(lab.client, SERVER) as talk:
            assert talk.ask()[0] == CLIENT, 'the gateway host does not answer'
            lab.gateway.reload(base(lab.workers))
            assert tcp_ask(lab.client, SERVER)[0] == WAN and talk.ask()[0] == CLIENT


@test(workers=BOTH, kernel=False)
def zones_change(lab):
    """Interfaces change their zones and their order in the file; connections and rules follow."""
    lab.serve(lab.server)
    text = to_yaml(base(lab.workers))
    lan, wan = [line + '\n' for line in text.splitlines() if 'device:' in line]
    with Conversation(lab.client, SERVER) as talk:
        talk.ask()
        swapped = text.replace(lan + wan, wan + lan.replace('lan:', 'office:'))
        assert swapped != text
        control = 'control: { socket: %s, metrics: "127.0.0.1:9464" }\n' % lab.gateway.socket
        lab.gateway.reload(swapped + control)
        assert talk.ask()[0] == WAN and udp_ask(lab.client, SERVER)[0] == WAN
        names = [(i['name'], i['device'], i['zone']) for i in lab.gateway.status()['interfaces']]
        assert names == [('office', 'lan0', 'inside'), ('wan', 'wan0', 'outside')], names
        assert lab.gateway.metric('sluice_interface_up', interface='office', device='lan0') == 1
        other = base(lab.workers)
        other['interfaces']['lan']['zone'] = 'elsewhere'
        for list_ in (other['nat']['source'], other['nat']['destination']):
            for rule in list_:
                rule['from'] = ['elsewhere' if z == 'inside' else z for z in
                                (rule['from'] if isinstance(rule['from'], list) else [rule['from']])]
                rule.pop('to', None)
        other['policy']['rules'][2]['match'] = {'from': 'elsewhere', 'to': 'outside'}
        lab.gateway.reload(other)
        assert talk.ask()[0] == WAN and udp_ask(lab.client, SERVER)[0] == WAN


def text(old, new, policy=None):
    """The usual policy as YAML with a piece of its text replaced."""
    yaml = to_yaml(base() if policy is None else policy)
    assert old in yaml, old
    return yaml.replace(old, new, 1)


# What does not take effect, and what the message must name.
REFUSED = [
    ('unknown_zone', text('from: inside', 'from: insde'), ['insde', r'did you mean `inside`', r'\^\^\^\^\^', r':\d+:\d+']),
    ('not_yaml', 'version: 1\ninterfaces: { lan: [\n', [r':\d+:\d+', 'YAML']),
    ('two_faults', text('default: drop', 'default: dorp').replace('action: drop', 'action: dorp'), ['dorp(.|\n)*dorp']),
    ('workers', text('count: 1', 'count: 2'), ['`workers.count` is 1 and cannot become 2', 'restart', r'\^', r':\d+:\d+']),
    ('poll', text('workers:', 'io: { mode: generic }\nworkers:'), ['`io.mode` is auto and cannot become generic']),
    ('device', text('device: wan0', 'device: wan1'), ['device wan1 cannot be added', 'device wan0 .*cannot be taken away']),
    ('connections', text('workers:', 'conntrack: { max_connections: 2000000 }\nworkers:'),
     ['`conntrack.max_connections` cannot become 2000000', 'made for 1000000']),
    ('socket', text('workers:', 'control: { socket: /tmp/other.sock }\nworkers:'),
     ['`control.socket` is .*control.sock and cannot become /tmp/other.sock', '`control.metrics`']),
]


def control(lab):
    """The section that `Sluice.write` adds to policies that are values."""
    return 'control: { socket: %s, metrics: "127.0.0.1:9464" }\n' % lab.gateway.socket


@test(rows=REFUSED, kernel=False)
def refused(lab, row):
    """A file that is not in order leaves the running policy in force and is told of everywhere."""
    name, yaml, words = row
    lab.serve(lab.server)
    yaml += '' if 'control:' in yaml else control(lab)
    with Conversation(lab.client, SERVER) as talk:
        for n, how in enumerate(('command', 'signal', 'command'), 1):
            lab.gateway.write(yaml)
            if how == 'signal':
                lab.gateway.process.send_signal(signal.SIGHUP)
            else:
                r = lab.gateway.cli('reload', check=False)
                assert r.returncode == 1 and r.stdout == '', r
                for w in words:
                    assert re.search(w, r.stderr), 'the message does not name %s:\n%s' % (w, r.stderr)
                assert 'the running policy stays in force' in r.stderr
            wait_for(lambda: lab.gateway.metric('sluice_reload_total', result='failure') == n, 'the metric counts', 3)
            assert talk.ask()[0] == WAN and udp_ask(lab.client, SERVER)[0] == WAN
        policy = lab.gateway.status()['policy']
        assert policy['generation'] == 1 and policy['last_failure']['latest'], policy
        assert any(re.search(w.split('(')[0], policy['last_failure']['message']) for w in words), policy
        assert 'THE LAST RELOAD FAILED' in lab.gateway.cli('status').stdout
        assert lab.gateway.metric('sluice_reload_last_successful') == 0
        assert lab.gateway.log_text().count('the running policy stays in force') == 3
        found = json.loads(lab.gateway.cli('reload', '--json', check=False).stdout)
        assert any(d['severity'] == 'error' and d['line'] for d in found['diagnostics']), found
        lab.gateway.reload(dropping(FIRST))
        policy = lab.gateway.status()['policy']
        assert policy['generation'] == 2 and not policy['last_failure']['latest']
        assert lab.gateway.metric('sluice_reload_last_successful') == 1 and talk.ask()[0] == WAN


@test(kernel=False)
def unreadable(lab):
    """Files that are not there, or no text; a daemon that is not there."""
    r = lab.gateway.cli('reload', lab.path('none.yaml'), check=False)
    assert r.returncode == 1 and 'none.yaml' in r.stderr and 'No such file' in r.stderr, r.stderr
    with open(lab.path('binary.yaml'), 'wb') as f:
        f.write(b'version: 1\n\xff\xfe')
    r = lab.gateway.cli('reload', lab.path('binary.yaml'), check=False)
    assert r.returncode == 1 and 'UTF-8' in r.stderr, r.stderr
    for words in (['reload', '--confirm', '60'], ['reload', '--confirm', 'soon'], ['reload', '--confirm', '0s']):
        r = lab.gateway.cli(*words, check=False)
        assert r.returncode == 2 and '--confirm' in r.stderr, r.stderr
    lab.gateway.stop()
    for words, status in ((['reload'], 1), (['confirm'], 1), (['rollback'], 1), (['diff', lab.gateway.config], 2)):
        r = lab.gateway.cli(*words, check=False)
        assert r.returncode == status and 'not running' in r.stderr, (words, r)


@test(kernel=False)
def unchanged(lab):
    """A file that says the same makes no new generation, so that `rollback` has something to return to."""
    lab.gateway.reload(dropping(FIRST))
    with open(lab.gateway.config, 'a') as f:
        f.write('# a comment\n')
    assert 'nothing has changed' in lab.gateway.cli('reload').stdout
    other = lab.path('other.yaml')
    os.rename(lab.gateway.config, other)
    # From another folder: the path is the client's.
    r = lab.gw.run('sh', '-c', 'cd %s && exec %s reload other.yaml --socket %s --json'
                   % (lab.folder, binary(), lab.gateway.socket))
    out = json.loads(r.stdout)
    assert out['unchanged'] and out['file'] == other and out['generation'] == 2, out
    assert lab.gateway.status()['policy']['file'] == other
    lab.gateway.cli('rollback')
    assert lab.gateway.status()['policy']['generation'] == 1


@test(workers=BOTH, kernel=False)
def sighup(lab):
    """SIGHUP reads the file of `run --config` again."""
    lab.serve(lab.server)
    lab.gateway.write(dropping(ECHO, lab.workers))
    lab.gateway.process.send_signal(signal.SIGHUP)
    wait_for(lambda: lab.gateway.metric('sluice_policy_generation') == 2, 'generation 2')
    assert silent(udp_ask, lab.client, SERVER, tries=1)
    assert lab.gateway.metric('sluice_reload_total', result='success') == 1
    age = time.time() - lab.gateway.metric('sluice_reload_last_success_timestamp_seconds')
    assert 0 <= age < 30, age
    # Many at once end with the file as it is then.
    for n in range(20):
        lab.gateway.write(dropping(FIRST + n % 2, lab.workers))
        lab.gateway.process.send_signal(signal.SIGHUP)
    lab.gateway.write(base(lab.workers))
    lab.gateway.process.send_signal(signal.SIGHUP)
    wait_for(lambda: not silent(udp_ask, lab.client, SERVER, tries=1, wait=0.2), 'the last file is in force')


@test(kernel=False)
def systemd_is_told(lab):
    """Type=notify-reload: RELOADING with the time, then READY, also when the file is refused."""
    path = lab.path('notify.sock')
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as s:
        s.bind(path)
        s.settimeout(5)
        lab.gateway.stop()
        lab.gateway.start(base(), prefix=('env', 'NOTIFY_SOCKET=' + path))

        def until(word):
            messages = []
            while not messages or word not in messages[-1]:
                messages.append(s.recv(4096).decode())
            return messages

        until('READY=1')
        for policy in (dropping(FIRST), 'version: 1\n'):
            before = time.monotonic_ns() // 1000
            lab.gateway.reload(policy, check=False)
            reloading = until('RELOADING=1')[-1]
            usec = int(re.search(r'MONOTONIC_USEC=(\d+)', reloading)[1])
            assert before <= usec <= time.monotonic_ns() // 1000, reloading
            until('READY=1')


def replace(path, text_):
    """Puts another file in a file's place, as editors and configuration management do."""
    with open(path + '.new', 'w') as f:
        f.write(text_)
    os.rename(path + '.new', path)


@test(kernel=False, start=False)
def watch(lab):
    """`run --watch`: a file that is written, replaced, or behind a link that is moved takes effect by itself."""
    lab.serve(lab.server)
    folder = lab.path('etc')
    os.makedirs(folder)
    for name in ('a', 'b'):
        os.makedirs(os.path.join(folder, name))
    lab.gateway.config = os.path.join(folder, 'policy.yaml')
    lab.gateway.start(base(), options=['--watch'])
    yaml = {port: to_yaml(dropping(port)) + control(lab) for port in (FIRST, SECOND, ECHO)}

    def generation(n):
        wait_for(lambda: lab.gateway.metric('sluice_policy_generation') == n, 'generation %d' % n)

    with Conversation(lab.client, SERVER) as talk:
        talk.ask()
        lab.gateway.write(yaml[FIRST])
        generation(2)
        replace(lab.gateway.config, yaml[ECHO])
        generation(3)
        assert silent(udp_ask, lab.client, SERVER, tries=1)
        # A wrong file, and other files in the folder.
        replace(lab.gateway.config, 'version: 2\n')
        wait_for(lambda: lab.gateway.metric('sluice_reload_total', result='failure') == 1, 'the failure is counted')
        replace(os.path.join(folder, 'other.yaml'), 'nonsense')
        replace(lab.gateway.config, yaml[ECHO])
        replace(lab.gateway.config, yaml[SECOND])
        generation(4)
        assert lab.gateway.metric('sluice_reload_total', result='failure') == 1
        assert udp_ask(lab.client, SERVER)[0] == WAN
        # A link to a link that is moved, as Kubernetes mounts configuration.
        for name, port in (('a', SECOND), ('b', FIRST)):
            replace(os.path.join(folder, name, 'policy.yaml'), yaml[port])
        os.symlink('a', os.path.join(folder, 'data'))
        os.remove(lab.gateway.config)
        os.symlink('data/policy.yaml', lab.gateway.config)
        time.sleep(0.5)
        os.symlink('b', os.path.join(folder, 'data.new'))
        os.rename(os.path.join(folder, 'data.new'), os.path.join(folder, 'data'))
        generation(5)
        # In the link's target.
        replace(os.path.join(folder, 'b', 'policy.yaml'), yaml[SECOND])
        generation(6)
        talk.ask()


@test(kernel=False, start=False)
def watch_what_is_not_there(lab):
    """`run --watch` with a policy that is gone at once does no harm; a touch changes nothing."""
    lab.gateway.start(base(), options=['--watch'])
    os.remove(lab.gateway.config)
    time.sleep(0.5)
    lab.gateway.write(base())
    os.utime(lab.gateway.config)
    time.sleep(1)
    policy = lab.gateway.status()['policy']
    assert policy['generation'] == 1 and policy['last_failure'] is None, policy


@test(kernel=False, start=False, rows=(
    ('missing', 'late.txt', None), ('without_folder', 'lists/deep/late.txt', None), ('not_a_file', '..', None),
    ('invalid', 'late.txt', b'198.51.100.300\n'), ('not_text', 'late.txt', b'\xff\xfe\n')))
def watch_a_set_that_is_late(lab, row):
    """`run --watch`: a policy refused for a file of its sets is tried again when that is there and in order, not before."""
    _, name, wrong = row
    folder = lab.path('etc')
    os.makedirs(folder)
    lab.serve(lab.server)
    lab.gateway.start(base(), options=['--watch'])
    link, path = lab.path('list'), os.path.join(folder, name)
    os.symlink(path, link)
    if wrong:
        with open(path, 'wb') as f:
            f.write(wrong)
    policy = base()
    policy['sets'] = {'late': {'file': 'list'}}
    policy['policy']['rules'].insert(0, {'name': 'late', 'match': {'destination': 'late'}, 'action': 'drop'})

    def failures():
        return lab.gateway.metric('sluice_reload_total', result='failure')
    lab.gateway.write(policy)
    wait_for(failures, 'the refusal')
    # What happens beside it is no reason to try again.
    replace(lab.path('other'), 'nonsense')
    time.sleep(1)
    assert failures() == 1 and lab.gateway.metric('sluice_policy_generation') == 1
    assert udp_ask(lab.client, SERVER)[0] == WAN
    if name == '..':
        path = os.path.join(folder, 'right.txt')
        os.symlink(path, link + '.new')
        os.rename(link + '.new', link)
    # What it is in appears step by step; each could be the last.
    os.makedirs(os.path.dirname(path), exist_ok=True)
    time.sleep(0.5 if 'deep' in name else 0)
    replace(path, SERVER + '\n')
    wait_for(lambda: lab.gateway.metric('sluice_policy_generation') == 2, 'the policy in force')
    assert silent(udp_ask, lab.client, SERVER, tries=1)
    # Its directory is another one now: that is watched too.
    os.rename(os.path.dirname(path), folder + '.old')
    os.makedirs(os.path.dirname(path))
    replace(path, REMOTE + '\n')
    wait_for(lambda: lab.gateway.metric('sluice_policy_generation') == 3, 'the new list in force')
    assert udp_ask(lab.client, SERVER)[0] == WAN


@test(workers=BOTH, kernel=False)
def confirm_or_not(lab):
    """`reload --confirm`: the policy goes by itself, unless it is confirmed."""
    lab.serve(lab.server)
    out = lab.gateway.reload(dropping(ECHO, lab.workers), '--confirm', '2s').stdout
    assert 'returns to generation 1 in 2 s unless `sluice confirm` comes' in out, out
    assert silent(udp_ask, lab.client, SERVER, tries=1, wait=0.3)
    policy = lab.gateway.status()['policy']
    assert policy['unconfirmed']['back_to'] == 1 and policy['generation'] == 2, policy
    assert 'UNCONFIRMED' in lab.gateway.cli('status').stdout
    assert lab.gateway.metric('sluice_policy_unconfirmed') == 1
    wait_for(lambda: lab.gateway.metric('sluice_policy_generation') == 1, 'generation 1 again')
    assert udp_ask(lab.client, SERVER)[0] == WAN
    policy = lab.gateway.status()['policy']
    assert policy['unconfirmed'] is None and policy['former'] == [], policy
    assert lab.gateway.metric('sluice_reload_total', result='rollback') == 1
    assert 'was not confirmed: rolling back' in lab.gateway.log_text()

    lab.gateway.reload(dropping(ECHO, lab.workers), '--confirm', '2s')
    assert 'generation 3 is confirmed' in lab.gateway.cli('confirm').stdout
    time.sleep(3)
    assert lab.gateway.status()['policy']['generation'] == 3
    assert silent(udp_ask, lab.client, SERVER, tries=1, wait=0.3)
    r = lab.gateway.cli('confirm', check=False)
    assert r.returncode == 1 and 'nothing awaits confirmation' in r.stderr, r.stderr


@test(kernel=False)
def while_confirmation_is_awaited(lab):
    """A second reload, SIGHUP, another --confirm, rollback: nothing but the operator's word makes it stay."""
    lab.serve(lab.server)
    lab.gateway.reload(dropping(FIRST))
    lab.gateway.reload(dropping(ECHO), '--confirm', '1h')
    r = lab.gateway.reload(dropping(SECOND), check=False)
    assert r.returncode == 1 and 'generation 3 awaits confirmation' in r.stderr and 'sluice confirm' in r.stderr, r.stderr
    lab.gateway.process.send_signal(signal.SIGHUP)
    wait_for(lambda: lab.gateway.metric('sluice_reload_total', result='failure') == 2, 'SIGHUP is refused')
    policy = lab.gateway.status()['policy']
    assert policy['unconfirmed']['back_to'] == 2 and 'awaits confirmation' in policy['last_failure']['message'], policy
    # A file that is wrong does not touch what is awaited either.
    r = lab.gateway.reload('version: 1\n', '--confirm', '1h', check=False)
    assert r.returncode == 1 and lab.gateway.status()['policy']['unconfirmed']['back_to'] == 2, r
    # Another try: it goes back to what somebody stood by, not to the first try.
    lab.gateway.reload(dropping(SECOND), '--confirm', '1h')
    policy = lab.gateway.status()['policy']
    assert (policy['generation'], policy['unconfirmed']['back_to']) == (4, 2), policy
    assert [f['generation'] for f in policy['former']] == [2, 1], policy
    out = lab.gateway.cli('rollback').stdout
    assert 'generation 2 of' in out and 'in force again' in out, out
    policy = lab.gateway.status()['policy']
    assert policy['generation'] == 2 and policy['unconfirmed'] is None, policy
    r = lab.gateway.cli('confirm', check=False)
    assert r.returncode == 1, r
    # Nothing to confirm where nothing changed.
    out = lab.gateway.reload(dropping(FIRST), '--confirm', '1s').stdout
    assert 'nothing has changed' in out and lab.gateway.status()['policy']['unconfirmed'] is None, out


@test(workers=BOTH, kernel=False)
def rollback(lab):
    """`sluice rollback` goes back step by step, and not beyond the beginning; history is bounded."""
    lab.serve(lab.server)
    r = lab.gateway.cli('rollback', check=False)
    assert r.returncode == 1 and 'no generation before 1' in r.stderr, r.stderr
    with Conversation(lab.client, SERVER) as talk:
        for port in (FIRST, ECHO, SECOND):
            lab.gateway.reload(dropping(port, lab.workers))
        for generation, passes in ((3, False), (2, True), (1, True)):
            lab.gateway.cli('rollback')
            assert lab.gateway.status()['policy']['generation'] == generation
            assert silent(udp_ask, lab.client, SERVER, tries=1, wait=0.3) != passes
            assert talk.ask()[0] == WAN
        assert lab.gateway.cli('rollback', check=False).returncode == 1
        # Numbers are never used twice.
        assert 'generation 5 ' in lab.gateway.reload(dropping(FIRST, lab.workers)).stdout
        for n in range(15):
            lab.gateway.reload(dropping(FIRST + n + 1, lab.workers))
        policy = lab.gateway.status()['policy']
        assert policy['generation'] == 20 and [f['generation'] for f in policy['former']] == list(range(19, 10, -1)), policy
        assert talk.ask()[0] == WAN


@test(workers=BOTH, kernel=False)
def diff(lab):
    """`sluice diff`: rules, settings and connections; exits as diff(1) does, and changes nothing."""
    lab.serve(lab.server)
    other = lab.path('other.yaml')

    def run(policy, *words):
        with open(other, 'w') as f:
            f.write(policy if isinstance(policy, str) else to_yaml(policy) + control(lab))
        return lab.gateway.cli('diff', other, *words, check=False)

    with Conversation(lab.client, SERVER) as talk, Conversation(lab.client, SERVER6) as six:
        talk.ask(), six.ask()
        for n in range(10):
            udp_ask(lab.client, SERVER)
        wait_for(lambda: int(lab.gateway.cli('conntrack', 'count').stdout) == 12, '12 connections', 2)
        r = run(base(lab.workers))
        assert r.returncode == 0 and 'says what generation 1 says' in r.stdout, r

        policy = dropping(ECHO, lab.workers)
        policy['policy']['rules'][3]['action'] = 'reject'
        policy['nat']['source'][0]['translate'] = {'pool': '198.51.100.8'}
        r = run(policy)
        assert r.returncode == 1, r
        for line in ('+ drop-port (rule 1) { match: { protocol: udp, port: 7007 }, action: drop }', '~ lan-out',
                     'action: accept -> reject', '~ internet', 'translate: masquerade -> { pool: 198.51.100.8 }',
                     'of 12 connections, 12 would not be let through, 0 would be translated in another way',
                     'they would stay until they end'):
            assert line in r.stdout, line + '\n' + r.stdout
        policy['policy']['rules'][3]['action'] = 'accept'
        report = json.loads(run(policy, '--json').stdout)
        assert report['connections'] == {'connections': 12, 'denied': 10, 'translated': 1, 'untracked': 0}, report
        assert [c['change'] for r in report['rules'] for c in r['changes']] == ['changed', 'added'], report

        r = run(to_yaml(base(lab.workers)).replace('count:', 'poll: busy, count:') + control(lab))
        assert r.returncode == 1 and 'this needs a restart' in r.stdout and 'workers.poll' in r.stdout, r
        r = run(to_yaml(base(lab.workers)).replace('device: wan0', 'device: wan7') + control(lab))
        assert r.returncode == 1 and 'cannot be counted' in r.stdout, r
        r = run('version: 1\ninterfaces: {}\n')
        assert r.returncode == 2 and 'error:' in r.stderr, r
        assert lab.gateway.cli('diff', lab.path('none.yaml'), check=False).returncode == 2
        assert lab.gateway.status()['policy']['generation'] == 1 and talk.ask()[0] == WAN
        # What was counted is what a reload deletes.
        policy['reload'] = {'revalidate': True}
        assert 'a reload would delete these' in run(policy).stdout
        assert '11 connections were deleted' in lab.gateway.reload(policy).stdout
        six.ask()


@test(workers=BOTH, kernel=False)
def a_device_made_anew_meets_the_policy_in_force(lab):
    """The daemon starts again with a device that returned, but not with the first policy."""
    lab.serve(lab.server)
    lab.gateway.reload(dropping(ECHO, lab.workers))
    lab.gw.ip('link', 'del', 'wan0')
    lab.cable('wan0', lab.server, 1500)
    lab.server.batch(['link set eth0 up', 'addr add %s/24 dev eth0' % SERVER, 'addr add %s/64 dev eth0' % SERVER6,
                      'route add default via ' + WAN6])
    lab.gateway_addresses('wan0')
    wait_for(lambda: lab.gateway.cli('status', check=False).returncode == 0 and
             not silent(tcp_ask, lab.client, SERVER, timeout=1), 'traffic again', 20)
    assert lab.gateway.status()['policy']['generation'] == 2
    assert silent(udp_ask, lab.client, SERVER, tries=1, wait=0.5)
    lab.gateway.cli('rollback')
    assert udp_ask(lab.client, SERVER)[0] == WAN


@test(workers=(2,), kernel=False)
def many_at_once(lab):
    """Clients that reload at the same moment are served one after the other."""
    lab.serve(lab.server)
    files = []
    for n in range(8):
        files.append(lab.path('p%d.yaml' % n))
        with open(files[-1], 'w') as f:
            f.write(to_yaml(dropping(FIRST + n, lab.workers)) + control(lab))
    with Load(lab.client, SERVER) as load:
        ps = [subprocess.Popen(lab.gw.argv(binary(), 'reload', f, '--socket', lab.gateway.socket),
                               stdout=subprocess.PIPE, text=True) for f in files]
        out = [p.communicate(timeout=30)[0] for p in ps]
    assert all(p.returncode == 0 for p in ps), out
    numbers = sorted(int(re.match(r'generation (\d+) ', o)[1]) for o in out)
    assert numbers == list(range(2, 10)), numbers
    assert load.lost() == 0, load.lost()
