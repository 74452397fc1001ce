"""Sluice as the gateway: the real binary, its command line, its metrics."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time

from . import tc
from .namespace import end
from .policy import base, to_yaml
from .programs import wait_for

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def binary():
    """The binary under test: $SLUICE, or the release build."""
    return os.environ.get('SLUICE') or os.path.join(
        os.environ.get('CARGO_TARGET_DIR') or os.path.join(ROOT, 'target'), 'release', 'sluice')


class Sluice:
    """`sluice run` in the gateway's namespace."""

    name = 'sluice'

    def __init__(self, lab):
        self.lab = lab
        self.process = None
        self.socket = lab.path('control.sock')
        self.config = lab.path('sluice.yaml')
        self.log = lab.path('sluice.log')
        # Of every `sluice run`.
        self.options = []

    def write(self, policy):
        """Writes the configuration file; `policy` is YAML text or values."""
        if not isinstance(policy, str):
            policy = dict(policy)
            policy.setdefault('control', {'socket': self.socket, 'metrics': '127.0.0.1:9464'})
            policy = to_yaml(policy)
        with open(self.config, 'w') as f:
            f.write(policy)

    def launch(self, policy, prefix=(), options=()):
        """Starts `sluice run` without waiting for it; `prefix` is put before the command, `options` behind it."""
        self.write(policy)
        self.process = self.lab.gw.start(*prefix, binary(), 'run', '--config', self.config, *self.options, *options,
                                         log=self.log)

    def start(self, policy=None, seconds=20, **how):
        """Starts `sluice run` and waits until `sluice status` says that packets flow; see `launch`."""
        self.launch(base() if policy is None else policy, **how)
        deadline = time.monotonic() + seconds
        while self.cli('status', check=False).returncode:
            if self.process.poll() is not None:
                raise AssertionError('sluice run ended with status %d' % self.process.returncode)
            if time.monotonic() > deadline:
                raise AssertionError('sluice status fails after %d s' % seconds)
            time.sleep(0.05)

    def run_to_end(self, policy, prefix=(), seconds=20):
        """Runs `sluice run` that is expected to refuse; returns (exit status, standard error)."""
        self.write(policy)
        p = subprocess.run(self.lab.gw.argv(*prefix, binary(), 'run', '--config', self.config), text=True,
                           stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds)
        with open(self.log, 'a') as f:
            f.write(p.stdout + p.stderr)
        return p.returncode, p.stdout + p.stderr

    def stop(self, seconds=10):
        """SIGTERM; returns the exit status."""
        end(self.process, seconds)
        return self.process.returncode

    def kill(self):
        """SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self):
        """Ends the daemon, if it runs."""
        if self.process is not None:
            end(self.process)

    def running(self):
        """Whether the daemon lives."""
        return self.process is not None and self.process.poll() is None

    def cli(self, *words, check=True, timeout=20):
        """A client verb, over this daemon's socket."""
        return self.lab.gw.run(binary(), *words, '--socket', self.socket, check=check, timeout=timeout)

    def reload(self, policy, *words, check=True):
        """Writes the configuration file and runs `sluice reload`."""
        self.write(policy)
        return self.cli('reload', *words, check=check)

    def status(self):
        """`sluice status --json`."""
        return json.loads(self.cli('status', '--json').stdout)

    def conntrack(self, *words):
        """The lines of `sluice conntrack list`."""
        return self.cli('conntrack', 'list', *words).stdout.splitlines()

    def http(self, path):
        """A page of the metrics listener."""
        return self.lab.gw.run('curl', '-sS', '--fail', '--max-time', 5, 'http://127.0.0.1:9464' + path).stdout

    def metric(self, name, **labels):
        """The sum of a metric's values over all series that have these labels."""
        return sum(v for n, l, v in metrics(self.http('/metrics'))
                   if n == name and all(l.get(k) == x for k, x in labels.items()))

    def dropped(self, reason):
        """Packets dropped for a reason, from the metrics."""
        return int(self.metric('sluice_dropped_packets_total', reason=reason))

    def counted(self):
        """What the running daemon has counted of packets, for the report of a failed test."""
        if not self.running():
            return []
        wanted = re.compile(r'sluice_(burst_seconds_bucket|dropped|interface_(receive|transmit)_packets|steered|punt|icmp|handed_off|xsk)')
        try:
            series = metrics(self.http('/metrics'))
        except (OSError, subprocess.SubprocessError, AssertionError) as e:
            return ['no metrics: %s' % e]
        out = ['%s{%s} %d' % (n, ','.join('%s="%s"' % x for x in labels.items()), value)
               for n, labels, value in series if value and wanted.match(n)]
        for device in sorted({labels['device'] for _, labels, _ in series if 'device' in labels}):
            lines = self.lab.gw.run('ethtool', '-S', device, check=False).stdout.splitlines()[1:]
            out += ['%s %s' % (device, line.strip()) for line in lines if not line.endswith(' 0')]
        # What a loaded machine does to a worker shows in how long it was ready to run and did not.
        for task in sorted(os.listdir('/proc/%d/task' % self.process.pid)):
            path = '/proc/%d/task/%s/' % (self.process.pid, task)
            with contextlib.suppress(OSError), open(path + 'comm') as name, open(path + 'schedstat') as times:
                ran, waited = (int(n) / 1e6 for n in times.read().split()[:2])
                out.append('thread %s ran %d ms, waited %d ms for a CPU' % (name.read().strip(), ran, waited))
        return out

    def attached(self):
        """The lines of `ip link` that name an XDP program."""
        return [line for line in self.lab.gw.ip('-d', 'link', 'show').splitlines() if re.search(r'\bxdp', line)]

    def translates_answers(self):
        """The interfaces whose way out has the program that translates the host's answers back."""
        return [d for d in ('lan0', 'wan0') if 'sluice_host' in tc.programs(self.lab.gw, d)]

    def log_text(self):
        """Everything the daemon has logged."""
        with open(self.log, errors='replace') as f:
            return f.read()

    def check(self):
        """What holds at the end of every test in which the daemon still runs."""
        if not self.running():
            return
        wait_for(lambda: self.unaccounted() == 0, 'status accounts for every frame', 3)
        bad = [line for line in self.log_text().splitlines() if re.search(r'\bERROR\b|panicked', line)]
        if bad:
            raise AssertionError('errors in the log: ' + ' / '.join(bad[:3]))
        status = self.stop()
        if status:
            raise AssertionError('exit status %d after SIGTERM' % status)
        if self.attached():
            raise AssertionError('still attached after SIGTERM: ' + self.attached()[0].strip())
        if self.translates_answers():
            raise AssertionError('a program for answers is left on %s after SIGTERM' % self.translates_answers())

    def unaccounted(self):
        """Frames of all UMEMs that `sluice status` finds nowhere."""
        frames = [w['frames'] for w in self.status()['workers']]
        return sum(abs(f['total'] - sum(n for place, n in f.items() if place != 'total')) for f in frames)


def metrics(text):
    """The series of a page in Prometheus' text format: (name, labels, value)."""
    out = []
    for line in text.splitlines():
        m = re.match(r'([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)', line)
        if m:
            out.append((m[1], dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', m[2] or '')), float(m[3])))
    return out
