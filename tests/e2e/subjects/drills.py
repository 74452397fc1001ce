"""The fault drills of lab/drills.py, and those that concern the machine: its disk and its clock."""

import glob
import os
import time

from lab import drills
from lab.namespace import run
from lab.policy import *
from lab.programs import Conversation, ping, udp_ask, wait_for
from runner import test


@test(workers=(2,), rows=[(d.__name__, d) for d in drills.NETWORK], kernel=False, start=False)
def drill(lab, row):
    """A fault under traffic; what is expected stands in lab/drills.py."""
    policy = base(lab.workers)
    # A flood fills it.
    policy['conntrack'] = {'max_connections': 20_000}
    lab.policy_text = policy
    lab.gateway.start(policy)
    for ns in (lab.server, lab.outside):
        lab.serve(ns)
    print('     %s: %s' % (row[0].replace('_', ' '), row[1](lab)), flush=True)


@test(kernel=False, start=False)
def disk_full(lab):
    """The disk that log, policy and socket are on fills up: packets flow on, a policy from elsewhere can be loaded, and
    when there is room again the log goes on."""
    small = lab.path('small')
    os.makedirs(small)
    run('mount', '-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', small)
    try:
        g = lab.gateway
        g.log, g.config, g.socket = small + '/sluice.log', small + '/sluice.yaml', small + '/control.sock'
        policy = base()
        # Each refused packet is a line of the log.
        policy['policy']['rules'].append({'name': 'told', 'action': 'drop', 'log': True})
        g.start(policy)
        lab.serve(lab.server)
        with open(small + '/fill', 'wb', buffering=0) as f:
            try:
                while True:
                    f.write(bytes(512))
            except OSError:
                pass
        with Conversation(lab.client, SERVER) as talk:
            talk.ask()
            size = os.path.getsize(g.log)
            for _ in range(3):
                # Of the log's last block there may be some left.
                lab.server.run('ping', '-c', 20, '-i', '0.01', '-W', 1, CLIENT6, check=False)
                assert g.cli('reload', lab.path('missing.yaml'), check=False).returncode == 1
            assert os.path.getsize(g.log) < size + 4096, 'the disk is not full'
            assert g.running(), 'the daemon has ended'
            with open(lab.path('elsewhere.yaml'), 'w') as f, open(g.config) as before:
                f.write(before.read().replace('told', 'told-again'))
            g.cli('reload', lab.path('elsewhere.yaml'))
            assert talk.ask()[0] == WAN and udp_ask(lab.client, SERVER)[0] == WAN
            g.cli('status')
            os.remove(small + '/fill')
            g.cli('reload', g.config)
            wait_for(lambda: 'generation 3' in g.log_text(), 'the log goes on', 5)
            assert talk.ask()[0] == WAN
        g.check()
    finally:
        lab.gateway.close()
        run('umount', '-l', small)


@test(kernel=False, start=False)
def clock_jump(lab):
    """The clock jumps a day ahead and two back: connections, their timeouts and a trial of a policy go by time that
    passes, not by the clock."""
    library = glob.glob('/usr/lib/*/faketime/libfaketime.so.1')[0]
    clock = lab.path('clock')

    def jump(offset):
        with open(clock + '.new', 'w') as f:
            f.write(offset)
        os.replace(clock + '.new', clock)
    jump('+0')
    lab.gateway.start(base(), prefix=('env', 'LD_PRELOAD=' + library, 'FAKETIME_TIMESTAMP_FILE=' + clock,
                                      'FAKETIME_NO_CACHE=1', 'FAKETIME_DONT_FAKE_MONOTONIC=1'))
    lab.serve(lab.server)
    with Conversation(lab.client, SERVER) as talk:
        source = talk.ask()
        trial = base()
        trial['policy']['rules'].append({'name': 'trial', 'action': 'drop'})
        lab.gateway.reload(trial, '--confirm', '4s')
        started = time.monotonic()
        for offset in ('+1d', '-1d'):
            jump(offset)
            time.sleep(1)
            assert talk.ask() == source and udp_ask(lab.client, SERVER)[0] == WAN
            assert ping(lab.client, SERVER).received == 3
            left = [int(line.split()[2]) for line in lab.gateway.conntrack('-p', 'tcp')]
            assert len(left) == 1 and 431_990 < left[0] <= 432_000, left
            status = lab.gateway.status()
            assert status['uptime_seconds'] < 60, status['uptime_seconds']
            assert status['policy']['unconfirmed'], 'the trial has ended'
        wait_for(lambda: not lab.gateway.status()['policy']['unconfirmed'], 'the trial ends', 10)
        took = time.monotonic() - started
        assert took > 3, 'the trial ended after %.1f s' % took
        assert talk.ask() == source
