"""As a service: what is installed, what systemd is told, with which privileges it runs."""

import ctypes
import json
import os
import re
import shutil
import socket
import subprocess

from lab.gateway import ROOT, binary
from lab.namespace import run
from lab.policy import *
from lab.programs import udp_ask, wait_for
from runner import test

UNIT = os.path.join(ROOT, 'control', 'systemd', 'sluice.service')


def make(target, prefix):
    """Runs a make target that installs below `prefix`."""
    return run('make', '-s', '-C', ROOT, target, 'BINARY=' + binary(), 'PREFIX=' + prefix, timeout=60)


@test(start=False, kernel=False)
def install(lab):
    """`make install` gives binary, manual, completions, schema and a unit that systemd accepts; `uninstall` takes them away."""
    prefix = lab.path('usr')
    make('install', prefix)
    sluice = os.path.join(prefix, 'bin', 'sluice')
    verbs = re.findall(r'^  ([a-z]+) ', run(sluice, 'help').stdout, re.M)
    assert {'run', 'check', 'status', 'conntrack'} <= set(verbs), verbs
    pages = os.listdir(os.path.join(prefix, 'share/man/man1'))
    assert all('sluice-%s.1' % v in pages for v in verbs if v != 'help') and 'sluice-conntrack-events.1' in pages, pages
    with open(os.path.join(prefix, 'share/man/man1/sluice-conntrack-list.1')) as f:
        assert 'Original source port' in f.read()
    bash = os.path.join(prefix, 'share/bash-completion/completions/sluice')
    told = run('bash', '-c', 'source %s && COMP_WORDS=(sluice conn) COMP_CWORD=1 && _sluice sluice conn sluice; '
               'echo "${COMPREPLY[@]}"' % bash).stdout
    assert told.split() == ['conntrack'], told
    with open(os.path.join(prefix, 'share/sluice/schema.json')) as f:
        schema = json.load(f)
    assert schema['required'] == ['version', 'interfaces'] and not schema['additionalProperties']
    rule = schema['properties']['policy']['properties']['rules']['items']
    assert 'to' in rule['properties'] and rule['properties']['action']['description'], rule
    if shutil.which('systemd-analyze'):
        unit = os.path.join(prefix, 'lib/systemd/system/sluice.service')
        # It also looks for the manual's page, which is not where `man` looks.
        r = run('systemd-analyze', 'verify', '--man=no', unit)
        assert not r.stdout + r.stderr, r.stdout + r.stderr
    make('uninstall', prefix)
    left = [os.path.join(d, f) for d, _, files in os.walk(prefix) for f in files]
    assert not left, left


@test(workers=(1, 2), start=False, kernel=False)
def notify(lab):
    """With no more capabilities than the unit has, the daemon runs, and gives systemd its signs of life."""
    path = lab.path('notify')
    with open(UNIT) as f:
        capabilities = re.search(r'^CapabilityBoundingSet=(.*)$', f.read(), re.M)[1].split()
    bounding = '-all,' + ','.join('+' + c[4:].lower() for c in capabilities)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(20)
        lab.gateway.launch(base(lab.workers), prefix=(
            'env', 'NOTIFY_SOCKET=' + path, 'WATCHDOG_USEC=10000000', 'setpriv', '--bounding-set', bounding,
            '--inh-caps', bounding, '--no-new-privs'))

        def told():
            return systemd.recv(4096).decode().split('\n')

        first = told()
        assert 'READY=1' in first, first
        lab.serve(lab.server)
        assert udp_ask(lab.client, SERVER)[0] == WAN
        for _ in range(2):
            signs = told()
            assert 'WATCHDOG=1' in signs, signs
        lab.gateway.process.terminate()
        states = []
        while 'STOPPING=1' not in states:
            states += told()
    assert lab.gateway.process.wait(10) == 0


PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17


@test(kernel=False)
def a_hung_worker(lab):
    """A worker that stands still, stopped here by a debugger's means, keeps the sign of life back."""
    pid = lab.gateway.process.pid

    def name(task):
        with open('/proc/%d/task/%s/comm' % (pid, task)) as f:
            return f.read().strip()

    worker = next(int(t) for t in os.listdir('/proc/%d/task' % pid) if name(t) == 'worker/0')
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        assert libc.ptrace(request, worker, None, None) == 0, os.strerror(ctypes.get_errno())
    os.waitpid(worker, 0x40000000)  # __WALL: a thread that is not our child
    complaint = 'worker 0 stands still'
    wait_for(lambda: complaint in lab.gateway.log_text(), 'the complaint')
    assert libc.ptrace(PTRACE_DETACH, worker, None, None) == 0
    lab.serve(lab.server)
    assert udp_ask(lab.client, SERVER)[0] == WAN, 'it goes on afterwards'
