"""A container engine for the testbed: the machine's own, or one that is started apart and leaves nothing behind.

An engine of our own lives in a network namespace, so that its bridge and its iptables rules are nobody else's; slirp4netns
gives it the way to the package mirrors that building images needs. Data, socket and process files are in one folder.
"""

import glob
import os
import re
import shutil
import subprocess
import tempfile

from .gateway import ROOT
from .namespace import CommandFailed, Namespace, end, run
from .programs import wait_for

DOCKER = os.path.join(ROOT, 'docker')
PACKAGES = ['docker.io', 'docker-compose', 'debootstrap', 'slirp4netns']
MIRROR, RELEASE = 'http://deb.debian.org/debian', 'bookworm'
CERTIFICATES = '/etc/ssl/certs/ca-certificates.crt'
# slirp4netns' own.
RESOLVER = '10.0.2.3'


class NoEngine(Exception):
    """No engine runs and none can be started."""


class Engine:
    """`docker` and `docker compose`; `with Engine()` ends one that was started."""

    def __init__(self, say):
        self.say, self.folder, self.ns, self.slirp, self.made = say, None, None, None, []
        self.scratch = tempfile.mkdtemp(prefix='sluice%d-images-' % os.getpid())
        self.env = dict(os.environ, DOCKER_BUILDKIT='1', COMPOSE_DOCKER_CLI_BUILD='1')
        self.docker = next((p for p in ('/usr/bin/docker', shutil.which('docker')) if p and os.path.exists(p)), None)
        self._prefer()
        if self.docker and run(self.docker, 'info', check=False).returncode == 0:
            say('the engine that runs on this machine')
        else:
            self._start()
        self.compose_words = self._compose()
        self.files = [os.path.join(DOCKER, 'compose.yaml')]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _prefer(self):
        """docker-compose calls `docker`: the one that was found."""
        if self.docker:
            self.env['PATH'] = '%s:%s' % (os.path.dirname(self.docker), os.environ['PATH'])

    def close(self):
        """Ends an engine that was started, and removes its data."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        for image in self.made if self.folder is None else []:
            # A tag of our making must not pass for the real one on somebody's engine.
            self.run('image', 'rm', '--force', image, check=False)
        if self.folder is None:
            return
        if self.ns:
            self.ns.close()
        if self.slirp:
            end(self.slirp)
        # What a daemon that was killed leaves mounted.
        with open('/proc/self/mounts') as f:
            for where in sorted((line.split()[1] for line in f if self.folder in line), reverse=True):
                run('umount', '-l', where, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder = None

    def run(self, *words, **how):
        """Runs `docker`."""
        return run(self.docker, *words, env=self.env, **how)

    def compose(self, *words, **how):
        """Runs `docker compose` for the testbed."""
        return run(*self.compose_argv(), *words, env=self.env, **how)

    def compose_argv(self):
        """`docker compose` with the files' names."""
        return self.compose_words + [w for f in self.files for w in ('-f', f)]

    def at_home(self, *command):
        """The command line that runs `command` where published ports are at 127.0.0.1."""
        return self.ns.argv(*command) if self.ns else list(command)

    def _start(self):
        missing = [p for p in PACKAGES if not installed(p)]
        if missing:
            self.say('no engine runs here: installing %s' % ' '.join(missing))
            install(missing)
        self.docker = '/usr/bin/docker'
        self._prefer()
        self.folder = tempfile.mkdtemp(prefix='sluice%d-engine-' % os.getpid())
        try:
            self._launch()
        except Exception as e:
            log = self._tail('dockerd.log')
            self.close()
            raise NoEngine('%s\n%s' % (e, log)) from e
        self.say('an engine of its own, with its data in %s' % self.folder)

    def _launch(self):
        self.ns = Namespace('sluice%d-' % os.getpid(), 'engine')
        path = lambda name: os.path.join(self.folder, name)         # noqa: E731
        with open(path('slirp.log'), 'w') as log:
            self.slirp = subprocess.Popen(['slirp4netns', '--configure', '--mtu=1500', '--disable-host-loopback',
                                           '--netns-type=path', self.ns.file, 'tap0'], stdout=log, stderr=log)
        wait_for(lambda: 'tap0' in self.ns.ip('-o', 'link'), 'slirp4netns')
        with open(path('resolv.conf'), 'w') as f:
            f.write('nameserver %s\n' % RESOLVER)
        socket = 'unix://' + path('docker.sock')
        # In a mount namespace, where its resolver is known.
        daemon = self.ns.start('unshare', '--mount', 'sh', '-c', 'mount --bind "$0" /etc/resolv.conf && exec "$@"',
                               path('resolv.conf'), 'dockerd', '--data-root', path('data'), '--exec-root', path('exec'),
                               '--pidfile', path('dockerd.pid'), '--host', socket, log=path('dockerd.log'))
        self.env['DOCKER_HOST'] = socket

        def ready():
            if daemon.poll() is not None:
                raise AssertionError('dockerd ended with status %d' % daemon.returncode)
            return self.run('info', check=False).returncode == 0
        wait_for(ready, 'dockerd', 60, pause=0.2)

    def _tail(self, name):
        try:
            with open(os.path.join(self.folder, name), errors='replace') as f:
                return ''.join(f.readlines()[-10:])
        except OSError:
            return ''

    def _compose(self):
        if self.run('compose', 'version', check=False).returncode == 0:
            return [self.docker, 'compose']
        if not shutil.which('docker-compose'):
            install(['docker-compose'])
        return ['docker-compose']

    def base_images(self, compiler):
        """Sees to it that the images exist that the Dockerfile and compose.yaml begin from: pulled, or made here.

        The compiler's is needed only to build the binary in the image.
        """
        for name in base_names():
            if not compiler and name.startswith('rust:'):
                continue
            if self.run('image', 'inspect', name, check=False).returncode:
                if self.run('pull', '--quiet', name, check=False, timeout=600).returncode:
                    self.say('%s cannot be pulled: making it here' % name)
                    self._make(name)

    def _make(self, name):
        """An image with the name's content, from Debian's packages and this machine's Rust."""
        makers = {'debian': self._debian, 'rust': self._rust, 'prom/prometheus': self._prometheus}
        makers[name.split(':')[0]](name)
        self.made.append(name)

    def _root(self):
        root = os.path.join(self.scratch, 'root')
        if not os.path.exists(root):
            run('debootstrap', '--variant=minbase', '--include=ca-certificates', RELEASE, root, MIRROR, timeout=600)
            for useless in ('var/cache/apt/archives/*.deb', 'var/lib/apt/lists/*', 'usr/share/doc/*', 'usr/share/man/*',
                            'usr/share/locale/*'):
                for path in glob.glob(os.path.join(root, useless)):
                    shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
            # What this machine trusts, its images trust.
            shutil.copy(CERTIFICATES, root + CERTIFICATES)
        return root

    def _import(self, name, tar, *changes):
        with subprocess.Popen(['tar', '-c', *tar], stdout=subprocess.PIPE) as p:
            words = [w for c in changes for w in ('--change', c)]
            subprocess.run([self.docker, 'import', *words, '-', name], stdin=p.stdout, env=self.env, check=True,
                           stdout=subprocess.DEVNULL)

    def _debian(self, name):
        self._import(name, ['-C', self._root(), '.'], 'CMD ["bash"]')

    def _rust(self, name):
        here = run('rustc', '--print', 'sysroot').stdout.strip()
        self._import(name, ['--transform', r's,^\(bin\|lib\)\(/\|$\),usr/local/rust/\1\2,', '-C', self._root(), '.',
                            '-C', here, 'bin', 'lib'],
                     'ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin')

    def _prometheus(self, name):
        self.run('build', '--quiet', '--tag', name, '-', timeout=600, stdin='''
            FROM %s
            RUN apt-get update && apt-get install -y --no-install-recommends prometheus && rm -rf /var/lib/apt/lists/*
            ENTRYPOINT ["prometheus"]
            ''' % next(n for n in base_names() if n.startswith('debian:')))


