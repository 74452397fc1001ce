"""Start, stop, crash: what stays attached, who answers, how soon it works again."""

import os
import time

from lab.policy import *
from lab.programs import Conversation, ping, silent, tcp_ask, udp_ask, wait_for
from runner import test

BOTH = (1, 2)


def load(lab, seconds=30):
    """Traffic in the background: UDP through the gateway, paced."""
    lab.server.start('iperf3', '-s', log=os.devnull)
    wait_for(lambda: lab.server.run('ss', '-Hltn', 'sport = :5201').stdout.strip(), 'iperf3 -s')
    p = lab.client.start('iperf3', '-c', SERVER, '-u', '-b', '30M', '-l', 200, '-t', seconds, log=os.devnull)
    time.sleep(0.5)
    assert p.poll() is None, 'iperf3 does not run'


@test(workers=BOTH, kernel=False)
def sigterm_under_load(lab):
    """SIGTERM under load: exit status 0 within seconds, no XDP program left, the host answers."""
    load(lab)
    started = time.monotonic()
    assert lab.gateway.stop() == 0
    took = time.monotonic() - started
    assert took < 5, 'SIGTERM took %.1f s' % took
    assert not lab.gateway.attached(), lab.gateway.attached()
    assert ping(lab.server, WAN).received == 3 and ping(lab.client, LAN).received == 3
    links = lab.gw.run('bpftool', 'link', 'show', check=False).stdout
    ours = [i for name in ('lan0', 'wan0') for i in [' ifindex %s(' % name] if i in links]
    assert not ours, 'BPF links left: ' + links


FAILURE = [('closed', False), ('open', True)]


@test(workers=BOTH, rows=FAILURE, kernel=False, start=False)
def kill_under_load(lab, row):
    """kill -9 under load: the host answers, transit follows on_failure, a new daemon starts at once."""
    mode, passes = row
    policy = base(lab.workers)
    policy['io'] = {'on_failure': mode}
    # With `open` the kernel routes, untranslated, as the host's own rules say.
    lab.leaks_wanted = passes
    lab.gw.sysctl({'net.ipv4.ip_forward': 1, 'net.ipv6.conf.all.forwarding': 1})
    lab.gateway.start(policy)
    lab.serve(lab.server)
    lab.serve(lab.gw, http=8081, echo=22)
    load(lab)
    with Conversation(lab.server, WAN, 22) as ssh:
        ssh.ask()
        lab.gateway.kill()
        assert ssh.ask()[0] == SERVER, 'a connection to the host did not survive'
        assert tcp_ask(lab.client, LAN, 22)[0] == CLIENT and tcp_ask(lab.server, WAN, 22)[0] == SERVER
        for ns, address in ((lab.client, LAN), (lab.client, LAN6), (lab.server, WAN), (lab.server, WAN6),
                            (lab.gw, SERVER), (lab.gw, SERVER6)):
            assert ping(ns, address).received == 3, '%s does not reach %s' % (ns.short, address)
        if passes:
            assert tcp_ask(lab.client, SERVER6)[0] == CLIENT6
        else:
            assert silent(udp_ask, lab.client, SERVER6, tries=2, wait=0.3), 'transit passes although closed'
            assert silent(udp_ask, lab.client, SERVER, tries=2, wait=0.3), 'transit passes although closed'
        started = time.monotonic()
        lab.gateway.start(policy)
        assert udp_ask(lab.client, SERVER)[0] == WAN
        assert tcp_ask(lab.client, SERVER6)[0] == CLIENT6
        took = time.monotonic() - started
        assert took < 8, 'traffic again after %.1f s' % took
        assert ssh.ask()[0] == SERVER


@test(workers=BOTH, kernel=False)
def restarts(lab):
    """Stop and start five times in a row."""
    lab.serve(lab.server)
    for _ in range(5):
        assert udp_ask(lab.client, SERVER)[0] == WAN
        assert lab.gateway.stop() == 0
        lab.gateway.start(base(lab.workers))
    assert udp_ask(lab.client, SERVER)[0] == WAN


@test(kernel=False)
def second_daemon(lab):
    """A second daemon on the same ports refuses to start, and the first one is not disturbed."""
    lab.serve(lab.server)
    policy = base(lab.workers)
    policy['control'] = {'socket': lab.path('other.sock'), 'metrics': '127.0.0.1:9465'}
    process = lab.gateway.process
    status, message = lab.gateway.run_to_end(policy)
    lab.gateway.process = process
    assert status not in (0, 101), message
    assert 'lan0' in message and 'panicked' not in message, message
    assert udp_ask(lab.client, SERVER)[0] == WAN
    assert len(lab.gateway.attached()) >= 2, 'the first daemon lost its ports'


@test(kernel=False)
def ready_means_ready(lab):
    """`sluice status` succeeds only when packets flow: the first packet after it passes."""
    lab.serve(lab.server)
    for _ in range(5):
        lab.gateway.stop()
        lab.gateway.start(base(lab.workers))
        assert udp_ask(lab.client, SERVER, tries=1)[0] == WAN
