"""The documentation's commands and examples, run as they stand there."""

import os
import re
import subprocess
import time

from lab.gateway import ROOT, binary
from lab.namespace import run
from lab.policy import *
from lab.programs import tcp_ask
from runner import test

INTERFACES = 'version: 1\ninterfaces:\n  lan: { device: lan0, zone: inside }\n  wan: { device: wan0, zone: outside }\n'


def page(name):
    """A page's text."""
    with open(os.path.join(ROOT, 'docs', name)) as f:
        return f.read()


def blocks(text, language):
    """The fenced blocks of a language."""
    return re.findall(r'^```%s\n(.*?)^```$' % language, text, re.M | re.S)


@test(start=False, kernel=False)
def getting_started(lab):
    """Somebody follows the page word by word."""
    folder = lab.path('started')
    os.makedirs(folder)
    os.symlink(binary(), os.path.join(folder, 'sluice'))
    script = '\n'.join(blocks(page('getting-started.md'), 'sh'))
    assert len(script) > 1000 and 'sluice run' in script
    # Names of namespaces are the machine's: those of this run are its own.
    prefix = 'sl%d-' % os.getpid()
    script = 'set -eu\nPATH=.:$PATH\n' + script.replace('sl-', prefix).replace('/tmp/sluice-first.sock', lab.path('first.sock'))
    try:
        # Into a file: what goes on in the background when a command fails would hold a pipe open.
        with open(lab.path('output'), 'w') as f:
            status = subprocess.run(['bash', '-c', script], cwd=folder, stdin=subprocess.DEVNULL, stdout=f, stderr=f,
                                    timeout=60).returncode
    finally:
        for host in ('client', 'gateway', 'server'):
            for pid in run('ip', 'netns', 'pids', prefix + host, check=False).stdout.split():
                run('kill', pid, check=False)
            run('ip', 'netns', 'delete', prefix + host, check=False)
    with open(lab.path('output')) as f:
        output = f.read()
    assert status == 0, output
    for expected in ('gateway.yaml is valid', 'forwards packets', '3 received', '198.51.100.1 - - [', 'src=10.10.0.2',
                     'sluice_connections', 'no answer, as the policy says', 'policy  ',
                     'rule        drop by the policy\'s default', 'it would be dropped', 'rule        accept by lan-out (gateway.yaml:',
                     'icmp 198.51.100.2 > 10.10.0.2 type 8 code 0'):
        assert expected in output, '%s is missing in\n%s' % (expected, output)
    assert output.count('version: 1') == 2, output


@test(start=False, kernel=False)
def from_nftables_rules(lab):
    """nft accepts its half of every pair, and `sluice check` the other, without a warning."""
    text = page('from-nftables.md')
    pairs = blocks(text, 'nft'), blocks(text, 'yaml')
    assert len(pairs[0]) == len(pairs[1]) >= 9
    for nft in pairs[0]:
        lab.gw.run('nft', '-c', '-f', '-', stdin=nft)
    for i, yaml in enumerate(pairs[1]):
        path = lab.path('pair-%d.yaml' % i)
        with open(path, 'w') as f:
            f.write(INTERFACES + yaml + ('' if 'policy:' in yaml else 'policy: { default: accept }\n'))
        r = run(binary(), 'check', path)
        assert 'warning' not in r.stderr, r.stderr


@test(kernel=False)
def from_nftables_commands(lab):
    """Every command of the table runs, on the kernel's table and on Sluice's."""
    rows = [re.findall(r'`([^`]+)`', line) for line in page('from-nftables.md').splitlines() if line.startswith('| ')]
    rows = [r for r in rows if any(x.startswith('sluice ') for x in r)]
    assert len(rows) >= 12
    lab.serve(lab.server)
    tcp_ask(lab.client, SERVER)
    # The kernel's tracking is on where a rule asks for it.
    lab.gw.run('nft', '-f', '-', stdin='table ip t { chain c { type filter hook output priority 0; ct state new accept; }; }')
    lab.gw.run('ping', '-c', 1, SERVER)
    nft = lab.path('empty.nft')
    with open(nft, 'w') as f:
        f.write('table inet nothing {}\n')
    files = {'nft': nft, 'sluice': lab.gateway.config}
    for command in (x for row in rows for x in row):
        argv = command.split()
        argv = [files[argv[0]] if a == 'FILE' else a for a in argv]
        follows = argv[1:] in (['conntrack', 'events', '-e', 'NEW,DESTROY'], ['top'], ['monitor'], ['monitor', 'trace'],
                               ['trace', '--match', 'dropped']) or '-E' in argv
        if argv[0] == 'sluice':
            argv[0] = binary()
            argv += ['--socket', lab.gateway.socket] if 'check' not in argv else []
            argv += ['--json', '-n', '1'] if 'top' in argv else []
        if follows and 'top' not in argv:
            p = subprocess.Popen(lab.gw.argv(*argv), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.3)
            assert p.poll() is None, command + ' ended'
            p.terminate()
            p.wait(10)
        else:
            r = lab.gw.run(*argv, check=False)
            # conntrack-tools fail where there is nothing to delete or to change.
            nothing = argv[0] == 'conntrack' and ('-D' in argv or '-U' in argv) and '0 flow entries' in r.stderr
            assert r.returncode == 0 or nothing, (command, r.stdout, r.stderr)
