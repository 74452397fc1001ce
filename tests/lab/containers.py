"""The laboratory in containers: docker/compose.yaml as it stands, with the same hosts as in `topology`.

Programs run inside the containers (docker exec), sockets of the tests are opened in their network namespaces. What the
image of a real gateway does not have, like ping, runs in the gateway's network namespace from outside.
"""

import http.client
import json
import os
import shutil
import tempfile
import time

from .engine import DOCKER
from .gateway import Sluice
from .namespace import Namespace, end, run
from .programs import wait_for
from .prometheus import Api

NODES = ('client', 'client2', 'gateway', 'server', 'outside')


class Container(Namespace):
    """A service of the compose file, as a host."""

    def __init__(self, testbed, service):                                   # pylint: disable=super-init-not-called
        self.testbed, self.short = testbed, service
        self._outer, self._children = [], []
        self._pid = None

    @property
    def environment(self):
        """Where `docker` finds the engine."""
        return self.testbed.engine.env

    @property
    def id(self):
        """The container's id, which it keeps when it is started again."""
        return self.testbed.engine.compose('ps', '-q', self.short).stdout.strip()

    def inspect(self, what):
        """A field, in Go's template language."""
        return self.testbed.engine.run('inspect', '--format', what, self.id).stdout.strip()

    @property
    def file(self):
        """The network namespace of the container that runs now."""
        if not self._pid or not os.path.exists('/proc/%s/ns/net' % self._pid):
            self._pid = self.inspect('{{.State.Pid}}')
            assert self._pid not in ('', '0'), '%s does not run' % self.short
        return '/proc/%s/ns/net' % self._pid

    def argv(self, *command):
        """The command line that runs `command` in the container."""
        return [self.testbed.engine.docker, 'exec', self.testbed.names[self.short]] + [str(c) for c in command]

    def run(self, *command, **how):
        """Runs a command in the container."""
        return run(*self.argv(*command), env=self.testbed.engine.env, **how)

    def start(self, *command, log, env=None):
        """Starts a process in the container."""
        return super().start(*command, log=log, env=self.testbed.engine.env)

    def outside(self, *command, **how):
        """Runs a command of this machine in the container's network namespace."""
        return run(*self.wire_argv(*command), **how)

    def ip(self, *words, check=True):
        """Runs `ip` in the container's network namespace and returns what it printed."""
        return self.outside('ip', *words, check=check).stdout

    def batch(self, lines):
        """Runs several `ip` commands in the container's network namespace."""
        self.outside('ip', '-batch', '-', stdin='\n'.join(lines) + '\n')

    def nft(self, rules):
        """Loads nftables rules in the container's network namespace."""
        self.outside('nft', '-f', '-', stdin=rules)

    def close(self):
        """Ends what `start` started; the container is compose's."""
        for p in self._children:
            end(p)


class Wire(Container):
    """The gateway's network namespace, as a host: with this machine's programs."""

    def argv(self, *command):
        """The command line that runs `command` in the network namespace."""
        return self.wire_argv(*command)