def base_names():
    """The images, Debian's first; without Grafana's, which is optional."""
    with open(os.path.join(DOCKER, 'Dockerfile')) as f:
        names = re.findall(r'^FROM ([^\s$]+:\S+)', f.read(), re.M)
    with open(os.path.join(DOCKER, 'compose.yaml')) as f:
        names += [n for n in re.findall(r'^    image: ([^\s$]+)$', f.read(), re.M) if 'grafana' not in n]
    return sorted(set(names))


def installed(package):
    """Whether a Debian package is there."""
    return run('dpkg-query', '-W', '-f', '${db:Status-Abbrev}', package, check=False).stdout.startswith('ii')


def install(packages):
    """Installs Debian packages; their services are not started."""
    policy = '/usr/sbin/policy-rc.d'
    made = not os.path.exists(policy)
    if made:
        with open(policy, 'w') as f:
            f.write('#!/bin/sh\nexit 101\n')
        os.chmod(policy, 0o755)
    env = dict(os.environ, DEBIAN_FRONTEND='noninteractive')
    try:
        run('apt-get', '-qq', 'update', timeout=300)
        run('apt-get', '-qq', 'install', '-y', '--no-install-recommends', *packages, timeout=600, env=env)
    except (CommandFailed, AssertionError) as e:
        raise NoEngine('%s cannot be installed: %s' % (' '.join(packages), e)) from e
    finally:
        if made:
            os.unlink(policy)
