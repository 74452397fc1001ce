"""The tour of docker/README.md, word for word."""

import os
import re
import subprocess

from .demonstration import require
from .engine import DOCKER

# `docker compose` is whatever there is; without a terminal, `exec` must not ask for one.
SHIM = '''#!/bin/sh
[ "$1" = compose ] || exec %s "$@"
verb=$2
shift 2
[ "$verb" = exec ] && set -- -T "$@"
exec %s "$verb" "$@"
'''
# What somebody who follows it sees.
EXPECTED = ('3 received', ' 1  10.10.0.1', '\n198.51.100.1 ', '\n198.51.100.3 ', 'forwards packets', 'icmp     1 ', 'lan-out',
            '"status":"success"', 'generation 2', 'FAILED', 'dropped, as the policy says', 'A rule, or the default, said drop.',
            'no gateway, no way')


def commands():
    """The commands of the page's section, as one script."""
    with open(os.path.join(DOCKER, 'README.md')) as f:
        section = f.read().split('\n## Tour\n')[1].split('\n## ')[0]
    return ''.join(re.findall(r'^```sh\n(.*?)^```$', section, re.M | re.S))


def tour(lab):
    """Runs the commands in a folder that looks like docker/; the testbed is down after them."""
    script = commands()
    require(script.count('docker compose') > 15, 'the tour has lost its commands')
    engine, folder, programs = lab.engine, lab.path('tour'), lab.path('programs')
    os.makedirs(folder)
    os.makedirs(programs)
    os.symlink(lab.policy, os.path.join(folder, 'policy'))
    with open(os.path.join(programs, 'docker'), 'w') as f:
        f.write(SHIM % (engine.docker, ' '.join(engine.compose_argv())))
    os.chmod(f.name, 0o755)
    env = dict(engine.env, PATH='%s:%s' % (programs, engine.env['PATH']))
    before = lab.gateway.status()['policy']['generation']
    script = 'set -eu\n' + script.replace(':9090', ':' + engine.env['PROMETHEUS_PORT'])
    with open(lab.path('tour.txt'), 'w') as out:
        status = subprocess.run(engine.at_home('bash', '-c', script), cwd=folder, env=env, stdin=subprocess.DEVNULL,
                                stdout=out, stderr=out, timeout=180).returncode
    with open(lab.path('tour.txt')) as f:
        seen = f.read()
    expected = [e.replace('generation 2', 'generation %d' % (before + 1)) for e in EXPECTED]
    missing = [e for e in expected if e not in seen]
    require(status == 0 and not missing, 'exit status %d, missing: %s\n%s' % (status, missing, seen))
    return '%d commands, as the page says' % script.count('\n')
