"""Mixed load on two workers for minutes: every frame accounted for, memory stable, no error in the log.

    python3 tests/soak.py [--minutes 10] [--gateway kernel]
"""

import argparse
import os
import random
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lab.policy import *                                                            # noqa: E402, F403
from lab.programs import Conversation, ping, tcp_ask, udp_ask, wait_for             # noqa: E402
from lab.topology import Lab, exit_on_signals                                       # noqa: E402

# Questions that may stay unanswered, of a thousand: streams without pacing fill queues, and UDP has no second try.
ALLOWED = 5
# From then on memory must not grow.
SETTLED_SECONDS = 200


class Load:
    """Programs and threads that ask through the gateway until stopped, and count what was not answered."""

    def __init__(self, lab):
        self.lab, self.stopped = lab, threading.Event()
        self.asked = self.unanswered = 0
        self.first_failure = None
        self.lock = threading.Lock()
        self.processes, self.threads = [], []

    def start(self):
        """Long streams of iperf3 in both directions and families, and threads with short connections."""
        lab = self.lab
        for port, address, options in ((5301, SERVER, ['-b', '150M']), (5302, SERVER, ['-R', '-b', '150M']),
                                       (5303, SERVER6, ['-b', '100M']),
                                       (5304, SERVER, ['-u', '-b', '40M', '-l', 300]),
                                       (5305, SERVER6, ['-u', '-R', '-b', '20M', '-l', 1000])):
            lab.server.start('iperf3', '-s', '-p', port, log=os.devnull)
            wait_for(lambda: lab.server.run('ss', '-Hltn', 'sport = :%d' % port).stdout.strip(), 'iperf3 -s')
            self.processes.append(lab.client.start('iperf3', '-c', address, '-p', port, '-t', 86400, *options,
                                                   log=os.devnull))
        for ask in (self.udp, self.tcp, self.forwards, self.pings):
            self.threads.append(threading.Thread(target=self.repeat, args=(ask,), daemon=True))
            self.threads[-1].start()

    def repeat(self, ask):
        """Asks until stopped."""
        while not self.stopped.is_set():
            try:
                ask()
                ok = None
            except (AssertionError, OSError) as e:
                ok = '%s: %s' % (ask.__name__, e or type(e).__name__)
            with self.lock:
                self.asked += 1
                self.unanswered += ok is not None
                self.first_failure = self.first_failure or ok

    def udp(self):
        """A datagram from a fresh port."""
        udp_ask(random.choice((self.lab.client, self.lab.client2)), random.choice((SERVER, SERVER6, REMOTE)), wait=2)

    def tcp(self):
        """A connection with a few messages."""
        with Conversation(self.lab.client2, random.choice((SERVER, SERVER6, REMOTE)), timeout=10) as c:
            for size in (1, 1000, 20000):
                c.ask(b'x' * size)

    def forwards(self):
        """From outside to the inside server, and by hairpin."""
        tcp_ask(self.lab.outside, WAN, FORWARD_ECHO, timeout=10)
        udp_ask(self.lab.client, WAN, FORWARD_ECHO, wait=2)

    def pings(self):
        """Through the gateway and to it."""
        for ns, address in ((self.lab.client, SERVER), (self.lab.client, SERVER6), (self.lab.server, WAN)):
            p = ping(ns, address, count=2, wait=3)
            if not p.received:
                raise AssertionError('no answer from ' + address)

    def died(self):
        """Streams that ended although nobody stopped them."""
        return [p for p in self.processes if p.poll() is not None]

    def stop(self):
        """Ends everything."""
        self.stopped.set()
        for t in self.threads:
            t.join(30)
        for p in self.processes:
            p.terminate()
            p.wait()


def resident_kib(pid):
    """The resident memory of a process."""
    with open('/proc/%d/status' % pid) as f:
        return next(int(line.split()[1]) for line in f if line.startswith('VmRSS'))


def mixed_load(lab, seconds, report=lambda line: None):
    """Runs the load for `seconds` and raises AssertionError for what must not be; the lab's gateway runs already."""
    sluice = lab.gateway.name == 'sluice'
    for ns in (lab.server, lab.outside, lab.client2):
        lab.serve(ns)
    load = Load(lab)
    memory = []
    started = time.monotonic()
    load.start()
    try:
        while (elapsed := time.monotonic() - started) < seconds:
            time.sleep(min(10, seconds - elapsed))
            if load.died():
                raise AssertionError('%d of the streams ended' % len(load.died()))
            line = '%4d s  %d asked, %d unanswered' % (time.monotonic() - started, load.asked, load.unanswered)
            if sluice:
                if not lab.gateway.running():
                    raise AssertionError('the daemon ended')
                memory.append(resident_kib(lab.gateway.process.pid))
                line += '  resident %.1f MB, %s' % (memory[-1] / 1024, drops(lab))
            report(line)
    finally:
        load.stop()
    assert load.asked > seconds, 'only %d questions in %d s' % (load.asked, seconds)
    assert load.unanswered * 1000 <= load.asked * ALLOWED, \
        '%d of %d questions unanswered, the first: %s' % (load.unanswered, load.asked, load.first_failure)
    if sluice:
        # The table fills until as many connections expire as begin: UDP streams and TIME_WAIT last 120 s.
        settled = memory[SETTLED_SECONDS // 10:]
        if settled:
            growth = settled[-1] - settled[0]
            assert growth <= settled[0] * 2 // 100, 'memory grew by %d KiB of %d' % (growth, settled[0])
    assert not lab.leaked(), '%d packets left untranslated' % lab.leaked()
    assert not lab.bad_checksums(), 'wrong checksums: %s' % lab.bad_checksums()


def drops(lab):
    """Connections and the reasons of drops, for the progress line."""
    s = lab.gateway.status()
    return '%d connections, dropped: %s' % (s['connections']['ipv4'] + s['connections']['ipv6'],
                                            ', '.join('%s %d' % d for d in s['drops'].items()) or 'nothing')


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--minutes', type=float, default=10)
    ap.add_argument('--gateway', choices=['sluice', 'kernel'], default='sluice')
    opt = ap.parse_args()
    exit_on_signals()
    with Lab(backend=opt.gateway) as lab:
        try:
            policy = base(workers=2)
            # Small tables are backed by memory entirely within the first minutes; what grows then is a leak.
            policy['conntrack'] = {'max_connections': 65536}
            lab.gateway.start(policy)
            mixed_load(lab, opt.minutes * 60, lambda line: print(line, flush=True))
            lab.gateway.check()
        except Exception as e:
            print('FAIL %s\n%s' % (e, lab.logs()))
            return 1
    print('ok   every frame accounted for, memory stable, no error in the log')
    return 0


if __name__ == '__main__':
    sys.exit(main())