class Gateway(Sluice):
    """The gateway's container."""

    metrics_address = ('10.255.42.2', 9464)

    def __init__(self, lab):                                                # pylint: disable=super-init-not-called
        self.lab, self.node = lab, lab.gw
        self.config = os.path.join(lab.policy, 'sluice.yaml')

    def container(self, *words, **how):
        """Runs a verb of `docker` on the container: `docker WORD... CONTAINER`."""
        return self.lab.engine.run(*words, self.lab.names['gateway'], **how)

    def health(self):
        """What the engine's health check has found."""
        return self.node.inspect('{{.State.Health.Status}}')

    def running(self):
        """Whether the container runs."""
        return self.node.inspect('{{.State.Running}}') == 'true'

    def wait(self, seconds=60):
        """Waits until packets flow."""
        wait_for(lambda: self.running() and self.cli('status', check=False).returncode == 0, 'sluice status', seconds, 0.2)

    def start(self, policy=None, seconds=60, **how):
        """Starts the container again."""
        self.container('start')
        self.wait(seconds)

    def kill(self):
        """SIGKILL."""
        self.container('kill', '--signal', 'KILL')

    def stop(self, seconds=10):
        """SIGTERM, as `docker stop` does; returns the exit status."""
        self.container('stop', '--time', str(seconds), timeout=seconds + 20)
        return int(self.node.inspect('{{.State.ExitCode}}'))

    def close(self):
        """Nothing: the container is compose's."""

    def cli(self, *words, check=True, timeout=20):
        """A client verb, inside the container."""
        return run(self.lab.engine.docker, 'exec', self.lab.names['gateway'], 'sluice', *words, env=self.lab.engine.env,
                   check=check, timeout=timeout)

    def http(self, path):
        """A page of the metrics listener."""
        connection = http.client.HTTPConnection(*self.metrics_address, timeout=5)
        with self.node:
            connection.connect()
        connection.request('GET', path)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        assert answer.status == 200, '%s: %d %s' % (path, answer.status, body)
        return body

    def attached(self):
        """Nothing is left of a namespace that is gone."""
        return []

    def log_text(self):
        """Everything that the container's daemons have logged."""
        r = self.container('logs')
        return r.stdout + r.stderr


class Testbed:
    """docker/compose.yaml, brought up; `with Testbed(engine) as lab:` takes it down in every case."""

    has_engine = True

    def __init__(self, engine, say, prebuilt=True):
        self.engine, self.say = engine, say
        self.prefix = 'sluice%d-testbed' % os.getpid()
        self.folder = tempfile.mkdtemp(prefix=self.prefix + '-')
        os.chmod(self.folder, 0o755)
        self.policy = self.path('policy')
        shutil.copytree(os.path.join(DOCKER, 'policy'), self.policy)
        os.makedirs(self.path('server-files'))
        # The checks' files, and nothing else, are put over the compose file.
        override = {'services': {'client': {'volumes': ['%s:%s' % (self.folder, self.folder)]},
                                 'server': {'volumes': [self.path('server-files') + ':/srv']}}}
        with open(self.path('files.json'), 'w') as f:
            json.dump(override, f)
        engine.files.append(self.path('files.json'))
        engine.env.update(COMPOSE_PROJECT_NAME=self.prefix, COMPOSE_PROFILES='', SLUICE_POLICY=self.policy,
                          SLUICE_BINARY='prebuilt' if prebuilt else 'build', PROMETHEUS_PORT='9190')
        # The gateway keeps its own.
        self.policy_text = None
        self.names, self.hosts = {}, {}
        try:
            self._up()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def path(self, name):
        """A file of this laboratory; the client sees it at the same place."""
        return os.path.join(self.folder, name)

    def _up(self):
        started = time.monotonic()
        self.engine.compose('build', timeout=3600)
        self.say('images built in %d s' % (time.monotonic() - started))
        self.engine.compose('up', '--detach', '--no-build', timeout=120)
        for service in NODES + ('wire', 'prometheus'):
            node = Wire(self, service) if service == 'gateway' else Container(self, service)
            self.names[service] = node.id
            assert node.id, '%s was not started' % service
            self.hosts[service] = node
            setattr(self, 'gw' if service == 'gateway' else service, node)
        self.gateway = Gateway(self)
        self.gateway.wait()
        wait_for(lambda: self.gateway.health() == 'healthy', 'the health check', 60, 0.5)
        self.say('up after %d s' % (time.monotonic() - started))
        self.prometheus = Api(self.hosts['prometheus'])

    def close(self):
        """Takes everything down."""
        for node in self.hosts.values():
            node.close()
        self.engine.compose('down', '--volumes', '--timeout', '5', check=False, timeout=120)
        self.engine.run('image', 'rm', self.prefix + '-gateway', self.prefix + '-host', check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def logs(self):
        """What the containers have logged."""
        return self.engine.compose('logs', '--no-color', '--tail', '40', check=False).stdout
