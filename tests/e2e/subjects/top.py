"""`sluice top`: the live view on a terminal, and its samples."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import termios
import time

from lab.gateway import binary
from lab.policy import *
from lab.programs import Conversation, udp_socket
from runner import test


class Terminal:
    """A program on a terminal of its own; what it has drawn."""

    def __init__(self, argv, rows=45, columns=130):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ['TERM'] = 'xterm-256color'
            os.execvp(argv[0], argv)
        self.text = ''
        self.resize(rows, columns)

    def resize(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))

    def read(self, until, seconds=15):
        """Reads until a regular expression is found in what was drawn, escape sequences left out."""
        deadline = time.monotonic() + seconds
        while not re.search(until, self.plain()):
            left = deadline - time.monotonic()
            assert left > 0, 'no %r in %r' % (until, self.plain()[-2000:])
            if select.select([self.fd], [], [], left)[0]:
                try:
                    self.text += os.read(self.fd, 65536).decode(errors='replace')
                except OSError as e:
                    raise AssertionError('it ended: ' + self.plain()[-500:]) from e

    def plain(self):
        return re.sub(r'\x1b\[[0-9;?]*[a-zA-Z]', ' ', self.text)

    def key(self, key):
        os.write(self.fd, key.encode())

    def end(self, seconds=10):
        """The exit status."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.fd, 65536).decode(errors='replace')
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError('it does not end')


@test(workers=(1, 2), kernel=False)
def view(lab):
    """Interfaces, workers, states, drops and talkers appear while traffic flows; small screens do no harm."""
    lab.serve(lab.server)
    lab.server.batch(['route add %s via %s' % (LAN_NET, WAN)])
    with Conversation(lab.client, SERVER) as c, udp_socket(lab.server) as stranger:
        c.ask()
        stranger.sendto(b'x', (CLIENT, 9))
        t = Terminal(lab.gw.argv(binary(), 'top', '-d', '0.2', '--socket', lab.gateway.socket))
        try:
            for expected in ('forwards packets', 'lan0', 'worker %d' % (lab.workers - 1), 'ESTABLISHED', 'talkers',
                             re.escape(CLIENT)):
                t.read(expected)
            for _ in range(5):
                c.ask()
            t.resize(5, 20)
            # A key that comes in the same moment as the signal of the new size is read with the next one only.
            time.sleep(0.3)
            t.key('c')
            t.key('p')
            time.sleep(0.5)
            t.resize(45, 130)
            t.read('paused')
        finally:
            t.key('q')
            status = t.end()
        assert status == 0, status


@test(kernel=False)
def samples(lab):
    """`--json` gives the same as lines; without a terminal the view says what to do instead."""
    lab.serve(lab.server)
    with Conversation(lab.client, SERVER) as c:
        c.ask()
        told = [json.loads(x) for x in lab.gateway.cli('top', '--json', '-n', '2', '-d', '0.2').stdout.splitlines()]
        assert len(told) == 2 and told[0]['at'] < told[1]['at']
        assert told[1]['states'] == {'tcp ESTABLISHED': 1}, told[1]['states']
        assert [(x['address'], x['connections']) for x in told[1]['talkers']] == [(CLIENT, 1)]
        assert told[1]['status']['workers'][0]['traffic']['rx_packets'] > 0
    refused = lab.gateway.cli('top', check=False)
    assert refused.returncode == 1 and '--json' in refused.stderr, refused.stderr


@test(kernel=False)
def daemon_goes(lab):
    """When the daemon stops, the view ends, the terminal is as before, and the reason is told."""
    t = Terminal(lab.gw.argv(binary(), 'top', '-d', '0.2', '--socket', lab.gateway.socket))
    t.read('forwards packets')
    assert lab.gateway.stop() == 0
    status = t.end()
    assert status == 1 and re.search('sluice (has stopped|broke off)', t.plain()), (status, t.plain()[-300:])
