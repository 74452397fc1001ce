"""Network namespaces: processes and sockets inside them, and their removal in every case."""

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import tempfile

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_FOLDER = '/run/netns/'


class CommandFailed(Exception):
    """A command ended with another exit status than 0."""

    def __init__(self, argv, result):
        self.result = result
        text = (result.stdout + result.stderr).strip()
        super().__init__('%s: exit %d: %s' % (' '.join(argv), result.returncode, text))


def run(*argv, check=True, timeout=30, stdin=None, env=None):
    """Runs a command to its end and returns the CompletedProcess with text output."""
    argv = [str(a) for a in argv]
    try:
        r = subprocess.run(argv, input=stdin, text=True, capture_output=True, timeout=timeout, env=env,
                           stdin=None if stdin is not None else subprocess.DEVNULL)
    except subprocess.TimeoutExpired as e:
        raise AssertionError('%s: no end after %s s' % (' '.join(argv), timeout)) from e
    if check and r.returncode:
        raise CommandFailed(argv, r)
    return r


class Namespace:
    """One network namespace. `with namespace:` makes sockets opened inside belong to it."""

    # Of the commands that `argv` makes.
    environment = None

    def __init__(self, prefix, name):
        self.short, self.name = name, prefix + name
        self._outer = []
        self._children = []
        run('ip', 'netns', 'add', self.name)
        self.batch(['link set lo up'])
        # Addresses are usable at once, and nothing is learnt from router advertisements.
        self.sysctl({'net.ipv6.conf.all.accept_dad': 0, 'net.ipv6.conf.default.accept_dad': 0,
                     'net.ipv6.conf.all.accept_ra': 0, 'net.ipv6.conf.default.accept_ra': 0,
                     'net.ipv6.conf.default.router_solicitations': 0})

    @property
    def file(self):
        """The namespace as a file."""
        return _FOLDER + self.name

    def __enter__(self):
        self._outer.append(os.open('/proc/thread-self/ns/net', os.O_RDONLY | os.O_CLOEXEC))
        inner = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        _enter(inner)
        os.close(inner)
        return self

    def __exit__(self, *_):
        outer = self._outer.pop()
        _enter(outer)
        os.close(outer)

    def argv(self, *command):
        """The command line that runs `command` in this namespace.

        nsenter and not `ip netns exec`, which would hide the BPF file system behind a fresh /sys.
        """
        return ['nsenter', '--net=' + self.file, '--'] + [str(c) for c in command]

    def wire_argv(self, *command):
        """The command line that runs `command` of this machine in this network namespace, also when it is a container's."""
        return Namespace.argv(self, *command)

    def run(self, *command, **kw):
        """Runs a command in the namespace; see `run`."""
        return run(*self.argv(*command), **kw)

    def start(self, *command, log, env=None):
        """Starts a process in the namespace, its output appended to the file `log`; `close` ends it."""
        with open(log, 'ab') as out:
            p = subprocess.Popen(self.argv(*command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env)
        self._children.append(p)
        return p

    def ip(self, *words, check=True):
        """Runs `ip` in the namespace and returns what it printed."""
        return run('ip', '-n', self.name, *words, check=check).stdout

    def batch(self, lines):
        """Runs several `ip` commands in the namespace at once."""
        run('ip', '-n', self.name, '-batch', '-', stdin='\n'.join(lines) + '\n')

    def sysctl(self, values):
        """Sets kernel parameters of the namespace."""
        with self:
            for name, value in values.items():
                with open('/proc/sys/' + name.replace('.', '/'), 'w') as f:
                    f.write(str(value))

    def nft(self, rules):
        """Loads nftables rules in the namespace."""
        self.run('nft', '-f', '-', stdin=rules)

    def close(self):
        """Ends the namespace's processes and removes it."""
        for p in self._children:
            end(p)
        run('ip', 'netns', 'del', self.name, check=False)


def _enter(fd):
    if _libc.setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), 'setns')


def end(process, seconds=5):
    """Ends a process: SIGTERM, after `seconds` SIGKILL."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def remove_stale(stem):
    """Removes what a killed run left behind: `<stem><pid>-...`, namespaces with their processes, and folders."""
    for name in _stale(_FOLDER, stem):
        for pid in run('ip', 'netns', 'pids', name, check=False).stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGTERM)
        run('ip', 'netns', 'del', name, check=False)
    for name in _stale(tempfile.gettempdir(), stem):
        shutil.rmtree(os.path.join(tempfile.gettempdir(), name), ignore_errors=True)


def _stale(folder, stem):
    """Names `<stem><pid>-...` in a folder whose process is gone."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [n for n in names if (m := re.match(re.escape(stem) + r'(\d+)-', n)) and not os.path.exists('/proc/' + m[1])]
